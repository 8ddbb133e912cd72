//! How many gradients are clipped.

use super::thresholds::GradientThresholds;
use super::window::Window;

/// Which of the last steps were clipped.
#[derive(Clone, Debug)]
pub(super) struct Clipping {
    clipped: Window<bool>,
    count: usize,
    /// First step at which few were clipped: only then is a high share news.
    calm: Option<u64>,
}

/// The state of the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Share {
    /// Share of clipped steps.
    pub(super) share: f64,
    /// Whether it is judged: few steps were clipped at some time.
    pub(super) judged: bool,
    /// First step of the window.
    pub(super) since: u64,
}

impl Clipping {
    pub(super) fn new(steps: u32) -> Self {
        Self {
            clipped: Window::new(steps as usize),
            count: 0,
            calm: None,
        }
    }

    pub(super) fn observe(&mut self, step: u64, clipped: bool, t: &GradientThresholds) {
        if step <= u64::from(t.clipped_warmup_steps) {
            return;
        }
        self.count += usize::from(clipped);
        self.count -= usize::from(self.clipped.push(step, clipped) == Some(true));
        if self.calm.is_none() && self.share().is_some_and(|now| now.share <= t.clipped_share / 2.0) {
            self.calm = Some(step);
        }
    }

    /// None until the window is full.
    pub(super) fn share(&self) -> Option<Share> {
        self.clipped.is_full().then(|| Share {
            share: self.count as f64 / self.clipped.len() as f64,
            judged: self.calm.is_some(),
            since: self.clipped.first_step().unwrap_or(0),
        })
    }

    pub(super) fn truncate(&mut self, step: u64) {
        self.clipped.truncate(step);
        self.count = self.clipped.iter().filter(|(_, clipped)| **clipped).count();
        self.calm = self.calm.filter(|calm| *calm <= step);
    }
}
