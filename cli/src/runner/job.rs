//! Executes a job: phase after phase, each from the cache or by a worker.

use super::directory::{self, Directory, JobDirectory};
use super::display::{Display, Mark};
use super::fingerprints::Fingerprints;
use super::interrupts::Interrupts;
use super::lock::Lock;
use super::phase::{Outcome, PhaseRun, execute};
use super::report::{PhaseReport, Report};
use super::status::StatusFile;
use super::storage::{ArtifactStore, Found};
use crate::args::Context;
use crate::failure::{Exit, Failure, Result};
use crate::local::wish;
use crate::manifest::Loaded;
use fathom_spec::artifact::ArtifactManifest;
use fathom_spec::plan::{Observed, Placement, Plan, PlannedState, plan};
use fathom_spec::{ValidatedJob, ValidatedPhase};
use fathom_worker::artifact::Depth;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Executes a job to its end.
///
/// # Errors
/// [`Exit::Conflict`] if another run holds the directory, [`Exit::InvalidManifest`] if this version cannot execute the job, [`Exit::Failed`] if a phase
/// fails, [`Exit::Interrupted`] or [`Exit::Cancelled`] if it was stopped.
pub fn run(loaded: &Loaded, file: &Path, context: &Context) -> Result<Report> {
    let started = Instant::now();
    let job = &loaded.job;
    refuse_unsupported(job)?;
    let storage = ArtifactStore::new(&job.storage, &context.directory)?;
    let _lock = Lock::acquire(&context.directory, job.name(), command_line())?;
    let directory = context.directory.job(job.name());
    // Being run is what is wished now.
    wish::clear(&directory)?;
    let status = StatusFile::begin(job, &directory)?;
    directory::replace(&directory.manifest(), loaded.text.as_bytes())?;
    let width = job.phases.iter().map(|phase| phase.name.len()).max().unwrap_or(0);
    let mut runner = Runner {
        job,
        directory,
        storage,
        status,
        display: Display::new(context.terminal, width),
        interrupts: Interrupts::new(context.directory.job(job.name()))?,
        fingerprints: Fingerprints::default(),
        observed: Observed::default(),
        artifacts: BTreeMap::new(),
    };
    let mut phases = Vec::with_capacity(job.phases.len());
    for phase in &job.phases {
        phases.push(runner.phase(phase)?);
    }
    Ok(Report {
        job: job.name().to_owned(),
        manifest: file.to_path_buf(),
        directory: context.directory.root().to_path_buf(),
        seconds: started.elapsed().as_secs_f64(),
        phases,
    })
}

/// Refuses what this version does not execute, before anything is done.
fn refuse_unsupported(job: &ValidatedJob) -> Result {
    if job.suspend {
        let what = format!("job `{}` is suspended: `spec.suspend` is true", job.name());
        return Err(Failure::new(Exit::InvalidManifest, what).help("set it to false, then run again"));
    }
    match plan(job, &Observed::default()) {
        Ok(_) => Ok(()),
        Err(error) => {
            let what = format!("job `{}` cannot be executed by this version", job.name());
            let failure = error
                .unsupported
                .iter()
                .fold(Failure::new(Exit::InvalidManifest, what), Failure::cause);
            Err(failure.help("`fathom plan` shows what the job would take"))
        }
    }
}

struct Runner<'a> {
    job: &'a ValidatedJob,
    directory: JobDirectory,
    storage: ArtifactStore,
    status: StatusFile,
    display: Display,
    interrupts: Interrupts,
    fingerprints: Fingerprints,
    observed: Observed,
    /// Where the artifacts of the phases so far are.
    artifacts: BTreeMap<String, PathBuf>,
}

impl Runner<'_> {
    fn phase(&mut self, phase: &ValidatedPhase) -> Result<PhaseReport> {
        let started = Instant::now();
        let plan = self.plan(phase)?;
        let key = plan
            .phase(&phase.name)
            .and_then(|planned| planned.key.clone())
            .ok_or_else(|| self.not_ready(phase, &plan))?;
        if let Some(artifact) = self.cached(phase, &key)? {
            self.status.transition(&phase.name, |state| state.reuse(key.clone()))?;
            return Ok(self.done(phase, artifact, started, None));
        }
        let run = self.prepare(phase, &plan, &key)?;
        let work = run.directory.work();
        match execute(&run, &mut self.status, &self.display, &mut self.interrupts)? {
            Outcome::Complete { artifact, restarts } => {
                self.storage.keep(&work, &artifact)?;
                Ok(self.done(phase, artifact, started, Some(restarts)))
            }
            Outcome::Stopped { checkpoint } => Err(self.stopped(phase, checkpoint)),
            Outcome::Failed { message, log } => {
                self.display.summary(Mark::Failed, &phase.name, "failed");
                Err(Failure::new(Exit::Failed, format!("phase `{}` failed", phase.name))
                    .cause(message)
                    .help(format!(
                        "the worker's log is {}; run the same command again to try again",
                        log.display()
                    )))
            }
        }
    }

    /// Plans with what is known now: the files that the phase reads are hashed.
    fn plan(&mut self, phase: &ValidatedPhase) -> Result<Plan> {
        if phase.work.kind().reads_files() {
            let line = self.display.start(&phase.name);
            let fingerprint = self.fingerprints.of(&phase.work, &mut self.interrupts, line);
            match fingerprint? {
                Some(fingerprint) => {
                    self.observed.inputs.insert(phase.name.clone(), fingerprint);
                }
                None => return Err(self.stopped(phase, None)),
            }
        }
        plan(self.job, &self.observed).map_err(|error| Failure::new(Exit::InvalidManifest, "the job cannot be planned").caused_by(&error))
    }

    /// The phase's artifact, if it exists and every byte of it is as it was committed. A damaged one is moved aside.
    fn cached(&mut self, phase: &ValidatedPhase, key: &str) -> Result<Option<ArtifactManifest>> {
        let Some(kind) = phase.work.kind().produces() else {
            return Ok(None);
        };
        match self.storage.find(kind, key, Depth::Digests) {
            Found::Whole(artifact) => Ok(Some(artifact)),
            Found::Nothing => Ok(None),
            Found::Damaged(corruption) => {
                let aside = self.storage.set_aside(kind, key)?;
                let name = &phase.name;
                self.display.note(&format!(
                    "{name}: its artifact is damaged ({corruption}); moved to {}, made again",
                    aside.display()
                ));
                Ok(None)
            }
        }
    }

    fn prepare(&self, phase: &ValidatedPhase, plan: &Plan, key: &str) -> Result<PhaseRun> {
        let run = self.directory.run(&phase.name, key);
        let ranks = phase.work.kind().ranks(&self.job.parallelism) as usize;
        let mut inputs = BTreeMap::new();
        for (&kind, &maker) in &phase.inputs {
            let path = self
                .artifacts
                .get(&self.job.phases[maker].name)
                .ok_or_else(|| self.not_ready(phase, plan))?;
            inputs.insert(kind, absolute(path)?);
        }
        let placement = Placement {
            inputs,
            output: absolute(&run.work())?,
            spool: absolute(&run.spool())?,
            threads: threads(self.job.worker.threads as usize, ranks),
        };
        let assignment = fathom_spec::plan::assignment(self.job, plan, &phase.name, 1, placement)
            .map_err(|error| Failure::new(Exit::Failed, format!("phase `{}` cannot start", phase.name)).caused_by(&error))?;
        Ok(PhaseRun {
            directory: run,
            assignment,
            ranks,
            max_restarts: self.job.restart.max_restarts,
        })
    }

    fn done(&mut self, phase: &ValidatedPhase, artifact: ArtifactManifest, started: Instant, restarts: Option<u32>) -> PhaseReport {
        let path = self.storage.path(artifact.kind, &artifact.key);
        self.observed.artifacts.insert(artifact.key.clone());
        self.artifacts.insert(phase.name.clone(), path.clone());
        let report = PhaseReport {
            name: phase.name.clone(),
            cached: restarts.is_none(),
            seconds: started.elapsed().as_secs_f64(),
            restarts: restarts.unwrap_or(0),
            path,
            artifact,
        };
        let mark = if report.cached { Mark::Cached } else { Mark::Done };
        self.display.summary(mark, &phase.name, &report.summary());
        report
    }

    fn stopped(&self, phase: &ValidatedPhase, checkpoint: Option<u64>) -> Failure {
        let from = checkpoint.map_or(String::new(), |step| format!(" from the checkpoint of step {step}"));
        self.display.summary(
            Mark::Stopped,
            &phase.name,
            &format!("stopped; run the same command again to go on{from}"),
        );
        Failure::shown(self.interrupts.exit())
    }

    fn not_ready(&self, phase: &ValidatedPhase, plan: &Plan) -> Failure {
        let waiting = plan
            .phase(&phase.name)
            .is_some_and(|planned| matches!(planned.state, PlannedState::Waiting { .. }));
        let what = if waiting {
            "waits for an artifact that no phase made"
        } else {
            "cannot be planned"
        };
        Failure::new(Exit::Failed, format!("phase `{}` {what}", phase.name))
    }
}

/// Workers get absolute paths, so that logs and assignments can be read anywhere.
fn absolute(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::io("find", path, &error))?;
    absolute.into_os_string().into_string().map_err(|path| {
        Failure::new(
            Exit::Usage,
            format!("the path {} is not valid UTF-8", PathBuf::from(path).display()),
        )
        .help("choose another directory with `--dir`")
    })
}

/// This process' command line, for people.
fn command_line() -> String {
    std::env::args_os()
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// The job as it would be planned now, with what `directory` holds. Reads and hashes the input files; changes nothing.
pub fn observe(job: &ValidatedJob, directory: &Directory, storage: &ArtifactStore, missing: &mut Vec<String>) -> Result<Observed> {
    let mut observed = Observed::default();
    let mut fingerprints = Fingerprints::default();
    if let Some(status) = super::status::read(&directory.job(job.name()).status())? {
        observed.attempts = status.attempts();
    }
    for phase in &job.phases {
        if phase.work.kind().reads_files() {
            match fingerprints.compute(&phase.work) {
                Ok(fingerprint) => {
                    observed.inputs.insert(phase.name.clone(), fingerprint);
                }
                Err(error) => missing.push(format!("`{}`: {error}", phase.name)),
            }
        }
        let Ok(plan) = plan(job, &observed) else { return Ok(observed) };
        let key = plan.phase(&phase.name).and_then(|planned| planned.key.clone());
        if let (Some(key), Some(kind)) = (key, phase.work.kind().produces())
            && let Found::Whole(_) = storage.find(kind, &key, Depth::Sizes)
        {
            observed.artifacts.insert(key);
        }
    }
    Ok(observed)
}

/// Threads of each of several ranks of this machine: as the manifest says, else an equal share of its cores.
fn threads(declared: usize, ranks: usize) -> usize {
    if declared > 0 || ranks == 1 {
        return declared;
    }
    (std::thread::available_parallelism().map_or(1, std::num::NonZero::get) / ranks).max(1)
}
