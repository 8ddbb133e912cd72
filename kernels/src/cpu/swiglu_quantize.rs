//! SwiGLU straight to codes, from activations or from codes. Bound by memory, with one `exp` per element.

use super::Cpu;
use super::codes::{Values, load_across};
use super::quantize::STRIP;
use super::quantize_tile::{FillRows, Rows};
use super::simd::{Simd, dispatch};
use super::swiglu::swiglu;
use crate::dims::SwigluDims;
use crate::formats::{GROUP, QuantizeDims, Scaling, Source, Statistics, bf16};
use rayon::prelude::*;

/// `silu(gate) up`, rounded to BF16, of the rows of `gate_up` from `row` on.
struct Swiglu<'a> {
    gate_up: Source<'a>,
    row: usize,
    width: usize,
    gate: Values,
    up: Values,
}

impl Rows for Swiglu<'_> {
    #[inline(always)]
    fn tile<'a, S: Simd>(&'a mut self, values: &'a mut Values, row: usize, column: usize, count: usize) -> &'a Values {
        let (row, columns) = (self.row + row, 2 * self.width);
        let gate = load_across::<S>(&mut self.gate, &self.gate_up, (row, column, count), columns);
        let up = load_across::<S>(&mut self.up, &self.gate_up, (row, self.width + column, count), columns);
        for at in (0..GROUP).step_by(S::LANES) {
            // SAFETY: a job runs inside `dispatch`; lanes divide the arrays' length.
            unsafe {
                let (gate, up) = (S::load(gate.as_ptr().add(at)), S::load(up.as_ptr().add(at)));
                S::store(values.as_mut_ptr().add(at), swiglu::<S>(gate, up));
            }
        }
        for value in values.iter_mut() {
            *value = bf16::round(*value);
        }
        // What is zero stays zero.
        values
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
            .par_chunks_mut(STRIP * width)
            .zip(scales[..scales_len].par_chunks_mut(STRIP * width.div_ceil(GROUP)))
            .enumerate()
            .map(|(strip, (codes, scales))| {
                let rows = Swiglu {
                    gate_up,
                    row: strip * STRIP,
                    width,
                    gate: [0.0; GROUP],
                    up: [0.0; GROUP],
                };
                let fill = FillRows {
                    codes,
                    scales,
                    rows,
                    columns: width,
                    scaling,
                };
                dispatch(cpu.isa(), fill)
            })
            .reduce(Statistics::default, Statistics::merge)
    })
}
