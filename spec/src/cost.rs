//! Time and money, from floating-point operations and a throughput that is an input.

use crate::architecture::Architecture;
use crate::artifact::ArtifactKind;
use crate::job::{PhaseWork, ValidatedJob, ValidatedPhase};
use crate::manifest::Batch;
use crate::memory::{CpuMemory, CpuTraining, cpu_memory};
use crate::quantity::Tokens;
use crate::size::flops_per_token;

/// What a device sustains and costs.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    /// Floating-point operations per second and device in linear layers, everything that overlaps with them included.
    pub linear_flops: f64,
    /// Floating-point operations per second and device in the attention core.
    pub attention_flops: f64,
    /// Price of an hour of a device, in dollars.
    pub dollars_per_hour: f64,
}

impl Throughput {
    /// An H800 as the paper used it: 437 TFLOP/s in FP8 linear layers and 211.6 TFLOP/s in BF16 attention, at 2 dollars per hour.
    ///
    /// The two rates are the solution of two published facts: 180K GPU hours per trillion tokens of pre-training at 4K tokens per row,
    /// and 119K GPU hours for two extension stages of 1,000 steps at 32K and 128K (paper, table 1 and sections 4.2 and 4.3). One rate for
    /// everything cannot explain both: attention is 12% of the work at 4K and 74% in the extension, and it is slower.
    pub const H800: Self = Self {
        linear_flops: 437.0e12,
        attention_flops: 211.6e12,
        dollars_per_hour: 2.0,
    };

    /// A device that sustains one measured rate in everything, without a price.
    #[must_use]
    pub const fn measured(flops: f64) -> Self {
        Self {
            linear_flops: flops,
            attention_flops: flops,
            dollars_per_hour: 0.0,
        }
    }

    /// Device seconds per token of training the main model on rows of `sequence_length` tokens. MTP is not counted, as in the
    /// published figures that rates are compared with; `mtp` adds it.
    #[must_use]
    pub fn seconds_per_token(&self, a: &Architecture, sequence_length: u32, mtp: bool) -> f64 {
        let flops = flops_per_token(a, sequence_length);
        let (mtp_linear, mtp_attention) = if mtp { (flops.mtp_linear, flops.mtp_attention) } else { (0.0, 0.0) };
        3.0 * ((flops.linear + mtp_linear) / self.linear_flops + (flops.attention + mtp_attention) / self.attention_flops)
    }

    /// The estimate for `tokens` tokens.
    #[must_use]
    pub fn train(&self, a: &Architecture, sequence_length: u32, tokens: f64, mtp: bool) -> Estimate {
        self.estimate(tokens * self.seconds_per_token(a, sequence_length, mtp))
    }

    /// The estimate for a number of device seconds.
    #[must_use]
    pub fn estimate(&self, device_seconds: f64) -> Estimate {
        let device_hours = device_seconds / 3600.0;
        Estimate {
            device_hours,
            dollars: device_hours * self.dollars_per_hour,
        }
    }
}

/// What training takes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Hours of one device.
    pub device_hours: f64,
    /// Their price.
    pub dollars: f64,
}

impl std::ops::Add for Estimate {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            device_hours: self.device_hours + other.device_hours,
            dollars: self.dollars + other.dollars,
        }
    }
}

/// What a training phase of a job has to do.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Tokens to train on.
    pub tokens: Tokens,
    /// Tokens per row.
    pub sequence_length: u32,
    /// Floating-point operations in all, MTP included.
    pub flops: f64,
    /// Memory of one CPU process.
    pub memory: CpuMemory,
}

impl Workload {
    /// The estimate for a measured rate of tokens, at a price per hour of the device.
    #[must_use]
    pub fn at_tokens_per_second(&self, rate: f64, dollars_per_hour: f64) -> Estimate {
        let throughput = Throughput {
            dollars_per_hour,
            ..Throughput::measured(1.0)
        };
        throughput.estimate(self.tokens.0 as f64 / rate)
    }

    /// The estimate for a measured rate of floating-point operations, at a price per hour of the device.
    #[must_use]
    pub fn at_flops_per_second(&self, rate: f64, dollars_per_hour: f64) -> Estimate {
        let throughput = Throughput {
            dollars_per_hour,
            ..Throughput::measured(rate)
        };
        throughput.estimate(self.flops / rate)
    }
}

/// The training that `phase` of `job` is: its tokens, and what one of its ranks holds at a time. None for phases whose amount of training does not
/// follow from the manifest alone.
#[must_use]
pub fn training(job: &ValidatedJob, phase: &ValidatedPhase) -> Option<(Tokens, CpuTraining)> {
    let of_batch = |sequence_length, batch: &Batch, ema| CpuTraining {
        sequence_length,
        micro_batch: batch.micro_batch,
        micro_batches: batch.micro_batches(job.parallelism.data),
        ema,
    };
    match &phase.work {
        PhaseWork::Pretrain(pretrain) => {
            let corpus = job.phases.get(*phase.inputs.get(&ArtifactKind::Corpus)?)?;
            let PhaseWork::Corpus(corpus) = &corpus.work else { return None };
            let training = of_batch(corpus.sequence_length, &pretrain.batch, pretrain.ema.is_some());
            Some((pretrain.tokens, training))
        }
        PhaseWork::Extend(extend) => {
            let per_step = u64::from(extend.sequence_length) * u64::from(extend.batch.sequences);
            let tokens = Tokens(extend.steps.saturating_mul(per_step));
            Some((tokens, of_batch(extend.sequence_length, &extend.batch, false)))
        }
        PhaseWork::Tokenizer(_)
        | PhaseWork::Corpus(_)
        | PhaseWork::Sft(_)
        | PhaseWork::Grpo(_)
        | PhaseWork::Evaluate(_)
        | PhaseWork::Serve(_) => None,
    }
}

/// What `phase` of `job` has to do; none where there is no [`training`].
#[must_use]
pub fn workload(job: &ValidatedJob, phase: &ValidatedPhase) -> Option<Workload> {
    let (tokens, training) = training(job, phase)?;
    let per_token = flops_per_token(&job.architecture, training.sequence_length).training_with_mtp();
    Some(Workload {
        tokens,
        sequence_length: training.sequence_length,
        flops: tokens.0 as f64 * per_token,
        memory: cpu_memory(&job.architecture, job.precision, training),
    })
}

/// The paper's table 1, recomputed.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainingCosts {
    /// Pre-training.
    pub pretraining: Estimate,
    /// Context extension.
    pub extension: Estimate,
    /// Post-training.
    pub post_training: Estimate,
}

impl TrainingCosts {
    /// The sum.
    #[must_use]
    pub fn total(&self) -> Estimate {
        self.pretraining + self.extension + self.post_training
    }
}

/// One stretch of training on rows of one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// Tokens per row.
    pub sequence_length: u32,
    /// Tokens in all.
    pub tokens: f64,
}

/// What DeepSeek-V3's training consisted of (paper, sections 4.2, 4.3 and 5).
pub mod deepseek_v3 {
    use super::Stretch;

    /// 14.8T tokens in rows of 4K.
    pub const PRETRAINING: [Stretch; 1] = [Stretch {
        sequence_length: 4096,
        tokens: 14.8e12,
    }];

    /// 1,000 steps of 1,920 rows of 32K, then 1,000 steps of 480 rows of 128K.
    pub const EXTENSION: [Stretch; 2] = [
        Stretch {
            sequence_length: 32_768,
            tokens: 1_000.0 * 1_920.0 * 32_768.0,
        },
        Stretch {
            sequence_length: 131_072,
            tokens: 1_000.0 * 480.0 * 131_072.0,
        },
    ];

    /// An assumption: the paper gives neither the length of its 1.5M instances nor the amount of reinforcement learning. This many
    /// training tokens at 4K take its 5K GPU hours.
    pub const POST_TRAINING: [Stretch; 1] = [Stretch {
        sequence_length: 4096,
        tokens: 27.8e9,
    }];
}

/// Costs of training `a` for the given stretches, MTP not counted.
#[must_use]
pub fn training_costs(
    a: &Architecture,
    throughput: &Throughput,
    pretraining: &[Stretch],
    extension: &[Stretch],
    post_training: &[Stretch],
) -> TrainingCosts {
    let cost = |stretches: &[Stretch]| {
        let seconds = stretches
            .iter()
            .map(|stretch| stretch.tokens * throughput.seconds_per_token(a, stretch.sequence_length, false))
            .sum();
        throughput.estimate(seconds)
    };
    TrainingCosts {
        pretraining: cost(pretraining),
        extension: cost(extension),
        post_training: cost(post_training),
    }
}
