//! Supervised fine-tuning.

use super::{Batch, Checkpointing, Optimizer};
use crate::quantity::Bytes;
use serde::{Deserialize, Serialize};

/// Supervised fine-tuning on conversations: packed rows whose samples cannot see each other, loss on the assistant's tokens
/// (paper, section 5.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sft {
    /// Conversations to learn from.
    #[schemars(length(min = 1, max = 1000))]
    pub input: Vec<Conversations>,
    /// Tokens per packed row `[T]`.
    #[serde(default = "sequence_length")]
    #[schemars(range(min = 2, max = 16_777_216))]
    pub sequence_length: u32,
    /// Passes over the input.
    #[serde(default = "epochs")]
    #[schemars(range(min = 1, max = 1000))]
    pub epochs: u32,
    /// Batch size.
    pub batch: Batch,
    /// Cosine decay of the learning rate.
    #[serde(default)]
    pub learning_rate: Decay,
    /// AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Step of the routing bias `[gamma]`; 0 keeps the bias of pre-training.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub bias_update_speed: f64,
    /// Factor of the sequence-wise auxiliary loss `[alpha]`, where a sequence is one sample.
    #[serde(default = "sequence_loss_weight")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sequence_loss_weight: f64,
    /// Weight of the MTP loss `[lambda]`.
    #[serde(default = "mtp_weight")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub mtp_weight: f64,
    /// Share of conversations held out for validation.
    #[serde(default = "validation_fraction")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub validation_fraction: f64,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpointing,
}

fn sequence_length() -> u32 {
    4096
}

fn epochs() -> u32 {
    2
}

fn sequence_loss_weight() -> f64 {
    1e-4
}

fn mtp_weight() -> f64 {
    0.1
}

fn validation_fraction() -> f64 {
    0.01
}

/// Where conversations come from: JSON Lines or Parquet with a list of `{role, content}` messages per row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conversations {
    /// Glob patterns of files.
    #[schemars(length(min = 1, max = 10_000))]
    pub paths: Vec<String>,
    /// Glob patterns of files to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Field that holds the list of messages.
    #[serde(default = "messages_field")]
    pub messages_field: String,
    /// How often each conversation is used per epoch.
    #[serde(default = "weight")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: f64,
    /// Read at most this much from this source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Bytes>,
}

fn messages_field() -> String {
    "messages".into()
}

fn weight() -> f64 {
    1.0
}

/// Cosine decay over a whole phase.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Decay {
    /// Rate at the start.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub from: f64,
    /// Rate at the end.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub to: f64,
}

impl Default for Decay {
    fn default() -> Self {
        Self { from: 5e-6, to: 1e-6 }
    }
}
