//! Linear layers on E4M3 operands: [`Reference::quantized_product`] on the rows and the weights of each group.

use super::Reference;
use crate::Write;
use crate::dims::GroupedDims;
use crate::formats::{Activation, Along, GROUP, Grouping, Operand, SumOrder, column_scale_row};

/// Codes and scales of all groups.
#[derive(Clone, Copy)]
pub struct Codes<'a> {
    pub codes: &'a [u8],
    pub scales: &'a [f32],
}

/// One group: its number and its rows.
#[derive(Clone, Copy)]
struct Group {
    index: usize,
    first: usize,
    rows: usize,
}

fn groups(offsets_E1: &[u32], dims: GroupedDims) -> impl Iterator<Item = Group> + '_ {
    dims.check_offsets(offsets_E1);
    offsets_E1[..=dims.groups].windows(2).enumerate().map(|(index, ends)| Group {
        index,
        first: ends[0] as usize,
        rows: (ends[1] - ends[0]) as usize,
    })
}

impl<'a> Codes<'a> {
    /// The rows of a group of a matrix of `columns` columns, in tiles of 1 x 128.
    fn rows(self, group: Group, columns: usize) -> Operand<'a> {
        self.part(group.first, group.first, (group.rows, columns), Grouping::Row, Along::Columns)
    }

    /// The same in tiles of 128 x 1, summed along them.
    fn columns(self, group: Group, columns: usize) -> Operand<'a> {
        let scales = column_scale_row(group.first, group.index);
        self.part(group.first, scales, (group.rows, columns), Grouping::Column, Along::Rows)
    }

    /// The weights of a group.
    fn weights(self, group: Group, dims: GroupedDims, along: Along) -> Operand<'a> {
        let size = (dims.output, dims.input);
        self.part(
            group.index * dims.output,
            group.index * dims.output.div_ceil(GROUP),
            size,
            Grouping::Block,
            along,
        )
    }

    /// A matrix from row `first` of the codes and row `first_scale` of the scales on.
    fn part(self, first: usize, first_scale: usize, (rows, columns): (usize, usize), grouping: Grouping, along: Along) -> Operand<'a> {
        let (scale_rows, scale_columns) = grouping.scales(rows, columns);
        Operand {
            codes: &self.codes[first * columns..][..rows * columns],
            scales: &self.scales[first_scale * scale_columns..][..scale_rows * scale_columns],
            rows,
            columns,
            grouping,
            along,
        }
    }
}

/// `y (=|+=) a b^T`, rounded once from the FP32 sum.
fn product<Y: Activation>(y: &mut [Y], a: Operand<'_>, b: Operand<'_>, write: Write, order: SumOrder) {
    let y = &mut y[..a.vectors() * b.vectors()];
    let mut sums: Vec<f32> = y.iter().map(|&y| y.to_f32()).collect();
    Reference { sum_order: order }.quantized_product(&mut sums, a, b, write);
    for (y, sum) in y.iter_mut().zip(sums) {
        *y = Y::from_f32(sum);
    }
}

/// `y[r] (=|+=) x[r] w[e(r)]^T`.
pub fn forward<Y: Activation>(
    y_RN: &mut [Y],
    x: Codes<'_>,
    w: Codes<'_>,
    offsets_E1: &[u32],
    dims: GroupedDims,
    write: Write,
    order: SumOrder,
) {
    for group in groups(offsets_E1, dims) {
        let y_RN = &mut y_RN[group.first * dims.output..];
        product(
            y_RN,
            x.rows(group, dims.input),
            w.weights(group, dims, Along::Columns),
            write,
            order,
        );
    }
}

/// `dx[r] (=|+=) dy[r] w[e(r)]`.
pub fn backward_input<Y: Activation>(
    dx_RK: &mut [Y],
    dy: Codes<'_>,
    w: Codes<'_>,
    offsets_E1: &[u32],
    dims: GroupedDims,
    write: Write,
    order: SumOrder,
) {
    for group in groups(offsets_E1, dims) {
        let dx_RK = &mut dx_RK[group.first * dims.input..];
        product(
            dx_RK,
            dy.rows(group, dims.output),
            w.weights(group, dims, Along::Rows),
            write,
            order,
        );
    }
}

/// `dw[e] += sum over the rows of e of dy[r]^T x[r]`.
pub fn backward_weight(dw_ENK: &mut [f32], dy: Codes<'_>, x: Codes<'_>, offsets_E1: &[u32], dims: GroupedDims, order: SumOrder) {
    for group in groups(offsets_E1, dims) {
        let dw_NK = &mut dw_ENK[group.index * dims.output * dims.input..];
        product(
            dw_NK,
            dy.columns(group, dims.output),
            x.columns(group, dims.input),
            Write::Accumulate,
            order,
        );
    }
}
