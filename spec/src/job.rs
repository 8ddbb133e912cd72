//! A manifest that has been checked: the only input of the planner.

use crate::architecture::Architecture;
use crate::artifact::ArtifactKind;
use crate::health::Thresholds;
use crate::manifest::{
    Corpus, Evaluate, Extend, Grpo, Metadata, Parallelism, Precision, Preset, Pretrain, Restart, Serve, Sft, Storage, Tokenizer, WorkerSpec,
};
use crate::problem::Problem;
use serde::Serialize;
use std::collections::BTreeMap;

/// A job whose every field is filled in and whose phases fit together. Made by [`crate::parse_manifest`] only.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ValidatedJob {
    /// Name and labels.
    pub metadata: Metadata,
    /// Whether nothing is executed for now.
    pub suspend: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// The preset that the architecture came from, perhaps with fields replaced.
    pub preset: Option<Preset>,
    /// The model.
    pub architecture: Architecture,
    /// Arithmetic of the linear layers.
    pub precision: Precision,
    /// How the model is spread over devices.
    pub parallelism: Parallelism,
    /// Where and on what the phases execute.
    pub worker: WorkerSpec,
    /// Where artifacts live.
    pub storage: Storage,
    /// What happens when a worker fails.
    pub restart: Restart,
    /// When a run is called unhealthy.
    pub health: Thresholds,
    /// The phases, in order.
    pub phases: Vec<ValidatedPhase>,
    /// What was accepted but is suspicious.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
}

impl ValidatedJob {
    /// Name of the job.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The phase called `name`.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&ValidatedPhase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// The thresholds that the runs of a phase are judged by: those of the job, with the phase's limit of the gradient norm.
    #[must_use]
    pub fn thresholds(&self, phase: &str) -> Thresholds {
        let mut thresholds = self.health.clone();
        let optimizer = match self.phase(phase).map(|phase| &phase.work) {
            Some(PhaseWork::Pretrain(phase)) => Some(&phase.optimizer),
            Some(PhaseWork::Extend(phase)) => Some(&phase.optimizer),
            Some(PhaseWork::Sft(phase)) => Some(&phase.optimizer),
            Some(PhaseWork::Grpo(phase)) => Some(&phase.optimizer),
            Some(PhaseWork::Tokenizer(_) | PhaseWork::Corpus(_) | PhaseWork::Evaluate(_) | PhaseWork::Serve(_)) | None => None,
        };
        thresholds.gradient.clip_norm = optimizer.map(|optimizer| optimizer.clip_norm);
        thresholds
    }
}

/// A checked phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ValidatedPhase {
    /// Name, unique in the job.
    pub name: String,
    /// What it does.
    pub work: PhaseWork,
    /// The earlier phases whose artifacts it reads, as indices into [`ValidatedJob::phases`].
    pub inputs: BTreeMap<ArtifactKind, usize>,
}

/// What a phase does, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PhaseWork {
    /// Train or adopt a tokenizer.
    Tokenizer(Tokenizer),
    /// Turn text into packed token rows.
    Corpus(Corpus),
    /// Pre-train a model.
    Pretrain(Pretrain),
    /// Extend the context.
    Extend(Extend),
    /// Supervised fine-tuning.
    Sft(Sft),
    /// Reinforcement learning.
    Grpo(Grpo),
    /// Score a model.
    Evaluate(Evaluate),
    /// Answer requests.
    Serve(Serve),
}

impl PhaseWork {
    /// The kind of phase.
    #[must_use]
    pub const fn kind(&self) -> PhaseKind {
        match self {
            Self::Tokenizer(_) => PhaseKind::Tokenizer,
            Self::Corpus(_) => PhaseKind::Corpus,
            Self::Pretrain(_) => PhaseKind::Pretrain,
            Self::Extend(_) => PhaseKind::Extend,
            Self::Sft(_) => PhaseKind::Sft,
            Self::Grpo(_) => PhaseKind::Grpo,
            Self::Evaluate(_) => PhaseKind::Evaluate,
            Self::Serve(_) => PhaseKind::Serve,
        }
    }
}

/// Kinds of phases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseKind {
    /// Train or adopt a tokenizer.
    Tokenizer,
    /// Turn text into packed token rows.
    Corpus,
    /// Pre-train a model.
    Pretrain,
    /// Extend the context.
    Extend,
    /// Supervised fine-tuning.
    Sft,
    /// Reinforcement learning.
    Grpo,
    /// Score a model.
    Evaluate,
    /// Answer requests.
    Serve,
}

impl PhaseKind {
    /// Every kind, in the usual order of a job.
    pub const ALL: [Self; 8] = [
        Self::Tokenizer,
        Self::Corpus,
        Self::Pretrain,
        Self::Extend,
        Self::Sft,
        Self::Grpo,
        Self::Evaluate,
        Self::Serve,
    ];

    /// Name of the kind's field in a manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tokenizer => "tokenizer",
            Self::Corpus => "corpus",
            Self::Pretrain => "pretrain",
            Self::Extend => "extend",
            Self::Sft => "sft",
            Self::Grpo => "grpo",
            Self::Evaluate => "evaluate",
            Self::Serve => "serve",
        }
    }

    /// Worker processes that execute such a phase together; data is prepared by one.
    #[must_use]
    pub const fn ranks(self, parallelism: &Parallelism) -> u32 {
        match self {
            Self::Tokenizer | Self::Corpus => 1,
            Self::Pretrain | Self::Extend | Self::Sft | Self::Grpo | Self::Evaluate | Self::Serve => parallelism.data,
        }
    }

    /// The artifact that such a phase leaves.
    #[must_use]
    pub const fn produces(self) -> Option<ArtifactKind> {
        match self {
            Self::Tokenizer => Some(ArtifactKind::Tokenizer),
            Self::Corpus => Some(ArtifactKind::Corpus),
            Self::Pretrain | Self::Extend | Self::Sft | Self::Grpo => Some(ArtifactKind::Checkpoint),
            Self::Evaluate => Some(ArtifactKind::Report),
            Self::Serve => None,
        }
    }

    /// The artifacts that such a phase reads. The tokenizer comes last: it is that of the corpus or checkpoint before it.
    #[must_use]
    pub const fn consumes(self) -> &'static [ArtifactKind] {
        match self {
            Self::Tokenizer => &[],
            Self::Corpus => &[ArtifactKind::Tokenizer],
            Self::Pretrain => &[ArtifactKind::Corpus, ArtifactKind::Tokenizer],
            Self::Extend => &[ArtifactKind::Checkpoint, ArtifactKind::Corpus, ArtifactKind::Tokenizer],
            Self::Sft | Self::Grpo | Self::Evaluate | Self::Serve => &[ArtifactKind::Checkpoint, ArtifactKind::Tokenizer],
        }
    }

    /// Whether the phase reads files of the user, whose digests enter its cache key.
    #[must_use]
    pub const fn reads_files(self) -> bool {
        match self {
            Self::Tokenizer | Self::Corpus | Self::Sft | Self::Grpo | Self::Evaluate => true,
            Self::Pretrain | Self::Extend | Self::Serve => false,
        }
    }
}

impl std::fmt::Display for PhaseKind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}
