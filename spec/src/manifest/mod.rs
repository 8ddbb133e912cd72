//! The manifest as a user writes it: a `DeepSeekV3Job`, in Kubernetes API conventions. Doc comments here are what
//! `fathom explain` and the JSON Schema show.
//!
//! A phase struct is what the worker receives, every default filled in; where a default depends on another field or on the model,
//! the manifest has a form with options (`BatchForm`, [`LearningRateForm`]) that resolves to it.

mod cluster;
mod data;
mod evaluate;
mod extend;
mod grpo;
mod model;
mod pretrain;
mod sft;

pub use cluster::{Claim, DataVolume, Device, Parallelism, Restart, Schedule, Storage, Toleration, TolerationOperator, WorkerSpec};
pub use data::{Corpus, Deduplicate, Fim, Input, Tokenizer};
pub use evaluate::{BitsPerByte, Evaluate, GeneratedAnswer, MultipleChoice, Needle, Serve, Task};
pub use extend::{Extend, Yarn};
pub use grpo::{AnswerMatch, Grpo, GrpoLoss, Prompts, Reward, RewardModel, TestsPass};
pub use model::{ArchitectureFields, Model, Precision, Preset};
pub use pretrain::{
    Balance, BalanceMethod, BalanceSelection, Batch, Checkpointing, Ema, LearningRate, LearningRateForm, Mtp, Optimizer, Pretrain,
    Validation,
};
pub use sft::{Conversations, Decay, Sft};

use crate::health::Thresholds;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A declared experiment: one model, and the phases that make it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeepSeekV3Job {
    /// Version of this format: `fathom.dev/v1alpha1`.
    pub api_version: ApiVersion,
    /// Kind of object: `DeepSeekV3Job`.
    pub kind: Kind,
    /// Name and labels.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: JobSpec,
}

/// Version of the manifest format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(inline)]
pub enum ApiVersion {
    /// The only version so far.
    #[serde(rename = "fathom.dev/v1alpha1")]
    V1Alpha1,
}

/// Kind of the object that a manifest declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(inline)]
pub enum Kind {
    /// A DeepSeek-V3 experiment.
    DeepSeekV3Job,
}

/// Name and labels of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Metadata {
    /// Name of the job: lower-case letters, digits and `-`, at most 40 characters.
    #[schemars(length(min = 1, max = 40), extend("format" = "dns-label"))]
    pub name: String,
    /// Namespace on a cluster; ignored by the local runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Labels, for selecting jobs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free-form notes for people and tools.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a job wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobSpec {
    /// Whether nothing is executed for now. On a cluster, a running phase stops after a checkpoint, and goes on when this is false again; the local runner refuses
    /// such a job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspend: bool,
    /// Seed of everything random: the same seed and input give the same bytes.
    #[serde(default)]
    pub seed: u64,
    /// The model: a preset, the fields of a `config.json`, or a preset with some fields replaced.
    pub model: Model,
    /// Arithmetic of the linear layers.
    #[serde(default)]
    pub precision: Precision,
    /// How the model is spread over devices.
    #[serde(default)]
    pub parallelism: Parallelism,
    /// Where and on what the phases execute.
    #[serde(default)]
    pub worker: WorkerSpec,
    /// Where artifacts live.
    #[serde(default)]
    pub storage: Storage,
    /// What happens when a worker fails.
    #[serde(default)]
    pub restart: Restart,
    /// When a run is called unhealthy. Changes nothing of what is trained.
    #[serde(default)]
    pub health: Thresholds,
    /// What is done, in order. Each phase reads the newest artifact of each kind that an earlier phase made, or those that its `from` names.
    #[schemars(length(min = 1, max = 16))]
    pub phases: Vec<Phase>,
}

/// One phase: a name and exactly one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Phase {
    /// Name of the phase, unique in the job: lower-case letters, digits and `-`, at most 40 characters.
    #[schemars(length(min = 1, max = 40), extend("format" = "dns-label"))]
    pub name: String,
    /// Earlier phases whose artifacts are read instead of the newest ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub from: Vec<String>,
    /// Train a byte-level BPE tokenizer, or adopt an existing one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Tokenizer>,
    /// Turn text into packed token rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpus: Option<Corpus>,
    /// Pre-train a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrain: Option<Pretrain<Option<LearningRateForm>>>,
    /// Extend the context with YaRN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extend: Option<Extend>,
    /// Supervised fine-tuning on conversations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sft: Option<Sft>,
    /// Reinforcement learning with group-relative advantages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpo: Option<Grpo>,
    /// Score a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<Evaluate>,
    /// Answer requests with a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serve: Option<Serve>,
}
