//! Conversions and quantisation: every backend bit for bit as the reference.

use crate::check;
use crate::draw::Draw;
use crate::operations::{Operation, Output, down, up};
use fathom_kernels::dims::DispatchDims;
use fathom_kernels::formats::{
    Activation, Bf16, DataType, E5m6Dims, Grouping, QuantizeDims, QuantizeGroupedDims, Scaling, Statistics, e5m6,
};
use fathom_kernels::{Element, Kernels, Reference};

pub const SCALINGS: [Scaling; 2] = [Scaling::Plain, Scaling::PowerOfTwo];

/// Elements of a buffer beyond those of the operation, which must stay as they are.
pub const SPARE: usize = 3;

/// Values of very different sizes, in runs of a few hundred; one in two hundred is NaN or infinite.
pub fn wild<A: Activation>(draw: &mut Draw, len: usize) -> Vec<A> {
    let sizes = [1.0, 1.0, 0.0, 1e-6, 1e-41, 1e38, 1e4];
    let (mut values, mut size) = (draw.normal(len), 1.0);
    for value in &mut values {
        if draw.below(300) == 0 {
            size = sizes[draw.below(sizes.len())];
        }
        *value = (*value * size).clamp(-3e38, 3e38);
        if draw.below(200) == 0 {
            *value = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][draw.below(3)];
        }
    }
    values.into_iter().map(A::from_f32).collect()
}

/// A buffer of any contents with [`SPARE`] elements too many.
pub fn spare<K: Kernels, T: Element>(k: &K, value: T, len: usize) -> K::Buffer<T> {
    let mut buffer = k.zeros(len + SPARE);
    k.fill(&mut buffer, value);
    buffer
}

/// Statistics of `slots` quantisations, each of which has seen something before.
pub fn seen<K: Kernels>(k: &K, slots: usize) -> K::Buffer<Statistics> {
    let mut before = vec![Statistics::default()];
    let x = vec![0.125, f32::NAN];
    Reference::PAIRS.quantize(
        &mut vec![0; 2],
        &mut vec![0.0],
        &mut before,
        0,
        &x,
        QuantizeDims::row_tiles(1, 2, Scaling::PowerOfTwo),
    );
    up(k, &before.repeat(slots))
}

fn exact(name: &'static str, values: Vec<f32>) -> Output {
    Output {
        name,
        values,
        length: 0,
        rounded: DataType::F32,
        units: 0.0,
        rounding: 0.0,
    }
}

fn codes<K: Kernels>(k: &K, buffer: &K::Buffer<u8>) -> Output {
    exact("codes", down(k, buffer).into_iter().map(f32::from).collect())
}

fn values<K: Kernels, A: Activation>(k: &K, name: &'static str, buffer: &K::Buffer<A>) -> Output {
    exact(name, down(k, buffer).into_iter().map(A::to_f32).collect())
}

fn counts<K: Kernels>(k: &K, buffer: &K::Buffer<Statistics>) -> Output {
    let numbers = |statistics: &Statistics| {
        let Statistics {
            elements,
            groups,
            saturated,
            underflowed,
            non_finite,
            amax,
            ..
        } = *statistics;
        let counts = [elements, groups, saturated, underflowed, non_finite].map(|count| count as f32);
        [counts.as_slice(), &[amax as f32, statistics.headroom() as f32]].concat()
    };
    exact("statistics", down(k, buffer).iter().flat_map(numbers).collect())
}

/// A conversion of so many elements.
#[derive(Debug)]
struct Cast(usize);

impl Operation for Cast {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let (wide, narrow) = (up(k, &wild::<f32>(draw, self.0)), up(k, &wild::<Bf16>(draw, self.0)));
        let (mut rounded, mut kept) = (k.zeros::<Bf16>(self.0), k.zeros::<Bf16>(self.0));
        let (mut widened, mut copied) = (k.zeros::<f32>(self.0), k.zeros::<f32>(self.0));
        k.cast(&mut rounded, &wide);
        k.cast(&mut kept, &narrow);
        k.cast(&mut widened, &narrow);
        k.cast(&mut copied, &wide);
        vec![
            values(k, "rounded", &rounded),
            values(k, "kept", &kept),
            values(k, "widened", &widened),
            values(k, "copied", &copied),
        ]
    }
}

/// A quantisation of the first of `groups` matrices, and of all as a stack.
#[derive(Debug)]
struct Quantize {
    groups: usize,
    dims: QuantizeDims,
}

impl Quantize {
    fn of<K: Kernels, X: Activation>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { groups, dims } = *self;
        let x = up(k, &wild::<X>(draw, groups * dims.rows * dims.columns + SPARE));
        let (codes_len, scales_len) = dims.lengths();
        let mut statistics = seen(k, 3);
        let mut outputs = Vec::new();
        for (slot, matrices) in [(0, 1), (2, groups)] {
            let (mut to, mut scales) = (spare(k, 0xaa, matrices * codes_len), spare(k, -1.0, matrices * scales_len));
            if slot == 0 {
                k.quantize(&mut to, &mut scales, &mut statistics, slot, &x, dims);
            } else {
                k.quantize_stack(&mut to, &mut scales, &mut statistics, slot, &x, groups, dims);
            }
            outputs.extend([codes(k, &to), values(k, "scales", &scales)]);
        }
        outputs.push(counts(k, &statistics));
        outputs
    }
}

impl Operation for Quantize {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        [self.of::<K, f32>(k, draw), self.of::<K, Bf16>(k, draw)].concat()
    }
}

impl Operation for QuantizeGroupedDims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, columns, groups, .. } = *self;
        let offsets = up(k, &draw.offsets(rows, groups));
        let (wide, narrow) = (
            up(k, &wild::<f32>(draw, rows * columns)),
            up(k, &wild::<Bf16>(draw, rows * columns)),
        );
        let tiles = QuantizeDims::row_tiles(rows, columns, Scaling::PowerOfTwo);
        let (mut from, mut from_scales) = (spare(k, 0, rows * columns), spare(k, 0.0, tiles.lengths().1));
        let mut statistics = seen(k, 4);
        k.quantize(&mut from, &mut from_scales, &mut statistics, 3, &narrow, tiles);
        let mut outputs = Vec::new();
        for slot in 0..3 {
            let (mut to, mut scales) = (spare(k, 0xaa, rows * columns), spare(k, -1.0, (rows / 128 + groups) * columns));
            match slot {
                0 => k.quantize_grouped(&mut to, &mut scales, &mut statistics, slot, &wide, &offsets, *self),
                1 => k.quantize_grouped(&mut to, &mut scales, &mut statistics, slot, &narrow, &offsets, *self),
                _ => k.retile_grouped(&mut to, &mut scales, &mut statistics, slot, &from, &from_scales, &offsets, *self),
            }
            outputs.extend([codes(k, &to), values(k, "scales", &scales)]);
        }
        outputs.push(counts(k, &statistics));
        outputs
    }
}

/// Both cached formats, to codes and back.
impl Operation for E5m6Dims {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self { rows, columns } = *self;
        let len = rows * columns;
        let (wide, narrow) = (up(k, &wild::<f32>(draw, len)), up(k, &wild::<Bf16>(draw, len)));
        let mut statistics = seen(k, 3);
        let tiles = rows * columns.div_ceil(128);
        let (mut packed, mut scales) = (spare(k, 0xaa, rows * e5m6::packed_len(columns)), spare(k, -1.0, tiles));
        k.quantize_e5m6(&mut packed, &mut scales, &mut statistics, 0, &wide, *self);
        let mut outputs = vec![codes(k, &packed), values(k, "scales", &scales)];
        k.quantize_e5m6(&mut packed, &mut scales, &mut statistics, 1, &narrow, *self);
        outputs.extend([codes(k, &packed), values(k, "scales", &scales)]);
        let (mut y, mut y_bf16) = (spare(k, -1.0_f32, len), spare(k, Bf16::from_f32(-1.0), len));
        k.dequantize_e5m6(&mut y, &packed, &scales, *self);
        k.dequantize_e5m6(&mut y_bf16, &packed, &scales, *self);
        outputs.extend([values(k, "of e5m6", &y), values(k, "of e5m6, in bf16", &y_bf16)]);
        let mut coded = spare(k, 0xaa, len);
        k.quantize(
            &mut coded,
            &mut scales,
            &mut statistics,
            2,
            &wide,
            QuantizeDims::row_tiles(rows, columns, Scaling::PowerOfTwo),
        );
        k.dequantize(&mut y, &coded, &scales, rows, columns);
        k.dequantize(&mut y_bf16, &coded, &scales, rows, columns);
        outputs.extend([values(k, "of e4m3", &y), values(k, "of e4m3, in bf16", &y_bf16)]);
        outputs.push(counts(k, &statistics));
        outputs
    }
}

/// A dispatch of quantised rows.
#[derive(Debug)]
struct DispatchQuantized(DispatchDims);

impl Operation for DispatchQuantized {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let DispatchDims { tokens, width, .. } = self.0;
        let (rows, tiles) = (self.0.rows(), width.div_ceil(128));
        let from: Vec<u8> = draw.tokens(tokens * width, 256).into_iter().map(|code| code as u8).collect();
        let (from, from_scales) = (up(k, &from), up(k, &draw.normal(tokens * tiles)));
        let mut slots: Vec<u32> = (0..rows as u32).collect();
        draw.shuffle(&mut slots);
        let (mut to, mut scales) = (spare(k, 0xaa, rows * width), spare(k, -1.0, rows * tiles));
        k.dispatch_quantized(&mut to, &mut scales, &from, &from_scales, &up(k, &slots), self.0);
        vec![codes(k, &to), values(k, "scales", &scales)]
    }
}

#[test]
fn cast() {
    for len in [0, 1, 7, 16, 31, 16_384, 16_385, 50_021] {
        check(&Cast(len), 20);
    }
}

#[test]
fn quantize() {
    for (groups, rows, columns) in [
        (3, 0, 5),
        (3, 5, 0),
        (1, 1, 1),
        (2, 1, 300),
        (3, 17, 129),
        (2, 131, 64),
        (5, 128, 128),
        (2, 257, 131),
    ] {
        for grouping in [Grouping::Row, Grouping::Column, Grouping::Block] {
            for (scaling, transposed) in SCALINGS.into_iter().flat_map(|scaling| [(scaling, false), (scaling, true)]) {
                let dims = QuantizeDims {
                    rows,
                    columns,
                    grouping,
                    scaling,
                    transposed,
                };
                check(&Quantize { groups, dims }, 21);
            }
        }
    }
}

#[test]
fn quantize_grouped() {
    for (rows, groups, columns) in [
        (0, 3, 4),
        (5, 4, 0),
        (1, 1, 1),
        (5, 16, 7),
        (300, 5, 129),
        (517, 16, 96),
        (600, 1, 257),
        (1031, 7, 3),
    ] {
        for scaling in SCALINGS {
            check(
                &QuantizeGroupedDims {
                    rows,
                    columns,
                    groups,
                    scaling,
                },
                22,
            );
        }
    }
}

#[test]
fn cached_formats() {
    for (rows, columns) in [(0, 5), (5, 0), (1, 1), (1, 300), (33, 127), (64, 128), (131, 257)] {
        check(&E5m6Dims { rows, columns }, 23);
    }
}

#[test]
fn dispatch_quantized() {
    for (tokens, top_k, experts, width) in [
        (0, 2, 3, 4),
        (3, 2, 3, 0),
        (1, 1, 1, 1),
        (67, 1, 5, 7),
        (131, 4, 16, 129),
        (9, 3, 40, 256),
    ] {
        check(
            &DispatchQuantized(DispatchDims {
                tokens,
                top_k,
                experts,
                width,
            }),
            24,
        );
    }
}
