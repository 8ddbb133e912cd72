//! One linear layer per group of rows: the plain layer on each group.

use super::linear;
use super::real::Real;
use crate::Write;
use crate::dims::{GroupedDims, LinearDims};
use std::ops::Range;

/// The groups: rows, and the dimensions of their linear layer.
fn groups(offsets_E1: &[u32], dims: GroupedDims) -> impl Iterator<Item = (usize, Range<usize>, LinearDims)> + '_ {
    dims.check_offsets(offsets_E1);
    offsets_E1[..=dims.groups].windows(2).enumerate().map(move |(e, ends)| {
        let rows = ends[0] as usize..ends[1] as usize;
        (
            e,
            rows.clone(),
            LinearDims {
                rows: rows.len(),
                input: dims.input,
                output: dims.output,
            },
        )
    })
}

/// `y[r] = x[r] w[e(r)]^T`.
pub fn forward<Y: Real, F: Real>(y_RN: &mut [Y], x_RK: &[F], w_ENK: &[F], offsets_E1: &[u32], dims: GroupedDims) {
    let GroupedDims { input, output, .. } = dims;
    for (e, rows, linear_dims) in groups(offsets_E1, dims) {
        let w_NK = &w_ENK[e * output * input..];
        linear::forward(
            &mut y_RN[rows.start * output..],
            &x_RK[rows.start * input..],
            w_NK,
            linear_dims,
            Write::Overwrite,
        );
    }
}

/// `dx[r] = dy[r] w[e(r)]`.
pub fn backward_input<Y: Real, F: Real>(dx_RK: &mut [Y], dy_RN: &[F], w_ENK: &[F], offsets_E1: &[u32], dims: GroupedDims) {
    let GroupedDims { input, output, .. } = dims;
    for (e, rows, linear_dims) in groups(offsets_E1, dims) {
        let w_NK = &w_ENK[e * output * input..];
        linear::backward_input(
            &mut dx_RK[rows.start * input..],
            &dy_RN[rows.start * output..],
            w_NK,
            linear_dims,
            Write::Overwrite,
        );
    }
}

/// `dw[e] += sum over the rows of e of dy[r]^T x[r]`.
pub fn backward_weight<F: Real>(dw_ENK: &mut [F], dy_RN: &[F], x_RK: &[F], offsets_E1: &[u32], dims: GroupedDims) {
    let GroupedDims { input, output, .. } = dims;
    for (e, rows, linear_dims) in groups(offsets_E1, dims) {
        let dw_NK = &mut dw_ENK[e * output * input..];
        linear::backward_weight(dw_NK, &dy_RN[rows.start * output..], &x_RK[rows.start * input..], linear_dims);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    #[test]
    fn gradient_with_an_empty_group() {
        let dims = GroupedDims {
            rows: 5,
            groups: 3,
            input: 2,
            output: 3,
        };
        let (mut draw, offsets) = (Draw::new(4), [0, 2, 2, 5]);
        let (x, w, dy) = (draw.normal(10), draw.normal(18), draw.normal(15));
        let linear = |x: &[f64], w: &[f64]| {
            let mut y = vec![0.0; 15];
            forward(&mut y, x, w, &offsets, dims);
            y
        };
        let (mut dx, mut dw) = (vec![0.0; 10], vec![0.0; 18]);
        backward_input(&mut dx, &dy, &w, &offsets, dims);
        backward_weight(&mut dw, &dy, &x, &offsets, dims);
        check_gradient("dx", &x, &dx, &dy, |x| linear(x, &w));
        check_gradient("dw", &w, &dw, &dy, |w| linear(&x, w));
        assert!(dw[6..12].iter().all(|&d| d == 0.0), "the empty group has no gradient");
    }
}
