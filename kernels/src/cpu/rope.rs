//! Rotary embedding in place, interleaved pairs.

use super::Cpu;
use crate::Rotation;
use crate::dims::RopeDims;
use rayon::prelude::*;

pub fn rotate(cpu: &Cpu, x: &mut [f32], table: &[f32], dims: RopeDims, rotation: Rotation) {
    dims.check(x.len(), table.len());
    let RopeDims {
        rows,
        length,
        heads,
        row_stride,
        head_stride,
        offset,
        rotary,
    } = dims;
    if row_stride == 0 {
        return;
    }
    let sign = match rotation {
        Rotation::Forward => 1.0,
        Rotation::Inverse => -1.0,
    };
    let used = x.len().min(rows * row_stride);
    cpu.pool().install(|| {
        x[..used]
            .par_chunks_mut(row_stride)
            .enumerate()
            .with_min_len(64)
            .for_each(|(t, row)| {
                let angles = &table[t % length * rotary..][..rotary];
                for head in 0..heads {
                    let block = &mut row[offset + head * head_stride..][..rotary];
                    for (pair, angle) in block.chunks_exact_mut(2).zip(angles.chunks_exact(2)) {
                        let (cos, sin) = (angle[0], sign * angle[1]);
                        let (a, b) = (pair[0], pair[1]);
                        pair[0] = a * cos - b * sin;
                        pair[1] = a * sin + b * cos;
                    }
                }
            });
    });
}
