//! The command line.

use crate::commands;
use crate::failure::EXIT_CODES;
use crate::runner::directory::{DEFAULT_DIRECTORY, Directory};
use crate::terminal::{Colour, Terminal, Verbosity};
use std::path::PathBuf;

/// Declare a DeepSeek-V3, get one.
#[derive(Debug, clap::Parser)]
#[command(name = "fathom", version, after_help = EXIT_CODES, max_term_width = 100, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct GlobalArgs {
    /// Directory of jobs and artifacts
    #[arg(
        long,
        global = true,
        env = "FATHOM_DIR",
        default_value = DEFAULT_DIRECTORY,
        value_name = "DIR",
        hide_env_values = true
    )]
    dir: PathBuf,
    /// When to use colour: auto, always or never; auto respects `NO_COLOR`
    #[arg(long, global = true, value_enum, default_value_t = Colour::Auto, value_name = "WHEN", hide_possible_values = true)]
    color: Colour,
    /// Show errors only
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Show more: attempts, worker processes and every event
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Execute a job on this machine; run again, it goes on where it was
    Run(commands::run::Args),
    /// Show what a job would do and what it takes
    Plan(commands::plan::Args),
    /// Open the dashboard: what ran here, and what is running
    Ui(commands::ui::Args),
    /// Show how far a job is
    Status(commands::status::Args),
    /// Say whether a job is healthy, and why
    Health(commands::health::Args),
    /// Show what the workers of a job printed
    Logs(commands::logs::Args),
    /// Watch jobs on a screen of the terminal
    Top(commands::top::Args),
    /// List, print and export what a job measured
    Metrics(commands::metrics::Args),
    /// Show how two jobs or runs differ
    Compare(commands::compare::Args),
    /// Show a matrix that a job measured, as in `moe.load`
    Matrix(commands::matrix::Args),
    /// Take in and show the history of many machines
    Server(commands::server::Args),
    /// Write a commented manifest to start from
    Init(commands::init::Args),
    /// Check a manifest and show every problem in it
    Validate(commands::validate::Args),
    /// Explain a field of the manifest
    Explain(commands::explain::Args),
    /// Print the JSON Schema of the manifest, the description of the API, or what Kubernetes is to know of a job
    Schema(commands::schema::Args),
    /// Print a completion script for a shell
    Completion(commands::completion::Args),
    /// Print the version
    Version(commands::version::Args),
    /// Continue a text with a trained model
    Generate(commands::generate::Args),
    /// List, verify, export and import checkpoints
    Ckpt(commands::ckpt::Args),
    /// Measure how fast this machine is
    Bench(commands::bench::Args),
    /// Compare the training core with other implementations
    Debug(commands::debug::Args),
    /// Execute the jobs of a Kubernetes cluster
    Operator(commands::operator::Args),
    /// Execute one attempt of one phase
    #[command(hide = true)]
    Worker(commands::worker::Args),
    /// Execute one attempt of one phase in a pod
    #[command(hide = true)]
    Pod(commands::pod::Args),
}

/// What commands are given besides their arguments.
#[derive(Debug)]
pub struct Context {
    /// The terminal.
    pub terminal: Terminal,
    /// The local directory.
    pub directory: Directory,
}

impl Cli {
    /// The surroundings that the global options ask for.
    pub fn context(&self) -> Context {
        let GlobalArgs {
            dir,
            color,
            quiet,
            verbose,
        } = &self.global;
        let verbosity = match (quiet, verbose) {
            (true, _) => Verbosity::Quiet,
            (_, true) => Verbosity::Verbose,
            _ => Verbosity::Normal,
        };
        Context {
            terminal: Terminal::new(*color, verbosity),
            directory: Directory::new(dir),
        }
    }
}
