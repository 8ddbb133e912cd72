//! What a job takes: parameters, operations, memory, time and money, from its manifest alone.

use fathom_kernels::Cpu;
use fathom_spec::cost::{Estimate, Throughput, deepseek_v3, training, training_costs};
use fathom_spec::manifest::{Device, Precision, Preset};
use fathom_spec::memory::{ActivationPolicy, CpuTraining, DualPipe, cpu_memory, dualpipe_memory};
use fathom_spec::size::{Parameters, flops_per_token, parameters};
use fathom_spec::{ValidatedJob, ValidatedPhase};
use serde::Serialize;

/// Share of the register peak that training sustains on a CPU, for estimates.
const CPU_SHARE_OF_PEAK: f64 = 1.0 / 3.0;

/// Speed and price of a device.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    throughput: Throughput,
    source: Source,
}

/// Where a speed comes from.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Source {
    Given,
    MeasuredPeak,
    H800,
}

impl Rates {
    /// The rates that the user gives, or defaults for the job's device; the peak of this machine's cores is measured if it is needed.
    pub fn new(job: &ValidatedJob, flops: Option<f64>, price: Option<f64>) -> Self {
        let (mut throughput, source) = match (flops, job.worker.device) {
            (Some(flops), _) => (Throughput::measured(flops), Source::Given),
            (None, Device::Cuda) => (Throughput::H800, Source::H800),
            (None, Device::Cpu) => {
                let peak = fathom_kernels::bench::peak_flops(&Cpu::new(job.worker.threads as usize));
                (Throughput::measured(peak * CPU_SHARE_OF_PEAK), Source::MeasuredPeak)
            }
        };
        let usual = match job.worker.device {
            Device::Cuda => Throughput::H800.dollars_per_hour,
            Device::Cpu => 0.0,
        };
        throughput.dollars_per_hour = price.unwrap_or(usual);
        Self { throughput, source }
    }

    /// For people.
    pub fn describe(&self) -> String {
        let giga = self.throughput.linear_flops / 1e9;
        match self.source {
            Source::Given => format!("{giga:.0} GFLOP/s, as given"),
            Source::MeasuredPeak => format!("{giga:.0} GFLOP/s, a third of the measured peak (give --flops for a better estimate)"),
            Source::H800 => "an H800's speed in the report".to_owned(),
        }
    }

    /// Dollars per device and hour.
    pub fn dollars_per_hour(&self) -> f64 {
        self.throughput.dollars_per_hour
    }
}

/// What a job takes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimates {
    /// Trainable parameters.
    pub parameters: Parameters,
    /// Tokens per row of the first phase that trains.
    pub sequence_length: Option<u32>,
    /// Operations per trained token of that phase, MTP not counted.
    pub training_flops_per_token: f64,
    /// What MTP adds.
    pub mtp_flops_per_token: f64,
    /// Bytes that one device needs while that phase trains.
    pub memory: Option<f64>,
    /// What needs that memory.
    pub memory_of: &'static str,
    /// Devices that train together.
    pub devices: u32,
    /// Speed and price of one of them.
    pub rates: Rates,
    /// Per phase that trains and whose amount of work is known.
    pub phases: Vec<PhaseEstimate>,
    /// The report's table 1, for its own model.
    pub table1: Option<Table1>,
}

/// What a phase takes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseEstimate {
    /// Its name.
    pub name: String,
    /// Tokens that it trains on.
    pub tokens: f64,
    /// Seconds on all devices.
    pub seconds: f64,
    /// Dollars.
    pub dollars: f64,
}

impl Estimates {
    /// The estimate of a phase.
    pub fn phase(&self, name: &str) -> Option<&PhaseEstimate> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// Device hours and dollars by kind of training.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Table1 {
    pretraining: Estimate,
    extension: Estimate,
    post_training: Estimate,
    total: Estimate,
}

impl Table1 {
    /// Its rows.
    pub fn rows(&self) -> [(&'static str, Estimate); 4] {
        [
            ("Pre-training", self.pretraining),
            ("Context extension", self.extension),
            ("Post-training (assuming 27.8B tokens)", self.post_training),
            ("Total", self.total),
        ]
    }
}

/// A phase that trains.
struct Training<'a> {
    phase: &'a ValidatedPhase,
    tokens: f64,
    /// Of one rank.
    memory: CpuTraining,
}

/// Estimates a job.
pub fn estimate(job: &ValidatedJob, rates: Rates) -> Estimates {
    let a = &job.architecture;
    let trainings: Vec<Training<'_>> = job
        .phases
        .iter()
        .filter_map(|phase| {
            let (tokens, memory) = training(job, phase)?;
            let tokens = tokens.0 as f64;
            Some(Training { phase, tokens, memory })
        })
        .collect();
    let devices = match job.worker.device {
        Device::Cpu => 1,
        Device::Cuda => job
            .parallelism
            .pipeline
            .saturating_mul(job.parallelism.data.max(job.parallelism.expert)),
    };
    let mtp = a.num_nextn_predict_layers > 0;
    let phases: Vec<PhaseEstimate> = trainings
        .iter()
        .map(|training| {
            let cost = rates.throughput.train(a, training.memory.sequence_length, training.tokens, mtp);
            PhaseEstimate {
                name: training.phase.name.clone(),
                tokens: training.tokens,
                seconds: cost.device_hours * 3600.0 / f64::from(devices.max(1)),
                dollars: cost.dollars,
            }
        })
        .collect();
    let first = trainings.first();
    let flops = first.map(|training| flops_per_token(a, training.memory.sequence_length));
    let (memory, memory_of) = first.map_or((None, ""), |training| memory(job, training));
    Estimates {
        parameters: parameters(a),
        sequence_length: first.map(|training| training.memory.sequence_length),
        training_flops_per_token: flops.map_or(0.0, |flops| flops.training()),
        mtp_flops_per_token: flops.map_or(0.0, |flops| flops.mtp_training()),
        memory,
        memory_of,
        devices,
        rates,
        phases,
        table1: table1(job, &rates),
    }
}

fn memory(job: &ValidatedJob, training: &Training<'_>) -> (Option<f64>, &'static str) {
    let a = &job.architecture;
    match job.worker.device {
        Device::Cpu => {
            let total = cpu_memory(a, job.precision, training.memory).total();
            let parts = if training.memory.ema {
                "at the peak of training (weights, gradients, moments, average, activations)"
            } else {
                "at the peak of training (weights, gradients, moments, activations)"
            };
            (Some(total as f64), parts)
        }
        Device::Cuda if job.parallelism.pipeline >= 2 => {
            let layout = DualPipe {
                pipeline: job.parallelism.pipeline,
                expert: job.parallelism.expert,
                data: job.parallelism.data,
                layers_per_stage: a.num_hidden_layers.div_ceil(job.parallelism.pipeline),
                mirror_sharding: false,
            };
            let policy = match job.precision {
                Precision::Fp8 => ActivationPolicy::Fp8 {
                    scale_bytes: 4,
                    keep_received: true,
                },
                Precision::Bf16 => ActivationPolicy::Plain { value_bytes: 2 },
                Precision::F32 => ActivationPolicy::Plain { value_bytes: 4 },
            };
            let tokens = training.memory.sequence_length.saturating_mul(training.memory.micro_batch);
            let memory = dualpipe_memory(a, layout, tokens, policy);
            let total = memory.weights + memory.gradients + memory.optimizer + memory.activations;
            (
                Some(total),
                "on an interior rank (weights, gradients, optimizer, activations; buffers not counted)",
            )
        }
        Device::Cuda => (None, ""),
    }
}

/// The report's table, for a job with its model. The tokens of post-training are an assumption of ours.
fn table1(job: &ValidatedJob, rates: &Rates) -> Option<Table1> {
    if job.preset != Some(Preset::V3) || job.worker.device != Device::Cuda {
        return None;
    }
    let costs = training_costs(
        &job.architecture,
        &rates.throughput,
        &deepseek_v3::PRETRAINING,
        &deepseek_v3::EXTENSION,
        &deepseek_v3::POST_TRAINING,
    );
    Some(Table1 {
        pretraining: costs.pretraining,
        extension: costs.extension,
        post_training: costs.post_training,
        total: costs.total(),
    })
}
