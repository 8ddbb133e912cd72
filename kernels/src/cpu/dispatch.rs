//! Rows to experts and back: a counting sort, a gather and a weighted sum. Bound by memory.

use super::Cpu;
use super::simd::{Job, Simd, dispatch as with_isa};
use super::widen::{each_vector, load, store};
use crate::dims::DispatchDims;
use crate::formats::{Activation, GROUP};
use rayon::prelude::*;

/// A stable counting sort of the slots by expert.
pub fn plan(offsets: &mut [u32], slot_of_row: &mut [u32], row_of_slot: &mut [u32], indices: &[u32], dims: DispatchDims) {
    dims.check_plan(offsets.len(), slot_of_row.len(), row_of_slot.len(), indices.len());
    let rows = dims.rows();
    let offsets = &mut offsets[..=dims.experts];
    offsets.fill(0);
    for &expert in &indices[..rows] {
        offsets[expert as usize + 1] += 1;
    }
    for expert in 0..dims.experts {
        offsets[expert + 1] += offsets[expert];
    }
    for (slot, &expert) in indices[..rows].iter().enumerate() {
        let row = offsets[expert as usize];
        offsets[expert as usize] += 1;
        slot_of_row[row as usize] = slot as u32;
        row_of_slot[slot] = row;
    }
    // Each start has moved to its expert's end, where the next one starts.
    offsets.copy_within(..dims.experts, 1);
    offsets[0] = 0;
}

pub fn dispatch<A: Activation>(cpu: &Cpu, x_r: &mut [A], x_t: &[A], slot_of_row: &[u32], dims: DispatchDims) {
    dims.check(x_t.len(), x_r.len(), slot_of_row.len());
    let (rows, width, top_k) = (dims.rows(), dims.width, dims.top_k);
    if width == 0 {
        return;
    }
    cpu.pool().install(|| {
        x_r[..rows * width]
            .par_chunks_mut(width)
            .zip(&slot_of_row[..rows])
            .with_min_len(64)
            .for_each(|(row, &slot)| {
                row.copy_from_slice(&x_t[slot as usize / top_k * width..][..width]);
            });
    });
}

/// [`dispatch`] of codes, and of the scales of their tiles.
pub fn dispatch_quantized(
    cpu: &Cpu,
    codes_r: &mut [u8],
    scales_r: &mut [f32],
    codes_t: &[u8],
    scales_t: &[f32],
    slot_of_row: &[u32],
    dims: DispatchDims,
) {
    dims.check(codes_t.len(), codes_r.len(), slot_of_row.len());
    dims.check_scales(scales_t.len(), scales_r.len());
    let (rows, width, top_k) = (dims.rows(), dims.width, dims.top_k);
    let tiles = width.div_ceil(GROUP);
    if width == 0 {
        return;
    }
    cpu.pool().install(|| {
        codes_r[..rows * width]
            .par_chunks_mut(width)
            .zip(scales_r.par_chunks_mut(tiles))
            .zip(&slot_of_row[..rows])
            .with_min_len(64)
            .for_each(|((codes, scales), &slot)| {
                let token = slot as usize / top_k;
                codes.copy_from_slice(&codes_t[token * width..][..width]);
                scales.copy_from_slice(&scales_t[token * tiles..][..tiles]);
            });
    });
}

/// One row of the result.
struct Combine<'a, A> {
    y_t: &'a mut [A],
    y_r: &'a [A],
    weights: Option<&'a [f32]>,
    rows: &'a [u32],
    width: usize,
}

impl<A: Activation> Job for Combine<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self {
            y_t,
            y_r,
            weights,
            rows,
            width,
        } = self;
        let y_t = &mut y_t[..width];
        each_vector!(S, width, |at, WHOLE| {
            // SAFETY: a job runs inside `dispatch`; all rows have `width` elements.
            unsafe {
                let mut sum = load::<S, A, WHOLE>(y_t, at);
                for (k, &row) in rows.iter().enumerate() {
                    let weight = S::splat(weights.map_or(1.0, |weights| weights[k]));
                    let row = &y_r[row as usize * width..][..width];
                    sum = S::add(sum, S::mul(weight, load::<S, A, WHOLE>(row, at)));
                }
                store::<S, A, WHOLE>(y_t, at, sum);
            }
        });
    }
}

/// `y_t[t] += sum_k weight[t, k] y_r[row_of_slot[t, k]]`; every weight is 1 if there are none.
pub fn combine<A: Activation>(cpu: &Cpu, y_t: &mut [A], y_r: &[A], weights: Option<&[f32]>, row_of_slot: &[u32], dims: DispatchDims) {
    dims.check(y_t.len(), y_r.len(), row_of_slot.len());
    let DispatchDims { tokens, top_k, width, .. } = dims;
    if width == 0 {
        return;
    }
    cpu.pool().install(|| {
        y_t[..tokens * width]
            .par_chunks_mut(width)
            .enumerate()
            .with_min_len(32)
            .for_each(|(t, y_t)| {
                let slots = t * top_k..(t + 1) * top_k;
                let weights = weights.map(|weights| &weights[slots.clone()]);
                with_isa(
                    cpu.isa(),
                    Combine {
                        y_t,
                        y_r,
                        weights,
                        rows: &row_of_slot[slots],
                        width,
                    },
                );
            });
    });
}
