//! AdamW: with moments in FP32 16 bytes read and 16 written per parameter, in BF16 12 and 12, and 2 of a rounded copy; a dozen operations: bound
//! by memory.

use super::Cpu;
use super::elementwise::{CHUNK, Cast};
use super::simd::{Job, Simd, dispatch};
use crate::dims::AdamW;
use crate::formats::{Activation, Bf16};
use rayon::prelude::*;

struct Update<'a, M> {
    parameter: &'a mut [f32],
    first: &'a mut [M],
    second: &'a mut [M],
    gradient: &'a mut [f32],
    step: AdamW,
    /// `1 / (1 - beta^t)`.
    correction: (f32, f32),
}

impl<M: Activation> Job for Update<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let AdamW {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            gradient_scale,
            step: _,
        } = self.step;
        let (first_correction, second_correction) = self.correction;
        let moments = self.first.iter_mut().zip(self.second.iter_mut());
        for ((parameter, (first, second)), gradient) in self.parameter.iter_mut().zip(moments).zip(self.gradient) {
            let g = gradient_scale * *gradient;
            *gradient = 0.0;
            let m = beta1 * first.to_f32() + (1.0 - beta1) * g;
            let v = beta2 * second.to_f32() + (1.0 - beta2) * g * g;
            (*first, *second) = (M::from_f32(m), M::from_f32(v));
            let direction = m * first_correction / ((v * second_correction).sqrt() + epsilon);
            *parameter -= learning_rate * (direction + weight_decay * *parameter);
        }
    }
}

pub fn update<M: Activation>(
    cpu: &Cpu,
    parameter: &mut [f32],
    rounded: Option<&mut [Bf16]>,
    first: &mut [M],
    second: &mut [M],
    gradient: &mut [f32],
    step: AdamW,
) {
    step.check(parameter.len(), first.len(), second.len(), gradient.len());
    if let Some(rounded) = &rounded {
        assert_eq!(rounded.len(), parameter.len(), "parameters and their rounded copy");
    }
    let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(step.step as f64))) as f32;
    let correction = (correction(step.beta1), correction(step.beta2));
    let run = |parameter: &mut [f32], first: &mut [M], second: &mut [M], gradient: &mut [f32]| {
        let update = Update {
            parameter,
            first,
            second,
            gradient,
            step,
            correction,
        };
        dispatch(cpu.isa(), update);
    };
    cpu.pool().install(|| {
        let chunks = parameter
            .par_chunks_mut(CHUNK)
            .zip(first.par_chunks_mut(CHUNK))
            .zip(second.par_chunks_mut(CHUNK))
            .zip(gradient.par_chunks_mut(CHUNK));
        match rounded {
            None => chunks.for_each(|(((parameter, first), second), gradient)| run(parameter, first, second, gradient)),
            Some(rounded) => {
                let chunks = chunks.zip(rounded.par_chunks_mut(CHUNK));
                chunks.for_each(|((((parameter, first), second), gradient), rounded)| {
                    run(parameter, first, second, gradient);
                    dispatch(cpu.isa(), Cast { y: rounded, x: parameter });
                });
            }
        }
    });
}
