//! Runs, their attempts and what they measure.

use super::job::PhaseStateWord;
use crate::number::Number;
use fathom_store::attempts::{AttemptRow, superseded};
use fathom_store::runs::RunRow;
use serde::Serialize;
use utoipa::ToSchema;

/// An execution of a phase.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// `<job>.<phase>.<first 12 digits of the key>`.
    pub id: String,
    /// Name of the job.
    pub job: String,
    /// Name of the phase.
    pub phase: String,
    /// Kind of the phase.
    pub kind: String,
    /// Cache key of the phase.
    pub key: String,
    /// State.
    #[schema(value_type = PhaseStateWord)]
    pub state: String,
    /// Newest attempt, 0 before the first.
    pub attempt: i32,
    /// When it was first seen, RFC 3339.
    pub created_at: String,
    /// Newest step.
    pub last_step: Option<i64>,
    /// Tokens after it.
    pub last_tokens: Option<i64>,
    /// When it was reported, RFC 3339.
    pub last_time: Option<String>,
    /// Floating-point operations per trained token.
    pub flops_per_token: Option<f64>,
}

impl Run {
    /// The view of a run whose newest attempt is `attempt`.
    #[must_use]
    pub fn new(row: RunRow, attempt: i32) -> Self {
        let RunRow {
            id: _,
            job_id: _,
            job,
            name,
            phase,
            kind,
            key,
            state,
            flops_per_token,
            created_at,
            last_step,
            last_tokens,
            last_time,
            progress: _,
        } = row;
        Self {
            id: name,
            job,
            phase,
            kind,
            key,
            state,
            attempt,
            created_at: super::time(created_at),
            last_step,
            last_tokens,
            last_time: last_time.map(super::seconds),
            flops_per_token,
        }
    }
}

/// How an attempt ended.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum AttemptOutcome {
    /// It goes on.
    Running,
    /// It stopped on request.
    Stopped,
    /// It completed the phase.
    Completed,
    /// It failed.
    Failed,
    /// It ended without a word.
    Lost,
}

/// Steps that a later attempt made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Superseded {
    /// First step.
    pub from_step: u64,
    /// Last step.
    pub to_step: u64,
}

/// A process that executed a run.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub attempt: i32,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339.
    pub ended_at: Option<String>,
    /// Step that it resumed after.
    pub from_step: i64,
    /// Newest step.
    pub last_step: Option<i64>,
    /// Steps that a later one made again.
    pub superseded: Vec<Superseded>,
    /// How it ended.
    #[schema(value_type = AttemptOutcome)]
    pub outcome: String,
    /// Why it ended.
    pub message: Option<String>,
}

impl Attempt {
    /// The views of a run's attempts. Executions of one attempt (a machine that came back) are one attempt to the reader. `active` says
    /// whether the newest still runs.
    #[must_use]
    pub fn of(rows: &[AttemptRow], active: bool) -> Vec<Self> {
        let mut attempts: Vec<Self> = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let newest = index + 1 == rows.len();
            let ranges = superseded(rows, index).map(|(from_step, to_step)| Superseded { from_step, to_step });
            let outcome = row
                .outcome
                .clone()
                .unwrap_or_else(|| if newest && active { "running" } else { "lost" }.to_owned());
            // A lost process did not say when it ended: its last record is the best guess.
            let ended_at = row
                .ended_at
                .or_else(|| (outcome == "lost").then_some(row.last_time))
                .map(super::seconds);
            if let Some(same) = attempts.last_mut().filter(|last| last.attempt == row.attempt) {
                same.superseded.extend(ranges);
                same.last_step = row.last_step.or(same.last_step);
                (same.ended_at, same.outcome, same.message) = (ended_at, outcome, row.message.clone());
                continue;
            }
            attempts.push(Self {
                attempt: row.attempt,
                started_at: super::seconds(row.started_at),
                ended_at,
                from_step: row.from_step,
                last_step: row.last_step,
                superseded: ranges.into_iter().collect(),
                outcome,
                message: row.message.clone(),
            });
        }
        attempts
    }
}

/// Kinds of metrics.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum MetricKind {
    /// One number a step.
    Scalar,
    /// One matrix a step.
    Matrix,
}

/// Which direction is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum MetricBetter {
    /// Lower is better.
    Lower,
    /// Higher is better.
    Higher,
}

/// Something that a run measures.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Name.
    pub name: String,
    /// Kind.
    #[schema(value_type = MetricKind)]
    pub kind: String,
    /// Unit.
    pub unit: Option<String>,
    /// What it is.
    pub description: Option<String>,
    /// Which direction is good.
    pub better: Option<MetricBetter>,
    /// Names of a matrix's rows and columns.
    #[schema(value_type = Option<Vec<String>>, min_items = 2, max_items = 2)]
    pub axes: Option<[String; 2]>,
    /// Rows and columns of a matrix.
    #[schema(value_type = Option<Vec<i32>>, min_items = 2, max_items = 2)]
    pub shape: Option<[i32; 2]>,
    /// Points that count (not superseded).
    pub points: u64,
    /// First step with a point.
    pub first_step: i64,
    /// Last step with a point.
    pub last_step: i64,
    /// Newest value of a scalar.
    pub last: Option<Number>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(attempt: i32, execution: i32, from_step: i64, last_step: i64, outcome: Option<&str>) -> AttemptRow {
        AttemptRow {
            id: 0,
            attempt,
            execution,
            from_step,
            started_at: 0.0,
            ended_at: outcome.map(|_| 1.0),
            outcome: outcome.map(str::to_owned),
            message: None,
            last_step: Some(last_step),
            last_time: 2.0,
            sealed_steps: 0,
        }
    }

    #[test]
    fn executions_are_merged_and_lost_ones_named() {
        let rows = [row(1, 1, 0, 10, None), row(2, 1, 5, 20, Some("failed")), row(2, 2, 20, 25, None)];
        let attempts = Attempt::of(&rows, true);
        let shown: Vec<_> = attempts
            .iter()
            .map(|one| (one.attempt, one.outcome.as_str(), one.last_step, one.superseded.len()))
            .collect();
        assert_eq!(shown, [(1, "lost", Some(10), 1), (2, "running", Some(25), 0)]);
        assert_eq!(attempts[0].superseded, [Superseded { from_step: 6, to_step: 10 }]);
        assert_eq!(Attempt::of(&rows, false)[1].outcome, "lost");
    }
}
