//! Context extension.

use super::{Balance, Batch, Checkpointing, Optimizer};
use crate::architecture::RopeScaling;
use serde::{Deserialize, Serialize};

/// Extend the context with YaRN (paper, section 4.3). Rotary frequencies and softmax scale switch together when the phase begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extend {
    /// Tokens per row in this phase `[T]`. Its corpus is packed to this length.
    #[schemars(range(min = 2, max = 16_777_216))]
    pub sequence_length: u32,
    /// Optimizer steps.
    #[serde(default = "steps")]
    #[schemars(range(min = 1))]
    pub steps: u64,
    /// Batch size; the paper keeps the tokens per step of pre-training.
    pub batch: Batch,
    /// Learning rate, constant; the last one of pre-training.
    #[serde(default = "learning_rate")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub learning_rate: f64,
    /// YaRN.
    #[serde(default)]
    pub yarn: Yarn,
    /// AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Expert load balancing.
    #[serde(default)]
    pub balance: Balance,
    /// Weight of the MTP loss `[lambda]`.
    #[serde(default = "mtp_weight")]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub mtp_weight: f64,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpointing,
}

fn steps() -> u64 {
    1000
}

fn learning_rate() -> f64 {
    7.3e-6
}

fn mtp_weight() -> f64 {
    0.1
}

/// YaRN, under the names of `config.json` in camel case.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Yarn {
    /// Extension factor `[s]`.
    #[schemars(range(min = 1.0))]
    pub factor: f64,
    /// Rotations above which a frequency is left alone.
    #[schemars(range(min = 0.0))]
    pub beta_fast: f64,
    /// Rotations below which a frequency is fully interpolated.
    #[schemars(range(min = 0.0))]
    pub beta_slow: f64,
    /// Factor in the attention temperature of cos and sin.
    #[schemars(range(min = 0.0))]
    pub mscale: f64,
    /// Factor in the attention temperature of the softmax scale.
    #[schemars(range(min = 0.0))]
    pub mscale_all_dim: f64,
}

impl Default for Yarn {
    fn default() -> Self {
        Self {
            factor: 40.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: 1.0,
            mscale_all_dim: 1.0,
        }
    }
}

impl Yarn {
    /// The setting of a model that was pre-trained on sequences of `original_length` tokens.
    #[must_use]
    pub fn scaling(self, original_length: u32) -> RopeScaling {
        let Self {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
        } = self;
        RopeScaling {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            original_max_position_embeddings: original_length,
        }
    }
}
