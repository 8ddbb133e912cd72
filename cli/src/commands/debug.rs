//! `fathom debug`: for comparing the training core with another implementation.

use super::worker_failure;
use crate::failure::Result;
use crate::output;
use fathom_kernels::Cpu;
use fathom_worker::debug::{StepArguments, step};
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
    /// Factor of the sequence-wise balance loss
    #[arg(long, default_value_t = 0.01, value_name = "ALPHA")]
    balance_alpha: f64,
    /// Threads; 0 means one per core
    #[arg(long, default_value_t = 0, value_name = "N")]
    threads: usize,
}

/// Runs the command.
pub fn run(args: Args) -> Result {
    let DebugCommand::Step(StepArgs {
        model,
        tokens,
        out,
        mtp,
        mtp_weight,
        balance_alpha,
        threads,
    }) = args.command;
    let arguments = StepArguments {
        model,
        tokens,
        output: out,
        mtp,
        mtp_weight,
        balance_alpha,
    };
    let losses = step(Cpu::new(threads), &arguments).map_err(|error| worker_failure(&error))?;
    output::stdout(&output::json(&losses)?)
}
