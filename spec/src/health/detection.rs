//! What goes into a detector and what comes out.

use super::TileId;
use crate::record::{Matrix, MetricBatch};
use serde::Serialize;
use std::collections::BTreeMap;

/// Tokens that each expert got in a step.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// MoE layers.
    pub rows: usize,
    /// Experts per layer.
    pub columns: usize,
    /// Tokens, `rows * columns` of them, row-major.
    pub values: &'a [f32],
}

impl<'a> From<&'a Matrix> for Load<'a> {
    fn from(matrix: &'a Matrix) -> Self {
        Self {
            rows: matrix.rows,
            columns: matrix.columns,
            values: &matrix.values,
        }
    }
}

/// The measurements of one optimizer step.
#[derive(Clone, Copy, Debug)]
pub struct StepView<'a> {
    /// Optimizer step, from 1.
    pub step: u64,
    /// Tokens seen after this step.
    pub tokens: u64,
    /// When it ended, in seconds since the Unix epoch.
    pub time: f64,
    /// Scalars by name, non-finite values included.
    pub scalars: &'a BTreeMap<String, f64>,
    /// `moe.load`, where the step has it.
    pub load: Option<Load<'a>>,
}

impl<'a> StepView<'a> {
    /// The view of a batch that was reported at `time`, in seconds since the Unix epoch.
    #[must_use]
    pub fn new(batch: &'a MetricBatch, time: f64) -> Self {
        Self {
            step: batch.step,
            tokens: batch.tokens,
            time,
            scalars: &batch.scalars,
            load: batch.matrices.get("moe.load").map(Load::from),
        }
    }
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Worth a look; it may pass.
    Watch,
    /// The run is being spoilt.
    Failing,
    /// The run does not go on.
    Stalled,
}

/// The page that shows what a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Page {
    /// Scalars over steps.
    Curves,
    /// The map of layers and experts.
    Experts,
    /// Checkpoints and lineage.
    Checkpoints,
    /// Logs and events.
    Logs,
}

/// What is wrong. The order is that of importance among reasons of one severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Code {
    /// The job gave up.
    JobFailed,
    /// The process no longer reports that it lives.
    HeartbeatLost,
    /// No step for too long.
    NoProgress,
    /// A loss, gradient norm or weight is NaN or infinite.
    NonFinite,
    /// Many restarts within an hour, or some without a step between them.
    CrashLoop,
    /// The loss rises slowly.
    LossDiverging,
    /// The loss jumped.
    LossSpike,
    /// The validation loss rises while the training loss falls.
    Overfitting,
    /// An expert gets no tokens.
    ExpertDead,
    /// An expert gets far more tokens than its share.
    ExpertImbalance,
    /// Imbalance grows in several layers at once.
    ImbalanceRising,
    /// Most gradients are clipped, which was not so before.
    GradientClipped,
    /// The gradient norm jumped.
    GradientSpike,
    /// Fewer tokens per second than before.
    ThroughputDrop,
    /// The newest checkpoint is old.
    CheckpointOld,
    /// Restarts within the last hour.
    Restarts,
    /// A checkpoint could not be used and an older one was.
    CheckpointRejected,
    /// Measurements are missing.
    RecordsDropped,
}

impl Code {
    /// Where to look.
    #[must_use]
    pub const fn page(self) -> Page {
        match self {
            Self::NonFinite
            | Self::LossDiverging
            | Self::LossSpike
            | Self::Overfitting
            | Self::GradientClipped
            | Self::GradientSpike
            | Self::ThroughputDrop => Page::Curves,
            Self::ExpertDead | Self::ExpertImbalance | Self::ImbalanceRising => Page::Experts,
            Self::CheckpointOld | Self::CheckpointRejected => Page::Checkpoints,
            Self::JobFailed | Self::HeartbeatLost | Self::NoProgress | Self::CrashLoop | Self::Restarts | Self::RecordsDropped => {
                Page::Logs
            }
        }
    }

    /// The vital sign that it belongs to.
    #[must_use]
    pub const fn tile(self) -> TileId {
        match self {
            Self::LossDiverging | Self::LossSpike | Self::Overfitting => TileId::Loss,
            Self::GradientClipped | Self::GradientSpike => TileId::Gradient,
            Self::ThroughputDrop => TileId::Throughput,
            Self::ExpertDead | Self::ExpertImbalance | Self::ImbalanceRising => TileId::Balance,
            Self::NonFinite => TileId::Numerics,
            Self::JobFailed
            | Self::HeartbeatLost
            | Self::NoProgress
            | Self::CrashLoop
            | Self::CheckpointOld
            | Self::Restarts
            | Self::CheckpointRejected
            | Self::RecordsDropped => TileId::Infrastructure,
        }
    }
}

/// Something that a step showed to be wrong. It is reported once when it begins and once more if it becomes failing.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    /// What.
    pub code: Code,
    /// How bad.
    pub severity: Severity,
    /// The step whose measurements made it certain.
    pub step: u64,
    /// The step at which it began, as far as the rule can tell; at most `step`.
    pub onset: u64,
    /// When `onset` was, in seconds since the Unix epoch; none if that step is no longer remembered.
    pub time: Option<f64>,
    /// Row of `moe.load`, from 0; the worst of several.
    pub layer: Option<usize>,
    /// Expert within the layer, from 0.
    pub expert: Option<usize>,
    /// The number that broke the rule: a z, a share, a violation. It orders detections of the same code.
    pub value: f64,
    /// One sentence for people.
    pub text: String,
    /// The metric to look at.
    pub metric: String,
    /// The page to look at.
    pub page: Page,
}
