//! RMSNorm over strided rows. Bound by memory: x and y once forward; dy, x and dx once backward.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use crate::Write;
use crate::dims::RmsNormDims;
use rayon::prelude::*;

/// Rows per task. The partial sums of `dgain` are added in task order, so it must not depend on the number of threads.
const ROWS: usize = 64;

/// Partial sums of a reduction: its order depends on the length only.
const LANES: usize = 32;

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

/// `sum_i a_i b_i`.
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    let mut rest = 0.0;
    for (&a, &b) in a_rest.iter().zip(b_rest) {
        rest += a * b;
    }
    fold(lanes) + rest
}

/// `sum_i a_i b_i c_i`.
#[inline(always)]
fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let (c_chunks, c_rest) = c.as_chunks::<LANES>();
    for ((a, b), c) in a_chunks.iter().zip(b_chunks).zip(c_chunks) {
        for lane in 0..LANES {
            lanes[lane] += a[lane] * b[lane] * c[lane];
        }
    }
    let mut rest = 0.0;
    for ((&a, &b), &c) in a_rest.iter().zip(b_rest).zip(c_rest) {
        rest += a * b * c;
    }
    fold(lanes) + rest
}

struct Forward<'a> {
    y: &'a mut [f32],
    rstd: &'a mut [f32],
    x: &'a [f32],
    gain: &'a [f32],
    dims: RmsNormDims,
}

impl Job for Forward<'_> {
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
        for (t, rstd) in self.rstd.iter_mut().enumerate() {
            let x = &self.x[t * x_columns.stride + x_columns.offset..][..width];
            let y = &mut self.y[t * y_columns.stride + y_columns.offset..][..width];
            *rstd = 1.0 / (dot(x, x) / width as f32 + epsilon).sqrt();
            for ((y, &x), &gain) in y.iter_mut().zip(x).zip(self.gain) {
                *y = gain * (x * *rstd);
            }
        }
    }
}

pub fn forward(cpu: &Cpu, y: &mut [f32], rstd: &mut [f32], x: &[f32], gain: &[f32], dims: RmsNormDims) {
    dims.check(x.len(), y.len(), gain.len(), rstd.len());
    cpu.pool().install(|| {
        y.par_chunks_mut(ROWS * dims.y.stride)
            .zip(rstd[..dims.rows].par_chunks_mut(ROWS))
            .zip(x.par_chunks(ROWS * dims.x.stride))
            .for_each(|((y, rstd), x)| dispatch(cpu.isa(), Forward { y, rstd, x, gain, dims }));
    });
}

struct Backward<'a> {
    dx: &'a mut [f32],
    dgain: &'a mut [f32],
    dy: &'a [f32],
    x: &'a [f32],
    gain: &'a [f32],
    rstd: &'a [f32],
    dims: RmsNormDims,
    write: Write,
}

impl Job for Backward<'_> {
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
            let gain = &self.gain[..width];
            // y = gain x rstd
            for ((dgain, &x), &dy) in self.dgain.iter_mut().zip(x).zip(dy) {
                *dgain += x * rstd * dy;
            }
            let mean = dot3(x, gain, dy) * rstd / width as f32;
            match self.write {
                Write::Overwrite => {
                    for (((dx, &x), &gain), &dy) in dx.iter_mut().zip(x).zip(gain).zip(dy) {
                        *dx = rstd * (gain * dy - x * rstd * mean);
                    }
                }
                Write::Accumulate => {
                    for (((dx, &x), &gain), &dy) in dx.iter_mut().zip(x).zip(gain).zip(dy) {
                        *dx += rstd * (gain * dy - x * rstd * mean);
                    }
                }
            }
        }
    }
}

pub fn backward(
    cpu: &Cpu,
    dx: &mut [f32],
    dgain: &mut [f32],
    dy: &[f32],
    x: &[f32],
    gain: &[f32],
    rstd: &[f32],
    dims: RmsNormDims,
    write: Write,
) {
    dims.check(x.len(), dy.len(), gain.len(), rstd.len());
    dims.check(dx.len(), dy.len(), dgain.len(), rstd.len());
    let partial: Vec<Vec<f32>> = cpu.pool().install(|| {
        dx.par_chunks_mut(ROWS * dims.x.stride)
            .zip(x.par_chunks(ROWS * dims.x.stride))
            .zip(dy.par_chunks(ROWS * dims.y.stride))
            .zip(rstd[..dims.rows].par_chunks(ROWS))
            .map(|(((dx, x), dy), rstd)| {
                let mut dgain = vec![0.0; dims.width];
                dispatch(
                    cpu.isa(),
                    Backward {
                        dx,
                        dgain: &mut dgain,
                        dy,
                        x,
                        gain,
                        rstd,
                        dims,
                        write,
                    },
                );
                dgain
            })
            .collect()
    });
    for partial in partial {
        for (dgain, value) in dgain.iter_mut().zip(partial) {
            *dgain += value;
        }
    }
}
