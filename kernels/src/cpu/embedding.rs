//! Embedding: a gather forward, a scatter-add backward. Bound by memory.

use super::Cpu;
use super::disjoint::Disjoint;
use crate::dims::EmbeddingDims;
use rayon::prelude::*;

/// Columns per task of the backward pass: a cache line of each row and its neighbour.
const COLUMNS: usize = 32;

pub fn forward(cpu: &Cpu, y: &mut [f32], table: &[f32], tokens: &[u32], dims: EmbeddingDims) {
    dims.check(y.len(), table.len(), tokens.len());
    let EmbeddingDims {
        rows,
        width,
        vocabulary: _,
    } = dims;
    if width == 0 {
        return;
    }
    cpu.pool().install(|| {
        y[..rows * width]
            .par_chunks_mut(width)
            .zip(&tokens[..rows])
            .with_min_len(64)
            .for_each(|(row, &token)| {
                row.copy_from_slice(&table[token as usize * width..][..width]);
            });
    });
}

/// Tasks own blocks of columns, so that every row of the table is summed in ascending order of `t` by one thread.
pub fn backward(cpu: &Cpu, dtable: &mut [f32], dy: &[f32], tokens: &[u32], dims: EmbeddingDims) {
    dims.check(dy.len(), dtable.len(), tokens.len());
    let EmbeddingDims { rows, width, vocabulary } = dims;
    if width == 0 {
        return;
    }
    let target = &Disjoint::new(dtable);
    cpu.pool().install(|| {
        (0..width.div_ceil(COLUMNS)).into_par_iter().for_each(|block| {
            let columns = block * COLUMNS..width.min((block + 1) * COLUMNS);
            for (t, &token) in tokens[..rows].iter().enumerate() {
                assert!((token as usize) < vocabulary, "token {token} in a vocabulary of {vocabulary}");
                // SAFETY: tasks own disjoint columns, and this one holds one part at a time.
                let sum = unsafe { target.part(token as usize * width + columns.start, columns.len()) };
                for (sum, &gradient) in sum.iter_mut().zip(&dy[t * width..][columns.clone()]) {
                    *sum += gradient;
                }
            }
        });
    });
}
