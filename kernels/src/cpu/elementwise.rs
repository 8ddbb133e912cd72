//! Whole-buffer operations, in chunks whose bounds depend on the length only.

use super::Cpu;
use super::simd::{Job, Simd, dispatch};
use crate::Element;
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

pub fn add(cpu: &Cpu, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "sum of buffers of one length");
    cpu.pool().install(|| {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            for (y, &x) in y.iter_mut().zip(x) {
                *y += x;
            }
        });
    });
}

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
    let partial: Vec<f64> = cpu
        .pool()
        .install(|| x.par_chunks(CHUNK).map(|chunk| dispatch(cpu.isa(), SumSquares(chunk))).collect());
    partial.iter().sum()
}
