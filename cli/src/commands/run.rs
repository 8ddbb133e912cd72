//! `fathom run`.

use crate::args::Context;
use crate::failure::Result;
use crate::local::child::Beside;
use crate::manifest::{self, ManifestArg};
use crate::output::{self, OutputArgs};
use crate::runner::job;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArg,
    /// Start no server for the dashboard; the history is made when one is started (`fathom ui`)
    #[arg(long, env = "FATHOM_NO_UI", hide_env = true)]
    no_ui: bool,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let loaded = manifest::load(&args.manifest.file, context)?;
    let beside = if args.no_ui {
        None
    } else {
        Some(Beside::start(&context.directory, context.terminal)?)
    };
    let report = job::run(&loaded, &args.manifest.file, context)?;
    // It sends what is left to the history, and ends.
    drop(beside);
    output::print(args.output.output, &report, |report| format!("\n{}", report.text()))
}
