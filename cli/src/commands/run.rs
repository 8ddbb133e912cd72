//! `fathom run`.

use crate::args::Context;
use crate::failure::Result;
use crate::manifest::{self, ManifestArg};
use crate::output::{self, OutputArgs};
use crate::runner::job;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArg,
    #[command(flatten)]
    output: OutputArgs,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let loaded = manifest::load(&args.manifest.file, context)?;
    let report = job::run(&loaded, &args.manifest.file, context)?;
    output::print(args.output.output, &report, |report| format!("\n{}", report.text()))
}
