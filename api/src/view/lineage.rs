//! Checkpoints, artifacts and what was made from what.

use crate::number::Number;
use serde::Serialize;
use utoipa::ToSchema;

/// What has become of a checkpoint.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum CheckpointState {
    /// It is there.
    Committed,
    /// It was deleted to make room.
    Deleted,
    /// It is the result of its phase.
    Artifact,
}

/// What something was made from.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parent {
    /// Kind of artifact.
    pub kind: String,
    /// Its cache key.
    pub key: String,
}

/// What a run can go on from, or has become.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Id.
    pub id: String,
    /// Name of the job.
    pub job: String,
    /// Id of the run.
    pub run: String,
    /// Name of the phase.
    pub phase: String,
    /// Attempt that wrote it, where it is known.
    pub attempt: Option<i32>,
    /// Optimizer steps.
    pub step: i64,
    /// Tokens trained on.
    pub tokens: Option<i64>,
    /// Size of all files.
    pub bytes: i64,
    /// Number of files.
    pub files: i32,
    /// Where it is.
    pub path: String,
    /// What has become of it.
    #[schema(value_type = CheckpointState)]
    pub state: String,
    /// Whether its digests were compared with its files.
    pub verified: bool,
    /// When they last were, RFC 3339.
    pub verified_at: Option<String>,
    /// When it was first seen, RFC 3339.
    pub created_at: String,
    /// Validation loss of its step.
    pub validation_loss: Option<Number>,
    /// Cache key, if it is an artifact.
    pub key: Option<String>,
    /// What it was made from.
    pub lineage: Vec<Parent>,
    /// Whether it is kept whatever the retention says.
    pub pinned: bool,
}

/// Kinds of nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum LineageNodeKind {
    /// Files of the user.
    Input,
    /// The result of a phase.
    Artifact,
    /// What a phase can go on from.
    Checkpoint,
    /// A score.
    Evaluation,
}

/// Something that was made, or that things were made from.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineageNode {
    /// Id within the graph.
    pub id: String,
    /// Kind.
    pub kind: LineageNodeKind,
    /// What people call it.
    pub label: String,
    /// Phase that made it.
    pub phase: Option<String>,
    /// Cache key.
    pub key: Option<String>,
    /// Optimizer steps.
    pub step: Option<i64>,
    /// Size.
    pub bytes: Option<i64>,
    /// Whether it existed before and was used again.
    pub cached: bool,
}

/// From what it was made to what was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LineageEdge {
    /// Id of the source.
    pub from: String,
    /// Id of the result.
    pub to: String,
}

/// What was made from what in a job.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lineage {
    /// Things.
    pub nodes: Vec<LineageNode>,
    /// Which was made from which.
    pub edges: Vec<LineageEdge>,
}

/// Statistics of an artifact that a run read.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunDataItem {
    /// Phase that made it.
    pub phase: String,
    /// `tokenizer` or `corpus`.
    pub kind: String,
    /// Cache key.
    pub key: String,
    /// What the phase found out about its data.
    #[schema(value_type = Object)]
    pub statistics: serde_json::Value,
}

/// Statistics of what a run read.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunData {
    /// One entry per artifact.
    pub items: Vec<RunDataItem>,
}
