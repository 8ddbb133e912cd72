//! Products on operands of every type: linear layers, grouped linear layers, the head with its loss.

use crate::draw::Draw;
use crate::operations::{Operation, Output, down, floats, normal, up};
use fathom_kernels::dims::*;
use fathom_kernels::formats::{
    Activation, Bf16, DataType, GROUP, Grouping, QuantizeDims, Scaling, Source, column_scale_row, column_scale_rows,
};
use fathom_kernels::{IGNORE, Kernels, Matrix, Reference, Write};
use std::fmt::Debug;
use std::marker::PhantomData;

/// Sums of products of unit size, in a type of activations: reference and backend each round by half an ulp at most. They are judged beside
/// a one: the only sum of an output may happen to cancel.
fn activations<K: Kernels, A: Activation>(k: &K, name: &'static str, buffer: &K::Buffer<A>, length: usize) -> Output {
    Output {
        name,
        values: down(k, buffer).into_iter().map(A::to_f32).chain([1.0]).collect(),
        length,
        rounded: A::DATA_TYPE,
        units: 1.0,
        rounding: 0.0,
    }
}

/// Relative distance of neighbours, beyond that of FP32.
fn ulp<A: Activation>() -> f64 {
    match A::DATA_TYPE {
        DataType::F32 => 0.0,
        DataType::Bf16 => 1.0 / 128.0,
    }
}

fn normal_as<K: Kernels, A: Activation>(k: &K, draw: &mut Draw, len: usize) -> K::Buffer<A> {
    up(k, &draw.normal(len).into_iter().map(A::from_f32).collect::<Vec<_>>())
}

/// A linear layer on operands of one or two types, with outputs of type `Y`.
#[derive(Debug)]
pub struct Linear<Y>(pub LinearDims, pub Operands, pub PhantomData<Y>);

/// A linear layer per group, the same way.
#[derive(Debug)]
pub struct GroupedLinear<Y>(pub GroupedDims, pub Operands, pub PhantomData<Y>);

/// The types of the operands of a product.
#[derive(Clone, Copy, Debug)]
pub enum Operands {
    F32,
    Bf16,
    /// The first in BF16, the second in F32; and the other way round.
    Mixed,
    MixedOther,
    E4m3,
}

/// A matrix on a device.
enum Held<K: Kernels> {
    F32(K::Buffer<f32>),
    Bf16(K::Buffer<Bf16>),
    E4m3 { codes: K::Buffer<u8>, scales: K::Buffer<f32> },
}

impl<K: Kernels> Held<K> {
    fn matrix(&self) -> Matrix<'_, K> {
        match self {
            Self::F32(buffer) => buffer.into(),
            Self::Bf16(buffer) => Matrix::of(buffer),
            Self::E4m3 { codes, scales } => Matrix::E4m3 { codes, scales },
        }
    }
}

/// How a matrix of `columns` columns is tiled: groups of rows that tiles do not cross, and where the scales of each start.
struct Tiles<'a> {
    columns: usize,
    grouping: Grouping,
    /// First row and first row of scales of each group, and the ends.
    groups: &'a [(usize, usize)],
}

impl Operands {
    /// Terms of a sum that the comparison allows for: products of E4M3 are prescribed to the bit.
    fn length(self, terms: usize) -> usize {
        if matches!(self, Self::E4m3) { 0 } else { terms.max(1) }
    }

    fn hold<K: Kernels>(self, k: &K, x: &[f32], second: bool, tiles: &Tiles<'_>) -> Held<K> {
        let bf16 = match self {
            Self::F32 => false,
            Self::Bf16 => true,
            Self::Mixed => !second,
            Self::MixedOther => second,
            Self::E4m3 => return quantise(k, x, tiles),
        };
        if bf16 {
            Held::Bf16(up(k, &x.iter().map(|&x| Bf16::from_f32(x)).collect::<Vec<_>>()))
        } else {
            Held::F32(up(k, x))
        }
    }
}

fn quantise<K: Kernels>(k: &K, x: &[f32], tiles: &Tiles<'_>) -> Held<K> {
    let Tiles { columns, grouping, groups } = *tiles;
    let width = grouping.scales(1, columns).1;
    let mut codes = vec![0; x.len()];
    // Scales that belong to no tile must not be read.
    let mut scales = vec![f32::NAN; groups.last().map_or(0, |&(_, scales)| scales) * width];
    for ends in groups.windows(2) {
        let ((first, first_scale), (end, _)) = (ends[0], ends[1]);
        let dims = QuantizeDims {
            rows: end - first,
            columns,
            grouping,
            scaling: Scaling::Plain,
            transposed: false,
        };
        let (scale_rows, _) = dims.scales();
        let range = first * columns..end * columns;
        let scales = &mut scales[first_scale * width..][..scale_rows * width];
        let _ = Reference::PAIRS.quantize_source(&mut codes[range.clone()], scales, Source::F32(&x[range]), dims);
    }
    Held::E4m3 {
        codes: up(k, &codes),
        scales: up(k, &scales),
    }
}

impl<Y: Activation + Debug> Operation for Linear<Y> {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self(dims @ LinearDims { rows, input, output }, operands, _) = *self;
        let (x, w, dy) = (draw.normal(rows * input), draw.normal(output * input), draw.normal(rows * output));
        let hold = |values: &[f32], second, (rows, columns): (usize, usize), grouping: Grouping| {
            let groups = [(0, 0), (rows, grouping.scales(rows, columns).0)];
            let tiles = Tiles {
                columns,
                grouping,
                groups: &groups,
            };
            operands.hold(k, values, second, &tiles)
        };
        let (row, column, block) = (Grouping::Row, Grouping::Column, Grouping::Block);
        let (x_row, w) = (hold(&x, false, (rows, input), row), hold(&w, true, (output, input), block));
        let dy_row = hold(&dy, false, (rows, output), row);
        let (dy_column, x_column) = (hold(&dy, false, (rows, output), column), hold(&x, true, (rows, input), column));
        let mut outputs = Vec::new();
        for write in [Write::Overwrite, Write::Accumulate] {
            let (mut y, mut dx) = (
                normal_as::<K, Y>(k, draw, rows * output + 3),
                normal_as::<K, Y>(k, draw, rows * input + 3),
            );
            k.linear_forward(&mut y, x_row.matrix(), w.matrix(), dims, write);
            k.linear_backward_input(&mut dx, dy_row.matrix(), w.matrix(), dims, write);
            outputs.extend([
                activations(k, "y", &y, operands.length(input)),
                activations(k, "dx", &dx, operands.length(output)),
            ]);
        }
        let mut dw = normal(k, draw, output * input);
        k.linear_backward_weight(&mut dw, dy_column.matrix(), x_column.matrix(), dims);
        outputs.push(activations(k, "dw", &dw, operands.length(rows)));
        outputs
    }
}

impl<Y: Activation + Debug> Operation for GroupedLinear<Y> {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self(dims, operands, _) = *self;
        let GroupedDims {
            rows,
            groups,
            input,
            output,
        } = dims;
        let offsets = draw.offsets(rows, groups);
        let rows_of = |grouping: Grouping| -> Vec<(usize, usize)> {
            let scale = |group: usize, first: usize| match grouping {
                Grouping::Row => first,
                Grouping::Column if group == groups => column_scale_rows(rows, groups),
                Grouping::Column => column_scale_row(first, group),
                Grouping::Block => group * output.div_ceil(GROUP),
            };
            let first = |group: usize| {
                if grouping == Grouping::Block {
                    group * output
                } else {
                    offsets[group] as usize
                }
            };
            (0..=groups).map(|group| (first(group), scale(group, first(group)))).collect()
        };
        let hold = |values: &[f32], second, columns, grouping| {
            let groups = rows_of(grouping);
            let tiles = Tiles {
                columns,
                grouping,
                groups: &groups,
            };
            operands.hold(k, values, second, &tiles)
        };
        let (x, w, dy) = (
            draw.normal(rows * input),
            draw.normal(groups * output * input),
            draw.normal(rows * output),
        );
        let (row, column, block) = (Grouping::Row, Grouping::Column, Grouping::Block);
        let (x_row, w, dy_row) = (
            hold(&x, false, input, row),
            hold(&w, true, input, block),
            hold(&dy, false, output, row),
        );
        let (dy_column, x_column) = (hold(&dy, false, output, column), hold(&x, true, input, column));
        let offsets = up(k, &offsets);
        let (mut y, mut dx) = (normal_as::<K, Y>(k, draw, rows * output), normal_as::<K, Y>(k, draw, rows * input));
        let mut dw = normal(k, draw, groups * output * input);
        k.grouped_linear_forward(&mut y, x_row.matrix(), w.matrix(), &offsets, dims);
        k.grouped_linear_backward_input(&mut dx, dy_row.matrix(), w.matrix(), &offsets, dims);
        k.grouped_linear_backward_weight(&mut dw, dy_column.matrix(), x_column.matrix(), &offsets, dims);
        vec![
            activations(k, "y", &y, operands.length(input)),
            activations(k, "dx", &dx, operands.length(output)),
            activations(k, "dw", &dw, operands.length(rows)),
        ]
    }
}

/// Head and loss with activations of a type.
#[derive(Debug)]
pub struct HeadLoss<A>(pub HeadDims, pub PhantomData<A>);

impl<A: Activation + Debug> Operation for HeadLoss<A> {
    fn name(&self) -> String {
        format!("{self:?}")
    }
    fn run<K: Kernels>(&self, k: &K, draw: &mut Draw) -> Vec<Output> {
        let Self(dims @ HeadDims { rows, width, vocabulary }, _) = *self;
        let (x, head) = (
            normal_as::<K, A>(k, draw, rows * width),
            normal_as::<K, A>(k, draw, vocabulary * width),
        );
        let targets: Vec<i32> = (0..rows)
            .map(|_| {
                if draw.below(5) == 0 {
                    IGNORE
                } else {
                    draw.below(vocabulary) as i32
                }
            })
            .collect();
        let targets = up(k, &targets);
        let (mut forward, mut nll) = (normal(k, draw, rows), normal(k, draw, rows));
        k.head_loss_forward(&mut forward, &x, &head, &targets, dims);
        let (mut dx, mut dhead) = (normal_as::<K, A>(k, draw, rows * width), normal(k, draw, vocabulary * width));
        k.head_loss_backward(&mut nll, &mut dx, &mut dhead, &x, &head, &targets, 0.25, dims);
        // The rounding of a gradient of the logits may fall to either side.
        let of_dlogits = |output: Output| Output {
            rounding: output.rounding + ulp::<A>(),
            ..output
        };
        vec![
            floats(k, "nll forward", &forward, width + vocabulary),
            floats(k, "nll", &nll, width + vocabulary),
            of_dlogits(activations(k, "dx", &dx, width * vocabulary)),
            of_dlogits(floats(k, "dhead", &dhead, width * rows)),
        ]
    }
}
