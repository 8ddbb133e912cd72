//! Rotary frequencies, plain and YaRN (paper, section 4.3; arXiv 2309.00071).

use fathom_spec::architecture::{Architecture, RopeScaling};
use std::f64::consts::PI;

/// YaRN's attention temperature for an extension factor.
fn temperature(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// Angle per position of each rotary pair: `theta^(-2j / r)`, interpolated by YaRN where it is configured.
fn frequencies(a: &Architecture) -> Vec<f64> {
    let rotary = f64::from(a.qk_rope_head_dim);
    let plain = (0..a.qk_rope_head_dim / 2).map(|pair| a.rope_theta.powf(-2.0 * f64::from(pair) / rotary));
    let Some(yarn) = &a.rope_scaling else { return plain.collect() };
    let (low, high) = correction_range(a, yarn);
    plain
        .enumerate()
        .map(|(pair, frequency)| {
            let ramp = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
            frequency * (1.0 - ramp) + frequency / yarn.factor * ramp
        })
        .collect()
}

/// Pairs between which YaRN blends from the plain to the interpolated frequency.
fn correction_range(a: &Architecture, yarn: &RopeScaling) -> (f64, f64) {
    let rotary = f64::from(a.qk_rope_head_dim);
    let original = f64::from(yarn.original_max_position_embeddings);
    let pair_of = |rotations: f64| rotary * (original / (rotations * 2.0 * PI)).ln() / (2.0 * a.rope_theta.ln());
    let low = pair_of(yarn.beta_fast).floor().max(0.0);
    let high = pair_of(yarn.beta_slow).ceil().min(rotary - 1.0);
    // An empty range would divide by zero.
    (low, if high == low { low + 0.001 } else { high })
}

/// Cosine and sine of every position and pair: `[length, r / 2, (cos, sin)]`.
#[must_use]
pub fn table(a: &Architecture, length: usize) -> Vec<f32> {
    let frequencies = frequencies(a);
    let factor = a.rope_scaling.as_ref().map_or(1.0, |yarn| {
        temperature(yarn.factor, yarn.mscale) / temperature(yarn.factor, yarn.mscale_all_dim)
    });
    let mut table = Vec::with_capacity(length * frequencies.len() * 2);
    for position in 0..length {
        for frequency in &frequencies {
            let angle = position as f64 * frequency;
            table.push((angle.cos() * factor) as f32);
            table.push((angle.sin() * factor) as f32);
        }
    }
    table
}

/// Factor on attention logits: `(n + r)^(-1/2)`, times the squared YaRN temperature.
#[must_use]
pub fn softmax_scale(a: &Architecture) -> f64 {
    let head = f64::from(a.qk_nope_head_dim + a.qk_rope_head_dim);
    let temperature = a.rope_scaling.as_ref().map_or(1.0, |yarn| {
        if yarn.mscale_all_dim == 0.0 {
            1.0
        } else {
            temperature(yarn.factor, yarn.mscale_all_dim)
        }
    });
    temperature * temperature / head.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released() -> Architecture {
        Architecture {
            vocab_size: 129_280,
            hidden_size: 7168,
            intermediate_size: 18_432,
            moe_intermediate_size: 2048,
            num_hidden_layers: 61,
            num_attention_heads: 128,
            n_shared_experts: 1,
            n_routed_experts: 256,
            num_experts_per_tok: 8,
            n_group: 8,
            topk_group: 4,
            first_k_dense_replace: 3,
            q_lora_rank: Some(1536),
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            num_nextn_predict_layers: 1,
            routed_scaling_factor: 2.5,
            norm_topk_prob: true,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: Some(RopeScaling {
                factor: 40.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                mscale: 1.0,
                mscale_all_dim: 1.0,
                original_max_position_embeddings: 4096,
            }),
            max_position_embeddings: 163_840,
            initializer_range: 0.006,
        }
    }

    #[test]
    fn yarn_of_the_released_model() {
        let a = released();
        assert!((softmax_scale(&a) - 0.135_233_8).abs() < 1e-7);
        let scaling = a.rope_scaling.clone().unwrap();
        assert_eq!(correction_range(&a, &scaling), (10.0, 23.0));
        let (scaled, plain) = (frequencies(&a), frequencies(&Architecture { rope_scaling: None, ..a }));
        assert_eq!(scaled[..=10], plain[..=10]);
        for pair in 23..32 {
            assert!((scaled[pair] * 40.0 - plain[pair]).abs() < 1e-15);
        }
    }

    #[test]
    fn plain_scale_and_unit_circle() {
        let a = Architecture {
            rope_scaling: None,
            ..released()
        };
        assert!((softmax_scale(&a) - 0.072_168_8).abs() < 1e-7);
        for pair in table(&a, 50).chunks_exact(2) {
            assert!((pair[0].hypot(pair[1]) - 1.0).abs() < 1e-6);
        }
    }
}
