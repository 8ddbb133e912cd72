//! AdamW: 16 bytes read and 12 written per parameter, a dozen operations: bound by memory.

use super::Cpu;
use super::elementwise::CHUNK;
use super::simd::{Job, Simd, dispatch};
use crate::dims::AdamW;
use rayon::prelude::*;

struct Update<'a> {
    parameter: &'a mut [f32],
    first: &'a mut [f32],
    second: &'a mut [f32],
    gradient: &'a [f32],
    step: AdamW,
    /// `1 / (1 - beta^t)`.
    correction: (f32, f32),
}

impl Job for Update<'_> {
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
        for ((parameter, (first, second)), &gradient) in self.parameter.iter_mut().zip(moments).zip(self.gradient) {
            let gradient = gradient_scale * gradient;
            *first = beta1 * *first + (1.0 - beta1) * gradient;
            *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
            let direction = *first * first_correction / ((*second * second_correction).sqrt() + epsilon);
            *parameter -= learning_rate * (direction + weight_decay * *parameter);
        }
    }
}

pub fn update(cpu: &Cpu, parameter: &mut [f32], first: &mut [f32], second: &mut [f32], gradient: &[f32], step: AdamW) {
    step.check(parameter.len(), first.len(), second.len(), gradient.len());
    let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(step.step as f64))) as f32;
    let correction = (correction(step.beta1), correction(step.beta2));
    cpu.pool().install(|| {
        parameter
            .par_chunks_mut(CHUNK)
            .zip(first.par_chunks_mut(CHUNK))
            .zip(second.par_chunks_mut(CHUNK))
            .zip(gradient.par_chunks(CHUNK))
            .for_each(|(((parameter, first), second), gradient)| {
                dispatch(
                    cpu.isa(),
                    Update {
                        parameter,
                        first,
                        second,
                        gradient,
                        step,
                        correction,
                    },
                );
            });
    });
}
