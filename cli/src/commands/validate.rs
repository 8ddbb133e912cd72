//! `fathom validate`.

use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::manifest::{self, ManifestArg};
use crate::output::{self, Format, OutputArgs};
use fathom_spec::{Problem, Severity, parse_manifest};
use serde::Serialize;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    manifest: ManifestArg,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
struct Verdict {
    valid: bool,
    problems: Vec<Problem>,
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let file = &args.manifest.file;
    if args.output.output == Format::Table {
        let loaded = manifest::load(file, context)?;
        let phases = loaded.job.phases.len();
        return output::stdout(&format!(
            "{}: job `{}` with {phases} phases is valid",
            manifest::name(file),
            loaded.job.name()
        ));
    }
    let problems = match parse_manifest(&manifest::read(file)?) {
        Ok(job) => job.warnings,
        Err(problems) => problems,
    };
    let valid = problems.iter().all(|problem| problem.severity == Severity::Warning);
    output::print(args.output.output, &Verdict { valid, problems }, |_| String::new())?;
    if valid {
        Ok(())
    } else {
        Err(Failure::shown(Exit::InvalidManifest))
    }
}
