//! The phases that a worker executes.

mod data;
mod inputs;
mod numerics;
mod pretrain;
mod validate;

use crate::artifact::{self, Description};
use crate::context::PhaseContext;
use crate::error::{Error, Result};
use crate::parallel::Group;
use crate::report::{Options, Reporter};
use crate::{Stop, data as stages};
use fathom_spec::artifact::{ARTIFACT_MANIFEST, ArtifactKind};
use fathom_spec::assignment::{Assignment, Work};
use fathom_spec::record::{EventKind, Progress};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Version of [`Assignment`] that this worker executes.
const ASSIGNMENT_VERSION: u32 = 1;
/// How long the last records may take to reach the disk.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// Executes one attempt of one phase, alone or as a rank of a `group`. On return its artifact is complete in `assignment.output`; for a rank other than 0 when rank 0
/// has also returned.
///
/// # Errors
/// Why the phase ended early; [`Error::Stopped`] if `stop` asked for it and nothing is lost.
pub fn run(assignment: &Assignment, group: Option<&Group>, stop: &Stop) -> Result<()> {
    if assignment.version != ASSIGNMENT_VERSION {
        return Err(Error::Config {
            problem: format!(
                "assignment version {} where this worker knows {ASSIGNMENT_VERSION}",
                assignment.version
            ),
            cure: "run the worker and the runner of one fathom version".into(),
        });
    }
    let output = Path::new(&assignment.output);
    fs::create_dir_all(output).map_err(Error::io("create the directory", output))?;
    if output.join(ARTIFACT_MANIFEST).exists() {
        return Ok(());
    }
    match &assignment.work {
        Work::Tokenizer(_) | Work::Corpus(_) if group.is_some_and(|group| !group.is_alone()) => Err(Error::Config {
            problem: format!("phase `{}` prepares data: it has one rank", assignment.phase),
            cure: "start one worker for it".into(),
        }),
        Work::Tokenizer(config) => data::execute(assignment, stop, ArtifactKind::Tokenizer, |context| {
            stages::tokenizer::run(config, output, context)
        }),
        Work::Corpus(config) => data::execute(assignment, stop, ArtifactKind::Corpus, |context| {
            stages::corpus::run(config, &input(assignment, ArtifactKind::Tokenizer)?, output, context)
        }),
        Work::Pretrain {
            pretrain,
            architecture,
            precision,
        } => pretrain::run(assignment, pretrain, architecture, *precision, group, stop),
    }
}

/// The directory of an input artifact.
fn input(assignment: &Assignment, kind: ArtifactKind) -> Result<PathBuf> {
    assignment
        .inputs
        .get(&kind)
        .map(|input| PathBuf::from(&input.path))
        .ok_or_else(|| Error::Config {
            problem: format!("the assignment of phase `{}` names no input of kind {kind:?}", assignment.phase),
            cure: "declare a phase that makes one before it".into(),
        })
}

/// Commits the files in the output directory as the phase's artifact.
fn commit(assignment: &Assignment, kind: ArtifactKind, step: Option<u64>, statistics: serde_json::Value) -> Result<()> {
    let output = Path::new(&assignment.output);
    let description = Description {
        kind,
        phase: assignment.phase.clone(),
        key: assignment.key.clone(),
        lineage: assignment.inputs.iter().map(|(&kind, input)| (kind, input.key.clone())).collect(),
        step,
        statistics,
    };
    artifact::commit(output, output, description).map(|_| ())
}

/// Starts reporting for an assignment.
fn reporter(assignment: &Assignment, resumed_from: u64) -> Result<Reporter> {
    Reporter::for_assignment(assignment, resumed_from, Options::default())
}

/// Reports how an attempt ended and waits, within limits, for the records to be durable.
fn close(reporter: Reporter, step: Option<u64>, outcome: &Result<()>) {
    let (kind, message) = match outcome {
        Ok(()) => (EventKind::PhaseCompleted, "the phase is complete".to_owned()),
        Err(Error::Stopped) => (EventKind::AttemptStopped, "stopped on request; run it again to go on".to_owned()),
        Err(error) => (EventKind::AttemptFailed, chain(error)),
    };
    reporter.event(kind, step, message);
    if let Err(error) = reporter.close(CLOSE_DEADLINE) {
        eprintln!("the last records may be missing: {error}");
    }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// The context of a phase that runs for an assignment.
struct Context<'a> {
    seed: u64,
    threads: usize,
    stop: &'a Stop,
    /// None of a rank other than 0.
    reporter: Option<&'a Reporter>,
}

impl<'a> Context<'a> {
    fn new(assignment: &Assignment, stop: &'a Stop, reporter: Option<&'a Reporter>) -> Self {
        Self {
            seed: assignment.seed,
            threads: threads(assignment),
            stop,
            reporter,
        }
    }
}

/// Threads for computation: as assigned, or one per core.
fn threads(assignment: &Assignment) -> usize {
    match assignment.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    }
}

impl PhaseContext for Context<'_> {
    fn seed(&self) -> u64 {
        self.seed
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn progress(&self, progress: Progress) {
        if let Some(reporter) = self.reporter {
            reporter.progress(progress);
        }
    }

    fn event(&self, kind: EventKind, step: Option<u64>, message: String) {
        if let Some(reporter) = self.reporter {
            reporter.event(kind, step, message);
        }
    }

    fn stop_requested(&self) -> bool {
        self.stop.requested()
    }
}
