//! Linear layers on operands of any type: values of F32 and BF16 are widened, E4M3 has its own definition.

use super::quantized_linear::{self, Codes};
use super::{Reference, grouped_linear, linear};
use crate::dims::{GroupedDims, LinearDims};
use crate::formats::{Activation, Bf16, SumOrder};
use crate::{Matrix, Write};
use std::borrow::Cow;

/// Two operands of the same kind.
enum Operands<'a> {
    Values(Cow<'a, [f32]>, Cow<'a, [f32]>),
    Codes(Codes<'a>, Codes<'a>),
}

impl<'a> Operands<'a> {
    fn new(a: Matrix<'a, Reference>, b: Matrix<'a, Reference>) -> Self {
        match (a, b) {
            (Matrix::E4m3 { codes, scales }, Matrix::E4m3 { codes: b, scales: of_b }) => {
                Self::Codes(Codes { codes, scales }, Codes { codes: b, scales: of_b })
            }
            _ => Self::Values(values(a), values(b)),
        }
    }
}

/// Values, widened exactly.
fn values(matrix: Matrix<'_, Reference>) -> Cow<'_, [f32]> {
    match matrix {
        Matrix::F32(values) => Cow::Borrowed(values),
        Matrix::Bf16(values) => values.iter().copied().map(Bf16::to_f32).collect(),
        Matrix::E4m3 { .. } => unreachable!("both operands of a product are E4M3 or neither, as checked"),
    }
}

/// All rows as one group.
fn one_group(dims: LinearDims) -> ([u32; 2], GroupedDims) {
    let LinearDims { rows, input, output } = dims;
    let grouped = GroupedDims {
        rows,
        groups: 1,
        input,
        output,
    };
    ([0, rows as u32], grouped)
}

/// `y (=|+=) x w^T`.
pub fn forward<Y: Activation>(
    y_TN: &mut [Y],
    x_TK: Matrix<'_, Reference>,
    w_NK: Matrix<'_, Reference>,
    dims: LinearDims,
    write: Write,
    order: SumOrder,
) {
    match Operands::new(x_TK, w_NK) {
        Operands::Values(x_TK, w_NK) => linear::forward(y_TN, &x_TK, &w_NK, dims, write),
        Operands::Codes(x, w) => {
            let (offsets, dims) = one_group(dims);
            quantized_linear::forward(y_TN, x, w, &offsets, dims, write, order);
        }
    }
}

/// `dx (=|+=) dy w`.
pub fn backward_input<Y: Activation>(
    dx_TK: &mut [Y],
    dy_TN: Matrix<'_, Reference>,
    w_NK: Matrix<'_, Reference>,
    dims: LinearDims,
    write: Write,
    order: SumOrder,
) {
    match Operands::new(dy_TN, w_NK) {
        Operands::Values(dy_TN, w_NK) => linear::backward_input(dx_TK, &dy_TN, &w_NK, dims, write),
        Operands::Codes(dy, w) => {
            let (offsets, dims) = one_group(dims);
            quantized_linear::backward_input(dx_TK, dy, w, &offsets, dims, write, order);
        }
    }
}

/// `dw += dy^T x`.
pub fn backward_weight(dw_NK: &mut [f32], dy_TN: Matrix<'_, Reference>, x_TK: Matrix<'_, Reference>, dims: LinearDims, order: SumOrder) {
    match Operands::new(dy_TN, x_TK) {
        Operands::Values(dy_TN, x_TK) => linear::backward_weight(dw_NK, &dy_TN, &x_TK, dims),
        Operands::Codes(dy, x) => {
            let (offsets, dims) = one_group(dims);
            quantized_linear::backward_weight(dw_NK, dy, x, &offsets, dims, order);
        }
    }
}

/// `y[r] = x[r] w[e(r)]^T`.
pub fn grouped_forward<Y: Activation>(
    y_RN: &mut [Y],
    x_RK: Matrix<'_, Reference>,
    w_ENK: Matrix<'_, Reference>,
    offsets_E1: &[u32],
    dims: GroupedDims,
    order: SumOrder,
) {
    match Operands::new(x_RK, w_ENK) {
        Operands::Values(x_RK, w_ENK) => grouped_linear::forward(y_RN, &x_RK, &w_ENK, offsets_E1, dims),
        Operands::Codes(x, w) => quantized_linear::forward(y_RN, x, w, offsets_E1, dims, Write::Overwrite, order),
    }
}

/// `dx[r] = dy[r] w[e(r)]`.
pub fn grouped_backward_input<Y: Activation>(
    dx_RK: &mut [Y],
    dy_RN: Matrix<'_, Reference>,
    w_ENK: Matrix<'_, Reference>,
    offsets_E1: &[u32],
    dims: GroupedDims,
    order: SumOrder,
) {
    match Operands::new(dy_RN, w_ENK) {
        Operands::Values(dy_RN, w_ENK) => grouped_linear::backward_input(dx_RK, &dy_RN, &w_ENK, offsets_E1, dims),
        Operands::Codes(dy, w) => quantized_linear::backward_input(dx_RK, dy, w, offsets_E1, dims, Write::Overwrite, order),
    }
}

/// `dw[e] += sum over the rows of e of dy[r]^T x[r]`.
pub fn grouped_backward_weight(
    dw_ENK: &mut [f32],
    dy_RN: Matrix<'_, Reference>,
    x_RK: Matrix<'_, Reference>,
    offsets_E1: &[u32],
    dims: GroupedDims,
    order: SumOrder,
) {
    match Operands::new(dy_RN, x_RK) {
        Operands::Values(dy_RN, x_RK) => grouped_linear::backward_weight(dw_ENK, &dy_RN, &x_RK, offsets_E1, dims),
        Operands::Codes(dy, x) => quantized_linear::backward_weight(dw_ENK, dy, x, offsets_E1, dims, order),
    }
}
