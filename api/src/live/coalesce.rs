//! Metrics and logs arrive faster than eyes: each run sends at most four messages of each a second. Pure: time is an argument.

use crate::number::Number;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// Time between two messages of a run.
pub(super) const PERIOD: Duration = Duration::from_millis(250);
/// Points of one message; a writer that sends more at once catches up, and readers fetch the curve instead.
const MOST_POINTS: usize = 500;

/// One step, as live readers see it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LivePoint {
    /// Optimizer step.
    pub step: u64,
    /// Tokens seen after it.
    pub tokens: u64,
    /// When it ended, RFC 3339.
    pub time: String,
    /// Attempt that made it.
    pub attempt: u32,
    /// Scalars by name.
    pub scalars: BTreeMap<String, Number>,
}

/// What a run has to say.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) points: Vec<LivePoint>,
    pub(super) matrices: BTreeSet<String>,
    pub(super) last_log: Option<i64>,
    /// There were too many points: readers must fetch them.
    pub(super) overflow: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Self {
            points,
            matrices,
            last_log,
            overflow,
        } = self;
        points.is_empty() && matrices.is_empty() && last_log.is_none() && !overflow
    }

    fn add(&mut self, more: Self) {
        let Self {
            points,
            matrices,
            last_log,
            overflow,
        } = more;
        self.overflow |= overflow || self.points.len() + points.len() > MOST_POINTS;
        if self.overflow {
            self.points.clear();
        } else {
            self.points.extend(points);
        }
        self.matrices.extend(matrices);
        self.last_log = self.last_log.max(last_log);
    }
}

/// When to send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// At once.
    Now,
    /// At this time; the caller must come back then.
    At(Instant),
    /// Someone comes back already.
    Scheduled,
}

struct RunState {
    pending: Pending,
    sent: Option<Instant>,
    scheduled: bool,
}

/// What all runs have to say.
#[derive(Default)]
pub(super) struct Coalescer {
    runs: HashMap<String, RunState>,
}

impl Coalescer {
    /// Adds to what a run has to say.
    pub(super) fn add(&mut self, run: &str, more: Pending, now: Instant) -> Due {
        // Runs that have said everything a while ago need no entry.
        if self.runs.len() > 1000 {
            self.runs.retain(|_, state| {
                state.scheduled || !state.pending.is_empty() || state.sent.is_some_and(|sent| now.saturating_duration_since(sent) < PERIOD)
            });
        }
        let state = self.runs.entry(run.to_owned()).or_insert(RunState {
            pending: Pending::default(),
            sent: None,
            scheduled: false,
        });
        state.pending.add(more);
        if state.scheduled {
            return Due::Scheduled;
        }
        match state.sent {
            Some(sent) if now < sent + PERIOD => {
                state.scheduled = true;
                Due::At(sent + PERIOD)
            }
            Some(_) | None => Due::Now,
        }
    }

    /// Takes what a run has to say.
    pub(super) fn take(&mut self, run: &str, now: Instant) -> Option<Pending> {
        let state = self.runs.get_mut(run)?;
        state.scheduled = false;
        let pending = std::mem::take(&mut state.pending);
        if pending.is_empty() {
            return None;
        }
        state.sent = Some(now);
        Some(pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(count: u64) -> Pending {
        let point = |step| LivePoint {
            step,
            tokens: step,
            time: String::new(),
            attempt: 1,
            scalars: BTreeMap::new(),
        };
        Pending {
            points: (0..count).map(point).collect(),
            ..Pending::default()
        }
    }

    #[test]
    fn four_messages_a_second() {
        let mut coalescer = Coalescer::default();
        let start = Instant::now();
        assert_eq!(coalescer.add("a", points(1), start), Due::Now);
        assert_eq!(coalescer.take("a", start).unwrap().points.len(), 1);
        let soon = start + Duration::from_millis(10);
        assert_eq!(coalescer.add("a", points(2), soon), Due::At(start + PERIOD));
        assert_eq!(coalescer.add("a", points(3), soon), Due::Scheduled);
        assert_eq!(coalescer.add("b", points(1), soon), Due::Now, "runs do not wait for each other");
        let later = start + PERIOD;
        assert_eq!(coalescer.take("a", later).unwrap().points.len(), 5);
        assert!(coalescer.take("a", later).is_none());
        assert_eq!(coalescer.add("a", points(1), later + PERIOD), Due::Now);
    }

    #[test]
    fn a_flood_becomes_a_gap() {
        let mut coalescer = Coalescer::default();
        let now = Instant::now();
        let _ = coalescer.add("a", points(400), now);
        let _ = coalescer.add("a", points(400), now);
        let pending = coalescer.take("a", now).unwrap();
        assert!(pending.overflow && pending.points.is_empty());
    }

    #[test]
    fn only_the_newest_log_line_counts() {
        let mut coalescer = Coalescer::default();
        let now = Instant::now();
        for id in [3, 9, 5] {
            let line = Pending {
                last_log: Some(id),
                ..Pending::default()
            };
            let _ = coalescer.add("a", line, now);
        }
        assert_eq!(coalescer.take("a", now).unwrap().last_log, Some(9));
    }
}
