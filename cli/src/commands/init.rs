//! `fathom init`.

use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use fathom_spec::init_manifest;
use fathom_spec::manifest::Preset;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write; `-` writes to standard output
    #[arg(default_value = "job.yaml", value_name = "FILE")]
    file: PathBuf,
    /// The model to start from: unit, nano, small, proxy-1b, v2-lite or v3
    #[arg(long, default_value = "nano", value_parser = preset, value_name = "PRESET")]
    preset: Preset,
    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
}

fn preset(name: &str) -> Result<Preset, String> {
    let names = Preset::ALL.map(Preset::name);
    let known = Preset::ALL.into_iter().find(|preset| preset.name() == name);
    known.ok_or_else(|| format!("the presets are {}", names.join(", ")))
}

/// Runs the command.
pub fn run(args: &Args, context: &Context) -> Result {
    let Args { file, preset, force } = args;
    let text = init_manifest(*preset);
    if file == Path::new("-") {
        return output::stdout(&text);
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true);
    if *force {
        options.create(true).truncate(true);
    } else {
        options.create_new(true);
    }
    options
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|error| {
            let failure = Failure::io("write", file, &error);
            if failure.exit() == Exit::Conflict {
                failure.help("choose another name, or overwrite it with --force")
            } else {
                failure
            }
        })?;
    let shown = file.display();
    context
        .terminal
        .note(&format!("Wrote {shown}. Next: `fathom plan {shown}`, then `fathom run {shown}`."));
    Ok(())
}
