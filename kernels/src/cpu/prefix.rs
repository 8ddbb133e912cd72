//! Prefixes of sequences: copies and sums of contiguous rows.

use super::Cpu;
use super::elementwise::{add, copy};
use crate::dims::PrefixDims;
use crate::formats::Activation;

/// Elements per sequence in `x` and in `y`.
const fn spans(dims: PrefixDims) -> (usize, usize) {
    (dims.length * dims.width, dims.prefix * dims.width)
}

pub fn forward<A: Activation>(cpu: &Cpu, y: &mut [A], x: &[A], dims: PrefixDims) {
    dims.check(y.len(), x.len());
    let (long, short) = spans(dims);
    for b in 0..dims.sequences {
        copy(cpu, &mut y[b * short..][..short], &x[b * long..][..short]);
    }
}

pub fn backward<A: Activation>(cpu: &Cpu, dx: &mut [A], dy: &[A], dims: PrefixDims) {
    dims.check(dy.len(), dx.len());
    let (long, short) = spans(dims);
    for b in 0..dims.sequences {
        add(cpu, &mut dx[b * long..][..short], &dy[b * short..][..short]);
    }
}
