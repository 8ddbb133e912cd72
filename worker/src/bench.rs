//! Benchmarks of whole training steps.

use crate::error::{Error, Result};
use crate::model::{BatchDims, Model, Recipe, Storage};
use crate::train::{StepSettings, Trainer, init};
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Cpu, Kernels};
use fathom_spec::architecture::Architecture;
use fathom_spec::manifest::{Optimizer, Precision};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Instant;

/// What [`train`] measures.
#[derive(Clone, Debug)]
pub struct TrainBench {
    /// The model; its `num_nextn_predict_layers` says whether MTP takes part.
    pub architecture: Architecture,
    /// Tokens per sequence.
    pub sequence_length: usize,
    /// Sequences per step.
    pub batch: usize,
    /// Measured steps, after two that are not.
    pub steps: usize,
    /// Threads; 0 means one per core.
    pub threads: usize,
    /// Arithmetic.
    pub precision: Precision,
    /// Whether the backward pass recomputes what it can.
    pub recompute: bool,
}

/// Result of [`train`].
#[derive(Clone, Debug, PartialEq)]
pub struct TrainFigures {
    /// Median over the steps.
    pub tokens_per_second: f64,
    /// Floating-point operations per second of the median step by the formula of the model's size (recomputation not counted), in units of 10^9.
    pub gflops: f64,
    /// `gflops` over the peak of all threads, measured just before: of multiply-adds in `f32`, of products of BF16 pairs otherwise.
    pub share_of_peak: f64,
    /// Largest resident set of the process so far.
    pub peak_rss_bytes: u64,
    /// Loss of the last step: a reminder that the steps are real.
    pub loss: f64,
}

/// Times full steps (forward, backward, clip, AdamW, bias update) on random tokens.
///
/// # Errors
/// If the batch shape cannot be run.
pub fn train(bench: &TrainBench) -> Result<TrainFigures> {
    let dims = BatchDims {
        sequences: bench.batch,
        length: bench.sequence_length,
    };
    if bench.batch == 0 || bench.steps == 0 || bench.sequence_length <= bench.architecture.num_nextn_predict_layers as usize {
        return Err(Error::Config {
            problem: format!(
                "{} steps of {} sequences of {} tokens",
                bench.steps, bench.batch, bench.sequence_length
            ),
            cure: "use at least one step, one sequence and more tokens than MTP modules".into(),
        });
    }
    match bench.precision {
        Precision::F32 => steps::<f32>(bench, dims),
        Precision::Bf16 | Precision::Fp8 => steps::<Bf16>(bench, dims),
    }
}

fn steps<A: Storage>(bench: &TrainBench, dims: BatchDims) -> Result<TrainFigures> {
    let kernels = Cpu::new(bench.threads);
    let peak = match bench.precision {
        Precision::F32 => fathom_kernels::bench::peak_flops(&kernels),
        Precision::Bf16 | Precision::Fp8 => fathom_kernels::bench::peak_flops_bf16(&kernels),
    };
    let mut trainer = trainer::<_, A>(kernels, bench, dims);
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut seconds = Vec::with_capacity(bench.steps);
    let mut loss = f64::NAN;
    for step in 0..bench.steps as u64 + 2 {
        let rows: Vec<u32> = (0..bench.batch * (bench.sequence_length + 1))
            .map(|_| random.next_u32() % bench.architecture.vocab_size)
            .collect();
        let start = Instant::now();
        loss = trainer
            .step(step + 1, &rows, SETTINGS, &|| false)
            .expect("never interrupted")
            .total_loss;
        if step >= 2 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let tokens_per_second = dims.rows() as f64 / seconds[seconds.len() / 2];
    let flops = fathom_spec::size::flops_per_token(&bench.architecture, bench.sequence_length as u32).training_with_mtp();
    let gflops = tokens_per_second * flops / 1e9;
    Ok(TrainFigures {
        tokens_per_second,
        gflops,
        share_of_peak: gflops * 1e9 / peak,
        peak_rss_bytes: peak_rss_bytes(),
        loss,
    })
}

const SETTINGS: StepSettings = StepSettings {
    learning_rate: 1e-3,
    mtp_weight: 0.3,
    balance_weight: 1e-4,
    bias_update_speed: 1e-3,
    bias_centered: false,
};

fn trainer<K: Kernels, A: Storage>(kernels: K, bench: &TrainBench, dims: BatchDims) -> Trainer<K, A> {
    let recipe = Recipe {
        precision: bench.precision,
        recompute: bench.recompute,
        ..Recipe::F32
    };
    let mut model = Model::new(kernels, bench.architecture.clone(), dims.length, recipe);
    init::initialise(&mut model, 0);
    let optimizer = Optimizer {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.1,
        clip_norm: 1.0,
    };
    Trainer::new(model, optimizer, dims)
}

/// `VmHWM` of this process; 0 where there is no `/proc`.
fn peak_rss_bytes() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else {
        return 0;
    };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
