//! Quantisation: bytes are one reading of the source and one writing of the codes.

use super::cases::values;
use super::{Measurement, Work, measure};
use crate::Cpu;
use crate::formats::{Bf16, E5m6Dims, Grouping, QuantizeDims, Scaling, Source, e5m6};

/// Rows and columns: one matrix in cache, one in memory.
const SIZES: [(usize, usize); 2] = [(512, 512), (4096, 2048)];

/// All groupings from FP32, with both kinds of scales; the conversions of cached tensors.
pub fn formats(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    SIZES
        .into_iter()
        .flat_map(|(rows, columns)| of_size(cpu, peak, rows, columns))
        .collect()
}

fn of_size(cpu: &Cpu, peak: f64, rows: usize, columns: usize) -> Vec<Measurement> {
    let x = values(cpu, rows * columns);
    let mut half = vec![Bf16::default(); x.len()];
    cpu.encode_bf16(&mut half, &x);
    let (mut codes, mut scales) = (vec![0; x.len()], vec![0.0; x.len()]);
    let work = |read: f64, written: f64| Work {
        flops: 0.0,
        bytes: (read + written) * (rows * columns) as f64,
    };
    let dims = |grouping, scaling, transposed| QuantizeDims {
        rows,
        columns,
        grouping,
        scaling,
        transposed,
    };
    let (row, column, block) = (Grouping::Row, Grouping::Column, Grouping::Block);
    let (plain, power) = (Scaling::Plain, Scaling::PowerOfTwo);
    let shape = format!("{rows}x{columns}");
    let mut measurements = Vec::new();
    let mut quantize = |name: &str, source, read, dims: QuantizeDims, scales: &mut Vec<f32>| {
        let (scale_rows, scale_columns) = dims.scales();
        let scales = &mut scales[..scale_rows * scale_columns];
        measurements.push(measure(format!("quantize {name} {shape}"), work(read, 1.0), peak, || {
            let _ = cpu.quantize(&mut codes, scales, source, dims);
        }));
    };
    let source = Source::F32(&x);
    quantize("1x128", source, 4.0, dims(row, power, false), &mut scales);
    quantize("1x128 plain scale", source, 4.0, dims(row, plain, false), &mut scales);
    quantize("1x128 of bf16", Source::Bf16(&half), 2.0, dims(row, power, false), &mut scales);
    quantize("128x1", source, 4.0, dims(column, power, false), &mut scales);
    quantize("128x1 transposed", source, 4.0, dims(column, power, true), &mut scales);
    quantize("128x128", source, 4.0, dims(block, power, false), &mut scales);

    let mut tiles = vec![0.0; rows * columns.div_ceil(128)];
    let mut cached = vec![0; x.len()];
    let _ = cpu.quantize(&mut cached, &mut tiles, source, dims(row, power, false));
    let e4m3 = Source::E4m3 {
        codes: &cached,
        scales: &tiles,
        grouping: row,
    };
    quantize(
        "retile 1x128 to 128x1 transposed",
        e4m3,
        1.0,
        dims(column, power, true),
        &mut scales,
    );

    let mut y = x.clone();
    measurements.push(measure(format!("dequantize 1x128 {shape}"), work(1.0, 4.0), peak, || {
        cpu.dequantize(&mut y, e4m3, rows, columns);
    }));
    measurements.push(measure(format!("transpose codes {shape}"), work(1.0, 1.0), peak, || {
        cpu.transpose_codes(&mut codes, &cached, rows, columns);
    }));
    let mut packed = vec![0; rows * e5m6::packed_len(columns)];
    let mut tiles = tiles.clone();
    measurements.push(measure(format!("quantize e5m6 {shape}"), work(4.0, 1.5), peak, || {
        let _ = cpu.quantize_e5m6(&mut packed, &mut tiles, source, E5m6Dims { rows, columns });
    }));
    let e5m6 = Source::E5m6 {
        packed: &packed,
        scales: &tiles,
    };
    measurements.push(measure(format!("dequantize e5m6 {shape}"), work(1.5, 4.0), peak, || {
        cpu.dequantize(&mut y, e5m6, rows, columns);
    }));
    measurements.push(measure(format!("round to bf16 {shape}"), work(4.0, 2.0), peak, || {
        cpu.encode_bf16(&mut half, &x);
    }));
    measurements
}
