//! Tables `attempts` and `writers`: processes that executed a run, and which of them counts for which step.

use crate::{Result, Store};

/// One execution of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptRow {
    /// Database id.
    pub id: i64,
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// Number of the execution within the attempt, from 1.
    pub execution: i32,
    /// Step that it resumed after.
    pub from_step: i64,
    /// When it began, in seconds since the Unix epoch.
    pub started_at: f64,
    /// When it ended, if it said so.
    pub ended_at: Option<f64>,
    /// How it ended: `stopped`, `completed` or `failed`.
    pub outcome: Option<String>,
    /// Why it ended.
    pub message: Option<String>,
    /// Newest step that it reported.
    pub last_step: Option<i64>,
    /// When it last reported, in seconds since the Unix epoch.
    pub last_time: f64,
    /// All steps before this one are in pages.
    pub sealed_steps: i64,
}

/// Steps for which one attempt counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Database id of the attempt.
    pub attempt: i64,
    /// First step.
    pub first: u64,
    /// Last step.
    pub last: u64,
    /// Steps of the attempt before this one are in pages.
    pub sealed: u64,
}

/// Which attempt counts for which step: an attempt supersedes the steps after the one that it resumed after. `attempts` are in order of
/// execution; the segments are in order of steps.
#[must_use]
pub fn segments(attempts: &[AttemptRow]) -> Vec<Segment> {
    let mut limit = u64::MAX;
    let mut segments = Vec::with_capacity(attempts.len());
    for row in attempts.iter().rev() {
        let first = row.from_step.unsigned_abs().saturating_add(1);
        if first <= limit {
            segments.push(Segment {
                attempt: row.id,
                first: if row.from_step == 0 { 0 } else { first },
                last: limit,
                sealed: row.sealed_steps.unsigned_abs(),
            });
        }
        limit = limit.min(row.from_step.unsigned_abs());
    }
    segments.reverse();
    segments
}

/// The steps of an attempt that later ones made again, as (first, last).
#[must_use]
pub fn superseded(attempts: &[AttemptRow], index: usize) -> Option<(u64, u64)> {
    let own = &attempts[index];
    let last = own.last_step?.unsigned_abs();
    let limit = attempts[index + 1..].iter().map(|later| later.from_step.unsigned_abs()).min()?;
    let first = limit.max(own.from_step.unsigned_abs()) + 1;
    (first <= last).then_some((first, last))
}

impl Store {
    /// The attempts of a run in order of execution.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn attempts(&self, run: i64) -> Result<Vec<AttemptRow>> {
        let rows = sqlx::query_as!(
            AttemptRow,
            "SELECT id, attempt, execution, from_step, started_at, ended_at, outcome, message, last_step, last_time, sealed_steps
             FROM attempts WHERE run_id = $1 ORDER BY attempt, execution",
            run
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// Sequence number of the next record that is expected of a writer.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn next_sequence(&self, run: i64, writer: &str) -> Result<u64> {
        let next = sqlx::query_scalar!("SELECT next_sequence FROM writers WHERE run_id = $1 AND writer = $2", run, writer);
        Ok(next.fetch_optional(&self.pool).await?.unwrap_or(0).unsigned_abs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(id: i64, from_step: i64, last_step: i64) -> AttemptRow {
        AttemptRow {
            id,
            attempt: id as i32,
            execution: 1,
            from_step,
            started_at: 0.0,
            ended_at: None,
            outcome: None,
            message: None,
            last_step: Some(last_step),
            last_time: 0.0,
            sealed_steps: 0,
        }
    }

    fn check(attempts: &[(i64, i64)], expected: &[(i64, u64, u64)]) {
        let rows: Vec<AttemptRow> = (1..).zip(attempts).map(|(id, &(from, last))| attempt(id, from, last)).collect();
        let segments: Vec<_> = segments(&rows)
            .iter()
            .map(|segment| (segment.attempt, segment.first, segment.last))
            .collect();
        assert_eq!(segments, expected, "{attempts:?}");
    }

    #[test]
    fn a_later_attempt_supersedes_the_steps_after_its_start() {
        check(&[], &[]);
        check(&[(0, 10)], &[(1, 0, u64::MAX)]);
        check(&[(0, 10), (5, 20)], &[(1, 0, 5), (2, 6, u64::MAX)]);
        check(&[(0, 10), (5, 20), (20, 30)], &[(1, 0, 5), (2, 6, 20), (3, 21, u64::MAX)]);
        // The third went back before the second: nothing of the second is left.
        check(&[(0, 10), (5, 20), (3, 30)], &[(1, 0, 3), (3, 4, u64::MAX)]);
        check(&[(0, 10), (0, 20)], &[(2, 0, u64::MAX)]);
    }

    #[test]
    fn superseded_steps_are_named() {
        let rows = [attempt(1, 0, 10), attempt(2, 5, 20), attempt(3, 20, 30)];
        assert_eq!(
            (0..3).map(|index| superseded(&rows, index)).collect::<Vec<_>>(),
            [Some((6, 10)), None, None]
        );
    }
}
