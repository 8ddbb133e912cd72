//! The gate: selection, weights, balance loss, gradient and bias update.

use super::real::{Real, sigmoid};
use crate::dims::RouteDims;

/// Indices of the `count` largest values in descending order, the lowest index first among equals.
fn largest(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a])); // stable: the lowest index stays first
    order.truncate(count);
    order
}

/// Masks the experts of all but the best groups; a group's score is the sum of its two largest values.
fn mask_groups(z_E: &mut [f64], dims: &RouteDims) {
    let size = dims.experts / dims.groups;
    if dims.groups == 1 {
        return;
    }
    let scores: Vec<f64> = z_E
        .chunks(size)
        .map(|group| largest(group, 2).iter().map(|&e| group[e]).sum())
        .collect();
    let kept = largest(&scores, dims.kept_groups);
    for (group, z) in z_E.chunks_mut(size).enumerate() {
        if !kept.contains(&group) {
            z.fill(f64::NEG_INFINITY);
        }
    }
}

/// Denominator of the weights: the sum of the selected scores, or 1.
fn normaliser(selected: impl Iterator<Item = f64>, dims: &RouteDims) -> f64 {
    if dims.normalise { selected.sum::<f64>() + 1e-20 } else { 1.0 }
}

/// Scores, selected experts and their weights; counts accumulate.
#[allow(clippy::too_many_arguments)]
pub fn forward<F: Real>(
    scores_TE: &mut [F],
    indices_TK: &mut [u32],
    weights_TK: &mut [F],
    counts_E: &mut [u32],
    logits_TE: &[F],
    bias_E: &[F],
    dims: RouteDims,
) {
    let RouteDims { experts, top_k, .. } = dims;
    for t in 0..dims.rows() {
        let scores_E = &mut scores_TE[t * experts..][..experts];
        for (score, logit) in scores_E.iter_mut().zip(&logits_TE[t * experts..]) {
            *score = F::of(sigmoid(logit.get()));
        }
        let mut z_E: Vec<f64> = scores_E
            .iter()
            .zip(bias_E)
            .map(|(score, bias)| F::of(score.get() + bias.get()).get())
            .collect();
        mask_groups(&mut z_E, &dims);
        let selected = largest(&z_E, top_k);
        let sum = normaliser(selected.iter().map(|&e| scores_E[e].get()), &dims);
        for (k, &e) in selected.iter().enumerate() {
            indices_TK[t * top_k + k] = e as u32;
            weights_TK[t * top_k + k] = F::of(f64::from(dims.scaling) * scores_E[e].get() / sum);
            counts_E[e] += 1;
        }
    }
}

/// `loss[b] = sum_i f_i P_i`, `f_i = E / (K S) count_i`, `P_i = 1/S sum_t s_it / sum_j s_jt`.
pub fn balance<F: Real>(loss_B: &mut [F], frequency_BE: &mut [F], scores_TE: &[F], indices_TK: &[u32], dims: RouteDims) {
    let RouteDims {
        sequences,
        length,
        experts,
        top_k,
        ..
    } = dims;
    for b in 0..sequences {
        let (mut count_E, mut p_E) = (vec![0.0; experts], vec![0.0; experts]);
        for t in b * length..(b + 1) * length {
            let scores_E: Vec<f64> = scores_TE[t * experts..][..experts].iter().map(|score| score.get()).collect();
            let counted = if dims.balance_unbiased {
                largest(&scores_E, top_k)
            } else {
                indices_TK[t * top_k..][..top_k].iter().map(|&e| e as usize).collect()
            };
            counted.into_iter().for_each(|e| count_E[e] += 1.0);
            let sum: f64 = scores_E.iter().sum();
            for (p, score) in p_E.iter_mut().zip(scores_E) {
                *p += score / sum / length as f64;
            }
        }
        let f_E: Vec<f64> = count_E
            .iter()
            .map(|count| experts as f64 / (top_k * length) as f64 * count)
            .collect();
        loss_B[b] = F::of(f_E.iter().zip(&p_E).map(|(f, p)| f * p).sum());
        for (target, f) in frequency_BE[b * experts..].iter_mut().zip(f_E) {
            *target = F::of(f);
        }
    }
}

/// Gradient of the weights and of `balance_scale` times the balance loss, with selection, bias and frequency constant.
#[allow(clippy::too_many_arguments)]
pub fn backward<F: Real>(
    dlogits_TE: &mut [F],
    dweights_TK: &[F],
    scores_TE: &[F],
    indices_TK: &[u32],
    frequency_BE: &[F],
    balance_scale: f32,
    dims: RouteDims,
) {
    let RouteDims {
        length, experts, top_k, ..
    } = dims;
    for t in 0..dims.rows() {
        let s_E = &scores_TE[t * experts..][..experts];
        let f_E = &frequency_BE[t / length * experts..][..experts];
        // loss = sum_i f_i / S sum_t s_it / S_t
        let sum: f64 = s_E.iter().map(|s| s.get()).sum();
        let mean_f: f64 = f_E.iter().zip(s_E).map(|(f, s)| f.get() * s.get() / sum).sum();
        let factor = f64::from(balance_scale) / (length as f64 * sum);
        let mut ds_E: Vec<f64> = f_E.iter().map(|f| factor * (f.get() - mean_f)).collect();
        // g_i = scaling s_i / sum_j s_j
        let selected: Vec<usize> = indices_TK[t * top_k..][..top_k].iter().map(|&e| e as usize).collect();
        let p_K: Vec<f64> = dweights_TK[t * top_k..][..top_k]
            .iter()
            .map(|d| f64::from(dims.scaling) * d.get())
            .collect();
        let sum = normaliser(selected.iter().map(|&e| s_E[e].get()), &dims);
        let mean_p: f64 = if dims.normalise {
            selected.iter().zip(&p_K).map(|(&e, p)| s_E[e].get() / sum * p).sum()
        } else {
            0.0
        };
        for (&e, p) in selected.iter().zip(&p_K) {
            ds_E[e] += (p - mean_p) / sum;
        }
        for (e, ds) in ds_E.into_iter().enumerate() {
            // s = sigmoid(logit)
            dlogits_TE[t * experts + e] = F::of(ds * s_E[e].get() * (1.0 - s_E[e].get()));
        }
    }
}

/// `bias_e += gamma sign(mean(counts) - counts_e)`, the mean of the update subtracted if `centered`.
pub fn update_bias(bias_E: &mut [f32], counts_E: &[u32], gamma: f32, centered: bool) {
    assert_eq!(bias_E.len(), counts_E.len(), "lengths of bias and counts");
    let (experts, total) = (counts_E.len() as u64, counts_E.iter().map(|&count| u64::from(count)).sum::<u64>());
    // mean > count, without a division
    let signs: Vec<f32> = counts_E
        .iter()
        .map(|&count| match total.cmp(&(u64::from(count) * experts)) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.0,
            std::cmp::Ordering::Less => -1.0,
        })
        .collect();
    let mean = if centered {
        signs.iter().sum::<f32>() / experts as f32
    } else {
        0.0
    };
    for (bias, sign) in bias_E.iter_mut().zip(signs) {
        *bias += gamma * (sign - mean);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::gradient::{Draw, check_gradient};

    const DIMS: RouteDims = RouteDims {
        sequences: 2,
        length: 3,
        experts: 6,
        top_k: 2,
        groups: 3,
        kept_groups: 2,
        normalise: true,
        scaling: 2.5,
        balance_unbiased: true,
    };

    struct Routed {
        scores: Vec<f64>,
        indices: Vec<u32>,
        weights: Vec<f64>,
        counts: Vec<u32>,
        loss: Vec<f64>,
        frequency: Vec<f64>,
    }

    fn routed(logits: &[f64], bias: &[f64], dims: RouteDims) -> Routed {
        let (rows, experts) = (dims.rows(), dims.experts);
        let mut r = Routed {
            scores: vec![0.0; rows * experts],
            indices: vec![0; rows * dims.top_k],
            weights: vec![0.0; rows * dims.top_k],
            counts: vec![0; experts],
            loss: vec![0.0; dims.sequences],
            frequency: vec![0.0; dims.sequences * experts],
        };
        forward(&mut r.scores, &mut r.indices, &mut r.weights, &mut r.counts, logits, bias, dims);
        balance(&mut r.loss, &mut r.frequency, &r.scores, &r.indices, dims);
        r
    }

    /// Gradient of weights and balance loss together. A step that changed a selection would break the comparison: bounds are 1e-9, a
    /// changed selection moves the loss by far more, so ties show as failures and the seeds below have none.
    #[test]
    fn gradient_of_weights_and_balance_loss() {
        for (seed, normalise, balance_unbiased) in [(14, true, true), (15, true, false), (16, false, true), (17, false, false)] {
            let dims = RouteDims {
                normalise,
                balance_unbiased,
                ..DIMS
            };
            let mut draw = Draw::new(seed);
            let (logits, dweights) = (draw.normal(36), draw.normal(12));
            let bias: Vec<f64> = draw.normal(6).iter().map(|bias| bias * 0.2).collect();
            let r = routed(&logits, &bias, dims);
            let mut dlogits = vec![0.0; 36];
            backward(&mut dlogits, &dweights, &r.scores, &r.indices, &r.frequency, 0.75, dims);
            let weights: Vec<f64> = dweights.iter().copied().chain([0.75; 2]).collect();
            check_gradient("dlogits", &logits, &dlogits, &weights, |logits| {
                let r = routed(logits, &bias, dims);
                r.weights.into_iter().chain(r.loss).collect()
            });
        }
    }

    #[test]
    fn bias_moves_the_selection_but_not_the_weights() {
        let dims = RouteDims {
            sequences: 1,
            length: 1,
            ..DIMS
        };
        let logits = [2.0, 1.0, -1.0, -2.0, 0.5, 0.4];
        let plain = routed(&logits, &[0.0; 6], dims);
        assert_eq!(
            (plain.indices.as_slice(), plain.counts.as_slice()),
            (&[0, 1][..], &[1, 1, 0, 0, 0, 0][..])
        );
        let biased = routed(&logits, &[0.0, 0.0, 3.0, 0.0, 0.0, 0.0], dims);
        assert_eq!(biased.indices, [2, 0], "descending by the biased score");
        let scores = biased.scores;
        assert!((biased.weights[0] - 2.5 * scores[2] / (scores[2] + scores[0])).abs() < 1e-12);
    }

    #[test]
    fn equal_scores_go_to_the_lowest_index() {
        let dims = RouteDims {
            sequences: 1,
            length: 1,
            top_k: 3,
            ..DIMS
        };
        assert_eq!(routed(&[0.0; 6], &[0.0; 6], dims).indices, [0, 1, 2]);
    }

    /// Masking with anything finite would let expert 1 win here: every kept score is far below zero.
    #[test]
    fn masked_groups_lose_to_negative_scores() {
        let dims = RouteDims {
            sequences: 1,
            length: 1,
            top_k: 2,
            kept_groups: 1,
            ..DIMS
        };
        let bias = [-9.0, -20.0, -30.0, -8.0, -9.5, -9.5];
        assert_eq!(routed(&[0.0; 6], &bias, dims).indices, [4, 5]);
    }

    #[test]
    fn a_perfectly_balanced_sequence_has_loss_one() {
        let dims = RouteDims {
            sequences: 1,
            length: 3,
            top_k: 2,
            groups: 1,
            kept_groups: 1,
            ..DIMS
        };
        let mut logits = vec![-1.0; 18];
        for t in 0..3 {
            logits[t * 6 + 2 * t..][..2].fill(1.0);
        }
        let r = routed(&logits, &[0.0; 6], dims);
        assert!((r.loss[0] - 1.0).abs() < 1e-12);
        assert_eq!(r.frequency, [1.0; 6]);
    }

    #[test]
    fn bias_update_by_hand() {
        let cases: [(&[u32], bool, &[f32]); 3] = [
            (&[4, 2, 0], false, &[-0.5, 0.0, 0.5]),
            (&[9, 0, 0], false, &[-0.5, 0.5, 0.5]),
            (&[9, 0, 0], true, &[-0.666_666_7, 0.333_333_3, 0.333_333_3]),
        ];
        for (counts, centered, expected) in cases {
            let mut bias = [0.0; 3];
            update_bias(&mut bias, counts, 0.5, centered);
            assert!(bias.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{counts:?}: {bias:?}");
        }
    }
}
