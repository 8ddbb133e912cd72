//! SwiGLU straight to codes, from activations or from codes. Bound by memory, with one `exp` per element.

use super::Cpu;
use super::codes::load_across;
use super::quantize_tile::{COMPUTED_ROWS, quantize_computed};
use super::simd::{Job, Simd, dispatch};
use super::swiglu::swiglu;
use super::widen::{each_vector, load, store};
use crate::dims::SwigluDims;
use crate::formats::{GROUP, QuantizeDims, Scaling, Source, Statistics, bf16};
use rayon::prelude::*;

/// Rows of `gate_up` from `row` on.
struct Forward<'a> {
    codes: &'a mut [u8],
    scales: &'a mut [f32],
    gate_up: Source<'a>,
    row: usize,
    width: usize,
    scaling: Scaling,
}

impl Job for Forward<'_> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self) -> Statistics {
        let Self {
            codes,
            scales,
            gate_up,
            row,
            width,
            scaling,
        } = self;
        let (mut gate, mut up) = ([0.0; GROUP], [0.0; GROUP]);
        quantize_computed::<S>(codes, scales, width, scaling, |values, i, column| {
            let gate = load_across::<S>(&mut gate, &gate_up, (row + i, column, values.len()), 2 * width);
            let up = load_across::<S>(&mut up, &gate_up, (row + i, width + column, values.len()), 2 * width);
            let (gate, up) = (&gate[..values.len()], &up[..values.len()]);
            each_vector!(S, values.len(), |at, WHOLE| {
                // SAFETY: a job runs inside `dispatch`; the three have one length.
                unsafe {
                    let (gate, up) = (load::<S, f32, WHOLE>(gate, at), load::<S, f32, WHOLE>(up, at));
                    store::<S, f32, WHOLE>(values, at, swiglu::<S>(gate, up));
                }
            });
            for value in values {
                *value = bf16::round(*value);
            }
        })
    }
}

pub fn forward(cpu: &Cpu, codes: &mut [u8], scales: &mut [f32], gate_up: Source<'_>, dims: SwigluDims, scaling: Scaling) -> Statistics {
    let SwigluDims { rows, width } = dims;
    gate_up.check(rows, 2 * width);
    let tiles = QuantizeDims::row_tiles(rows, width, scaling);
    tiles.check_outputs(codes.len(), scales.len(), 1);
    let (codes_len, scales_len) = tiles.lengths();
    if codes_len == 0 {
        return Statistics::default();
    }
    cpu.pool().install(|| {
        codes[..codes_len]
            .par_chunks_mut(COMPUTED_ROWS * width)
            .zip(scales[..scales_len].par_chunks_mut(COMPUTED_ROWS * width.div_ceil(GROUP)))
            .enumerate()
            .map(|(strip, (codes, scales))| {
                dispatch(
                    cpu.isa(),
                    Forward {
                        codes,
                        scales,
                        gate_up,
                        row: strip * COMPUTED_ROWS,
                        width,
                        scaling,
                    },
                )
            })
            .reduce(Statistics::default, Statistics::merge)
    })
}
