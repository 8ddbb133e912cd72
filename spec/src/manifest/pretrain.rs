//! Pre-training.

use crate::quantity::{Milestone, Tokens};
use serde::{Deserialize, Serialize};

/// Pre-train a model (paper, section 4).
// `L` is the learning-rate schedule: resolved for the worker, `Option<LearningRateForm>` in the manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Pretrain")]
pub struct Pretrain<L = LearningRate> {
    /// Tokens to train on; the corpus is repeated if it is smaller.
    pub tokens: Tokens,
    /// Batch size and its ramp.
    pub batch: Batch,
    /// Learning-rate schedule.
    pub learning_rate: L,
    /// AdamW.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// Expert load balancing.
    #[serde(default)]
    pub balance: Balance,
    /// Multi-token prediction.
    #[serde(default)]
    pub mtp: Mtp,
    /// Checkpoints.
    #[serde(default)]
    pub checkpoint: Checkpointing,
    /// Evaluation on the held-out split.
    #[serde(default)]
    pub validation: Validation,
    /// Moving average of the parameters; none by default. It changes nothing of what is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema: Option<Ema>,
}

/// Global batch size in sequences, ramped linearly in tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", from = "BatchForm")]
#[schemars(with = "BatchForm")]
pub struct Batch {
    /// Sequences per optimizer step, after the ramp.
    pub sequences: u32,
    /// Sequences per optimizer step at the start of the ramp; equal to `sequences` for none.
    pub ramp_from: u32,
    /// Where the ramp ends.
    pub ramp_until: Milestone,
    /// Sequences per forward and backward pass; gradients are accumulated over them. Batch sizes are multiples of it.
    pub micro_batch: u32,
}

/// [`Batch`] as a user writes it.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Batch")]
struct BatchForm {
    /// Sequences per optimizer step, after the ramp.
    #[schemars(range(min = 1, max = 1_048_576))]
    sequences: u32,
    /// Sequences per optimizer step at the start of the ramp; equal to `sequences`, for no ramp, by default.
    #[schemars(range(min = 1, max = 1_048_576))]
    ramp_from: Option<u32>,
    /// Where the ramp ends.
    #[serde(default = "start")]
    ramp_until: Milestone,
    /// Sequences per forward and backward pass; gradients are accumulated over them. Batch sizes are multiples of it. By default the
    /// largest number up to 8 that divides `sequences` and `rampFrom`.
    #[schemars(range(min = 1, max = 1_048_576))]
    micro_batch: Option<u32>,
}

impl Batch {
    /// Micro-batches of a full step on each of so many ranks.
    #[must_use]
    pub const fn micro_batches(&self, ranks: u32) -> u32 {
        let Some(micro_batches) = self.sequences.checked_div(self.micro_batch.saturating_mul(ranks)) else {
            return 1;
        };
        if micro_batches == 0 { 1 } else { micro_batches }
    }
}

impl From<BatchForm> for Batch {
    fn from(form: BatchForm) -> Self {
        let BatchForm {
            sequences,
            ramp_from,
            ramp_until,
            micro_batch,
        } = form;
        let ramp_from = ramp_from.unwrap_or(sequences);
        let divides = |size: &u32| sequences % size == 0 && ramp_from % size == 0;
        Self {
            sequences,
            ramp_from,
            ramp_until,
            micro_batch: micro_batch.unwrap_or_else(|| (1..=8).rev().find(divides).unwrap_or(1)),
        }
    }
}

const fn start() -> Milestone {
    Milestone::Tokens(Tokens(0))
}

/// Warm-up, constant, cosine, constant, final constant (paper, section 4.2), all by tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LearningRate {
    /// Highest rate.
    pub peak: f64,
    /// Rate after the cosine; a tenth of the peak by default.
    pub floor: f64,
    /// Rate of the last stretch; a third of the floor by default.
    #[serde(rename = "final")]
    pub last: f64,
    /// Where the linear warm-up from 0 ends.
    pub warmup_until: Milestone,
    /// Where the cosine begins.
    pub decay_from: Milestone,
    /// Where the cosine ends.
    pub decay_until: Milestone,
    /// Where the last stretch begins.
    pub final_from: Milestone,
}

/// [`LearningRate`] as a user writes it: rates that are left out follow from the peak, and the peak from the model's width.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[schemars(rename = "LearningRate")]
pub struct LearningRateForm {
    /// Highest rate. By default a power law through 2.2e-4 at the full model's width 7168 and 3e-3 at width 256:
    /// `2.2e-4 * (7168 / hidden_size)^0.784`, to two digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub peak: Option<f64>,
    /// Rate after the cosine; a tenth of the peak by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub floor: Option<f64>,
    /// Rate of the last stretch; a third of the floor by default.
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub last: Option<f64>,
    /// Where the linear warm-up from 0 ends.
    pub warmup_until: Milestone,
    /// Where the cosine begins.
    pub decay_from: Milestone,
    /// Where the cosine ends.
    pub decay_until: Milestone,
    /// Where the last stretch begins.
    pub final_from: Milestone,
}

impl Default for LearningRateForm {
    /// The paper's schedule in shares of its 14.8T tokens; the warm-up is the proxies' (2,000 steps are 0.8% of the paper's run).
    fn default() -> Self {
        Self {
            peak: None,
            floor: None,
            last: None,
            warmup_until: Milestone::Fraction(0.01),
            decay_from: Milestone::Fraction(0.676),
            decay_until: Milestone::Fraction(0.966),
            final_from: Milestone::Fraction(0.989),
        }
    }
}

impl LearningRateForm {
    /// The schedule with every default filled in, for a model of width `hidden_size`.
    #[must_use]
    pub fn resolve(&self, hidden_size: u32) -> LearningRate {
        let Self {
            peak,
            floor,
            last,
            warmup_until,
            decay_from,
            decay_until,
            final_from,
        } = *self;
        let peak = peak.unwrap_or_else(|| default_peak(hidden_size));
        let floor = floor.unwrap_or_else(|| round_to_digits(peak / 10.0, 4));
        LearningRate {
            peak,
            floor,
            last: last.unwrap_or_else(|| round_to_digits(floor / 3.0, 4)),
            warmup_until,
            decay_from,
            decay_until,
            final_from,
        }
    }
}

/// Peak learning rate for a width; see [`LearningRateForm::peak`].
fn default_peak(hidden_size: u32) -> f64 {
    round_to_digits(2.2e-4 * (7168.0 / f64::from(hidden_size.max(1))).powf(0.784), 2).min(0.05)
}

/// The nearest number with `digits` significant decimal digits, so that defaults print short and do not depend on the last bit of `powf`.
fn round_to_digits(value: f64, digits: usize) -> f64 {
    format!("{value:.*e}", digits.saturating_sub(1)).parse().unwrap_or(value)
}

/// AdamW with decoupled weight decay on matrices (not on gains) and global gradient-norm clipping.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Optimizer {
    /// Decay of the first moment.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(range(min = 0.0, max = 0.999_999))]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub epsilon: f64,
    /// Weight decay.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight_decay: f64,
    /// Largest global gradient norm.
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        }
    }
}

/// Expert load balancing (paper, section 2.1.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Balance {
    /// What keeps the load even.
    pub method: BalanceMethod,
    /// Step of the routing bias per optimizer step `[gamma]`; only with `auxiliary-loss-free`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub bias_update_speed: f64,
    /// Where the bias is frozen.
    pub bias_update_until: Milestone,
    /// Subtract the mean of the bias update, so that the sum of biases stays constant.
    pub centered: bool,
    /// Factor of the auxiliary loss `[alpha]`. With `sequence` and `batch` it is all that balances: a tenth to a hundredth is usual there.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub loss_weight: f64,
    /// Which selection the auxiliary loss counts.
    pub loss_selection: BalanceSelection,
}

impl Default for Balance {
    fn default() -> Self {
        Self {
            method: BalanceMethod::AuxiliaryLossFree,
            bias_update_speed: 0.001,
            bias_update_until: Milestone::Fraction(0.966),
            centered: false,
            loss_weight: 1e-4,
            loss_selection: BalanceSelection::Unbiased,
        }
    }
}

/// What keeps the load of experts even (paper, sections 2.1.2 and 4.5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceMethod {
    /// A bias per expert that only the selection sees, with a complementary sequence-wise loss of small weight.
    #[default]
    AuxiliaryLossFree,
    /// A loss on the load within each sequence; no bias.
    Sequence,
    /// A loss on the load within each micro-batch; no bias.
    Batch,
}

/// Which selection the balance loss counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BalanceSelection {
    /// Top-K of the raw scores, as the paper's formula is printed.
    Unbiased,
    /// The experts that tokens are really sent to.
    Dispatched,
}

/// Multi-token prediction (paper, section 2.2). The depth is `num_nextn_predict_layers` of the architecture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mtp {
    /// Weight of the MTP loss at the start `[lambda]`.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub weight: f64,
    /// Weight of the MTP loss at the end.
    #[schemars(range(min = 0.0, max = 10.0))]
    pub final_weight: f64,
    /// Where the weight changes.
    pub final_from: Milestone,
}

impl Default for Mtp {
    fn default() -> Self {
        Self {
            weight: 0.3,
            final_weight: 0.1,
            final_from: Milestone::Fraction(0.676),
        }
    }
}

/// When checkpoints are written and which are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Checkpointing {
    /// Distance between checkpoints.
    pub every: Milestone,
    /// Newest checkpoints that are kept while the phase runs.
    #[schemars(range(min = 1, max = 1000))]
    pub keep: u32,
}

impl Default for Checkpointing {
    fn default() -> Self {
        Self {
            every: Milestone::Fraction(0.1),
            keep: 3,
        }
    }
}

/// Evaluation on the held-out split.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Validation {
    /// Distance between evaluations; the last step is always evaluated, over the whole split.
    pub every: Milestone,
    /// Rows per evaluation, the last one excepted; of each source of the corpus its share.
    #[schemars(range(min = 1))]
    pub rows: u32,
}

impl Default for Validation {
    fn default() -> Self {
        Self {
            every: Milestone::Fraction(0.1),
            rows: 64,
        }
    }
}

/// Exponential moving average of the parameters in FP32: an early estimate of the model after the decay of the learning rate (paper, section
/// 3.2.2). Each validation evaluates it too, and the artifact holds it as a second model, in `ema/`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ema {
    /// Weight of the past at each optimizer step: about the last `1 / (1 - decay)` steps count. The initial weights do not. The paper gives no
    /// value.
    #[schemars(range(min = 0.0, max = 0.99999))]
    pub decay: f64,
}

impl Default for Ema {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}
