//! Operands of products: which matrix, and along which of its dimensions the sum runs.

use super::View;
use crate::Matrix;
use crate::cpu::Cpu;
use crate::formats::{Bf16, GROUP, column_scale_row};

/// `[vectors, terms]` of a product.
#[derive(Clone, Copy)]
pub enum Operand<'a> {
    /// Values.
    F32(View<'a>),
    /// BF16 values.
    Bf16(View<'a, Bf16>),
    /// E4M3 codes with scales.
    E4m3(Quantized<'a>),
}

/// Codes, and a scale for `GROUP` terms of `vectors` vectors.
#[derive(Clone, Copy)]
pub struct Quantized<'a> {
    /// `[vectors, terms]`.
    pub codes: View<'a, u8>,
    /// `[vectors / self.vectors, terms / GROUP]`, rounded up.
    pub scales: View<'a>,
    /// Vectors that share a scale: 1 or `GROUP`.
    pub vectors: usize,
}

/// An expert: its rows begin at `first`, and `index` experts come before it. A plain linear layer is the first of one.
#[derive(Clone, Copy, Default)]
pub struct Expert {
    /// Number of the expert.
    pub index: usize,
    /// Its first row.
    pub first: usize,
}

/// Where the vectors and terms of an operand lie in a row-major matrix.
#[derive(Clone, Copy)]
struct Layout {
    /// Columns of the matrix.
    width: usize,
    /// First row.
    first: usize,
    /// Columns of its scales.
    scale_width: usize,
    /// First row of its scales.
    first_scale: usize,
    /// Vectors that share a scale.
    vectors: usize,
    /// Whether vectors are columns.
    transposed: bool,
}

impl Layout {
    /// A matrix of `width` columns, or its scales, from a row on.
    fn view<T: Copy>(self, data: &[T], width: usize, first: usize) -> View<'_, T> {
        if self.transposed {
            View::transposed(data, width).skip_columns(first)
        } else {
            View::rows(data, width).skip_rows(first)
        }
    }
}

impl<'a> Operand<'a> {
    /// The expert's rows of a matrix of `width` columns, summed along the columns: tiles of 1 x 128.
    pub fn rows(matrix: Matrix<'a, Cpu>, width: usize, expert: Expert) -> Self {
        let layout = Layout {
            width,
            first: expert.first,
            scale_width: width.div_ceil(GROUP),
            first_scale: expert.first,
            vectors: 1,
            transposed: false,
        };
        Self::new(matrix, layout)
    }

    /// The columns of the expert's rows, summed along those rows: tiles of 128 x 1.
    pub fn columns(matrix: Matrix<'a, Cpu>, width: usize, expert: Expert) -> Self {
        let layout = Layout {
            width,
            first: expert.first,
            scale_width: width,
            first_scale: column_scale_row(expert.first, expert.index),
            vectors: 1,
            transposed: true,
        };
        Self::new(matrix, layout)
    }

    /// The expert's weights, `[output, input]`, in blocks of 128 x 128: rows summed along the input or, `transposed`, columns along the
    /// output.
    pub fn weights(matrix: Matrix<'a, Cpu>, (output, input): (usize, usize), expert: Expert, transposed: bool) -> Self {
        let layout = Layout {
            width: input,
            first: expert.index * output,
            scale_width: input.div_ceil(GROUP),
            first_scale: expert.index * output.div_ceil(GROUP),
            vectors: GROUP,
            transposed,
        };
        Self::new(matrix, layout)
    }

    fn new(matrix: Matrix<'a, Cpu>, layout: Layout) -> Self {
        let Layout { width, first, .. } = layout;
        match matrix {
            Matrix::F32(data) => Self::F32(layout.view(data, width, first)),
            Matrix::Bf16(data) => Self::Bf16(layout.view(data, width, first)),
            Matrix::E4m3 { codes, scales } => Self::E4m3(Quantized {
                codes: layout.view(codes, width, first),
                scales: layout.view(scales, layout.scale_width, layout.first_scale),
                vectors: layout.vectors,
            }),
        }
    }

    /// Panics unless all of `[vectors, terms]` is inside the data.
    pub fn check(&self, vectors: usize, terms: usize) {
        match self {
            Self::F32(view) => view.check(vectors, terms),
            Self::Bf16(view) => view.check(vectors, terms),
            Self::E4m3(Quantized {
                codes,
                scales,
                vectors: group,
            }) => {
                codes.check(vectors, terms);
                scales.check(vectors.div_ceil(*group), terms.div_ceil(GROUP));
            }
        }
    }
}
