//! `fathom bench`: how fast this machine is, one JSON line per result.

mod history;

use super::{PrecisionArg, worker_failure};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use fathom_kernels::Cpu;
use fathom_kernels::bench::{self, Measurement};
use fathom_spec::architecture::Architecture;
use fathom_spec::manifest::Precision;
use fathom_spec::memory::{CpuTraining, cpu_memory};
use fathom_worker::bench::{TrainBench, train};
use fathom_worker::data::encode::bench_encode;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: BenchCommand,
}

/// What to measure.
#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    /// Full training steps (forward, backward, clip, AdamW, bias update) on random tokens
    Train(TrainArgs),
    /// Matrix products: one shape, or those of a training step
    Gemm(GemmArgs),
    /// Every operation of the training core at typical shapes
    Ops(OpsArgs),
    /// The history over REST: ingest, reads, live readers; in the embedded database or that of `DATABASE_URL`
    History(history::Args),
    /// Encoding of text, one thread, beside the `tokenizers` crate
    Encode(EncodeArgs),
}

#[derive(Debug, clap::Args)]
struct TrainArgs {
    /// The model: a config.json
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Tokens per sequence
    #[arg(long, value_name = "T")]
    sequence_length: usize,
    /// Sequences per step
    #[arg(long, value_name = "B")]
    batch: usize,
    /// Measured steps; two more come before
    #[arg(long, value_name = "N", default_value_t = 10)]
    steps: usize,
    /// Arithmetic
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32)]
    precision: PrecisionArg,
    /// Recompute norms, up-projections and SwiGLU outputs in the backward pass, as fp8 always does
    #[arg(long)]
    recompute: bool,
    /// MTP modules, instead of those of the config
    #[arg(long, value_name = "D", value_parser = clap::value_parser!(u32).range(0..=8))]
    mtp: Option<u32>,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

#[derive(Debug, clap::Args)]
struct GemmArgs {
    /// Rows, columns and terms; the shapes of a training step by default
    #[arg(long, value_name = "MxNxK", value_parser = shape)]
    shape: Option<Shape>,
    /// Arithmetic of `--shape`; the shapes of a training step are measured in all
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32, requires = "shape")]
    precision: PrecisionArg,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

#[derive(Debug, clap::Args)]
struct OpsArgs {
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

#[derive(Debug, clap::Args)]
struct EncodeArgs {
    /// Directory with tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: PathBuf,
    /// Text files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Passes over the text
    #[arg(long, default_value_t = 5, value_name = "N")]
    passes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    m: usize,
    n: usize,
    k: usize,
}

fn shape(text: &str) -> Result<Shape, String> {
    let sizes: Vec<usize> = text
        .split('x')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .map_err(|_| "write it as 4096x7168x2048")?;
    match sizes[..] {
        [m, n, k] if [m, n, k].iter().all(|&size| (1..=1 << 20).contains(&size)) => Ok(Shape { m, n, k }),
        _ => Err("write three sizes from 1 to 1048576, as in 4096x7168x2048".into()),
    }
}

/// Runs the command.
pub fn run(args: &Args) -> Result {
    match &args.command {
        BenchCommand::Train(args) => train_steps(args),
        BenchCommand::Gemm(GemmArgs { shape, precision, threads }) => {
            let cpu = Cpu::new(*threads);
            let measurements = match *shape {
                Some(Shape { m, n, k }) => vec![bench::product(&cpu, operands(*precision), m, n, k)],
                None => bench::gemm(&cpu),
            };
            lines(measurements.iter().map(measurement))
        }
        BenchCommand::Ops(OpsArgs { threads }) => lines(bench::operations(&Cpu::new(*threads)).iter().map(measurement)),
        BenchCommand::History(args) => history::run(args),
        BenchCommand::Encode(args) => encode(args),
    }
}

const fn operands(precision: PrecisionArg) -> bench::Precision {
    match precision {
        PrecisionArg::F32 => bench::Precision::F32,
        PrecisionArg::Bf16 => bench::Precision::Bf16,
        PrecisionArg::Fp8 => bench::Precision::Fp8,
    }
}

fn train_steps(args: &TrainArgs) -> Result {
    let TrainArgs {
        config,
        sequence_length,
        batch,
        steps,
        precision,
        recompute,
        mtp,
        threads,
    } = args;
    let text = std::fs::read_to_string(config).map_err(|error| Failure::io("read", config, &error))?;
    let mut architecture = Architecture::from_config_json(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} is not usable", config.display())).caused_by(&error))?;
    let precision = Precision::from(*precision);
    if let Some(depth) = mtp {
        architecture.num_nextn_predict_layers = *depth;
    }
    let bench = TrainBench {
        architecture,
        sequence_length: *sequence_length,
        batch: *batch,
        steps: *steps,
        threads: *threads,
        precision,
        recompute: *recompute || precision.recomputes(),
    };
    let predicted = cpu_memory(
        &bench.architecture,
        precision,
        CpuTraining::new(*sequence_length as u32, *batch as u32),
    );
    let figures = train(&bench).map_err(|error| worker_failure(&error))?;
    lines([json!({
        "tokens_per_second": figures.tokens_per_second,
        "gflops": figures.gflops,
        "share_of_peak": figures.share_of_peak,
        "peak_rss_bytes": figures.peak_rss_bytes,
        "planned_bytes": predicted.total(),
        "precision": precision,
        "steps": steps,
        "loss": figures.loss,
    })])
}

fn encode(args: &EncodeArgs) -> Result {
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .map_err(|error| Failure::io("read", path, &error))
    };
    let texts = args.files.iter().map(read).collect::<Result<Vec<_>>>()?;
    let speed = bench_encode(&args.tokenizer, &texts, args.passes).map_err(|error| worker_failure(&error))?;
    let mebibytes = |duration: std::time::Duration| speed.bytes as f64 / duration.as_secs_f64() / f64::from(1 << 20);
    lines([json!({
        "bytes": speed.bytes,
        "tokens": speed.tokens,
        "mib_per_second_cold": mebibytes(speed.cold),
        "mib_per_second_warm": mebibytes(speed.warm),
        "mib_per_second_tokenizers_crate": mebibytes(speed.tokenizers),
        "mismatches": speed.mismatches,
    })])
}

fn measurement(measurement: &Measurement) -> Value {
    let Measurement {
        name,
        seconds,
        gflops,
        gigabytes,
        share_of_peak,
    } = measurement;
    json!({
        "operation": name,
        "seconds": seconds,
        "gflops": gflops,
        "gigabytes_per_second": gigabytes,
        "share_of_peak": share_of_peak,
    })
}

/// One JSON object a line.
fn lines(values: impl IntoIterator<Item = Value>) -> Result {
    let text: String = values.into_iter().map(|value| format!("{value}\n")).collect();
    output::stdout(&text)
}
