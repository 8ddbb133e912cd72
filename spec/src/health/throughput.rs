//! Tokens per second against the hour before.

use super::thresholds::ThroughputThresholds;
use super::window::{Window, median, spread};

/// Steps are gathered into medians of at least so many seconds: 240 of them are an hour, whatever a step takes.
const BUCKET_SECONDS: f64 = 15.0;
/// Buckets that the past is taken from; an hour or more.
const REFERENCE_BUCKETS: usize = 240;
/// Fewer buckets of the past are no reference.
const MIN_REFERENCE_BUCKETS: usize = 20;
/// Seconds of the past that are a reference, with steps that are shorter than a bucket.
pub(super) const MIN_REFERENCE_SECONDS: f64 = BUCKET_SECONDS * MIN_REFERENCE_BUCKETS as f64;
/// The newest buckets are at least so many, so that with steps of minutes one slow step is no drop.
const MIN_JUDGED_BUCKETS: usize = 5;
/// Room for the past beside the longest stretch that is judged.
const CAPACITY: usize = 480;
/// A drop must exceed so many robust standard deviations of the past.
const SIGMAS: f64 = 3.0;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// End, in seconds since the Unix epoch.
    end: f64,
    /// First step.
    first: u64,
    /// Tokens per second.
    median: f64,
}

/// A stretch of time compared with what was before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drop {
    /// The lost share; negative for a gain.
    pub(super) share: f64,
    /// Share that three standard deviations of the past are.
    pub(super) noise: f64,
    /// Tokens per second now.
    pub(super) now: f64,
    /// Tokens per second before.
    pub(super) before: f64,
    /// First step of the stretch.
    pub(super) since: u64,
}

/// The tokens per second of the last hour or more.
#[derive(Clone, Debug)]
pub(super) struct Throughput {
    buckets: Window<Bucket>,
    current: Vec<(u64, f64)>,
    started: Option<f64>,
    /// Steps still to leave out.
    skip: u32,
    watch: Option<Drop>,
    failing: Option<Drop>,
}

impl Throughput {
    pub(super) fn new(t: &ThroughputThresholds) -> Self {
        Self {
            buckets: Window::new(CAPACITY),
            current: Vec::new(),
            started: None,
            skip: t.skip_steps,
            watch: None,
            failing: None,
        }
    }

    /// Adds a step. `time` is its end, in seconds since the Unix epoch.
    pub(super) fn observe(&mut self, step: u64, time: f64, tokens_per_second: f64, t: &ThroughputThresholds) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.current.push((step, tokens_per_second));
        if time - *self.started.get_or_insert(time) < BUCKET_SECONDS {
            return;
        }
        let mut values: Vec<f64> = self.current.iter().map(|(_, value)| *value).collect();
        let first = self.current.first().map_or(step, |(first, _)| *first);
        self.current.clear();
        self.started = Some(time);
        if let Some(median) = median(&mut values) {
            self.buckets.push(step, Bucket { end: time, first, median });
        }
        self.watch = self.drop(time - t.watch_seconds);
        self.failing = self.drop(time - t.failing_seconds);
    }

    /// The drop of the stretch after `from`; none while there is too little past.
    fn drop(&self, from: f64) -> Option<Drop> {
        let judged = self.buckets.newest(usize::MAX).take_while(|(_, bucket)| bucket.end > from).count();
        let judged = judged.max(MIN_JUDGED_BUCKETS);
        let mut before: Vec<f64> = self.medians(judged, REFERENCE_BUCKETS);
        if before.len() < MIN_REFERENCE_BUCKETS {
            return None;
        }
        let now = median(&mut self.medians(0, judged))?;
        let reference = median(&mut before).filter(|reference| *reference > 0.0)?;
        Some(Drop {
            share: 1.0 - now / reference,
            noise: SIGMAS * spread(&mut before, reference)? / reference,
            now,
            before: reference,
            since: self.buckets.newest(judged).last().map_or(0, |(_, bucket)| bucket.first),
        })
    }

    fn medians(&self, skip: usize, count: usize) -> Vec<f64> {
        self.buckets
            .newest(skip + count)
            .skip(skip)
            .map(|(_, bucket)| bucket.median)
            .collect()
    }

    /// The stretch that watch is judged by, as of the last bucket.
    pub(super) const fn watch(&self) -> Option<Drop> {
        self.watch
    }

    /// The stretch that failing is judged by, as of the last bucket.
    pub(super) const fn failing(&self) -> Option<Drop> {
        self.failing
    }

    /// Forgets the steps after `step` and leaves out the first steps of the new attempt.
    pub(super) fn restart(&mut self, step: u64, t: &ThroughputThresholds) {
        self.buckets.truncate(step);
        self.current.clear();
        self.started = None;
        self.skip = t.skip_steps;
        self.watch = None;
        self.failing = None;
    }
}
