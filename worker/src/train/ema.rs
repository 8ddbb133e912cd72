//! The exponential moving average of the parameters (paper, section 3.2.2).

use crate::model::{Model, Storage, Weights};
use fathom_kernels::Kernels;

/// FP32 averages of the trainable parameters: after step `t` of decay `d`, `sum d^(t - i) p_i / sum d^(t - i)` over the parameters `p_i` after the
/// steps `i = 1..=t`. The divisor is the bias correction of Adam's moments, so that the random initial weights have no part; it is folded
/// into the decay of each step, and the averages are a model at any time.
///
/// A routing bias is not averaged: it is the state of a controller, not an estimate with noise. A model of averages has the current one,
/// as torch's `AveragedModel` has the current buffers.
///
/// The averages follow a step while the passes of the next one run: neither writes the parameters, so nothing waits and no bit depends on which is
/// first. Whoever reads the averages catches up before.
pub(super) struct Ema<K: Kernels> {
    decay: f64,
    weights: Weights<K>,
    /// The step whose parameters are not in the averages yet.
    behind: Option<u64>,
}

impl<K: Kernels> Ema<K> {
    pub(super) fn new<A: Storage>(model: &Model<K, A>, decay: f64) -> Self {
        Self {
            decay,
            weights: Weights::zeros_like_trainable(&model.kernels, &model.layout),
            behind: None,
        }
    }

    pub(super) fn weights(&self) -> &Weights<K> {
        assert!(self.behind.is_none(), "the last step is not in the average");
        &self.weights
    }

    pub(super) fn weights_mut(&mut self) -> &mut Weights<K> {
        assert!(self.behind.is_none(), "the last step is not in the average");
        &mut self.weights
    }

    /// The parameters after `step` are to be averaged.
    pub(super) fn follow(&mut self, step: u64) {
        assert!(self.behind.is_none(), "an average is at most one step behind");
        self.behind = Some(step);
    }

    /// Takes the parameters of the last step in, if they are not yet.
    pub(super) fn catch_up<A: Storage>(&mut self, model: &Model<K, A>) {
        let Some(step) = self.behind.take() else { return };
        let decay = corrected(self.decay, step) as f32;
        for id in model.layout.trainable() {
            model.kernels.average(&mut self.weights[id], &model.weights[id], decay);
        }
    }
}

/// Runs `passes` over `model` while its averages catch up.
pub(super) fn beside<K: Kernels, A: Storage, R>(ema: Option<&mut Ema<K>>, model: &Model<K, A>, passes: impl FnOnce() -> R) -> R {
    match ema.filter(|ema| ema.behind.is_some()) {
        Some(ema) => std::thread::scope(|scope| {
            scope.spawn(|| ema.catch_up(model));
            passes()
        }),
        None => passes(),
    }
}

/// The weight of the past at step `step` (from 1): `d (1 - d^(step - 1)) / (1 - d^step)`, which is 0 at first and `d` in the end.
fn corrected(decay: f64, step: u64) -> f64 {
    let weights = |steps: u64| 1.0 - decay.powf(steps as f64);
    decay * weights(step - 1) / weights(step)
}

#[cfg(test)]
mod tests {
    use super::corrected;

    /// The recursion gives the weighted mean of its definition.
    #[test]
    fn the_correction_is_that_of_the_weighted_mean() {
        for decay in [0.0, 0.5, 0.9, 0.9999] {
            let mut average = f64::NAN;
            let (mut sum, mut weights) = (0.0, 0.0);
            for step in 1..200_u64 {
                let value = (step as f64).sin();
                sum = decay * sum + value;
                weights = decay * weights + 1.0;
                let past = corrected(decay, step);
                average = if step == 1 { value } else { past * average + (1.0 - past) * value };
                assert!((step > 1) || past == 0.0, "the first step has no past");
                assert!((average - sum / weights).abs() < 1e-9, "decay {decay}, step {step}: {average}");
            }
        }
        assert!((corrected(0.999, 1_000_000) - 0.999).abs() < 1e-15);
    }
}
