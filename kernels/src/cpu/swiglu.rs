//! SwiGLU, plain and with the routing weight folded into its backward pass. Bound by memory, with one `exp` per element.

use super::Cpu;
use super::exp::sigmoid;
use super::rmsnorm::dot;
use super::simd::{Job, Simd, dispatch};
use super::widen::{BLOCK, EMPTY, narrow, target, widen, widen_mut};
use crate::dims::SwigluDims;
use crate::formats::Activation;
use rayon::prelude::*;

/// Rows per task.
const ROWS: usize = 32;

struct Forward<'a, A> {
    a: &'a mut [A],
    gate_up: &'a [A],
    width: usize,
}

impl<A: Activation> Job for Forward<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (a, gate_up) in self.a.chunks_exact_mut(self.width).zip(self.gate_up.chunks_exact(2 * self.width)) {
            let (gate, up) = gate_up.split_at(self.width);
            let (mut a_copy, mut gate_copy, mut up_copy) = (EMPTY, EMPTY, EMPTY);
            for ((a, gate), up) in a.chunks_mut(BLOCK).zip(gate.chunks(BLOCK)).zip(up.chunks(BLOCK)) {
                let (gate, up) = (widen::<S, A>(gate, &mut gate_copy), widen::<S, A>(up, &mut up_copy));
                for ((a, &gate), &up) in target(a, &mut a_copy).iter_mut().zip(gate).zip(up) {
                    *a = gate * sigmoid(gate) * up;
                }
                narrow::<S, A>(a, &a_copy);
            }
        }
    }
}

pub fn forward<A: Activation>(cpu: &Cpu, a: &mut [A], gate_up: &[A], dims: SwigluDims) {
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
fn backward_row<S: Simd, A: Activation>(dgate_up: &mut [A], da: &[A], gate_up: &[A], scale: f32) {
    let (gate, up) = gate_up.split_at(da.len());
    let (dgate, dup) = dgate_up.split_at_mut(da.len());
    let (mut dgate_copy, mut dup_copy) = (EMPTY, EMPTY);
    let (mut da_copy, mut gate_copy, mut up_copy) = (EMPTY, EMPTY, EMPTY);
    let sources = da.chunks(BLOCK).zip(gate.chunks(BLOCK)).zip(up.chunks(BLOCK));
    for ((dgate, dup), ((da, gate), up)) in dgate.chunks_mut(BLOCK).zip(dup.chunks_mut(BLOCK)).zip(sources) {
        let da = widen::<S, A>(da, &mut da_copy);
        let (gate, up) = (widen::<S, A>(gate, &mut gate_copy), widen::<S, A>(up, &mut up_copy));
        let targets = target(dgate, &mut dgate_copy).iter_mut().zip(target(dup, &mut dup_copy));
        // Iterators, not indices: a bounds check in the loop would keep it scalar.
        for ((((dgate, dup), &da), &gate), &up) in targets.zip(da).zip(gate).zip(up) {
            let (da, sigma) = (scale * da, sigmoid(gate));
            *dup = da * gate * sigma;
            *dgate = da * up * sigma * (1.0 + gate * (1.0 - sigma));
        }
        narrow::<S, A>(dgate, &dgate_copy);
        narrow::<S, A>(dup, &dup_copy);
    }
}

/// `a *= weight`.
#[inline(always)]
fn weigh<S: Simd, A: Activation>(a: &mut [A], weight: f32) {
    let mut copy = EMPTY;
    for a in a.chunks_mut(BLOCK) {
        for a in widen_mut::<S, A>(a, &mut copy) {
            *a *= weight;
        }
        narrow::<S, A>(a, &copy);
    }
}

struct Backward<'a, A> {
    dgate_up: &'a mut [A],
    da: &'a [A],
    gate_up: &'a [A],
    width: usize,
}

impl<A: Activation> Job for Backward<'_, A> {
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
            backward_row::<S, A>(dgate_up, da, gate_up, 1.0);
        }
    }
}

pub fn backward<A: Activation>(cpu: &Cpu, dgate_up: &mut [A], da: &[A], gate_up: &[A], dims: SwigluDims) {
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

struct BackwardRouted<'a, A> {
    dgate_up: &'a mut [A],
    a: &'a mut [A],
    /// `<da, a>` of each row.
    products: &'a mut [f32],
    da: &'a [A],
    gate_up: &'a [A],
    weights: &'a [f32],
    slots: &'a [u32],
    width: usize,
}

impl<A: Activation> Job for BackwardRouted<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let width = self.width;
        for (r, &slot) in self.slots.iter().enumerate() {
            let weight = self.weights[slot as usize];
            let (a, da) = (&mut self.a[r * width..][..width], &self.da[r * width..][..width]);
            self.products[r] = dot::<S, A>(da, a);
            weigh::<S, A>(a, weight);
            let columns = r * 2 * width..(r + 1) * 2 * width;
            backward_row::<S, A>(&mut self.dgate_up[columns.clone()], da, &self.gate_up[columns], weight);
        }
    }
}

pub fn backward_routed<A: Activation>(
    cpu: &Cpu,
    dgate_up: &mut [A],
    a: &mut [A],
    dweights: &mut [f32],
    da: &[A],
    gate_up: &[A],
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
