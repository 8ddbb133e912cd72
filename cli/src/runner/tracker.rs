//! Where a phase is, folded from the records that its worker reports. Pure: the clock is the records' own.

use fathom_spec::record::{Body, EventKind, LifecycleEvent, MetricBatch, Progress, Record};
use std::collections::VecDeque;

/// Name of the scalar that is shown as the loss.
pub const LOSS: &str = "loss.main";
/// Name of the scalar that is shown as the speed.
pub const TOKENS_PER_SECOND: &str = "tokens_per_second";
/// The remaining time is estimated from the progress of this many seconds.
const WINDOW_SECONDS: f64 = 30.0;
/// Samples that the window keeps at most.
const WINDOW_SAMPLES: usize = 256;

/// Where a phase is.
#[derive(Clone, Debug, Default)]
pub struct Tracker {
    /// When the first attempt reported its start.
    started: Option<f64>,
    progress: Option<Progress>,
    window: VecDeque<(f64, u64)>,
    step: Option<u64>,
    loss: Option<f64>,
    tokens_per_second: Option<f64>,
    resumed_after: Option<u64>,
    checkpoint: Option<u64>,
    progressed: bool,
    failure: Option<String>,
}

impl Tracker {
    /// Forgets what an earlier attempt did, when another one is started: one that dies before it reports has made no progress.
    pub fn begin_attempt(&mut self) {
        self.progressed = false;
        self.failure = None;
    }

    /// Takes in the next record. Returns the event that it carries, if any.
    pub fn apply<'a>(&mut self, record: &'a Record) -> Option<&'a LifecycleEvent> {
        match &record.body {
            Body::Metrics(batch) => {
                self.metrics(batch);
                None
            }
            Body::Progress(progress) => {
                self.advance(record.time, progress);
                None
            }
            Body::Event(event) => {
                self.event(event);
                self.started = self.started.or(Some(record.time));
                Some(event)
            }
        }
    }

    fn metrics(&mut self, batch: &MetricBatch) {
        self.step = Some(batch.step);
        if let Some(&loss) = batch.scalars.get(LOSS) {
            self.loss = Some(loss);
        }
        if let Some(&speed) = batch.scalars.get(TOKENS_PER_SECOND) {
            self.tokens_per_second = Some(speed);
        }
    }

    fn advance(&mut self, time: f64, progress: &Progress) {
        let other_stage = self.progress.as_ref().is_none_or(|last| last.stage != progress.stage);
        let backwards = self.window.back().is_some_and(|&(_, done)| done > progress.done);
        if other_stage || backwards {
            self.window.clear();
        }
        self.window.push_back((time, progress.done));
        while self.window.len() > WINDOW_SAMPLES || self.window.front().is_some_and(|&(first, _)| time - first > WINDOW_SECONDS) {
            // The newest sample is never older than the window, so at least one stays.
            self.window.pop_front();
        }
        self.progress = Some(progress.clone());
    }

    fn event(&mut self, event: &LifecycleEvent) {
        match event.kind {
            EventKind::AttemptStarted => {
                let keep = (self.checkpoint, self.loss);
                *self = Self {
                    started: self.started,
                    resumed_after: event.step,
                    checkpoint: keep.0,
                    loss: keep.1,
                    ..Self::default()
                };
            }
            EventKind::CheckpointCommitted => {
                self.progressed |= event.step > Some(self.resumed_after.unwrap_or(0));
                self.checkpoint = event.step;
            }
            EventKind::AttemptFailed => self.failure = Some(event.message.clone()),
            EventKind::CheckpointRejected
            | EventKind::NonFinite
            | EventKind::RecordsDropped
            | EventKind::DataWarning
            | EventKind::AttemptStopped
            | EventKind::PhaseCompleted => {}
        }
    }

    /// When the first attempt reported its start, in seconds since the Unix epoch.
    pub fn started(&self) -> Option<f64> {
        self.started
    }

    /// What the phase is doing, if it has said so.
    pub fn progress(&self) -> Option<&Progress> {
        self.progress.as_ref()
    }

    /// The newest step.
    pub fn step(&self) -> Option<u64> {
        self.step
    }

    /// The newest loss.
    pub fn loss(&self) -> Option<f64> {
        self.loss
    }

    /// The newest speed.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.tokens_per_second
    }

    /// Step of the newest checkpoint.
    pub fn checkpoint(&self) -> Option<u64> {
        self.checkpoint
    }

    /// Whether this attempt committed a checkpoint beyond the one that it started from.
    pub fn progressed(&self) -> bool {
        self.progressed
    }

    /// The worker's own account of why it failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Share that is done, from 0 to 1, if the total is known.
    pub fn fraction(&self) -> Option<f64> {
        let progress = self.progress.as_ref()?;
        let total = progress.total.filter(|&total| total > 0)?;
        Some((progress.done as f64 / total as f64).min(1.0))
    }

    /// Units per second over the last half minute.
    pub fn rate(&self) -> Option<f64> {
        let (&(first, from), &(last, to)) = (self.window.front()?, self.window.back()?);
        let rate = (to - from) as f64 / (last - first);
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }

    /// Seconds until the current stage is done, if both are known.
    pub fn remaining_seconds(&self) -> Option<f64> {
        let progress = self.progress.as_ref()?;
        let left = progress.total?.saturating_sub(progress.done);
        Some(left as f64 / self.rate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn record(time: f64, body: Body) -> Record {
        Record {
            writer: "run/1/0".into(),
            sequence: 0,
            time,
            body,
        }
    }

    fn progress(time: f64, stage: &str, done: u64) -> Record {
        let progress = Progress {
            stage: stage.into(),
            done,
            total: Some(1000),
            unit: "tokens".into(),
        };
        record(time, Body::Progress(progress))
    }

    fn event(kind: EventKind, step: u64) -> Record {
        let event = LifecycleEvent {
            kind,
            step: Some(step),
            message: "disk full".into(),
        };
        record(0.0, Body::Event(event))
    }

    #[test]
    fn the_remaining_time_follows_recent_progress_of_the_stage() {
        let mut tracker = Tracker::default();
        assert_eq!((tracker.fraction(), tracker.remaining_seconds()), (None, None));
        tracker.apply(&progress(0.0, "reading", 900));
        tracker.apply(&progress(100.0, "training", 0));
        assert_eq!((tracker.fraction(), tracker.remaining_seconds()), (Some(0.0), None));
        tracker.apply(&progress(110.0, "training", 100));
        assert_eq!(tracker.remaining_seconds(), Some(90.0));
        // Twice as fast for longer than the window: the slow start is forgotten.
        for second in 111..=150 {
            tracker.apply(&progress(f64::from(second), "training", 100 + 20 * (second as u64 - 110)));
        }
        assert_eq!(tracker.fraction(), Some(0.9));
        assert_eq!(tracker.remaining_seconds(), Some(5.0));
    }

    #[test]
    fn progress_of_an_attempt_is_a_checkpoint_beyond_its_start() {
        let mut tracker = Tracker::default();
        tracker.apply(&event(EventKind::AttemptStarted, 20));
        assert!(!tracker.progressed());
        tracker.apply(&event(EventKind::CheckpointCommitted, 20));
        assert!(!tracker.progressed());
        tracker.apply(&event(EventKind::CheckpointCommitted, 30));
        assert!(tracker.progressed());
        tracker.apply(&event(EventKind::AttemptFailed, 35));
        assert_eq!(tracker.failure(), Some("disk full"));
        tracker.apply(&event(EventKind::AttemptStarted, 30));
        assert_eq!(
            (tracker.progressed(), tracker.checkpoint(), tracker.failure()),
            (false, Some(30), None)
        );
    }

    #[test]
    fn losses_are_shown_as_reported() {
        let mut tracker = Tracker::default();
        let mut scalars = BTreeMap::from([(LOSS.to_owned(), f64::NAN)]);
        let batch = |scalars: &BTreeMap<String, f64>| {
            record(
                0.0,
                Body::Metrics(MetricBatch {
                    step: 7,
                    tokens: 70,
                    scalars: scalars.clone(),
                    matrices: BTreeMap::new(),
                }),
            )
        };
        tracker.apply(&batch(&scalars));
        assert!(tracker.loss().unwrap().is_nan());
        scalars.insert(TOKENS_PER_SECOND.to_owned(), 5000.0);
        scalars.remove(LOSS);
        tracker.apply(&batch(&scalars));
        assert_eq!((tracker.step(), tracker.tokens_per_second()), (Some(7), Some(5000.0)));
        assert!(
            tracker.loss().unwrap().is_nan(),
            "a validation batch without the training loss keeps it"
        );
    }
}
