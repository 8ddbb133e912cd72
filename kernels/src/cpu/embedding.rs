//! Embedding: a gather forward, a scatter-add backward. Bound by memory.

use super::Cpu;
use super::disjoint::Disjoint;
use super::simd::{Job, Simd, dispatch};
use super::widen::{each_vector, load, store};
use crate::dims::EmbeddingDims;
use crate::formats::Activation;
use rayon::prelude::*;
use std::ops::Range;

/// Columns per task of the backward pass: a cache line of each row and its neighbour.
const COLUMNS: usize = 32;

pub fn forward<A: Activation>(cpu: &Cpu, y: &mut [A], table: &[A], tokens: &[u32], dims: EmbeddingDims) {
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

/// A block of columns of every row.
struct Scatter<'a, A> {
    dtable: &'a Disjoint<'a, f32>,
    dy: &'a [A],
    tokens: &'a [u32],
    columns: Range<usize>,
    dims: EmbeddingDims,
}

impl<A: Activation> Job for Scatter<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let EmbeddingDims { width, vocabulary, .. } = self.dims;
        for (t, &token) in self.tokens.iter().enumerate() {
            assert!((token as usize) < vocabulary, "token {token} in a vocabulary of {vocabulary}");
            // SAFETY: tasks own disjoint columns, and this one holds one part at a time.
            let sum = unsafe { self.dtable.part(token as usize * width + self.columns.start, self.columns.len()) };
            let gradient = &self.dy[t * width..][self.columns.clone()];
            each_vector!(S, self.columns.len(), |at, WHOLE| {
                // SAFETY: a job runs inside `dispatch`; both have these columns.
                unsafe {
                    let total = S::add(load::<S, f32, WHOLE>(sum, at), load::<S, A, WHOLE>(gradient, at));
                    store::<S, f32, WHOLE>(sum, at, total);
                }
            });
        }
    }
}

/// Tasks own blocks of columns, so that every row of the table is summed in ascending order of `t` by one thread.
pub fn backward<A: Activation>(cpu: &Cpu, dtable: &mut [f32], dy: &[A], tokens: &[u32], dims: EmbeddingDims) {
    dims.check(dy.len(), dtable.len(), tokens.len());
    let width = dims.width;
    if width == 0 {
        return;
    }
    let dtable = &Disjoint::new(dtable);
    cpu.pool().install(|| {
        (0..width.div_ceil(COLUMNS)).into_par_iter().for_each(|block| {
            let scatter = Scatter {
                dtable,
                dy,
                tokens: &tokens[..dims.rows],
                columns: block * COLUMNS..width.min((block + 1) * COLUMNS),
                dims,
            };
            dispatch(cpu.isa(), scatter);
        });
    });
}
