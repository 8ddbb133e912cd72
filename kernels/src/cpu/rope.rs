//! Rotary embedding in place, interleaved pairs.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use super::widen::{BLOCK, EMPTY, narrow, widen_mut};
use crate::Rotation;
use crate::dims::RopeDims;
use crate::formats::Activation;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 64;

/// Some rows from row `first` on.
struct Rotate<'a, A> {
    rows: &'a mut [A],
    first: usize,
    table: &'a [f32],
    /// 1 forward, -1 inverse.
    sign: f32,
    dims: RopeDims,
}

impl<A: Activation> Job for Rotate<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RopeDims {
            length,
            heads,
            row_stride,
            head_stride,
            offset,
            rotary,
            ..
        } = self.dims;
        let mut copy = EMPTY;
        for (t, row) in self.rows.chunks_mut(row_stride).enumerate() {
            let angles = &self.table[(self.first + t) % length * rotary..][..rotary];
            for head in 0..heads {
                let block = &mut row[offset + head * head_stride..][..rotary];
                for (part, angles) in block.chunks_mut(BLOCK).zip(angles.chunks(BLOCK)) {
                    let x = widen_mut::<S, A>(part, &mut copy);
                    for (pair, angle) in x.as_chunks_mut::<2>().0.iter_mut().zip(angles.as_chunks::<2>().0) {
                        let (cos, sin) = (angle[0], self.sign * angle[1]);
                        let [a, b] = *pair;
                        *pair = [a * cos - b * sin, a * sin + b * cos];
                    }
                    narrow::<S, A>(part, &copy);
                }
            }
        }
    }
}

pub fn rotate<A: Activation>(cpu: &Cpu, x: &mut [A], table: &[f32], dims: RopeDims, rotation: Rotation) {
    dims.check(x.len(), table.len());
    let RopeDims { rows, row_stride, .. } = dims;
    if row_stride == 0 {
        return;
    }
    let sign = match rotation {
        Rotation::Forward => 1.0,
        Rotation::Inverse => -1.0,
    };
    let used = x.len().min(rows * row_stride);
    cpu.pool().install(|| {
        x[..used].par_chunks_mut(ROWS * row_stride).enumerate().for_each(|(task, rows)| {
            let first = task * ROWS;
            dispatch(
                cpu.isa(),
                Rotate {
                    rows,
                    first,
                    table,
                    sign,
                    dims,
                },
            );
        });
    });
}
