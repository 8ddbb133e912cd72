//! Prefixes of sequences: copies of contiguous rows.

use crate::dims::PrefixDims;

/// Elements per sequence in `x` and in `y`.
const fn spans(dims: PrefixDims) -> (usize, usize) {
    (dims.length * dims.width, dims.prefix * dims.width)
}

pub fn forward(y: &mut [f32], x: &[f32], dims: PrefixDims) {
    dims.check(y.len(), x.len());
    let (long, short) = spans(dims);
    for b in 0..dims.sequences {
        y[b * short..][..short].copy_from_slice(&x[b * long..][..short]);
    }
}

pub fn backward(dx: &mut [f32], dy: &[f32], dims: PrefixDims) {
    dims.check(dy.len(), dx.len());
    let (long, short) = spans(dims);
    for b in 0..dims.sequences {
        for (dx, &dy) in dx[b * long..][..short].iter_mut().zip(&dy[b * short..][..short]) {
            *dx += dy;
        }
    }
}
