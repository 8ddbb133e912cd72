//! RMSNorm over strided rows. Bound by memory: x and y once forward; dy, x and dx once backward.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use super::widen::{each_vector, load, store};
use crate::Write;
use crate::dims::RmsNormDims;
use crate::formats::Activation;
use rayon::prelude::*;

/// Rows per task. The partial sums of `dgain` are added in task order, so it must not depend on the number of threads.
const ROWS: usize = 64;

/// Partial sums of a reduction: its order depends on the length only.
const LANES: usize = 32;
/// Fewest of them in a vector, over all instruction sets.
const LEAST: usize = 8;

/// Adds up partial sums, halving their number.
#[inline(always)]
fn fold(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// Adds up `term(at)`, a vector of terms at `at`, for as many whole groups of [`LANES`] terms as `len` has, in as many partial sums.
macro_rules! sum_groups {
    ($set:ident, $len:expr, |$at:ident| $term:expr) => {{
        // SAFETY: a job runs inside `dispatch`; the terms and `lanes` have whole groups.
        unsafe {
            let mut sums = [$set::splat(0.0); LANES / LEAST];
            for group in (0..$len / LANES * LANES).step_by(LANES) {
                for (index, sum) in sums.iter_mut().enumerate().take(LANES / $set::LANES) {
                    let $at = group + index * $set::LANES;
                    *sum = $set::add(*sum, $term);
                }
            }
            let mut lanes = [0.0; LANES];
            for (index, &sum) in sums.iter().enumerate().take(LANES / $set::LANES) {
                $set::store(lanes.as_mut_ptr().add(index * $set::LANES), sum);
            }
            fold(lanes)
        }
    }};
}

/// `sum_i a_i b_i`.
#[inline(always)]
pub fn dot<S: Simd, A: Activation>(a: &[A], b: &[A]) -> f32 {
    let b = &b[..a.len()];
    let groups = sum_groups!(S, a.len(), |at| S::mul(load::<S, A, true>(a, at), load::<S, A, true>(b, at)));
    let mut rest = 0.0;
    for i in a.len() / LANES * LANES..a.len() {
        rest += a[i].to_f32() * b[i].to_f32();
    }
    groups + rest
}

/// `sum_i a_i b_i c_i`.
#[inline(always)]
fn dot3<S: Simd, A: Activation>(a: &[A], b: &[f32], c: &[A]) -> f32 {
    let (b, c) = (&b[..a.len()], &c[..a.len()]);
    let groups = sum_groups!(S, a.len(), |at| S::mul(
        S::mul(load::<S, A, true>(a, at), load::<S, f32, true>(b, at)),
        load::<S, A, true>(c, at)
    ));
    let mut rest = 0.0;
    for i in a.len() / LANES * LANES..a.len() {
        rest += a[i].to_f32() * b[i] * c[i].to_f32();
    }
    groups + rest
}

struct Forward<'a, A> {
    y: &'a mut [A],
    rstd: &'a mut [f32],
    x: &'a [A],
    gain: &'a [f32],
    dims: RmsNormDims,
}

impl<A: Activation> Job for Forward<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RmsNormDims {
            width,
            x: x_columns,
            y: y_columns,
            epsilon,
            rows: _,
        } = self.dims;
        let gain = &self.gain[..width];
        for (t, rstd) in self.rstd.iter_mut().enumerate() {
            let x = &self.x[t * x_columns.stride + x_columns.offset..][..width];
            let y = &mut self.y[t * y_columns.stride + y_columns.offset..][..width];
            *rstd = 1.0 / (dot::<S, A>(x, x) / width as f32 + epsilon).sqrt();
            each_vector!(S, width, |at, WHOLE| {
                // SAFETY: a job runs inside `dispatch`; all slices have `width` elements.
                unsafe {
                    let normal = S::mul(load::<S, A, WHOLE>(x, at), S::splat(*rstd));
                    store::<S, A, WHOLE>(y, at, S::mul(load::<S, f32, WHOLE>(gain, at), normal));
                }
            });
        }
    }
}

pub fn forward<A: Activation>(cpu: &Cpu, y: &mut [A], rstd: &mut [f32], x: &[A], gain: &[f32], dims: RmsNormDims) {
    dims.check(x.len(), y.len(), gain.len(), rstd.len());
    cpu.pool().install(|| {
        y.par_chunks_mut(ROWS * dims.y.stride)
            .zip(rstd[..dims.rows].par_chunks_mut(ROWS))
            .zip(x.par_chunks(ROWS * dims.x.stride))
            .for_each(|((y, rstd), x)| dispatch(cpu.isa(), Forward { y, rstd, x, gain, dims }));
    });
}

struct Backward<'a, A> {
    dx: &'a mut [A],
    dgain: &'a mut [f32],
    dy: &'a [A],
    x: &'a [A],
    gain: &'a [f32],
    rstd: &'a [f32],
    dims: RmsNormDims,
    write: Write,
}

impl<A: Activation> Job for Backward<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RmsNormDims {
            width,
            x: x_columns,
            y: y_columns,
            ..
        } = self.dims;
        for (t, &rstd) in self.rstd.iter().enumerate() {
            let x_start = t * x_columns.stride + x_columns.offset;
            let x = &self.x[x_start..][..width];
            let dx = &mut self.dx[x_start..][..width];
            let dy = &self.dy[t * y_columns.stride + y_columns.offset..][..width];
            let (gain, dgain) = (&self.gain[..width], &mut self.dgain[..width]);
            // y = gain x rstd
            each_vector!(S, width, |at, WHOLE| {
                // SAFETY: a job runs inside `dispatch`; all slices have `width` elements.
                unsafe {
                    let normal = S::mul(load::<S, A, WHOLE>(x, at), S::splat(rstd));
                    let product = S::mul(normal, load::<S, A, WHOLE>(dy, at));
                    store::<S, f32, WHOLE>(dgain, at, S::add(load::<S, f32, WHOLE>(dgain, at), product));
                }
            });
            let mean = dot3::<S, A>(x, gain, dy) * rstd / width as f32;
            each_vector!(S, width, |at, WHOLE| {
                // SAFETY: as above.
                unsafe {
                    let normal = S::mul(load::<S, A, WHOLE>(x, at), S::splat(rstd));
                    let scaled = S::mul(load::<S, f32, WHOLE>(gain, at), load::<S, A, WHOLE>(dy, at));
                    let gradient = S::mul(S::splat(rstd), S::add(scaled, S::mul(normal, S::splat(-mean))));
                    let gradient = match self.write {
                        Write::Overwrite => gradient,
                        Write::Accumulate => S::add(load::<S, A, WHOLE>(dx, at), gradient),
                    };
                    store::<S, A, WHOLE>(dx, at, gradient);
                }
            });
        }
    }
}

pub fn backward<A: Activation>(
    cpu: &Cpu,
    dx: &mut [A],
    dgain: &mut [f32],
    dy: &[A],
    x: &[A],
    gain: &[f32],
    rstd: &[f32],
    dims: RmsNormDims,
    write: Write,
) {
    dims.check(x.len(), dy.len(), gain.len(), rstd.len());
    dims.check(dx.len(), dy.len(), dgain.len(), rstd.len());
    // A gradient of the gain for each task, summed in their order.
    let mut partial = cpu.scratch(dims.rows.div_ceil(ROWS) * dims.width);
    cpu.pool().install(|| {
        dx.par_chunks_mut(ROWS * dims.x.stride)
            .zip(x.par_chunks(ROWS * dims.x.stride))
            .zip(dy.par_chunks(ROWS * dims.y.stride))
            .zip(rstd[..dims.rows].par_chunks(ROWS))
            .zip(partial.par_chunks_mut(dims.width.max(1)))
            .for_each(|((((dx, x), dy), rstd), dgain)| {
                dgain.fill(0.0);
                dispatch(
                    cpu.isa(),
                    Backward {
                        dx,
                        dgain,
                        dy,
                        x,
                        gain,
                        rstd,
                        dims,
                        write,
                    },
                );
            });
    });
    for partial in partial.chunks_exact(dims.width.max(1)) {
        for (dgain, value) in dgain.iter_mut().zip(partial) {
            *dgain += value;
        }
    }
    cpu.keep_scratch(partial);
}
