//! `fathom version`.

use crate::failure::Result;
use crate::output::{self, OutputArgs};
use serde::Serialize;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    version: &'static str,
    profile: &'static str,
    os: &'static str,
    architecture: &'static str,
}

/// Runs the command.
pub fn run(args: &Args) -> Result {
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        os: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
    };
    output::print(args.output.output, &version, |version| {
        format!(
            "fathom {} ({}, {} {})",
            version.version, version.profile, version.os, version.architecture
        )
    })
}
