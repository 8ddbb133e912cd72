//! `fathom completion`.

use crate::args::Cli;
use crate::failure::Result;
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "fathom", &mut script);
    output::stdout(&String::from_utf8_lossy(&script))
}
