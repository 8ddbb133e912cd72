//! Overfitting: the loss on held-out text rises while that on the training text falls.

use super::thresholds::LossThresholds;
use super::window::{Window, median, spread};

/// Validations that are remembered. Their noise is measured over all of them.
const HISTORY: usize = 64;
/// A rise must exceed so many standard errors: a model on a plateau has validations that go up and down.
const STANDARD_ERRORS: f64 = 4.0;

/// One validation, and the training since the one before it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    validation: f64,
    training: f64,
}

/// What the last validations show against those before them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Overfit {
    /// Step of the first of the last validations.
    pub(super) since: u64,
    /// Step of the lowest validation loss.
    pub(super) best: u64,
    /// Mean of the last validations.
    pub(super) now: f64,
    /// Rise of the mean, as a share.
    pub(super) rise: f64,
    /// Fall of the training loss over the same validations, as a share.
    pub(super) fall: f64,
}

/// The validations of a run.
#[derive(Clone, Debug)]
pub(super) struct Overfitting {
    entries: Window<Entry>,
    /// Sum and number of the training losses since the last validation.
    training: (f64, u32),
}

impl Overfitting {
    pub(super) fn new() -> Self {
        Self {
            entries: Window::new(HISTORY),
            training: (0.0, 0),
        }
    }

    /// Adds a finite training loss.
    pub(super) fn train(&mut self, loss: f64) {
        self.training.0 += loss;
        self.training.1 += 1;
    }

    /// Adds a finite validation loss.
    pub(super) fn validate(&mut self, step: u64, validation: f64) {
        let (sum, count) = std::mem::take(&mut self.training);
        let before = self.entries.last().map(|entry| entry.training);
        // A validation without a step before it (the first of an attempt) says nothing new of the training.
        let training = if count > 0 { Some(sum / f64::from(count)) } else { before };
        if let Some(training) = training {
            self.entries.push(step, Entry { validation, training });
        }
    }

    /// Whether the last validations show overfitting.
    pub(super) fn judge(&self, t: &LossThresholds) -> Option<Overfit> {
        let count = (t.overfit_validations as usize).clamp(1, HISTORY / 2);
        if self.entries.len() < 2 * count {
            return None;
        }
        let newest: Vec<(u64, &Entry)> = self.entries.newest(2 * count).collect();
        let (now, before) = newest.split_at(count);
        let lowest_now = now.iter().map(|(_, entry)| entry.validation).fold(f64::INFINITY, f64::min);
        if before.iter().any(|(_, entry)| entry.validation >= lowest_now) {
            return None;
        }
        let mean = |part: &[(u64, &Entry)], of: fn(&Entry) -> f64| part.iter().map(|(_, entry)| of(entry)).sum::<f64>() / count as f64;
        let (after, earlier) = (mean(now, |entry| entry.validation), mean(before, |entry| entry.validation));
        let (trained, training) = (mean(now, |entry| entry.training), mean(before, |entry| entry.training));
        let standard_error = self.noise() * (2.0 / count as f64).sqrt();
        let rises = after - earlier > (t.overfit_rise * earlier.abs()).max(STANDARD_ERRORS * standard_error);
        let falls = training - trained > t.noise_floor * training.abs();
        if !(rises && falls) {
            return None;
        }
        let best = self.entries.iter().min_by(|(_, a), (_, b)| a.validation.total_cmp(&b.validation))?;
        Some(Overfit {
            since: now.last()?.0,
            best: best.0,
            now: after,
            rise: after / earlier - 1.0,
            fall: 1.0 - trained / training,
        })
    }

    /// Standard deviation of a validation: from the changes between neighbours, whose common part is a trend and no noise.
    fn noise(&self) -> f64 {
        let values: Vec<f64> = self.entries.iter().map(|(_, entry)| entry.validation).collect();
        let mut changes: Vec<f64> = values.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let trend = median(&mut changes).unwrap_or(0.0);
        spread(&mut changes, trend).unwrap_or(0.0) / std::f64::consts::SQRT_2
    }

    /// Forgets the steps after `step`.
    pub(super) fn truncate(&mut self, step: u64) {
        self.entries.truncate(step);
        self.training = (0.0, 0);
    }
}
