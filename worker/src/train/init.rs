//! Initial weights: matrices `N(0, initializer_range^2)`, gains 1, routing biases 0 (paper, section 4.2).

use crate::model::layout::Role;
use crate::model::{Model, Storage};
use fathom_kernels::Kernels;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::f64::consts::TAU;

/// Fills the model's weights. Each checkpoint tensor has a random stream of its own, keyed by `seed` and its name, so that its values do
/// not depend on how tensors are stored or what else the model holds.
pub fn initialise<K: Kernels, A: Storage>(model: &mut Model<K, A>, seed: u64) {
    let deviation = model.architecture.initializer_range;
    for id in model.layout.ids() {
        let tensor = model.layout.tensor(id);
        let mut values = vec![0.0f32; tensor.len];
        match tensor.role {
            Role::Matrix => {
                for part in &tensor.parts {
                    fill_normal(&mut values[part.offset..part.offset + part.len()], deviation, seed, &part.name);
                }
            }
            Role::Gain => values.fill(1.0),
            Role::RoutingBias => {}
        }
        model.kernels.upload(&mut model.weights[id], 0, &values);
    }
}

/// Normal values by the Box-Muller transform.
fn fill_normal(values: &mut [f32], deviation: f64, seed: u64, name: &str) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    for pair in values.chunks_mut(2) {
        // In (0, 1], so that the logarithm is finite.
        let uniform = 1.0 - f64::from(random.next_u32()) / f64::from(u32::MAX) * (1.0 - f64::EPSILON);
        let angle = TAU * f64::from(random.next_u32()) / (f64::from(u32::MAX) + 1.0);
        let radius = deviation * (-2.0 * uniform.ln()).sqrt();
        let both = [radius * angle.cos(), radius * angle.sin()];
        for (value, normal) in pair.iter_mut().zip(both) {
            *value = normal as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_values_have_the_moments_asked_for() {
        let mut values = vec![0.0; 100_001];
        fill_normal(&mut values, 0.02, 7, "model.layers.0.mlp.up_proj.weight");
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        // Standard errors: deviation / sqrt(n) = 6e-5 for the mean, deviation / sqrt(2n) = 4.5e-5 for the deviation.
        assert!(mean.abs() < 4.0 * 6.4e-5, "{mean}");
        assert!((variance.sqrt() - 0.02).abs() < 4.0 * 4.5e-5, "{}", variance.sqrt());
        assert!(values.iter().all(|v| v.is_finite()));
    }

    #[test]
    fn streams_are_independent_of_length_and_differ_by_name_and_seed() {
        let sample = |len, seed, name| {
            let mut values = vec![0.0; len];
            fill_normal(&mut values, 1.0, seed, name);
            values
        };
        assert_eq!(sample(10, 1, "a"), sample(20, 1, "a")[..10]);
        assert_ne!(sample(10, 1, "a"), sample(10, 1, "b"));
        assert_ne!(sample(10, 1, "a"), sample(10, 2, "a"));
    }
}
