//! Executes one phase: starts its worker, follows what it reports, restarts it when it dies, passes the user's stop on.

use super::directory::{self, RunDirectory};
use super::display::{Display, PhaseDisplay};
use super::gang::{Gang, GangEnded};
use super::interrupts::Interrupts;
use super::lock::WorkerLock;
use super::status::StatusFile;
use super::supervise::{Asked, Attempt, Conclusion, Reason, conclude};
use super::tracker::Tracker;
use crate::clock;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use fathom_spec::artifact::ArtifactManifest;
use fathom_spec::assignment::Assignment;
use fathom_spec::record::{EventKind, LifecycleEvent};
use fathom_spec::state::PhaseState;
use fathom_worker::artifact::{self, Depth};
use fathom_worker::report::{Cursor, Entry, SpoolReader};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the worker, its spool and the keyboard are looked at.
const POLL: Duration = Duration::from_millis(50);
/// Records read from the spool between two looks at the keyboard.
const POLL_RECORDS: usize = 1000;
/// A worker that a dead runner left behind stops after a checkpoint; this is how long it may take.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(60);
/// Last lines of a failed worker's log that are shown.
const LOG_LINES: usize = 12;
/// They are looked for in this many bytes.
const LOG_TAIL_BYTES: u64 = 16 * 1024;

/// One phase to execute.
#[derive(Debug)]
pub struct PhaseRun {
    /// Where it is executed.
    pub directory: RunDirectory,
    /// The assignment of its attempts; the attempt's number is filled in.
    pub assignment: Assignment,
    /// Worker processes of an attempt.
    pub ranks: usize,
    /// Restarts without progress that are allowed.
    pub max_restarts: u32,
}

/// How a phase ended.
#[derive(Debug)]
pub enum Outcome {
    /// Its artifact is complete in the work directory.
    Complete {
        /// The artifact.
        artifact: ArtifactManifest,
        /// Restarts that it took.
        restarts: u32,
    },
    /// The user stopped it.
    Stopped {
        /// Step of the newest checkpoint.
        checkpoint: Option<u64>,
    },
    /// It failed.
    Failed {
        /// Why, and what the worker said, for people.
        message: String,
        /// Its log.
        log: PathBuf,
    },
}

/// Executes a phase to its end. Its state is kept in `status`.
pub fn execute(run: &PhaseRun, status: &mut StatusFile, display: &Display, interrupts: &mut Interrupts) -> Result<Outcome> {
    let execution = Execution {
        run,
        name: &run.assignment.phase,
        line: display.start(&run.assignment.phase),
        follow: Follow::new(&run.directory.spool()),
        status,
        display,
        interrupts,
    };
    execution.execute()
}

/// A phase under way.
struct Execution<'a> {
    run: &'a PhaseRun,
    name: &'a str,
    line: PhaseDisplay,
    follow: Follow,
    status: &'a mut StatusFile,
    display: &'a Display,
    interrupts: &'a mut Interrupts,
}

impl Execution<'_> {
    fn execute(mut self) -> Result<Outcome> {
        let outcome = self.attempts();
        self.line.finish();
        outcome
    }

    fn attempts(&mut self) -> Result<Outcome> {
        let Self { run, name, .. } = *self;
        wait_for_orphan(&run.directory, &mut self.line)?;
        while self.follow.read(&mut |_| Ok(()))? {}
        self.status.set(name, self.left_behind()?)?;
        self.status
            .transition(name, |state| state.start(run.assignment.key.clone(), clock::now()))?;
        // A worker may have finished after its runner died.
        if let Some(artifact) = complete(run) {
            self.status.transition(name, |state| state.succeed(clock::now()))?;
            return Ok(Outcome::Complete { artifact, restarts: 0 });
        }
        let mut restarts = 0;
        while let PhaseState::Running { attempt, .. } = self.status.state(name) {
            let Conclusion { state, reason, pause } = self.attempt(attempt)?;
            self.status.set(name, state)?;
            if let (PhaseState::Running { restarts: used, .. }, Some(reason)) = (self.status.state(name), reason) {
                restarts += 1;
                self.tell_restart(reason, used);
                if sleep(pause, self.interrupts) != Asked::Continue {
                    self.status.transition(name, PhaseState::stop)?;
                }
            }
        }
        self.outcome(restarts)
    }

    /// What the directory says about earlier attempts; the status file may be older, or lost.
    fn left_behind(&self) -> Result<PhaseState> {
        Ok(match self.run.directory.last_attempt()? {
            0 => PhaseState::Pending,
            attempt => PhaseState::Stopped {
                key: self.run.assignment.key.clone(),
                attempt,
                checkpoint: self.follow.tracker.checkpoint().unwrap_or(0),
                started: self.follow.tracker.started(),
            },
        })
    }

    /// Makes one attempt and says what follows.
    fn attempt(&mut self, attempt: u32) -> Result<Conclusion> {
        let run = self.run;
        self.follow.tracker.begin_attempt();
        let GangEnded { ended, rank, log } = self.follow_workers(attempt)?;
        let log = match rank {
            0 => log_tail(&log),
            rank => format!("rank {rank}: {}", log_tail(&log)),
        };
        let facts = Attempt {
            ended,
            artifact: complete(run).is_some(),
            progressed: self.follow.tracker.progressed(),
            asked: self.interrupts.asked(),
            detail: self.follow.tracker.failure().filter(|_| rank == 0).unwrap_or(&log),
        };
        conclude(facts, self.status.state(self.name), run.max_restarts, clock::now())
            .map_err(|error| Failure::new(Exit::Failed, format!("the state of phase `{}` is confused", self.name)).caused_by(&error))
    }

    /// Starts the workers and follows them to their end.
    fn follow_workers(&mut self, attempt: u32) -> Result<GangEnded> {
        let run = self.run;
        let assignment = Assignment {
            attempt,
            ..run.assignment.clone()
        };
        directory::replace(&run.directory.assignment(attempt), output::json(&assignment)?.as_bytes())?;
        let mut gang = Gang::start(&run.directory, attempt, run.ranks)?;
        let processes = if run.ranks == 1 { "process" } else { "processes" };
        self.display
            .detail(&format!("{}: attempt {attempt}, worker {processes} {}", self.name, gang.pids()));
        loop {
            self.pass_on_interrupts(&gang);
            // Asked before the spool is read: what an ended worker reported is then all there.
            let ended = gang.poll()?;
            let more = self.read_spool()?;
            self.line.update(&self.follow.tracker);
            match ended {
                Some(ended) => {
                    while self.read_spool()? {}
                    return Ok(ended);
                }
                None if more => {}
                None => std::thread::sleep(POLL),
            }
        }
    }

    fn pass_on_interrupts(&mut self, gang: &Gang) {
        match self.interrupts.poll() {
            Some(Asked::Stop) => {
                gang.stop();
                self.display.note("Stopping after a checkpoint. Press Ctrl-C again to stop now.");
            }
            Some(Asked::Kill) => {
                gang.kill();
                self.display.note("Stopping now. What was done since the last checkpoint is lost.");
            }
            Some(Asked::Continue) | None => {}
        }
    }

    /// Takes in new records. Returns whether there may be more at once.
    fn read_spool(&mut self) -> Result<bool> {
        let Self {
            name,
            status,
            display,
            follow,
            ..
        } = self;
        follow.read(&mut |event| {
            note(display, name, event);
            match (event.kind, event.step) {
                (EventKind::CheckpointCommitted, Some(step)) => status.transition(name, |state| state.checkpoint(step)),
                _ => Ok(()),
            }
        })
    }

    fn tell_restart(&mut self, reason: Reason, used: u32) {
        let (name, max) = (self.name, self.run.max_restarts);
        let checkpoint = self.follow.tracker.checkpoint();
        let from = checkpoint.map_or("from the beginning".to_owned(), |step| {
            format!("from the checkpoint of step {step}")
        });
        self.display.note(&format!(
            "{name}: {reason}; restarted {from} (restart {used} of {max} without progress)"
        ));
        if let Some(failure) = self.follow.tracker.failure() {
            self.display.note(&format!("{name}: the worker said: {failure}"));
        }
        self.line.state("restarting");
    }

    fn outcome(&self, restarts: u32) -> Result<Outcome> {
        let confused = |word: &str| Failure::new(Exit::Failed, format!("phase `{}` is {word}, but it has ended", self.name));
        Ok(match self.status.state(self.name) {
            PhaseState::Succeeded { .. } => Outcome::Complete {
                artifact: complete(self.run).ok_or_else(|| confused("complete without an artifact"))?,
                restarts,
            },
            PhaseState::Stopped { .. } => Outcome::Stopped {
                checkpoint: self.follow.tracker.checkpoint(),
            },
            PhaseState::Failed { attempt, failure, .. } => Outcome::Failed {
                message: failure.message,
                log: self.run.directory.log(attempt, 0),
            },
            state @ (PhaseState::Pending | PhaseState::Cached { .. } | PhaseState::Running { .. }) => return Err(confused(state.word())),
        })
    }
}

/// The artifact in the work directory, if it is complete.
fn complete(run: &PhaseRun) -> Option<ArtifactManifest> {
    let artifact = artifact::open(&run.directory.work(), Depth::Sizes).ok()?;
    (artifact.key == run.assignment.key).then_some(artifact)
}

/// Events that a user should see; the rest is detail.
fn note(display: &Display, name: &str, event: &LifecycleEvent) {
    let text = format!("{name}: {}", event.message);
    match event.kind {
        EventKind::CheckpointRejected | EventKind::NonFinite | EventKind::RecordsDropped | EventKind::DataWarning => display.note(&text),
        EventKind::AttemptStarted
        | EventKind::CheckpointCommitted
        | EventKind::AttemptStopped
        | EventKind::PhaseCompleted
        | EventKind::AttemptFailed => display.detail(&text),
    }
}

/// The spool and what it has told so far.
struct Follow {
    reader: SpoolReader,
    tracker: Tracker,
}

impl Follow {
    fn new(spool: &Path) -> Self {
        Self {
            reader: SpoolReader::new(spool, Cursor::default()),
            tracker: Tracker::default(),
        }
    }

    /// Takes in some records. Returns whether there may be more at once.
    fn read(&mut self, tell: &mut dyn FnMut(&LifecycleEvent) -> Result) -> Result<bool> {
        let entries = self
            .reader
            .poll(POLL_RECORDS)
            .map_err(|error| crate::commands::worker_failure(&error))?;
        for entry in &entries {
            match entry {
                Entry::Record(record) => {
                    if let Some(event) = self.tracker.apply(record) {
                        tell(event)?;
                    }
                }
                // A record that was cut off by a kill belongs to a step that is made again.
                Entry::Damaged(_) => {}
            }
        }
        Ok(entries.len() == POLL_RECORDS)
    }
}

/// Waits for a worker whose runner died: it stops after a checkpoint, and until then nobody else may write to the directory.
fn wait_for_orphan(run: &RunDirectory, line: &mut PhaseDisplay) -> Result {
    directory::create(run.root())?;
    let path = run.worker_lock();
    if WorkerLock::acquire(&path, Duration::ZERO)?.is_some() {
        return Ok(());
    }
    line.state("waiting for the worker of an earlier run to stop");
    match WorkerLock::acquire(&path, ORPHAN_PATIENCE)? {
        Some(_) => Ok(()),
        None => Err(Failure::new(Exit::Conflict, "a worker of an earlier run is still alive")
            .cause(format!("it holds {}", path.display()))
            .help(format!("find it with `fuser {}` and end it, then run again", path.display()))),
    }
}

/// Sleeps, but not through an interrupt. Returns what is asked afterwards.
fn sleep(pause: Duration, interrupts: &mut Interrupts) -> Asked {
    let end = Instant::now() + pause;
    loop {
        interrupts.poll();
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || interrupts.asked() != Asked::Continue {
            return interrupts.asked();
        }
        std::thread::sleep(left.min(POLL));
    }
}

/// The last lines of a log; the log may be missing.
fn log_tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("worker.log");
        assert_eq!(log_tail(&path), "");
        let lines: Vec<String> = (0..10_000).map(|line| format!("line {line}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        assert_eq!(log_tail(&path), lines[10_000 - LOG_LINES..].join("\n"));
    }
}
