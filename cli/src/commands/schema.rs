//! `fathom schema`.

use crate::failure::Result;
use crate::output;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub fn run(_: &Args) -> Result {
    output::stdout(&output::json(&fathom_spec::schema::json_schema())?)
}
