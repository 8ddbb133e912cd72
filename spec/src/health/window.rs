//! The recent past of a run, and order statistics over it.

use std::collections::VecDeque;

/// The newest entries of a sequence by step. Those of superseded steps can be taken back.
#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    entries: VecDeque<(u64, T)>,
    capacity: usize,
}

impl<T> Window<T> {
    /// An empty window of at least one entry.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            capacity: capacity.max(1),
        }
    }

    /// Adds the entry of a step, and hands back the one that left the window.
    pub(super) fn push(&mut self, step: u64, value: T) -> Option<T> {
        let left = (self.entries.len() == self.capacity).then(|| self.entries.pop_front()).flatten();
        self.entries.push_back((step, value));
        left.map(|(_, value)| value)
    }

    /// Forgets the steps after `step`.
    pub(super) fn truncate(&mut self, step: u64) {
        while self.entries.back().is_some_and(|(found, _)| *found > step) {
            self.entries.pop_back();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.entries.len() == self.capacity
    }

    pub(super) fn first_step(&self) -> Option<u64> {
        self.entries.front().map(|(step, _)| *step)
    }

    pub(super) fn last(&self) -> Option<&T> {
        self.entries.back().map(|(_, value)| value)
    }

    pub(super) fn get(&self, step: u64) -> Option<&T> {
        let index = self.entries.binary_search_by_key(&step, |(step, _)| *step).ok()?;
        self.entries.get(index).map(|(_, value)| value)
    }

    /// Steps and entries, oldest first.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, &T)> + ExactSizeIterator {
        self.entries.iter().map(|(step, value)| (*step, value))
    }

    /// The newest `count` entries, newest first.
    pub(super) fn newest(&self, count: usize) -> impl Iterator<Item = (u64, &T)> {
        self.iter().rev().take(count)
    }
}

/// The median of the values, the upper one of two; none of nothing. Reorders them.
pub(super) fn median(values: &mut [f64]) -> Option<f64> {
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}

/// The value that this share of the values does not exceed; none of nothing. Reorders them.
pub(super) fn quantile(values: &mut [f64], share: f64) -> Option<f64> {
    let index = (values.len() as f64 * share) as usize;
    (index < values.len()).then(|| *values.select_nth_unstable_by(index, f64::total_cmp).1)
}

/// The standard deviation of a normal distribution with this median absolute deviation is so many times as large.
const MAD_TO_SIGMA: f64 = 1.4826;

/// A robust standard deviation: the scaled median of the distances from `center`. Overwrites the values.
pub(super) fn spread(values: &mut [f64], center: f64) -> Option<f64> {
    for value in &mut *values {
        *value = (*value - center).abs();
    }
    median(values).map(|deviation| deviation * MAD_TO_SIGMA)
}

/// At most 64 points of a whole run, evenly spaced by step: when it is full, every other point goes.
#[derive(Clone, Debug)]
pub(super) struct Sparkline {
    points: Vec<(u64, f64)>,
    stride: u64,
}

impl Sparkline {
    const CAPACITY: usize = 64;

    pub(super) const fn new() -> Self {
        Self {
            points: Vec::new(),
            stride: 1,
        }
    }

    pub(super) fn push(&mut self, step: u64, value: f64) {
        if !step.is_multiple_of(self.stride) {
            return;
        }
        if self.points.len() == Self::CAPACITY {
            self.stride *= 2;
            let stride = self.stride;
            self.points.retain(|(step, _)| step.is_multiple_of(stride));
            if !step.is_multiple_of(stride) {
                return;
            }
        }
        // Steps that are multiples of a power of two do not thin out at once.
        if self.points.len() < Self::CAPACITY {
            self.points.push((step, value));
        }
    }

    pub(super) fn truncate(&mut self, step: u64) {
        self.points.retain(|(found, _)| *found <= step);
    }

    pub(super) fn values(&self) -> Vec<f64> {
        self.points.iter().map(|(_, value)| *value).collect()
    }
}
