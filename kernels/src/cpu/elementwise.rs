//! Whole-buffer operations, in chunks whose bounds depend on the length only.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use super::widen::{each_vector, load, store};
use crate::Element;
use crate::formats::Activation;
use rayon::prelude::*;

/// Elements per task: 64 KiB of f32, well inside L2.
pub const CHUNK: usize = 16_384;

pub fn fill<T: Element>(cpu: &Cpu, buffer: &mut [T], value: T) {
    cpu.pool()
        .install(|| buffer.par_chunks_mut(CHUNK).for_each(|chunk| chunk.fill(value)));
}

pub fn copy<T: Element>(cpu: &Cpu, y: &mut [T], x: &[T]) {
    assert_eq!(y.len(), x.len(), "copy between buffers of one length");
    cpu.pool().install(|| {
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| y.copy_from_slice(x));
    });
}

/// Each value of `x` as one of `y`'s type.
pub struct Cast<'a, X, Y> {
    pub y: &'a mut [Y],
    pub x: &'a [X],
}

impl<X: Activation, Y: Activation> Job for Cast<'_, X, Y> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (y, &x) in self.y.iter_mut().zip(self.x) {
            *y = Y::from_f32(x.to_f32());
        }
    }
}

pub fn cast<X: Activation, Y: Activation>(cpu: &Cpu, y: &mut [Y], x: &[X]) {
    assert_eq!(y.len(), x.len(), "conversion between buffers of one length");
    cpu.pool().install(|| {
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| dispatch(cpu.isa(), Cast { y, x }));
    });
}

struct Average<'a> {
    average: &'a mut [f32],
    parameter: &'a [f32],
    decay: f32,
}

impl Job for Average<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        for (average, &parameter) in self.average.iter_mut().zip(self.parameter) {
            *average = self.decay * *average + (1.0 - self.decay) * parameter;
        }
    }
}

pub fn average(cpu: &Cpu, average: &mut [f32], parameter: &[f32], decay: f32) {
    assert_eq!(average.len(), parameter.len(), "average of buffers of one length");
    cpu.pool().install(|| {
        average
            .par_chunks_mut(CHUNK)
            .zip(parameter.par_chunks(CHUNK))
            .for_each(|(average, parameter)| {
                dispatch(cpu.isa(), Average { average, parameter, decay });
            });
    });
}

struct Add<'a, A> {
    y: &'a mut [A],
    x: &'a [A],
}

impl<A: Activation> Job for Add<'_, A> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let Self { y, x } = self;
        assert_eq!(y.len(), x.len(), "chunks of one length");
        each_vector!(S, y.len(), |at, WHOLE| {
            // SAFETY: a job runs inside `dispatch`; the slices have one length.
            unsafe {
                let sum = S::add(load::<S, A, WHOLE>(y, at), load::<S, A, WHOLE>(x, at));
                store::<S, A, WHOLE>(y, at, sum);
            }
        });
    }
}

pub fn add<A: Activation>(cpu: &Cpu, y: &mut [A], x: &[A]) {
    assert_eq!(y.len(), x.len(), "sum of buffers of one length");
    cpu.pool().install(|| {
        y.par_chunks_mut(CHUNK)
            .zip(x.par_chunks(CHUNK))
            .for_each(|(y, x)| dispatch(cpu.isa(), Add { y, x }));
    });
}

/// Chunks whose sums of squares are added up at a time.
const CHUNKS: usize = 64;

struct SumSquares<'a>(&'a [f32]);

impl Job for SumSquares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self) -> f64 {
        let mut lanes = [0.0f64; 16];
        let chunks = self.0.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &value) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(value) * f64::from(value);
            }
        }
        lanes.iter().sum::<f64>() + rest.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>()
    }
}

pub fn sum_squares(cpu: &Cpu, x: &[f32]) -> f64 {
    let mut sums = [0.0; CHUNKS];
    let mut total = 0.0;
    cpu.pool().install(|| {
        for x in x.chunks(CHUNKS * CHUNK) {
            let chunks = x.par_chunks(CHUNK).zip(&mut sums);
            chunks.for_each(|(chunk, sum)| *sum = dispatch(cpu.isa(), SumSquares(chunk)));
            for sum in &sums[..x.len().div_ceil(CHUNK)] {
                total += sum;
            }
        }
    });
    total
}
