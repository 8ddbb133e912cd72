//! How long a step takes, and how long is too long.

use super::thresholds::ProgressThresholds;
use super::window::{Window, median};

const STEPS: usize = 200;
const PAUSES: usize = 8;
/// Fewer intervals do not tell a pause from a step.
const MIN_STEPS: usize = 10;

/// Times between steps.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Seconds from step to step.
    intervals: Window<f64>,
    /// Those that were pauses: validations and checkpoints, and perhaps an incident.
    pauses: Window<f64>,
    median: Option<f64>,
    last: Option<f64>,
    /// When the attempt began that has no step yet.
    restarted: Option<f64>,
    scratch: Vec<f64>,
}

/// How long there may be no step, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Limits {
    /// Longer is watch.
    pub(super) watch: f64,
    /// Longer is stalled.
    pub(super) stalled: f64,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            intervals: Window::new(STEPS),
            pauses: Window::new(PAUSES),
            median: None,
            last: None,
            restarted: None,
            scratch: Vec::with_capacity(STEPS),
        }
    }

    pub(super) fn observe(&mut self, step: u64, time: f64, t: &ProgressThresholds) {
        // The first step of an attempt includes its start.
        if let (Some(last), None) = (self.last, self.restarted) {
            let interval = (time - last).max(0.0);
            if self.intervals.len() >= MIN_STEPS && self.median.is_some_and(|median| interval > t.watch_steps * median) {
                self.pauses.push(step, interval);
            }
            self.intervals.push(step, interval);
            self.update();
        }
        self.restarted = None;
        self.last = Some(time);
    }

    fn update(&mut self) {
        self.scratch.clear();
        self.scratch.extend(self.intervals.iter().map(|(_, interval)| *interval));
        self.median = median(&mut self.scratch);
    }

    pub(super) fn restart(&mut self, step: u64, time: f64) {
        self.intervals.truncate(step);
        self.pauses.truncate(step);
        self.update();
        self.restarted = Some(time);
    }

    /// Seconds from step to step, the median.
    pub(super) const fn median(&self) -> Option<f64> {
        self.median
    }

    /// When the last step ended, or the attempt began that has none.
    pub(super) fn moved(&self) -> Option<f64> {
        match (self.last, self.restarted) {
            (Some(last), Some(restarted)) => Some(last.max(restarted)),
            (last, restarted) => last.or(restarted),
        }
    }

    /// Whether the current attempt has no step yet.
    pub(super) const fn starting(&self) -> bool {
        self.restarted.is_some() || self.last.is_none()
    }

    /// End of the last step, of superseded ones too: they show that the process could work.
    pub(super) const fn last_step_time(&self) -> Option<f64> {
        self.last
    }

    /// `starting` says that the next step is the first of its attempt.
    pub(super) fn limits(&self, starting: bool, t: &ProgressThresholds) -> Limits {
        let median = self.median.unwrap_or(0.0);
        let mut pauses: Vec<f64> = self.pauses.iter().map(|(_, pause)| *pause).collect();
        pauses.sort_unstable_by(f64::total_cmp);
        let usual = pauses.iter().rev().nth(1).copied().unwrap_or(0.0);
        let starting = if starting { t.startup_seconds } else { 0.0 };
        Limits {
            watch: (t.watch_steps * median).max(t.watch_seconds).max(1.5 * usual).max(starting / 2.0),
            stalled: (t.stalled_steps * median).max(t.stalled_seconds).max(3.0 * usual).max(starting),
        }
    }
}
