//! Products of linear layers `y = x w^T`, by the recipe of the precision (paper, section 3.3.2):
//!
//! | product | sums over | first operand | second operand |
//! |---|---|---|---|
//! | forward `y` | input | `x`, tiles of 1 x 128 | `w`, blocks of 128 x 128 |
//! | gradient of the input `dx` | output | `dy`, tiles of 1 x 128 | the same `w`, read along its rows |
//! | gradient of the weight `dw` | rows | `dy`, tiles of 128 x 1 | `x`, tiles of 128 x 1 |
//!
//! In `fp8`, operands are quantised here, just before they are multiplied; in `f32` and `bf16` they are what they are.

use super::dims::OpDims;
use super::numerics::{Numerics, TensorClass, slot};
use super::weights::{Parameters, Storage};
use fathom_kernels::dims::LinearDims;
use fathom_kernels::formats::{GROUP, Grouping, QuantizeDims, QuantizeGroupedDims, Scaling, column_scale_rows};
use fathom_kernels::{Kernels, Matrix, Write};

/// Scales of activations and gradients: powers of two, so that a change from 1 x 128 to 128 x 1 tiles loses nothing.
pub const SCALING: Scaling = Scaling::PowerOfTwo;

/// What every operation of a layer's pass needs beside its own operands.
pub struct Pass<'a, K: Kernels> {
    /// The backend.
    pub k: &'a K,
    /// The parameters.
    pub w: &'a Parameters<K>,
    /// Angles of the rotary embedding.
    pub rope: &'a K::Buffer<f32>,
    /// Sizes.
    pub dims: OpDims<'a>,
    /// The layer, those of MTP modules last.
    pub layer: usize,
}

/// Memory for the quantised form of one activation or gradient; empty unless the precision is `fp8`.
pub struct Quantized<K: Kernels> {
    /// As the tensor.
    pub codes: K::Buffer<u8>,
    /// Of its 1 x 128 tiles.
    pub row_scales: K::Buffer<f32>,
    /// Of its 128 x 1 tiles, with room for as many groups of rows as it may have.
    pub column_scales: K::Buffer<f32>,
    width: usize,
    active: bool,
}

impl<K: Kernels> Quantized<K> {
    /// Memory for a tensor of up to `rows` x `width`, whose rows fall into up to `groups` groups.
    pub fn new(k: &K, dims: &OpDims<'_>, (rows, width): (usize, usize), groups: usize) -> Self {
        let active = dims.fp8;
        let if_active = |len: usize| if active { len } else { 0 };
        Self {
            codes: k.zeros(if_active(rows * width)),
            row_scales: k.zeros(if_active(rows * width.div_ceil(GROUP))),
            column_scales: k.zeros(if_active(column_scale_rows(rows, groups) * width)),
            width,
            active,
        }
    }

    /// The codes in 1 x 128 tiles, as they are.
    pub const fn row_matrix(&self) -> Matrix<'_, K> {
        Matrix::E4m3 {
            codes: &self.codes,
            scales: &self.row_scales,
        }
    }

    /// The codes in 128 x 1 tiles, as they are.
    pub const fn column_matrix(&self) -> Matrix<'_, K> {
        Matrix::E4m3 {
            codes: &self.codes,
            scales: &self.column_scales,
        }
    }

    /// `x` as the operand of a sum over its columns.
    pub fn rows<'a, A: Storage>(
        &'a mut self,
        p: &Pass<'_, K>,
        n: &mut Numerics<K>,
        class: TensorClass,
        x: &'a K::Buffer<A>,
        rows: usize,
    ) -> Matrix<'a, K> {
        if !self.active {
            return Matrix::of(x);
        }
        let dims = self.dims(rows, Grouping::Row);
        p.k.quantize(&mut self.codes, &mut self.row_scales, n.buffer(), slot(p.layer, class), x, dims);
        self.row_matrix()
    }

    /// `x` as the operand of a sum over its rows.
    pub fn columns<'a, A: Storage>(
        &'a mut self,
        p: &Pass<'_, K>,
        n: &mut Numerics<K>,
        class: TensorClass,
        x: &'a K::Buffer<A>,
        rows: usize,
    ) -> Matrix<'a, K> {
        if !self.active {
            return Matrix::of(x);
        }
        let dims = self.dims(rows, Grouping::Column);
        p.k.quantize(&mut self.codes, &mut self.column_scales, n.buffer(), slot(p.layer, class), x, dims);
        self.column_matrix()
    }

    /// `x` as the operand of sums over the rows of each expert.
    pub fn grouped_columns<'a, A: Storage>(
        &'a mut self,
        p: &Pass<'_, K>,
        n: &mut Numerics<K>,
        class: TensorClass,
        x: &'a K::Buffer<A>,
        offsets: &K::Buffer<u32>,
    ) -> Matrix<'a, K> {
        if !self.active {
            return Matrix::of(x);
        }
        let dims = routed_dims(p, self.width);
        let slot = slot(p.layer, class);
        p.k.quantize_grouped(&mut self.codes, &mut self.column_scales, n.buffer(), slot, x, offsets, dims);
        self.column_matrix()
    }

    const fn dims(&self, rows: usize, grouping: Grouping) -> QuantizeDims {
        QuantizeDims {
            rows,
            columns: self.width,
            grouping,
            scaling: SCALING,
            transposed: false,
        }
    }
}

/// Sizes of a quantisation of routed rows.
pub const fn routed_dims<K: Kernels>(p: &Pass<'_, K>, width: usize) -> QuantizeGroupedDims {
    QuantizeGroupedDims {
        rows: p.dims.dispatch().rows(),
        columns: width,
        groups: p.dims.model.experts,
        scaling: SCALING,
    }
}

/// `dx (=|+=) dy w; dw += dy^T x`, with `x` ready for a sum over rows.
pub fn backward<K: Kernels, A: Storage>(
    p: &Pass<'_, K>,
    n: &mut Numerics<K>,
    (dx_TK, write): (&mut K::Buffer<A>, Write),
    dw_NK: &mut K::Buffer<f32>,
    (dy_TN, quantized, class): (&K::Buffer<A>, &mut Quantized<K>, TensorClass),
    x_TK: Matrix<'_, K>,
    w_NK: Matrix<'_, K>,
    dims: LinearDims,
) {
    let along_rows = quantized.columns(p, n, class, dy_TN, dims.rows);
    p.k.linear_backward_weight(dw_NK, along_rows, x_TK, dims);
    let along_columns = quantized.rows(p, n, class, dy_TN, dims.rows);
    p.k.linear_backward_input(dx_TK, along_columns, w_NK, dims, write);
}
