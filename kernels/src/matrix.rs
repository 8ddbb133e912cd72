//! Operands of matrix products.

use crate::Kernels;
use crate::dims::{GroupedDims, LinearDims, at_least, size};
use crate::formats::{Activation, Bf16, Grouping, column_scale_rows};

/// A matrix in a product. Both operands are E4M3, or neither is; BF16 is widened beside F32.
pub enum Matrix<'a, K: Kernels + ?Sized> {
    /// Values.
    F32(&'a K::Buffer<f32>),
    /// BF16 values.
    Bf16(&'a K::Buffer<Bf16>),
    /// E4M3 codes with the scales of their groups; the operation says which elements are a group.
    E4m3 {
        /// One per element.
        codes: &'a K::Buffer<u8>,
        /// One per group.
        scales: &'a K::Buffer<f32>,
    },
}

impl<K: Kernels + ?Sized> Clone for Matrix<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K: Kernels + ?Sized> Copy for Matrix<'_, K> {}

impl<'a, K: Kernels + ?Sized> From<&'a K::Buffer<f32>> for Matrix<'a, K> {
    fn from(buffer: &'a K::Buffer<f32>) -> Self {
        Self::F32(buffer)
    }
}

impl<'a, K: Kernels + ?Sized> Matrix<'a, K> {
    /// Activations, or weights in their type.
    #[must_use]
    pub fn of<A: Activation>(buffer: &'a K::Buffer<A>) -> Self {
        A::matrix(buffer)
    }

    /// Number of elements.
    fn len(self, kernels: &K) -> usize {
        match self {
            Self::F32(buffer) => kernels.len(buffer),
            Self::Bf16(buffer) => kernels.len(buffer),
            Self::E4m3 { codes, .. } => kernels.len(codes),
        }
    }

    /// Panics if there are scales, and fewer than `count`.
    #[track_caller]
    fn check_scales(self, kernels: &K, name: &str, count: usize) {
        if let Self::E4m3 { scales, .. } = self {
            at_least(name, kernels.len(scales), count);
        }
    }

    const fn is_e4m3(self) -> bool {
        matches!(self, Self::E4m3 { .. })
    }
}

/// Panics unless both operands are E4M3 or neither is.
#[track_caller]
fn check_types<K: Kernels + ?Sized>(a: Matrix<'_, K>, b: Matrix<'_, K>) {
    assert_eq!(
        a.is_e4m3(),
        b.is_e4m3(),
        "whether the operands of a product are E4M3: both or neither"
    );
}

fn scales(grouping: Grouping, rows: usize, columns: usize) -> usize {
    let (rows, columns) = grouping.scales(rows, columns);
    size(&[rows, columns])
}

impl LinearDims {
    /// Panics unless `y (=|+=) x w^T` has operands that go together and buffers that are long enough.
    #[track_caller]
    pub fn check_forward<K: Kernels + ?Sized>(&self, kernels: &K, y: usize, x: Matrix<'_, K>, w: Matrix<'_, K>) {
        check_types(x, w);
        self.check(y, x.len(kernels), w.len(kernels));
        x.check_scales(kernels, "scales of x_TK", scales(Grouping::Row, self.rows, self.input));
        w.check_scales(kernels, "scales of w_NK", scales(Grouping::Block, self.output, self.input));
    }

    /// As [`LinearDims::check_forward`], for `dx (=|+=) dy w`.
    #[track_caller]
    pub fn check_backward_input<K: Kernels + ?Sized>(&self, kernels: &K, dx: usize, dy: Matrix<'_, K>, w: Matrix<'_, K>) {
        check_types(dy, w);
        self.check(dy.len(kernels), dx, w.len(kernels));
        dy.check_scales(kernels, "scales of dy_TN", scales(Grouping::Row, self.rows, self.output));
        w.check_scales(kernels, "scales of w_NK", scales(Grouping::Block, self.output, self.input));
    }

    /// As [`LinearDims::check_forward`], for `dw += dy^T x`.
    #[track_caller]
    pub fn check_backward_weight<K: Kernels + ?Sized>(&self, kernels: &K, dw: usize, dy: Matrix<'_, K>, x: Matrix<'_, K>) {
        check_types(dy, x);
        self.check(dy.len(kernels), x.len(kernels), dw);
        dy.check_scales(kernels, "scales of dy_TN", scales(Grouping::Column, self.rows, self.output));
        x.check_scales(kernels, "scales of x_TK", scales(Grouping::Column, self.rows, self.input));
    }
}

impl GroupedDims {
    /// Scales of the weights of all groups.
    fn weight_scales(&self) -> usize {
        size(&[self.groups, scales(Grouping::Block, self.output, self.input)])
    }

    /// Panics unless `y[r] = x[r] w[e(r)]^T` has operands that go together and buffers that are long enough.
    #[track_caller]
    pub fn check_forward<K: Kernels + ?Sized>(&self, kernels: &K, y: usize, x: Matrix<'_, K>, w: Matrix<'_, K>, offsets: usize) {
        check_types(x, w);
        self.check(y, x.len(kernels), w.len(kernels), offsets);
        x.check_scales(kernels, "scales of x_RK", scales(Grouping::Row, self.rows, self.input));
        w.check_scales(kernels, "scales of w_ENK", self.weight_scales());
    }

    /// As [`GroupedDims::check_forward`], for `dx[r] = dy[r] w[e(r)]`.
    #[track_caller]
    pub fn check_backward_input<K: Kernels + ?Sized>(&self, kernels: &K, dx: usize, dy: Matrix<'_, K>, w: Matrix<'_, K>, offsets: usize) {
        check_types(dy, w);
        self.check(dy.len(kernels), dx, w.len(kernels), offsets);
        dy.check_scales(kernels, "scales of dy_RN", scales(Grouping::Row, self.rows, self.output));
        w.check_scales(kernels, "scales of w_ENK", self.weight_scales());
    }

    /// As [`GroupedDims::check_forward`], for `dw[e] += dy^T x` over the rows of `e`.
    #[track_caller]
    pub fn check_backward_weight<K: Kernels + ?Sized>(&self, kernels: &K, dw: usize, dy: Matrix<'_, K>, x: Matrix<'_, K>, offsets: usize) {
        check_types(dy, x);
        self.check(dy.len(kernels), x.len(kernels), dw, offsets);
        let rows = column_scale_rows(self.rows, self.groups);
        dy.check_scales(kernels, "scales of dy_RN", size(&[rows, self.output]));
        x.check_scales(kernels, "scales of x_RK", size(&[rows, self.input]));
    }
}
