//! Reinforcement learning.

use super::{Checkpointing, Optimizer};
use crate::quantity::{Bytes, Duration};
use serde::{Deserialize, Serialize};

/// Group-relative policy optimisation (paper, section 5.2): several answers per prompt, advantages relative to their group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Grpo {
    /// Prompts to answer.
    #[schemars(length(min = 1, max = 1000))]
    pub prompts: Vec<Prompts>,
    /// What an answer is rewarded for; an answer's reward is the weighted sum.
    #[schemars(length(min = 1, max = 1000))]
    pub rewards: Vec<Reward>,
    /// Optimizer steps.
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Prompts per step.
    #[serde(default = "prompts_per_step")]
    #[schemars(range(min = 1, max = 1_048_576))]
    pub prompts_per_step: u32,
    /// Answers per prompt `[G]`.
    #[serde(default = "group_size")]
    #[schemars(range(min = 2, max = 1024))]
    pub group_size: u32,
    /// Longest answer, in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_tokens: u32,
    /// Sampling temperature.
    #[serde(default = "temperature")]
    #[schemars(range(min = 0.01, max = 10.0))]
    pub temperature: f64,
    /// Half-width of the interval that probability ratios are clipped to `[epsilon]`.
    #[serde(default = "clip")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub clip: f64,
    /// Factor of the divergence from the reference policy `[beta]`.
    #[serde(default = "kl_weight")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub kl_weight: f64,
    /// How token losses are averaged.
    #[serde(default)]
    pub loss: GrpoLoss,
    /// Learning rate, constant.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Train with the experts that were selected during generation; weights are recomputed. Prevents collapse when the two disagree.
    #[serde(default = "router_replay")]
    pub router_replay: bool,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpointing,
}

fn prompts_per_step() -> u32 {
    32
}

fn group_size() -> u32 {
    16
}

fn max_tokens() -> u32 {
    1024
}

fn temperature() -> f64 {
    1.0
}

fn clip() -> f64 {
    0.2
}

fn kl_weight() -> f64 {
    0.001
}

fn learning_rate() -> f64 {
    1e-6
}

fn router_replay() -> bool {
    true
}

/// How token losses are averaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GrpoLoss {
    /// Mean over the tokens of an answer, then over the answers of a group.
    #[default]
    Grpo,
    /// Mean over all tokens of a step.
    Dapo,
    /// Sum over tokens, divided by a constant.
    DrGrpo,
}

/// Where prompts come from: JSON Lines or Parquet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prompts {
    /// Glob patterns of files.
    #[schemars(length(min = 1, max = 10_000))]
    pub paths: Vec<String>,
    /// Field that holds the prompt, as text or as a list of messages.
    #[serde(default = "prompt_field")]
    pub prompt_field: String,
    /// Field that holds the reference answer or the tests.
    #[serde(default = "answer_field")]
    pub answer_field: String,
}

fn prompt_field() -> String {
    "prompt".into()
}

fn answer_field() -> String {
    "answer".into()
}

/// One source of reward: exactly one kind, and its weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reward {
    /// Factor of this reward.
    #[serde(default = "weight")]
    #[schemars(range(min = -1000.0, max = 1000.0))]
    pub weight: f64,
    /// 1 if the final answer equals the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<AnswerMatch>,
    /// 1 if the answer's code passes every test of the reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestsPass>,
    /// The score of a reward model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<RewardModel>,
}

fn weight() -> f64 {
    1.0
}

/// Compares the content of the last `\boxed{...}` with the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnswerMatch {
    /// Relative tolerance between numbers; 0 for equal values only.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub tolerance: f64,
}

impl Default for AnswerMatch {
    fn default() -> Self {
        Self { tolerance: 1e-6 }
    }
}

/// Executes an answer's code against tests, without network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TestsPass {
    /// Command that executes a file of code, with the file as last argument.
    pub command: Vec<String>,
    /// Time limit of one execution.
    pub timeout: Duration,
    /// Memory limit of one execution.
    pub memory: Bytes,
}

impl Default for TestsPass {
    fn default() -> Self {
        Self {
            command: vec!["python3".into()],
            timeout: Duration(10_000),
            memory: Bytes(512 << 20),
        }
    }
}

/// Scores an answer with a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RewardModel {
    /// Directory of the reward model in the Hugging Face layout.
    pub path: String,
}
