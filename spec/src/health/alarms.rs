//! What is wrong now: rules raise it on every step that they hold for, and it stays for a while after the last of them.

use super::detection::{Code, Detection, Severity};
use std::collections::BTreeMap;

/// A step and its time, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Moment {
    pub(super) step: u64,
    pub(super) time: f64,
}

/// One thing that is wrong, at the severities that it has reached.
#[derive(Clone, Debug)]
struct Active {
    watch: Option<Detection>,
    failing: Option<Detection>,
    /// Last step that the rule held for.
    seen: Moment,
}

/// All that is wrong, by code and layer.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarms {
    active: BTreeMap<(Code, Option<usize>), Active>,
    fresh: Vec<Detection>,
    /// When nothing was wrong any more, in seconds since the Unix epoch; none before the first step and while something is.
    calm: Option<f64>,
}

impl Alarms {
    /// Says that a rule holds at `now`. The detection is only made when it is news.
    pub(super) fn raise(
        &mut self,
        (code, layer): (Code, Option<usize>),
        severity: Severity,
        now: Moment,
        make: impl FnOnce() -> Detection,
    ) {
        let active = self.active.entry((code, layer)).or_insert(Active {
            watch: None,
            failing: None,
            seen: now,
        });
        active.seen = now;
        let known = match severity {
            Severity::Watch => active.watch.is_some() || active.failing.is_some(),
            Severity::Failing | Severity::Stalled => active.failing.is_some(),
        };
        if !known {
            let detection = make();
            match severity {
                Severity::Watch => active.watch = Some(detection.clone()),
                Severity::Failing | Severity::Stalled => active.failing = Some(detection.clone()),
            }
            self.fresh.push(detection);
        }
    }

    /// Drops what has been quiet for long enough.
    pub(super) fn expire(&mut self, now: Moment, hold_steps: u64, hold_seconds: f64) {
        self.active
            .retain(|_, active| now.step.saturating_sub(active.seen.step) <= hold_steps || now.time - active.seen.time <= hold_seconds);
        self.settle(now.time);
    }

    fn settle(&mut self, time: f64) {
        self.calm = self.active.is_empty().then(|| self.calm.unwrap_or(time));
    }

    /// Forgets what the steps after `step` showed.
    pub(super) fn restart(&mut self, step: u64, time: f64) {
        let superseded = |detection: &Detection| detection.step > step;
        self.active.retain(|_, active| {
            active.watch.take_if(|detection| superseded(detection));
            active.failing.take_if(|detection| superseded(detection));
            active.seen.step = active.seen.step.min(step);
            active.watch.is_some() || active.failing.is_some()
        });
        self.fresh.clear();
        self.settle(time);
    }

    /// What began since the last call.
    pub(super) fn take_fresh(&mut self) -> Vec<Detection> {
        std::mem::take(&mut self.fresh)
    }

    /// All that is wrong, each at its highest severity.
    pub(super) fn active(&self) -> impl Iterator<Item = &Detection> {
        self.active
            .values()
            .filter_map(|active| active.failing.as_ref().or(active.watch.as_ref()))
    }

    pub(super) const fn calm(&self) -> Option<f64> {
        self.calm
    }
}
