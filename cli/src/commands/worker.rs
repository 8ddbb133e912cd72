//! `fathom worker`: the process that executes one attempt of one phase. Started by the runner and by the operator, not by people.

use crate::failure::{Exit, Failure};
use crate::runner::lock::WorkerLock;
use fathom_spec::assignment::{Assignment, ExitCode};
use fathom_worker::Stop;
use fathom_worker::parallel::{Group, Place};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An assignment is a few kilobytes; more than this is not one.
const MAX_ASSIGNMENT_BYTES: u64 = 16 << 20;
/// The runner looks at the lock before it starts a worker, for an instant.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[arg(long, value_name = "FILE")]
    assignment: PathBuf,
    /// File to hold a lock on while the process lives
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
    /// Stop after a checkpoint when standard input ends: the starter is gone
    #[arg(long)]
    until_eof: bool,
    #[command(flatten)]
    group: GroupArgs,
}

/// The ranks that a process is one of.
#[derive(Debug, clap::Args)]
pub(super) struct GroupArgs {
    /// This process among those that execute the attempt together, from 0
    #[arg(long, value_name = "N", default_value_t = 0, requires = "rendezvous")]
    pub rank: usize,
    /// Number of these processes, a power of two
    #[arg(long, value_name = "N", default_value_t = 1, requires = "rendezvous")]
    ranks: usize,
    /// Where rank 0 is found: `HOST:PORT`, on which it listens, or `file:PATH`, where it writes its address
    #[arg(long, value_name = "PLACE")]
    rendezvous: Option<String>,
}

impl GroupArgs {
    /// The ranks; none if the process is alone.
    pub fn group(&self) -> Option<Group> {
        let place = self.rendezvous.as_deref()?;
        Some(Group {
            rank: self.rank,
            size: self.ranks,
            place: match place.strip_prefix("file:") {
                Some(path) => Place::File(path.into()),
                None => Place::Address(place.into()),
            },
        })
    }
}

/// Runs the command. The exit code is the worker's contract, not the command line's.
pub fn run(args: &Args) -> std::process::ExitCode {
    Ended::report(execute(args))
}

/// Why a worker process ended early.
pub(super) enum Ended {
    /// As the phase did.
    Early(fathom_worker::error::Error),
    /// Before or after the phase.
    Unstarted(Failure, ExitCode),
}

impl Ended {
    /// Prints what happened, and turns it into the exit code that the worker's starter knows.
    pub(super) fn report(result: Result<(), Self>) -> std::process::ExitCode {
        match result {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(Self::Early(error)) => {
                print_chain(&error);
                std::process::ExitCode::from(error.exit_code() as u8)
            }
            Err(Self::Unstarted(failure, code)) => {
                // The runner reads the log; nothing is left to do if it cannot be written.
                let _ = failure.print(&mut std::io::stderr(), false);
                std::process::ExitCode::from(code as u8)
            }
        }
    }
}

fn execute(args: &Args) -> Result<(), Ended> {
    let assignment = read_assignment(&args.assignment).map_err(|failure| Ended::Unstarted(failure, ExitCode::BadConfig))?;
    let _lock = args
        .lock
        .as_deref()
        .map(take_lock)
        .transpose()
        .map_err(|failure| Ended::Unstarted(failure, ExitCode::Io))?;
    let stop = Stop::new();
    serve_signals(&stop)?;
    if args.until_eof {
        stop_at_eof(&stop);
    }
    fathom_worker::run(&assignment, args.group.group().as_ref(), &stop).map_err(Ended::Early)
}

/// The first SIGTERM or SIGINT asks to stop, the second one ends the process.
pub(super) fn serve_signals(stop: &Stop) -> Result<(), Ended> {
    stop_on_signals(stop).map_err(|failure| Ended::Unstarted(failure, ExitCode::Io))
}

fn read_assignment(path: &Path) -> Result<Assignment, Failure> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_ASSIGNMENT_BYTES).read_to_string(&mut text))
        .map_err(|error| Failure::io("read the assignment", path, &error))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} is not an assignment", path.display())).caused_by(&error))
}

fn take_lock(path: &Path) -> Result<WorkerLock, Failure> {
    WorkerLock::acquire(path, LOCK_PATIENCE)?
        .ok_or_else(|| Failure::new(Exit::Conflict, format!("another worker holds {}", path.display())))
}

fn stop_on_signals(stop: &Stop) -> Result<(), Failure> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::new(Exit::Failed, "cannot handle signals").caused_by(&error))?;
    let stop = stop.clone();
    let handler = move || {
        let mut asked = false;
        for signal in signals.forever() {
            if asked {
                std::process::exit(128 + signal);
            }
            asked = true;
            stop.request();
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(handler)
        .map_err(|error| Failure::new(Exit::Failed, "cannot start a thread").caused_by(&error))?;
    Ok(())
}

/// Nobody writes to the pipe: reading it ends when its other end closes, which the system does when the runner dies.
fn stop_at_eof(stop: &Stop) {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut byte = [0];
        let mut input = std::io::stdin().lock();
        loop {
            match input.read(&mut byte) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        eprintln!("the runner is gone: stopping after a checkpoint");
        stop.request();
    });
}

fn print_chain(error: &fathom_worker::error::Error) {
    eprintln!("error: {error}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        eprintln!("  because: {error}");
        source = error.source();
    }
}
