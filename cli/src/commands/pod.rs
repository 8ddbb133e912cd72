//! `fathom pod`: executes one attempt of one phase in a pod of a cluster. What `fathom run` does for a phase, but for restarts, which are the operator's.

use super::worker::{Ended, GroupArgs, serve_signals};
use crate::failure::{Exit, Failure};
use crate::runner::directory::{Directory, create};
use crate::runner::fingerprints::Fingerprints;
use crate::runner::lock::WorkerLock;
use crate::runner::storage::{ArtifactStore, Found};
use fathom_spec::artifact::{ArtifactKind, ArtifactManifest};
use fathom_spec::assignment::ExitCode;
use fathom_spec::order::{ORDER_VERSION, Order, Outcome};
use fathom_spec::plan::{Observed, Placement, assignment, plan};
use fathom_spec::{ValidatedJob, parse_manifest};
use fathom_worker::Stop;
use fathom_worker::artifact::{self, Depth};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A `ConfigMap` has at most this many bytes.
const MAX_ORDER_BYTES: u64 = 1 << 20;
/// A pod of an earlier attempt is gone before this one is created; its file system may take a while to notice.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[arg(long, value_name = "FILE")]
    order: PathBuf,
    /// Directory of artifacts and checkpoints
    #[arg(long, value_name = "DIR")]
    storage: PathBuf,
    /// Number of the attempt, from 1
    #[arg(long, value_name = "N")]
    attempt: u32,
    /// Threads for computation; 0 means one per core that the pod may use
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    #[command(flatten)]
    group: GroupArgs,
    /// Where rank 0 says what it made
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    outcome: PathBuf,
}

/// Runs the command. The exit code is the worker's contract, not the command line's.
pub fn run(args: &Args) -> std::process::ExitCode {
    Ended::report(execute(args))
}

fn execute(args: &Args) -> Result<(), Ended> {
    let pod = Pod::new(args)?;
    let key = pod.key()?.to_owned();
    let kind = pod.kind()?;
    // Only rank 0 changes the storage; the others see what it left.
    let depth = if args.group.rank == 0 { Depth::Digests } else { Depth::Sizes };
    match pod.artifacts.find(kind, &key, depth) {
        Found::Whole(artifact) => return pod.say(&artifact, true),
        Found::Damaged(corruption) if args.group.rank == 0 => {
            let aside = pod.artifacts.set_aside(kind, &key).map_err(io)?;
            eprintln!("the artifact is damaged ({corruption}); moved to {}, made again", aside.display());
        }
        Found::Damaged(_) | Found::Nothing => {}
    }
    let run = Directory::new(&args.storage).job(pod.job.name()).run(&pod.order.phase, &key);
    create(run.root()).map_err(io)?;
    let _lock = match args.group.rank {
        0 => Some(lock(&run.worker_lock())?),
        _ => None,
    };
    let placement = Placement {
        inputs: pod.inputs()?,
        output: text(&run.work())?,
        spool: text(&run.spool())?,
        threads: args.threads,
    };
    let assignment = assignment(&pod.job, &pod.plan, &pod.order.phase, args.attempt, placement)
        .map_err(|error| bad_data(&format!("phase `{}` cannot start", pod.order.phase), &error))?;
    let stop = Stop::new();
    serve_signals(&stop)?;
    fathom_worker::run(&assignment, args.group.group().as_ref(), &stop).map_err(Ended::Early)?;
    if args.group.rank != 0 {
        return Ok(());
    }
    let artifact = artifact::open(&run.work(), Depth::Sizes).map_err(|corruption| {
        let failure = Failure::new(Exit::Failed, "the worker left no complete artifact").cause(corruption.to_string());
        Ended::Unstarted(failure, ExitCode::Io)
    })?;
    pod.artifacts.keep(&run.work(), &artifact).map_err(io)?;
    pod.say(&artifact, false)
}

/// An order, understood.
struct Pod<'a> {
    args: &'a Args,
    order: Order,
    job: ValidatedJob,
    plan: fathom_spec::plan::Plan,
    /// Digest of the files that the phase reads.
    input: Option<String>,
    artifacts: ArtifactStore,
}

impl<'a> Pod<'a> {
    fn new(args: &'a Args) -> Result<Self, Ended> {
        let order = read(&args.order)?;
        if order.version != ORDER_VERSION {
            let what = format!("order version {} where this program knows {ORDER_VERSION}", order.version);
            return Err(bad_config(
                Failure::new(Exit::Failed, what).help("give the worker the operator's image"),
            ));
        }
        let job = parse_manifest(&order.manifest.to_string()).map_err(|problems| {
            let failure = Failure::new(Exit::InvalidManifest, "the manifest in the order is wrong");
            bad_config(problems.iter().fold(failure, |failure, problem| {
                failure.cause(format!("{}: {}", problem.path, problem.message))
            }))
        })?;
        let Some(phase) = job.phase(&order.phase) else {
            return Err(bad_config(Failure::new(
                Exit::Failed,
                format!("the job has no phase `{}`", order.phase),
            )));
        };
        let input = if phase.work.kind().reads_files() {
            let digest = Fingerprints::default().compute(&phase.work);
            Some(digest.map_err(|problem| {
                let failure = Failure::new(Exit::Failed, format!("the input of phase `{}` cannot be read", phase.name)).cause(problem);
                Ended::Unstarted(
                    failure.help("are the volumes of `spec.worker.volumes` mounted where `paths` look?"),
                    ExitCode::BadData,
                )
            })?)
        } else {
            None
        };
        let artifacts = ArtifactStore::at(Directory::new(&args.storage).artifacts());
        let mut observed = Observed {
            inputs: order.inputs.clone(),
            ..Observed::default()
        };
        if let Some(input) = &input {
            observed.inputs.insert(phase.name.clone(), input.clone());
        }
        let planned = |observed: &Observed| {
            plan(&job, observed)
                .map_err(|error| bad_config(Failure::new(Exit::InvalidManifest, "the job cannot be planned").caused_by(&error)))
        };
        // Keys do not depend on what exists; what is ready does.
        for phase in &planned(&observed)?.phases {
            if let (Some(key), Some(kind)) = (&phase.key, phase.kind.produces())
                && phase.name != order.phase
                && matches!(artifacts.find(kind, key, Depth::Sizes), Found::Whole(_))
            {
                observed.artifacts.insert(key.clone());
            }
        }
        let plan = planned(&observed)?;
        Ok(Self {
            args,
            order,
            plan,
            input,
            artifacts,
            job,
        })
    }

    fn key(&self) -> Result<&str, Ended> {
        let planned = self.plan.phase(&self.order.phase);
        planned.and_then(|phase| phase.key.as_deref()).ok_or_else(|| {
            let what = format!("the key of phase `{}` depends on a digest that the order lacks", self.order.phase);
            bad_config(Failure::new(Exit::Failed, what))
        })
    }

    fn kind(&self) -> Result<ArtifactKind, Ended> {
        let produces = self.job.phase(&self.order.phase).and_then(|phase| phase.work.kind().produces());
        produces.ok_or_else(|| {
            bad_config(Failure::new(
                Exit::Failed,
                format!("phase `{}` makes no artifact", self.order.phase),
            ))
        })
    }

    /// Where the artifacts are that the phase reads.
    fn inputs(&self) -> Result<BTreeMap<ArtifactKind, String>, Ended> {
        let planned = self.plan.phase(&self.order.phase);
        let inputs = planned.into_iter().flat_map(|phase| &phase.inputs);
        inputs
            .filter_map(|(&kind, input)| Some((kind, self.artifacts.path(kind, input.key.as_deref()?))))
            .map(|(kind, path)| Ok((kind, text(&path)?)))
            .collect()
    }

    /// Says what was made, for the operator.
    fn say(&self, artifact: &ArtifactManifest, cached: bool) -> Result<(), Ended> {
        if self.args.group.rank != 0 {
            return Ok(());
        }
        let outcome = Outcome {
            version: ORDER_VERSION,
            key: artifact.key.clone(),
            input: self.input.clone(),
            cached,
            step: artifact.step,
        };
        let text = serde_json::to_string(&outcome)
            .map_err(|error| bad_config(Failure::new(Exit::Failed, "cannot write JSON").caused_by(&error)))?;
        std::fs::write(&self.args.outcome, text).map_err(|error| io(Failure::io("write", &self.args.outcome, &error)))
    }
}

fn read(path: &Path) -> Result<Order, Ended> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_ORDER_BYTES).read_to_string(&mut text))
        .map_err(|error| bad_config(Failure::io("read the order", path, &error)))?;
    serde_json::from_str(&text)
        .map_err(|error| bad_config(Failure::new(Exit::Failed, format!("{} is not an order", path.display())).caused_by(&error)))
}

fn lock(path: &Path) -> Result<WorkerLock, Ended> {
    let lock = WorkerLock::acquire(path, LOCK_PATIENCE).map_err(io)?;
    lock.ok_or_else(|| io(Failure::new(Exit::Conflict, format!("another worker holds {}", path.display()))))
}

fn text(path: &Path) -> Result<String, Ended> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| bad_config(Failure::new(Exit::Usage, format!("the path {} is not valid UTF-8", path.display()))))
}

fn bad_config(failure: Failure) -> Ended {
    Ended::Unstarted(failure, ExitCode::BadConfig)
}

fn bad_data(what: &str, error: &dyn std::error::Error) -> Ended {
    Ended::Unstarted(Failure::new(Exit::Failed, what).cause(error.to_string()), ExitCode::BadData)
}

fn io(failure: Failure) -> Ended {
    Ended::Unstarted(failure, ExitCode::Io)
}
