//! The gate: selection, weights, balance loss, gradient and bias update. A few operations per token and expert.

use super::Cpu;
use super::exp::sigmoid;
use super::simd::{Job, Simd, dispatch};
use crate::dims::RouteDims;
use bytemuck::cast_slice_mut;
use rayon::prelude::*;

/// Tokens per task.
const TOKENS: usize = 64;
/// Added to a sum of scores before division.
const TINY: f32 = 1e-20;

/// Index of the largest value, the lowest among equals.
#[inline(always)]
fn largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}

/// Takes the largest values out of `values`, one after the other; taken ones become -inf.
#[inline(always)]
fn select(selected: &mut [u32], values: &mut [f32]) {
    for target in selected {
        let index = largest(values);
        *target = index as u32;
        values[index] = f32::NEG_INFINITY;
    }
}

/// Masks the experts of all but the best groups; a group's score is the sum of its two largest values.
#[inline(always)]
fn mask_groups(z: &mut [f32], scores: &mut [f32], kept: &mut [u32], size: usize) {
    for (score, group) in scores.iter_mut().zip(z.chunks_exact(size)) {
        let first = largest(group);
        let mut second = f32::NEG_INFINITY;
        for (index, &value) in group.iter().enumerate() {
            second = if index != first && value > second { value } else { second };
        }
        *score = group[first] + second;
    }
    select(kept, scores);
    for (index, group) in z.chunks_exact_mut(size).enumerate() {
        if !kept.contains(&(index as u32)) {
            group.fill(f32::NEG_INFINITY);
        }
    }
}

/// Tokens of one task.
struct Forward<'a> {
    workspace: &'a mut [f32],
    scores: &'a mut [f32],
    indices: &'a mut [u32],
    weights: &'a mut [f32],
    logits: &'a [f32],
    bias: &'a [f32],
    dims: RouteDims,
}

impl Forward<'_> {
    /// Elements of a task's workspace: biased scores, scores of the groups, groups kept.
    const fn workspace(dims: &RouteDims) -> usize {
        dims.experts + dims.groups + dims.kept_groups
    }
}

impl Job for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RouteDims {
            experts,
            top_k,
            groups,
            normalise,
            scaling,
            ..
        } = self.dims;
        let (z, rest) = self.workspace.split_at_mut(experts);
        let (group_scores, kept) = rest.split_at_mut(groups);
        let tokens = self.scores.chunks_exact_mut(experts).zip(self.logits.chunks_exact(experts));
        let slots = self.indices.chunks_exact_mut(top_k).zip(self.weights.chunks_exact_mut(top_k));
        for ((scores, logits), (indices, weights)) in tokens.zip(slots) {
            for (((score, z), &logit), &bias) in scores.iter_mut().zip(z.iter_mut()).zip(logits).zip(self.bias) {
                *score = sigmoid(logit);
                *z = *score + bias;
            }
            if groups > 1 {
                mask_groups(z, group_scores, cast_slice_mut(kept), experts / groups);
            }
            select(indices, z);
            let mut sum = if normalise { TINY } else { 1.0 };
            for &expert in indices.iter().filter(|_| normalise) {
                sum += scores[expert as usize];
            }
            for (weight, &expert) in weights.iter_mut().zip(indices.iter()) {
                *weight = scaling * scores[expert as usize] / sum;
            }
        }
    }
}

/// Scores, selected experts and their weights; counts accumulate.
pub fn forward(
    cpu: &Cpu,
    scores: &mut [f32],
    indices: &mut [u32],
    weights: &mut [f32],
    counts: &mut [u32],
    logits: &[f32],
    bias: &[f32],
    dims: RouteDims,
) {
    dims.check(scores.len(), indices.len());
    dims.check(logits.len(), indices.len());
    dims.check_weights(weights.len());
    dims.check_experts(bias.len(), counts.len());
    let (rows, experts, top_k) = (dims.rows(), dims.experts, dims.top_k);
    let indices = &mut indices[..rows * top_k];
    let workspace_len = Forward::workspace(&dims);
    let mut workspace = cpu.scratch(rows.div_ceil(TOKENS) * workspace_len);
    cpu.pool().install(|| {
        scores[..rows * experts]
            .par_chunks_mut(TOKENS * experts)
            .zip(indices.par_chunks_mut(TOKENS * top_k))
            .zip(weights[..rows * top_k].par_chunks_mut(TOKENS * top_k))
            .zip(logits.par_chunks(TOKENS * experts))
            .zip(workspace.par_chunks_mut(workspace_len))
            .for_each(|((((scores, indices), weights), logits), workspace)| {
                dispatch(
                    cpu.isa(),
                    Forward {
                        workspace,
                        scores,
                        indices,
                        weights,
                        logits,
                        bias,
                        dims,
                    },
                );
            });
    });
    cpu.keep_scratch(workspace);
    for &expert in indices.iter() {
        counts[expert as usize] += 1;
    }
}

/// `loss[b] = sum_i f_i P_i`; parallel over sequences, whose tokens are summed in order.
pub fn balance_forward(cpu: &Cpu, loss: &mut [f32], frequency: &mut [f32], scores: &[f32], indices: &[u32], dims: RouteDims) {
    dims.check(scores.len(), indices.len());
    dims.check_balance(loss.len(), frequency.len());
    let RouteDims {
        sequences,
        length,
        experts,
        ..
    } = dims;
    if length == 0 {
        loss[..sequences].fill(0.0);
        frequency[..sequences * experts].fill(0.0);
        return;
    }
    let workspace_len = Balance::workspace(&dims);
    let mut workspace = cpu.scratch(sequences * workspace_len);
    cpu.pool().install(|| {
        let sequences = loss[..sequences]
            .par_iter_mut()
            .zip(frequency.par_chunks_mut(experts))
            .zip(workspace.par_chunks_mut(workspace_len));
        sequences.enumerate().for_each(|(b, ((loss, frequency), workspace))| {
            let scores = &scores[b * length * experts..][..length * experts];
            let indices = &indices[b * length * dims.top_k..][..length * dims.top_k];
            *loss = dispatch(
                cpu.isa(),
                Balance {
                    workspace,
                    frequency,
                    scores,
                    indices,
                    dims,
                },
            );
        });
    });
    cpu.keep_scratch(workspace);
}

/// One sequence.
struct Balance<'a> {
    workspace: &'a mut [f32],
    frequency: &'a mut [f32],
    scores: &'a [f32],
    indices: &'a [u32],
    dims: RouteDims,
}

impl Balance<'_> {
    /// Elements of a task's workspace: shares, scores that selection may overwrite, the experts it selects.
    const fn workspace(dims: &RouteDims) -> usize {
        2 * dims.experts + dims.top_k
    }
}

impl Job for Balance<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self) -> f32 {
        let RouteDims {
            length,
            experts,
            top_k,
            balance_unbiased,
            ..
        } = self.dims;
        let (share, rest) = self.workspace.split_at_mut(experts);
        let (z, plain) = rest.split_at_mut(experts);
        let plain: &mut [u32] = cast_slice_mut(plain);
        share.fill(0.0);
        self.frequency.fill(0.0);
        for (scores, indices) in self.scores.chunks_exact(experts).zip(self.indices.chunks_exact(top_k)) {
            let mut counted = indices;
            if balance_unbiased {
                z.copy_from_slice(scores);
                select(plain, z);
                counted = plain;
            }
            for &expert in counted {
                self.frequency[expert as usize] += 1.0;
            }
            let inverse = 1.0 / scores.iter().sum::<f32>();
            for (share, &score) in share.iter_mut().zip(scores) {
                *share += score * inverse;
            }
        }
        let factor = experts as f32 / (top_k * length) as f32;
        let mut loss = 0.0;
        for (frequency, share) in self.frequency.iter_mut().zip(share) {
            *frequency *= factor;
            loss += *frequency * *share / length as f32;
        }
        loss
    }
}

/// Gradient of weights and balance loss, with selection, bias and frequency constant.
pub fn backward(
    cpu: &Cpu,
    dlogits: &mut [f32],
    dweights: &[f32],
    scores: &[f32],
    indices: &[u32],
    frequency: &[f32],
    balance_scale: f32,
    dims: RouteDims,
) {
    dims.check(scores.len(), indices.len());
    dims.check(dlogits.len(), indices.len());
    dims.check_weights(dweights.len());
    dims.check_balance(dims.sequences, frequency.len());
    let RouteDims {
        length, experts, top_k, ..
    } = dims;
    let tokens = dlogits[..dims.rows() * experts]
        .par_chunks_mut(experts)
        .zip(scores.par_chunks(experts));
    let slots = dweights.par_chunks(top_k).zip(indices.par_chunks(top_k));
    cpu.pool().install(|| {
        tokens
            .zip(slots)
            .enumerate()
            .with_min_len(TOKENS)
            .for_each(|(t, ((dlogits, scores), (dweights, indices)))| {
                let frequency = &frequency[t / length * experts..][..experts];
                dispatch(
                    cpu.isa(),
                    Backward {
                        dlogits,
                        dweights,
                        scores,
                        indices,
                        frequency,
                        balance_scale,
                        dims,
                    },
                );
            });
    });
}

/// One token.
struct Backward<'a> {
    dlogits: &'a mut [f32],
    dweights: &'a [f32],
    scores: &'a [f32],
    indices: &'a [u32],
    frequency: &'a [f32],
    balance_scale: f32,
    dims: RouteDims,
}

impl Job for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self) {
        let RouteDims {
            length,
            normalise,
            scaling,
            ..
        } = self.dims;
        // loss = sum_i f_i / S sum_t s_it / S_t
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (&score, &frequency) in self.scores.iter().zip(self.frequency) {
            sum += score;
            weighted += frequency * score;
        }
        let (factor, mean) = (self.balance_scale / (length as f32 * sum), weighted / sum);
        for (dscore, &frequency) in self.dlogits.iter_mut().zip(self.frequency) {
            *dscore = factor * (frequency - mean);
        }
        // g_i = scaling s_i / sum_j s_j
        let (mut sum, mut weighted) = (TINY, 0.0);
        for (&expert, &dweight) in self.indices.iter().zip(self.dweights) {
            sum += self.scores[expert as usize];
            weighted += self.scores[expert as usize] * scaling * dweight;
        }
        let (sum, mean) = if normalise { (sum, weighted / sum) } else { (1.0, 0.0) };
        for (&expert, &dweight) in self.indices.iter().zip(self.dweights) {
            self.dlogits[expert as usize] += (scaling * dweight - mean) / sum;
        }
        // s = sigmoid(logit)
        for (dlogit, &score) in self.dlogits.iter_mut().zip(self.scores) {
            *dlogit *= score * (1.0 - score);
        }
    }
}

/// `bias_e += gamma sign(mean(counts) - counts_e)`, the mean of the update subtracted if `centered`.
pub fn update_bias(bias: &mut [f32], counts: &[u32], gamma: f32, centered: bool) {
    assert_eq!(bias.len(), counts.len(), "lengths of bias and counts");
    let (experts, total) = (counts.len() as u64, counts.iter().map(|&count| u64::from(count)).sum::<u64>());
    // The sign of mean - count, without a division.
    let sign = |count: u32| match total.cmp(&(u64::from(count) * experts)) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.0,
        std::cmp::Ordering::Less => -1.0,
    };
    let mean = if centered {
        counts.iter().map(|&count| sign(count)).sum::<f32>() / experts as f32
    } else {
        0.0
    };
    for (bias, &count) in bias.iter_mut().zip(counts) {
        *bias += gamma * (sign(count) - mean);
    }
}
