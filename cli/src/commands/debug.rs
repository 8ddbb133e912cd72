//! `fathom debug`: for comparing the training core with another implementation.

use super::{PrecisionArg, worker_failure};
use crate::failure::Result;
use crate::output;
use fathom_kernels::Cpu;
use fathom_kernels::formats::Scaling;
use fathom_worker::debug::{self, StepArguments};
use std::path::PathBuf;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: DebugCommand,
}

/// What to debug.
#[derive(Debug, clap::Subcommand)]
enum DebugCommand {
    /// Run one training step on given weights and tokens; write its activations and gradients, print its losses as JSON
    ///
    /// The output has `hidden` `[B,T,d]`, `logits` `[B,T,V]`, `mtp_logits` `[B,T-1,V]` (of MTP modules after the first: `mtp_logits.2`, ...) and the
    /// gradient of every weight under its checkpoint name with the prefix `grad.`, in FP32.
    Step(StepArgs),
    /// Run a model on given tokens in FP32; write its logits
    ///
    /// The output has `logits` `[B,T,V]`, in FP32. The model may be stored in FP32, BF16 or FP8, in one file or several.
    Logits(LogitsArgs),
    /// Quantise a matrix to E4M3 in every grouping; write codes and scales, print statistics as JSON
    ///
    /// The output has `NAME.codes` (U8, as `x`) and `NAME.scales` (F32, one per group; a code times its scale is the value) for `NAME` of `tile_1x128`,
    /// `tile_128x1` and `block_128x128`, and the same with scales that are powers of two as `NAME_pow2`.
    Quantize(QuantizeArgs),
    /// Multiply two matrices as a linear layer does in its forward pass; write the product
    Gemm(GemmArgs),
}

/// Arguments of `debug logits`.
#[derive(Debug, clap::Args)]
struct LogitsArgs {
    /// Directory with config.json and weights in the Hugging Face layout
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// File with `tokens` [B, T+1], int32; the last of each row is not looked at
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// Arguments of `debug quantize`.
#[derive(Debug, clap::Args)]
struct QuantizeArgs {
    /// File with a matrix `x`, FP32, of any shape
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arguments of `debug gemm`.
#[derive(Debug, clap::Args)]
struct GemmArgs {
    /// Arithmetic: E4M3 operands (`a` in tiles of 1 x 128, `b` in blocks of 128 x 128), promotion to FP32 after every 128 terms
    #[arg(long, value_enum, default_value_t = ProductPrecision::Fp8)]
    precision: ProductPrecision,
    /// Scales of the groups
    #[arg(long, value_enum, default_value_t = Scales::Plain)]
    scales: Scales,
    /// File with the matrices `a` [M, K] and `b` [N, K], FP32
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// File to write `y` [M, N] = a b^T to, FP32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Arithmetic of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum ProductPrecision {
    /// E4M3.
    Fp8,
}

/// How scales follow from the largest magnitude of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Scales {
    /// Largest magnitude / 448.
    Plain,
    /// The next power of two.
    PowerOfTwo,
}

/// Arguments of `debug step`.
#[derive(Debug, clap::Args)]
struct StepArgs {
    /// Directory with config.json and model.safetensors (FP32, names of the Hugging Face DeepSeek-V3 layout)
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// File with `tokens` [B, T+1], int32
    #[arg(long, value_name = "FILE")]
    tokens: PathBuf,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File with the MTP modules, as layers `num_hidden_layers` and up; without it there is no MTP loss
    #[arg(long, value_name = "FILE")]
    mtp: Option<PathBuf>,
    /// Weight of the MTP loss
    #[arg(long, default_value_t = 0.3, value_name = "LAMBDA")]
    mtp_weight: f64,
    /// Arithmetic: weights stay FP32, what products read of them follows
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32)]
    precision: PrecisionArg,
    /// Factor of the sequence-wise balance loss
    #[arg(long, default_value_t = 0.01, value_name = "ALPHA")]
    balance_alpha: f64,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result {
    let report = match args.command {
        DebugCommand::Step(args) => one_step(args),
        DebugCommand::Logits(LogitsArgs {
            model,
            tokens,
            out,
            threads,
        }) => debug::logits(Cpu::new(threads), &model, &tokens, &out),
        DebugCommand::Quantize(QuantizeArgs { input, out }) => debug::quantize(&input, &out),
        DebugCommand::Gemm(GemmArgs {
            precision: ProductPrecision::Fp8,
            scales,
            input,
            out,
        }) => {
            let scaling = match scales {
                Scales::Plain => Scaling::Plain,
                Scales::PowerOfTwo => Scaling::PowerOfTwo,
            };
            debug::gemm(&input, &out, scaling)
        }
    };
    output::stdout(&output::json(&report.map_err(|error| worker_failure(&error))?)?)
}

fn one_step(args: StepArgs) -> fathom_worker::error::Result<serde_json::Value> {
    let StepArgs {
        model,
        tokens,
        out,
        mtp,
        mtp_weight,
        balance_alpha,
        precision,
        threads,
    } = args;
    let arguments = StepArguments {
        model,
        tokens,
        output: out,
        mtp,
        mtp_weight,
        balance_alpha,
        precision: precision.into(),
    };
    debug::step(Cpu::new(threads), &arguments)
}
