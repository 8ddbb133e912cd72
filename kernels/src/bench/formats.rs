//! Quantisation: bytes are one reading of the source and one writing of the codes.

use super::cases::values;
use super::{Measurement, Work, measure};
use crate::dims::{DispatchDims, RmsNormDims, SwigluDims};
use crate::formats::{Bf16, E5m6Dims, GROUP, Grouping, QuantizeDims, QuantizeGroupedDims, Scaling, Statistics, column_scale_rows, e5m6};
use crate::{Cpu, Kernels};

/// Rows and columns: one matrix in cache, one in memory.
const SIZES: [(usize, usize); 2] = [(512, 512), (4096, 2048)];
/// Experts that share the rows.
const EXPERTS: usize = 16;

/// Every operation of the formats, at every size.
pub fn formats(cpu: &Cpu, peak: f64) -> Vec<Measurement> {
    SIZES
        .into_iter()
        .flat_map(|(rows, columns)| {
            let bench = Bench::new(cpu, peak, rows, columns);
            [bench.quantize(), bench.by_expert(), bench.convert(), bench.fused()].concat()
        })
        .collect()
}

/// A matrix, in FP32, BF16 and E4M3 with tiles of 1 x 128.
struct Bench<'a> {
    cpu: &'a Cpu,
    peak: f64,
    rows: usize,
    columns: usize,
    x: Vec<f32>,
    half: Vec<Bf16>,
    codes: Vec<u8>,
    scales: Vec<f32>,
}

impl<'a> Bench<'a> {
    fn new(cpu: &'a Cpu, peak: f64, rows: usize, columns: usize) -> Self {
        let x = values(cpu, rows * columns);
        let (mut half, mut codes, mut scales) = (cpu.zeros(x.len()), cpu.zeros(x.len()), cpu.zeros(rows * columns.div_ceil(GROUP)));
        cpu.cast(&mut half, &x);
        let dims = QuantizeDims::row_tiles(rows, columns, Scaling::PowerOfTwo);
        cpu.quantize(&mut codes, &mut scales, &mut cpu.zeros(1), 0, &half, dims);
        Self {
            cpu,
            peak,
            rows,
            columns,
            x,
            half,
            codes,
            scales,
        }
    }

    /// `call` moves so many bytes for each element of the matrix.
    fn measure(&self, name: &str, bytes: f64, call: impl FnMut()) -> Measurement {
        let Self { rows, columns, peak, .. } = *self;
        let work = Work {
            flops: 0.0,
            bytes: bytes * (rows * columns) as f64,
        };
        measure(format!("{name} {rows}x{columns}"), work, peak, call)
    }

    /// All groupings, with both kinds of scales.
    fn quantize(&self) -> Vec<Measurement> {
        let Self { cpu, rows, columns, .. } = *self;
        let (mut codes, mut scales, mut statistics) = (self.codes.clone(), vec![0.0; self.x.len()], vec![Statistics::default()]);
        let dims = |grouping, scaling, transposed| QuantizeDims {
            rows,
            columns,
            grouping,
            scaling,
            transposed,
        };
        let (row, column, block) = (Grouping::Row, Grouping::Column, Grouping::Block);
        let (plain, power) = (Scaling::Plain, Scaling::PowerOfTwo);
        let mut measurements: Vec<_> = [
            ("1x128", dims(row, power, false)),
            ("1x128 plain scale", dims(row, plain, false)),
            ("128x1", dims(column, power, false)),
            ("128x1 transposed", dims(column, power, true)),
            ("128x128", dims(block, power, false)),
        ]
        .into_iter()
        .map(|(name, dims)| {
            self.measure(&format!("quantize {name}"), 5.0, || {
                cpu.quantize(&mut codes, &mut scales, &mut statistics, 0, &self.x, dims);
            })
        })
        .collect();
        measurements.push(self.measure("quantize 1x128 of bf16", 3.0, || {
            cpu.quantize(&mut codes, &mut scales, &mut statistics, 0, &self.half, dims(row, power, false));
        }));
        let one = QuantizeDims {
            rows: rows / EXPERTS,
            ..dims(block, power, false)
        };
        measurements.push(self.measure(&format!("quantize stack of {EXPERTS} 128x128"), 5.0, || {
            cpu.quantize_stack(&mut codes, &mut scales, &mut statistics, 0, &self.x, EXPERTS, one);
        }));
        measurements
    }

    /// Rows of uneven experts.
    fn by_expert(&self) -> Vec<Measurement> {
        let Self { cpu, rows, columns, .. } = *self;
        let dims = QuantizeGroupedDims {
            rows,
            columns,
            groups: EXPERTS,
            scaling: Scaling::PowerOfTwo,
        };
        let offsets: Vec<u32> = (0..=EXPERTS).map(|e| (rows * e * e / (EXPERTS * EXPERTS)) as u32).collect();
        let (mut codes, mut statistics) = (self.codes.clone(), vec![Statistics::default()]);
        let mut scales = vec![0.0; column_scale_rows(rows, EXPERTS) * columns];
        let slots: Vec<u32> = (0..rows as u32).rev().collect();
        let moved = DispatchDims {
            tokens: rows,
            top_k: 1,
            experts: EXPERTS,
            width: columns,
        };
        vec![
            self.measure("quantize grouped 128x1 of bf16", 3.0, || {
                cpu.quantize_grouped(&mut codes, &mut scales, &mut statistics, 0, &self.half, &offsets, dims);
            }),
            self.measure("retile grouped 1x128 to 128x1", 2.0, || {
                cpu.retile_grouped(
                    &mut codes,
                    &mut scales,
                    &mut statistics,
                    0,
                    &self.codes,
                    &self.scales,
                    &offsets,
                    dims,
                );
            }),
            self.measure("dispatch quantized", 2.0, || {
                cpu.dispatch_quantized(&mut codes, &mut scales, &self.codes, &self.scales, &slots, moved);
            }),
        ]
    }

    /// Between values and the codes of cached tensors.
    fn convert(&self) -> Vec<Measurement> {
        let Self { cpu, rows, columns, .. } = *self;
        let (mut y, mut half, mut codes, mut statistics) =
            (self.x.clone(), self.half.clone(), self.codes.clone(), vec![Statistics::default()]);
        let (mut packed, mut scales) = (vec![0; rows * e5m6::packed_len(columns)], self.scales.clone());
        let dims = E5m6Dims { rows, columns };
        vec![
            self.measure("cast f32 to bf16", 6.0, || cpu.cast(&mut half, &self.x)),
            self.measure("cast bf16 to f32", 6.0, || cpu.cast(&mut y, &self.half)),
            self.measure("dequantize 1x128", 5.0, || {
                cpu.dequantize(&mut y, &self.codes, &self.scales, rows, columns);
            }),
            self.measure("dequantize 1x128 to bf16", 3.0, || {
                cpu.dequantize(&mut half, &self.codes, &self.scales, rows, columns);
            }),
            self.measure("quantize e5m6 of bf16", 3.5, || {
                cpu.quantize_e5m6(&mut packed, &mut scales, &mut statistics, 0, &self.half, dims);
            }),
            self.measure("dequantize e5m6 to bf16", 3.5, || {
                cpu.dequantize_e5m6(&mut half, &packed, &scales, dims);
            }),
            self.measure("transpose codes", 2.0, || {
                cpu.transpose_codes(&mut codes, &self.codes, rows, columns);
            }),
        ]
    }

    /// Fused operations beside their two steps. Bytes are those of the fused form in both, so that figures compare as times do.
    fn fused(&self) -> Vec<Measurement> {
        let Self { cpu, rows, columns, .. } = *self;
        let power = Scaling::PowerOfTwo;
        let (mut codes, mut scales, mut statistics) = (self.codes.clone(), self.scales.clone(), vec![Statistics::default()]);
        let (gain, mut rstd) = (values(cpu, columns), cpu.zeros(rows));
        let (mut y, mut half) = (self.x.clone(), self.half.clone());
        let norm = RmsNormDims::dense(rows, columns, 1e-6);
        let tiles = QuantizeDims::row_tiles(rows, columns, power);
        let swiglu = SwigluDims { rows, width: columns / 2 };
        let narrow = QuantizeDims::row_tiles(rows, swiglu.width, power);
        let (mut a, mut a_half) = (vec![0.0; rows * swiglu.width], vec![Bf16::default(); rows * swiglu.width]);
        vec![
            self.measure("rmsnorm, cast, quantize", 5.0, || {
                cpu.rmsnorm_forward(&mut y, &mut rstd, &self.x, &gain, norm);
                cpu.cast(&mut half, &y);
                cpu.quantize(&mut codes, &mut scales, &mut statistics, 0, &half, tiles);
            }),
            self.measure("rmsnorm_quantize", 5.0, || {
                cpu.rmsnorm_quantize(
                    &mut codes,
                    &mut scales,
                    &mut statistics,
                    0,
                    &mut rstd,
                    None,
                    &self.x,
                    &gain,
                    norm,
                    power,
                );
            }),
            self.measure("rmsnorm_quantize of bf16, y stored", 5.0, || {
                let y = Some(&mut half);
                cpu.rmsnorm_quantize(
                    &mut codes,
                    &mut scales,
                    &mut statistics,
                    0,
                    &mut rstd,
                    y,
                    &self.half,
                    &gain,
                    norm,
                    power,
                );
            }),
            self.measure("dequantize, swiglu, cast, quantize", 1.5, || {
                cpu.dequantize(&mut y, &self.codes, &self.scales, rows, columns);
                cpu.swiglu_forward(&mut a, &y, swiglu);
                cpu.cast(&mut a_half, &a);
                cpu.quantize(&mut codes, &mut scales, &mut statistics, 0, &a_half, narrow);
            }),
            self.measure("swiglu_requantize", 1.5, || {
                cpu.swiglu_requantize(
                    &mut codes,
                    &mut scales,
                    &mut statistics,
                    0,
                    &self.codes,
                    &self.scales,
                    swiglu,
                    power,
                );
            }),
            self.measure("swiglu_quantize of bf16", 2.5, || {
                cpu.swiglu_quantize(&mut codes, &mut scales, &mut statistics, 0, &self.half, swiglu, power);
            }),
        ]
    }
}
