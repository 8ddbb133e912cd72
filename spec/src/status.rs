//! What a cluster says of a job: the `status` of a `DeepSeekV3Job`. The operator alone writes it, and never reads from it what it can observe; it keeps
//! what must not be forgotten: which attempts there were, and that a job has ended.
//!
//! Its size is bounded: nothing grows with ranks, steps or time. History is in Postgres.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most bytes of a status as JSON.
pub const MAX_STATUS_BYTES: usize = 32 * 1024;

/// Longest message in a status, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 512;

/// State of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Generation of the object that this status is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the job stands, in words for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Facts about the job, each true, false or unknown: Accepted, Suspended, Progressing, Degraded, Complete, Failed. Complete and Failed
    /// exclude each other and stay.
    #[schemars(length(max = 16))]
    pub conditions: Vec<Condition>,
    /// When the first phase was started (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub start_time: Option<String>,
    /// When the job ended (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub completion_time: Option<String>,
    /// Attempts of all phases beyond the first ones.
    pub restarts: u32,
    /// The phases, as in the spec.
    #[schemars(length(max = 16))]
    pub phases: Vec<PhaseStatus>,
}

/// Where a job stands, in words for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Summary {
    /// The phase that is executed, or how the job ended.
    pub phase: String,
    /// How far that phase is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub progress: String,
    /// Training loss of the last reported step.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub loss: String,
    /// The verdict of the health detectors.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub health: String,
}

/// One fact about a job, as in `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: Truth,
    /// Why, in one CamelCase word.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Why, in a sentence with the cure where one is needed.
    #[schemars(length(max = 512))]
    #[serde(default)]
    pub message: String,
    /// When `status` changed last (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// Generation of the object that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum ConditionKind {
    /// The manifest can be executed.
    Accepted,
    /// Nothing is executed because `spec.suspend` says so, or a queue does not admit it.
    Suspended,
    /// A phase is executed or waited for; the message says which and for what.
    Progressing,
    /// The job goes on, but not as it should: a restart, no history, a hanging worker.
    Degraded,
    /// Every phase is done. Final.
    Complete,
    /// A phase failed and is not restarted. Final.
    Failed,
}

/// Whether a fact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows at the moment.
    Unknown,
}

/// State of a phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseStatus {
    /// Its name.
    #[schemars(length(max = 40))]
    pub name: String,
    /// How far it is.
    pub state: PhaseProgress,
    /// Why it is not further, where that is not obvious.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub message: String,
    /// Attempts that were started; each has a Kubernetes Job of its own.
    #[serde(default)]
    pub attempt: u32,
    /// Restarts since the last newer checkpoint: what `restart.maxRestarts` limits.
    #[serde(default)]
    pub restarts: u32,
    /// Restarts for failures of nodes, network or Kubernetes since the last newer checkpoint.
    #[serde(default)]
    pub interruptions: u32,
    /// Cache key of its artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub key: Option<String>,
    /// Digest of the files that it read, which keys of later phases depend on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub input: Option<String>,
    /// The `ConfigMap` with what its pods are told, the same for all attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub order: Option<String>,
    /// The Job of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<JobReference>,
    /// When the first attempt was started (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub start_time: Option<String>,
    /// When it ended (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub completion_time: Option<String>,
    /// What it reported last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<PhaseReport>,
    /// Why the last attempt that failed did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<PhaseFailure>,
}

impl PhaseStatus {
    /// A phase that was not started.
    #[must_use]
    pub fn pending(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            state: PhaseProgress::Pending,
            message: String::new(),
            attempt: 0,
            restarts: 0,
            interruptions: 0,
            key: None,
            input: None,
            order: None,
            job: None,
            start_time: None,
            completion_time: None,
            progress: None,
            last_failure: None,
        }
    }

    /// Whether its artifact is there.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        matches!(self.state, PhaseProgress::Cached | PhaseProgress::Succeeded)
    }
}

impl JobStatus {
    /// Whether a fact is known to hold.
    #[must_use]
    pub fn holds(&self, kind: ConditionKind) -> bool {
        self.conditions.iter().any(|one| one.kind == kind && one.status == Truth::True)
    }

    /// Whether the job has ended, for good.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.holds(ConditionKind::Complete) || self.holds(ConditionKind::Failed)
    }

    /// Says whether a fact holds. Its time changes only if that does.
    pub fn say(&mut self, said: Condition) {
        match self.conditions.iter_mut().find(|one| one.kind == said.kind) {
            Some(one) if one.status == said.status => {
                *one = Condition {
                    last_transition_time: std::mem::take(&mut one.last_transition_time),
                    ..said
                }
            }
            Some(one) => *one = said,
            None => self.conditions.push(said),
        }
    }
}

/// How far a phase is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PhaseProgress {
    /// An earlier phase, or room, is waited for.
    Pending,
    /// Its artifact existed; nothing was executed.
    Cached,
    /// A queue has not admitted it.
    Queued,
    /// Its pods are being started.
    Starting,
    /// Its pods execute it.
    Running,
    /// An attempt failed and its pods are going away; the next attempt follows.
    Restarting,
    /// Its artifact is complete.
    Succeeded,
    /// It failed, and is not restarted.
    Failed,
}

/// A Kubernetes Job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobReference {
    /// Its name.
    #[schemars(length(max = 63))]
    pub name: String,
    /// Its identity.
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// What the workers of a phase reported last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseReport {
    /// Optimizer steps that were taken.
    pub step: u64,
    /// Optimizer steps in all.
    pub total: u64,
    /// Tokens that were trained on.
    pub tokens: u64,
    /// Training loss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// When it was reported (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub updated_at: String,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PhaseFailure {
    /// Attempt that failed.
    pub attempt: u32,
    /// When it was noticed (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub at: String,
    /// What happens with it.
    pub class: FailureCause,
    /// Exit code of the container, if it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The pod that failed first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub pod: Option<String>,
    /// Its node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// The error with its cure.
    #[schemars(length(max = 512))]
    pub message: String,
}

/// What a failure costs, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureCause {
    /// It would fail again: bad configuration or data. The job fails.
    Permanent,
    /// Training became non-finite. The job fails.
    Diverged,
    /// The program failed in a way that a restart may cure. Counts against `restart.maxRestarts`.
    Application,
    /// The node, the network or Kubernetes failed. Counts against the budget of infrastructure failures.
    Infrastructure,
    /// It was asked to go. Costs nothing.
    Preempted,
}
