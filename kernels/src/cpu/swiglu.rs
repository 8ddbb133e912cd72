//! SwiGLU, plain and with the routing weight folded into its backward pass. Bound by memory, with one `exp` per element.

use super::Cpu;
use super::exp::sigmoid;
use super::rmsnorm::dot;
use super::simd::{Job, Simd, dispatch};
use crate::dims::SwigluDims;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 32;

struct Forward<'a> {
    a: &'a mut [f32],
    gate_up: &'a [f32],
    width: usize,
}

impl Job for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (a, gate_up) in self.a.chunks_exact_mut(self.width).zip(self.gate_up.chunks_exact(2 * self.width)) {
            let (gate, up) = gate_up.split_at(self.width);
            for ((a, &gate), &up) in a.iter_mut().zip(gate).zip(up) {
                *a = gate * sigmoid(gate) * up;
            }
        }
    }
}

pub fn forward(cpu: &Cpu, a: &mut [f32], gate_up: &[f32], dims: SwigluDims) {
    dims.check(a.len(), gate_up.len());
    let SwigluDims { rows, width } = dims;
    if rows * width == 0 {
        return;
    }
    cpu.pool().install(|| {
        a[..rows * width]
            .par_chunks_mut(ROWS * width)
            .zip(gate_up.par_chunks(ROWS * 2 * width))
            .for_each(|(a, gate_up)| dispatch(cpu.isa(), Forward { a, gate_up, width }));
    });
}

/// `dgate`, `dup` of one row whose output gradient is `scale da`.
#[inline(always)]
fn backward_row(dgate_up: &mut [f32], da: &[f32], gate_up: &[f32], scale: f32) {
    let (gate, up) = gate_up.split_at(da.len());
    let (dgate, dup) = dgate_up.split_at_mut(da.len());
    // Iterators, not indices: a bounds check in the loop would keep it scalar.
    for ((((dgate, dup), &da), &gate), &up) in dgate.iter_mut().zip(dup).zip(da).zip(gate).zip(up) {
        let (da, sigma) = (scale * da, sigmoid(gate));
        *dup = da * gate * sigma;
        *dgate = da * up * sigma * (1.0 + gate * (1.0 - sigma));
    }
}

struct Backward<'a> {
    dgate_up: &'a mut [f32],
    da: &'a [f32],
    gate_up: &'a [f32],
    width: usize,
}

impl Job for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.width;
        let rows = self
            .dgate_up
            .chunks_exact_mut(2 * width)
            .zip(self.da.chunks_exact(width))
            .zip(self.gate_up.chunks_exact(2 * width));
        for ((dgate_up, da), gate_up) in rows {
            backward_row(dgate_up, da, gate_up, 1.0);
        }
    }
}

pub fn backward(cpu: &Cpu, dgate_up: &mut [f32], da: &[f32], gate_up: &[f32], dims: SwigluDims) {
    dims.check(da.len(), gate_up.len());
    dims.check(da.len(), dgate_up.len());
    let SwigluDims { rows, width } = dims;
    if rows * width == 0 {
        return;
    }
    cpu.pool().install(|| {
        dgate_up[..rows * 2 * width]
            .par_chunks_mut(ROWS * 2 * width)
            .zip(da.par_chunks(ROWS * width))
            .zip(gate_up.par_chunks(ROWS * 2 * width))
            .for_each(|((dgate_up, da), gate_up)| {
                dispatch(
                    cpu.isa(),
                    Backward {
                        dgate_up,
                        da,
                        gate_up,
                        width,
                    },
                );
            });
    });
}

struct BackwardRouted<'a> {
    dgate_up: &'a mut [f32],
    a: &'a mut [f32],
    /// `<da, a>` of each row.
    products: &'a mut [f32],
    da: &'a [f32],
    gate_up: &'a [f32],
    weights: &'a [f32],
    slots: &'a [u32],
    width: usize,
}

impl Job for BackwardRouted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.width;
        for (r, &slot) in self.slots.iter().enumerate() {
            let weight = self.weights[slot as usize];
            let (a, da) = (&mut self.a[r * width..][..width], &self.da[r * width..][..width]);
            self.products[r] = dot(da, a);
            for a in a.iter_mut() {
                *a *= weight;
            }
            let columns = r * 2 * width..(r + 1) * 2 * width;
            backward_row(&mut self.dgate_up[columns.clone()], da, &self.gate_up[columns], weight);
        }
    }
}

pub fn backward_routed(
    cpu: &Cpu,
    dgate_up: &mut [f32],
    a: &mut [f32],
    dweights: &mut [f32],
    da: &[f32],
    gate_up: &[f32],
    weights: &[f32],
    slot_of_row: &[u32],
    dims: SwigluDims,
) {
    dims.check(da.len(), gate_up.len());
    dims.check(a.len(), dgate_up.len());
    let SwigluDims { rows, width } = dims;
    dims.check_routed(slot_of_row.len(), weights.len(), dweights.len());
    if width == 0 {
        return;
    }
    let mut products = vec![0.0; rows];
    cpu.pool().install(|| {
        dgate_up[..rows * 2 * width]
            .par_chunks_mut(ROWS * 2 * width)
            .zip(a[..rows * width].par_chunks_mut(ROWS * width))
            .zip(products.par_chunks_mut(ROWS))
            .zip(da.par_chunks(ROWS * width))
            .zip(gate_up.par_chunks(ROWS * 2 * width))
            .zip(slot_of_row[..rows].par_chunks(ROWS))
            .for_each(|(((((dgate_up, a), products), da), gate_up), slots)| {
                dispatch(
                    cpu.isa(),
                    BackwardRouted {
                        dgate_up,
                        a,
                        products,
                        da,
                        gate_up,
                        weights,
                        slots,
                        width,
                    },
                );
            });
    });
    for (&slot, product) in slot_of_row.iter().zip(products) {
        dweights[slot as usize] = product;
    }
}
