//! Jumps of one signal above its recent past.

use super::window::{Window, median, quantile, spread};

/// Steps whose median is the level that a step is compared with. It is short so that the steep fall at the start of a run does not hide
/// jumps: a median over 200 steps would lie far above the loss.
const LEVEL_STEPS: usize = 20;
/// The newest steps, whose noise counts alone as well: noise grows when a model begins to tell easy texts from hard ones.
const RECENT_STEPS: usize = 50;
/// The normal distribution's 95th percentile, in standard deviations.
const SIGMAS_OF_95TH: f64 = 1.645;
/// Of so many steps, [`Spikes::repeated`] asks for three.
const REPEAT_OF: usize = 5;

#[derive(Clone, Copy, Debug)]
struct Entry {
    value: f64,
    /// Distance from the median of the steps before.
    residual: f64,
    z: f64,
}

/// How a step compares with those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Score {
    /// Robust standard deviations above what was expected; 0 while there is too little past.
    pub(super) z: f64,
    /// The value that was expected.
    pub(super) expected: f64,
    /// Robust standard deviation.
    pub(super) sigma: f64,
}

/// The window of one signal.
#[derive(Clone, Debug)]
pub(super) struct Spikes {
    entries: Window<Entry>,
    warmup: usize,
    latest: Option<Score>,
    scratch: Vec<f64>,
}

impl Spikes {
    pub(super) fn new(window: u32, warmup: u32) -> Self {
        Self {
            entries: Window::new(window as usize),
            // Below this an order statistic of the past is itself noise.
            warmup: (warmup as usize).clamp(LEVEL_STEPS, window.max(LEVEL_STEPS as u32) as usize),
            latest: None,
            scratch: Vec::new(),
        }
    }

    /// Scores a finite value with the steps before it, then remembers it. `floor` is the least standard deviation.
    pub(super) fn observe(&mut self, step: u64, value: f64, floor: f64) -> Score {
        let level = self.newest_median(LEVEL_STEPS, |entry| entry.value).unwrap_or(value);
        let residual = value - level;
        let score = self.score(residual, level, floor);
        self.latest = (self.entries.len() >= self.warmup).then_some(score);
        let z = if self.latest.is_some() { score.z } else { 0.0 };
        self.entries.push(step, Entry { value, residual, z });
        Score { z, ..score }
    }

    fn score(&mut self, residual: f64, level: f64, floor: f64) -> Score {
        let center = self.newest_median(usize::MAX, |entry| entry.residual).unwrap_or(0.0);
        let tail = quantile(&mut self.scratch, 0.95).map_or(0.0, |high| (high - center) / SIGMAS_OF_95TH);
        let long = spread(&mut self.scratch, center).unwrap_or(0.0);
        let recent = self.newest_median(RECENT_STEPS, |entry| entry.residual).unwrap_or(0.0);
        let short = spread(&mut self.scratch, recent).unwrap_or(0.0);
        let sigma = floor.max(tail).max(long).max(short);
        Score {
            z: if sigma > 0.0 { (residual - center) / sigma } else { 0.0 },
            expected: level + center,
            sigma,
        }
    }

    fn newest_median(&mut self, count: usize, of: impl Fn(&Entry) -> f64) -> Option<f64> {
        self.scratch.clear();
        self.scratch.extend(self.entries.newest(count).map(|(_, entry)| of(entry)));
        median(&mut self.scratch)
    }

    /// The score of the last step; none while there is too little past.
    pub(super) const fn latest(&self) -> Option<Score> {
        self.latest
    }

    /// Since when at least three of the last five steps exceed `z`; none if they do not.
    pub(super) fn repeated(&self, z: f64) -> Option<u64> {
        let above = || self.entries.newest(REPEAT_OF).filter(|(_, entry)| entry.z > z);
        (above().count() >= 3).then(|| above().last().map(|(step, _)| step)).flatten()
    }

    /// Since when the last `steps` steps all exceed `z`; none if they do not.
    pub(super) fn in_a_row(&self, z: f64, steps: u32) -> Option<u64> {
        let steps = (steps as usize).clamp(1, LEVEL_STEPS / 2 - 1);
        let above = self.entries.newest(steps).take_while(|(_, entry)| entry.z > z);
        let (count, first) = above.fold((0, None), |(count, _), (step, _)| (count + 1, Some(step)));
        first.filter(|_| count == steps)
    }

    /// Forgets the steps after `step`.
    pub(super) fn truncate(&mut self, step: u64) {
        self.entries.truncate(step);
        self.latest = None;
    }

    /// Change of the median of the last 20 steps against that of the whole window, as a share of `of(median)`; none while the window
    /// holds little more than those 20.
    pub(super) fn change(&self, of: impl Fn(f64) -> f64) -> Option<f64> {
        if self.entries.len() < 2 * LEVEL_STEPS {
            return None;
        }
        let mut values: Vec<f64> = self.entries.newest(usize::MAX).map(|(_, entry)| of(entry.value)).collect();
        let newest = median(&mut values[..LEVEL_STEPS])?;
        let all = median(&mut values)?;
        (all != 0.0).then(|| newest / all - 1.0)
    }
}
