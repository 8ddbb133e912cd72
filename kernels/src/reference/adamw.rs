//! AdamW with decoupled weight decay (arXiv 1711.05101).

use super::real::Real;
use crate::dims::AdamW;
use crate::formats::Activation;

/// `g = scale gradient`; `m = b1 m + (1 - b1) g`; `v = b2 v + (1 - b2) g^2`; `p -= lr (m^ / (sqrt(v^) + eps) + decay p)`.
pub fn step<F: Real, M: Activation>(parameter: &mut [F], first_moment: &mut [M], second_moment: &mut [M], gradient: &[F], step: AdamW) {
    let (beta1, beta2) = (f64::from(step.beta1), f64::from(step.beta2));
    let (correction1, correction2) = step.corrections();
    for i in 0..parameter.len() {
        let g = f64::from(step.gradient_scale) * gradient[i].get();
        let m = beta1 * f64::from(first_moment[i].to_f32()) + (1.0 - beta1) * g;
        let v = beta2 * f64::from(second_moment[i].to_f32()) + (1.0 - beta2) * g * g;
        let direction = (m / correction1) / ((v / correction2).sqrt() + f64::from(step.epsilon));
        let p = parameter[i].get();
        first_moment[i] = M::from_f32(m as f32);
        second_moment[i] = M::from_f32(v as f32);
        parameter[i] = F::of(p - f64::from(step.learning_rate) * (direction + f64::from(step.weight_decay) * p));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: with a constant gradient the corrected moments are exactly the gradient and its square.
    #[test]
    fn constant_gradient_moves_by_the_learning_rate() {
        let (mut p, mut m, mut v) = ([1.0_f64], [0.0_f32], [0.0_f32]);
        for number in 1..=2 {
            let before = p[0];
            let hyper = AdamW {
                learning_rate: 0.25,
                beta1: 0.5,
                beta2: 0.75,
                epsilon: 0.0,
                weight_decay: 0.125,
                step: number,
                gradient_scale: 0.5,
            };
            step(&mut p, &mut m, &mut v, &[-4.0], hyper);
            let expected = before - 0.25 * (-1.0 + 0.125 * before);
            assert!((p[0] - expected).abs() < 1e-14, "{} against {expected}", p[0]);
        }
        assert_eq!((m[0], v[0]), (-1.5, 1.75));
    }
}
