//! SwiGLU, plain and with the routing weight folded into its backward pass. Bound by memory, with one `exp` per element.

use super::Cpu;
use super::rmsnorm::dot;
use super::simd::{Job, Simd, dispatch};
use super::widen::{each_vector, load, store};
use crate::dims::SwigluDims;
use crate::formats::Activation;
use rayon::prelude::*;
use std::f32::consts::{LN_2, LOG2_E};

/// Rows per task.
const ROWS: usize = 32;

/// `1 / (1 + e^-x)` of each lane within 4 units in the last place, for finite `x`; not finite otherwise, unless `x` is `-inf`.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    /// Below it, `e^-x` would not be finite, and the result is 0 to the precision of any product with `x`.
    const LOWEST: f32 = -87.0;
    // SAFETY: passed on from the caller.
    unsafe {
        let (x, base) = (S::max(S::splat(LOWEST), x), S::splat(-LOG2_E));
        let exponent = S::mul(x, base);
        // What the product was rounded by: 0 in sets without FMA.
        let rest = S::fma(x, base, S::mul(exponent, S::splat(-1.0)));
        let power = S::exp2(exponent);
        let power = S::fma(power, S::mul(rest, S::splat(LN_2)), power);
        S::div(S::splat(1.0), S::add(S::splat(1.0), power))
    }
}

/// `silu(gate) up` of a vector.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub unsafe fn swiglu<S: Simd>(gate: S::V, up: S::V) -> S::V {
    // SAFETY: passed on from the caller.
    unsafe { S::mul(S::mul(gate, sigmoid::<S>(gate)), up) }
}

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
            each_vector!(S, a.len(), |at, WHOLE| {
                // SAFETY: a job runs inside `dispatch`; the three have one length.
                unsafe {
                    let (gate, up) = (load::<S, A, WHOLE>(gate, at), load::<S, A, WHOLE>(up, at));
                    store::<S, A, WHOLE>(a, at, swiglu::<S>(gate, up));
                }
            });
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
    each_vector!(S, da.len(), |at, WHOLE| {
        // SAFETY: only jobs call it, inside `dispatch`; all have one length.
        unsafe {
            let da = S::mul(S::splat(scale), load::<S, A, WHOLE>(da, at));
            let (gate, up) = (load::<S, A, WHOLE>(gate, at), load::<S, A, WHOLE>(up, at));
            let sigma = sigmoid::<S>(gate);
            store::<S, A, WHOLE>(dup, at, S::mul(S::mul(da, gate), sigma));
            // sigma (1 + gate (1 - sigma))
            let complement = S::add(S::splat(1.0), S::mul(sigma, S::splat(-1.0)));
            let slope = S::mul(sigma, S::add(S::splat(1.0), S::mul(gate, complement)));
            store::<S, A, WHOLE>(dgate, at, S::mul(S::mul(da, up), slope));
        }
    });
}

/// `a *= weight`.
#[inline(always)]
fn weigh<S: Simd, A: Activation>(a: &mut [A], weight: f32) {
    each_vector!(S, a.len(), |at, WHOLE| {
        // SAFETY: only jobs call it, inside `dispatch`.
        unsafe {
            let weighed = S::mul(load::<S, A, WHOLE>(a, at), S::splat(weight));
            store::<S, A, WHOLE>(a, at, weighed);
        }
    });
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
    let mut products = cpu.scratch(rows);
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
    for (&slot, &product) in slot_of_row.iter().zip(&products) {
        dweights[slot as usize] = product;
    }
    cpu.keep_scratch(products);
}
