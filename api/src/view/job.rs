//! Jobs and their phases.

use super::HealthSummary;
use crate::number::Number;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// State of a job.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum JobState {
    /// Nothing was done yet.
    Pending,
    /// Waits for its turn.
    Queued,
    /// A phase is executed.
    Running,
    /// Stopped on request; resuming goes on.
    Paused,
    /// Its runner ended without being asked to; resuming goes on.
    Stopped,
    /// Ended on request.
    Cancelled,
    /// Every artifact is there.
    Succeeded,
    /// A phase has failed.
    Failed,
}

/// State of a phase or run.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum PhaseStateWord {
    /// Not started.
    Pending,
    /// Its artifact existed before.
    Cached,
    /// A worker executes it.
    Running,
    /// Stopped; running again goes on.
    Stopped,
    /// Complete.
    Succeeded,
    /// Given up.
    Failed,
}

/// What may be asked of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Stop after a checkpoint, keeping its place.
    Pause,
    /// Go on.
    Resume,
    /// End for good.
    Cancel,
    /// Begin another job like it.
    Fork,
    /// Forget its history.
    Delete,
}

/// What may be asked of a job in this state. The one table of it: handlers, views and the dashboard follow it.
#[must_use]
pub fn allowed_actions(state: &str) -> Vec<Action> {
    use Action::{Cancel, Delete, Fork, Pause, Resume};
    match state {
        "pending" | "queued" => vec![Pause, Cancel, Fork],
        "running" => vec![Pause, Cancel, Fork],
        "paused" | "stopped" => vec![Resume, Cancel, Fork, Delete],
        "failed" | "cancelled" => vec![Resume, Fork, Delete],
        "succeeded" => vec![Fork, Delete],
        _ => Vec::new(),
    }
}

/// A phase of a job.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Name.
    pub name: String,
    /// Kind: `tokenizer`, `corpus`, `pretrain`, ...
    pub kind: String,
    /// State.
    #[schema(value_type = PhaseStateWord)]
    pub state: String,
    /// Id of its run.
    pub run: Option<String>,
    /// Newest attempt.
    pub attempt: Option<u32>,
    /// Restarts.
    pub restarts: u32,
    /// Cache key.
    pub key: Option<String>,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Newest step.
    pub step: Option<u64>,
    /// How much is done, 0 to 1.
    pub fraction: Option<f64>,
    /// What it is doing.
    pub stage: Option<String>,
    /// Units done.
    pub done: Option<u64>,
    /// Units in all.
    pub total: Option<u64>,
    /// Name of the unit.
    pub unit: Option<String>,
    /// Seconds that are left.
    pub eta_seconds: Option<f64>,
    /// Newest loss.
    pub loss: Option<Number>,
    /// Newest speed.
    pub tokens_per_second: Option<Number>,
    /// Step of the newest checkpoint.
    pub checkpoint_step: Option<u64>,
    /// Why it is in this state.
    pub message: Option<String>,
    /// What it made, in one line.
    pub summary: Option<String>,
}

/// A job.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Job {
    /// Name.
    pub name: String,
    /// Project.
    pub project: String,
    /// Identity behind the name: another job of the same name has another.
    pub uid: String,
    /// State.
    #[schema(value_type = JobState)]
    pub state: String,
    /// Why it is in this state.
    pub message: Option<String>,
    /// Name of the current phase.
    pub phase: Option<String>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Number of its manifest, from 1.
    pub generation: i32,
    /// Its phases, in order.
    pub phases: Vec<Phase>,
    /// Verdict and reasons.
    pub health: HealthSummary,
    /// How much of the current phase is done, 0 to 1.
    pub progress: Option<f64>,
    /// The loss of the newest training run in at most 48 points.
    pub loss_sparkline: Vec<Number>,
    /// Newest loss.
    pub loss: Option<Number>,
    /// Tokens trained on.
    pub tokens: Option<i64>,
    /// Newest speed.
    pub tokens_per_second: Option<Number>,
    /// Seconds that are left of the current phase.
    pub eta_seconds: Option<f64>,
    /// Restarts of all phases.
    pub restarts: u32,
    /// What may be asked of it now.
    pub allowed_actions: Vec<Action>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A phase as its runner reports it. Everything else about it comes from its worker's records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PhaseReport {
    /// Name.
    pub name: String,
    /// Kind: `tokenizer`, `corpus`, `pretrain`, ...
    pub kind: String,
    /// State in one word.
    pub state: String,
    /// Id of its run.
    pub run: Option<String>,
    /// Cache key, as soon as it is known.
    pub key: Option<String>,
    /// Newest attempt.
    pub attempt: Option<u32>,
    /// Restarts.
    pub restarts: u32,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// Step of the newest checkpoint.
    pub checkpoint_step: Option<u64>,
    /// Steps in all, where the runner knows.
    pub total_steps: Option<u64>,
    /// Why it is in this state.
    pub message: Option<String>,
    /// What it made, in one line.
    pub summary: Option<String>,
}

/// A run as its runner reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunReport {
    /// `<job>.<phase>.<first 12 digits of the key>`.
    pub name: String,
    /// Name of the phase.
    pub phase: String,
    /// Kind of the phase.
    pub kind: String,
    /// Cache key of the phase.
    pub key: String,
    /// State.
    #[schema(value_type = PhaseStateWord)]
    pub state: String,
    /// Floating-point operations per trained token.
    #[serde(default)]
    pub flops_per_token: Option<f64>,
}

/// A finished artifact as its runner reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactReport {
    /// `tokenizer`, `corpus`, `checkpoint` or `report`.
    pub kind: String,
    /// Cache key.
    pub key: String,
    /// Name of the phase that made it.
    pub phase: String,
    /// Optimizer steps, for a checkpoint.
    #[serde(default)]
    pub step: Option<u64>,
    /// Size of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u32,
    /// Where it is.
    pub path: String,
    /// Cache keys of the artifacts that it was made from, by kind.
    pub lineage: BTreeMap<String, String>,
    /// Statistics of the phase.
    #[schema(value_type = Object)]
    pub statistics: serde_json::Value,
}

/// The body of `PUT /jobs/{job}/status`.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StatusReport {
    /// Identity behind the name.
    pub uid: String,
    /// The manifest as it was written.
    pub manifest: String,
    /// The manifest with every default filled in.
    pub effective: String,
    /// State of the job.
    #[schema(value_type = JobState)]
    pub state: String,
    /// Why it is in this state.
    #[serde(default)]
    pub message: Option<String>,
    /// Its phases, in order.
    #[serde(default)]
    pub phases: Vec<PhaseReport>,
    /// Its runs.
    #[serde(default)]
    pub runs: Vec<RunReport>,
    /// Artifacts that its phases made or found.
    #[serde(default)]
    pub artifacts: Vec<ArtifactReport>,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A manifest that a job had.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Generation {
    /// From 1.
    pub generation: i32,
    /// YAML as it was written.
    pub submitted: String,
    /// YAML with every default filled in.
    pub effective: String,
    /// RFC 3339.
    pub created_at: String,
}

/// Number and time of a manifest.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GenerationMark {
    /// From 1.
    pub generation: i32,
    /// RFC 3339.
    pub created_at: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_cannot_be_deleted() {
        for state in ["pending", "queued", "running"] {
            assert!(!allowed_actions(state).contains(&Action::Delete), "{state}");
        }
        assert!(allowed_actions("succeeded").contains(&Action::Delete));
        assert!(allowed_actions("unheard-of").is_empty());
    }
}
