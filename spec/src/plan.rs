//! The planner: a validated job and what is there to what comes next. Pure, shared by the local runner and the operator.
//!
//! A phase's cache key is the digest of what decides its output: the kind, its fields, the seed, for training the model and its
//! arithmetic, the digests of its input files and the keys of the artifacts that it reads, and the version of the worker. Names,
//! threads, resources, retries and storage are not in it. So a fork shares every phase before its first difference.

use crate::artifact::ArtifactKind;
use crate::assignment::{Assignment, InputArtifact, Work};
use crate::job::{PhaseKind, PhaseWork, ValidatedJob, ValidatedPhase};
use crate::key::digest;
use crate::manifest::{Batch, Device, Parallelism};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Version of what workers compute. It is part of every key: a worker that computes something else from the same fields gets another.
pub const WORKER_PROTOCOL: u32 = 3;

/// What is there, as seen by whoever executes the plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Digests of the files that a phase reads, by phase name. A phase that reads files has no key without it.
    pub inputs: BTreeMap<String, String>,
    /// Keys of the artifacts that exist and were verified.
    pub artifacts: BTreeSet<String>,
    /// Phases that were started, by phase name.
    pub attempts: BTreeMap<String, ObservedAttempt>,
}

/// The newest attempt of a phase, and what it was an attempt at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedAttempt {
    /// Key that the phase had when it was started. An attempt at another key says nothing about the phase as it is now.
    pub key: String,
    /// How far it is.
    pub attempt: Attempt,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A worker executes it.
    Running {
        /// Number, from 1.
        attempt: u32,
    },
    /// It ended early and may go on from its last checkpoint.
    Stopped {
        /// Number, from 1.
        attempt: u32,
    },
    /// It failed, and is not restarted.
    Failed {
        /// Number, from 1.
        attempt: u32,
        /// The error with its cure.
        message: String,
    },
}

/// What comes next for each phase of a job.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Name of the job.
    pub job: String,
    /// The phases, in order.
    pub phases: Vec<PlannedPhase>,
    /// What happens and what is waited for, in sentences.
    pub report: Vec<String>,
}

impl Plan {
    /// The phase called `name`.
    #[must_use]
    pub fn phase(&self, name: &str) -> Option<&PlannedPhase> {
        self.phases.iter().find(|phase| phase.name == name)
    }

    /// Phases that can be started now.
    pub fn ready(&self) -> impl Iterator<Item = &PlannedPhase> {
        self.phases.iter().filter(|phase| match phase.state {
            PlannedState::Ready { .. } => true,
            PlannedState::Cached | PlannedState::Running { .. } | PlannedState::Waiting { .. } | PlannedState::Failed { .. } => false,
        })
    }

    /// Whether every artifact is there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.phases.iter().all(|phase| phase.state == PlannedState::Cached)
    }
}

/// A phase of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedPhase {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: PhaseKind,
    /// Cache key; none while a digest that it depends on is not known.
    pub key: Option<String>,
    /// What it reads.
    pub inputs: BTreeMap<ArtifactKind, PlannedInput>,
    /// What comes next.
    pub state: PlannedState,
}

/// An artifact that a planned phase reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedInput {
    /// The phase that makes it.
    pub phase: String,
    /// Its key, if known.
    pub key: Option<String>,
}

/// What comes next for a phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum PlannedState {
    /// Its artifact exists; nothing is done.
    Cached,
    /// Everything that it reads is there.
    Ready {
        /// The attempt that is next.
        attempt: u32,
    },
    /// A worker executes it.
    Running {
        /// The attempt.
        attempt: u32,
    },
    /// Something is missing.
    Waiting {
        /// What, in the order of the job.
        on: Vec<WaitingOn>,
    },
    /// It failed; `attempt` was the last one.
    Failed {
        /// The attempt.
        attempt: u32,
        /// The error with its cure.
        message: String,
    },
}

/// What a phase waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum WaitingOn {
    /// The artifact of a phase.
    Artifact {
        /// The phase.
        phase: String,
        /// The kind of artifact.
        kind: ArtifactKind,
    },
    /// The digest of the files that the phase reads.
    InputDigest,
}

/// What a job asks for and this version does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// One sentence each, without a full stop.
    pub unsupported: Vec<String>,
}

impl fmt::Display for PlanError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.unsupported.join("; "))
    }
}

impl std::error::Error for PlanError {}

/// Plans a job.
///
/// # Errors
/// [`PlanError`] if this version cannot execute the job; it lists every reason.
pub fn plan(job: &ValidatedJob, observed: &Observed) -> Result<Plan, PlanError> {
    let unsupported = unsupported(job);
    if !unsupported.is_empty() {
        return Err(PlanError { unsupported });
    }
    let mut phases: Vec<PlannedPhase> = Vec::with_capacity(job.phases.len());
    for phase in &job.phases {
        let inputs = phase
            .inputs
            .iter()
            .map(|(&kind, &maker)| {
                let PlannedPhase { name, key, .. } = &phases[maker];
                let input = PlannedInput {
                    phase: name.clone(),
                    key: key.clone(),
                };
                (kind, input)
            })
            .collect();
        let key = cache_key(job, phase, &inputs, observed);
        let state = state(phase, key.as_deref(), &inputs, observed);
        phases.push(PlannedPhase {
            name: phase.name.clone(),
            kind: phase.work.kind(),
            key,
            inputs,
            state,
        });
    }
    let report = phases.iter().map(sentence).collect();
    Ok(Plan {
        job: job.name().to_owned(),
        phases,
        report,
    })
}

/// Everything in `job` that this version does not execute.
#[must_use]
pub fn unsupported(job: &ValidatedJob) -> Vec<String> {
    const LATER: &str = "not supported by this version";
    let mut reasons = Vec::new();
    match job.worker.device {
        Device::Cpu => {}
        Device::Cuda => reasons.push(format!("worker device `cuda`: {LATER}; use cpu")),
    }
    let Parallelism {
        pipeline,
        expert,
        data,
        schedule: _,
        micro_batches: _,
    } = job.parallelism;
    for (axis, ranks) in [("pipeline", pipeline), ("expert", expert)] {
        if ranks > 1 {
            reasons.push(format!("{axis} parallelism over {ranks} ranks: {LATER}; use 1"));
        }
    }
    if !data.is_power_of_two() {
        reasons.push(format!("data parallelism over {data} ranks: {LATER}; use a power of two"));
    }
    if !job.storage.uri.starts_with("file://") && job.storage.claim().is_none() {
        reasons.push(format!(
            "storage `{}`: {LATER}; use file://DIRECTORY, or pvc://CLAIM/PREFIX on a cluster",
            job.storage.uri
        ));
    }
    for phase in &job.phases {
        if let PhaseWork::Pretrain(pretrain) = &phase.work {
            reasons.extend(unequal_parts(&phase.name, &pretrain.batch, data));
        }
        match phase.work.kind() {
            PhaseKind::Tokenizer | PhaseKind::Corpus | PhaseKind::Pretrain => {}
            kind @ (PhaseKind::Extend | PhaseKind::Sft | PhaseKind::Grpo | PhaseKind::Evaluate | PhaseKind::Serve) => {
                reasons.push(format!("phase `{}` ({kind}): {LATER}", phase.name));
            }
        }
    }
    reasons
}

/// Why a batch does not part into whole micro-batches for every rank.
fn unequal_parts(phase: &str, batch: &Batch, ranks: u32) -> Option<String> {
    let Batch {
        sequences,
        ramp_from,
        ramp_until: _,
        micro_batch,
    } = *batch;
    if ranks == 1 {
        return None;
    }
    let unit = u64::from(micro_batch) * u64::from(ranks);
    if !u64::from(sequences).is_multiple_of(unit) {
        return Some(format!(
            "phase `{phase}`: batches of {sequences} sequences over {ranks} ranks: make batch.sequences a multiple of {unit} (microBatch x parallelism.data), or microBatch smaller"
        ));
    }
    (ramp_from != sequences).then(|| {
        format!(
            "phase `{phase}`: a batch ramp over {ranks} ranks: not supported by this version; make batch.rampFrom equal to batch.sequences"
        )
    })
}

/// The key of a phase; `None` while a digest or an upstream key is not known.
fn cache_key(
    job: &ValidatedJob,
    phase: &ValidatedPhase,
    inputs: &BTreeMap<ArtifactKind, PlannedInput>,
    observed: &Observed,
) -> Option<String> {
    let files = if phase.work.kind().reads_files() {
        Value::String(observed.inputs.get(&phase.name)?.clone())
    } else {
        Value::Null
    };
    let mut upstream = serde_json::Map::new();
    for (kind, input) in inputs {
        upstream.insert(artifact_name(*kind).into(), Value::String(input.key.clone()?));
    }
    let work = serde_json::to_value(&phase.work).ok()?;
    let model = match phase.work.kind() {
        PhaseKind::Tokenizer | PhaseKind::Corpus => Value::Null,
        PhaseKind::Pretrain | PhaseKind::Extend | PhaseKind::Sft | PhaseKind::Grpo | PhaseKind::Evaluate | PhaseKind::Serve => {
            json!({ "architecture": job.architecture, "precision": job.precision })
        }
    };
    Some(digest(&json!({
        "protocol": WORKER_PROTOCOL,
        "seed": job.seed,
        "work": output_relevant(work),
        "model": model,
        "files": files,
        "artifacts": upstream,
    })))
}

/// The fields of a phase without those that do not change its artifact: how often checkpoints are written and the model is validated.
fn output_relevant(mut work: Value) -> Value {
    if let Some(kinds) = work.as_object_mut() {
        for fields in kinds.values_mut().filter_map(Value::as_object_mut) {
            fields.remove("checkpoint");
            fields.remove("validation");
        }
    }
    work
}

fn state(phase: &ValidatedPhase, key: Option<&str>, inputs: &BTreeMap<ArtifactKind, PlannedInput>, observed: &Observed) -> PlannedState {
    if key.is_some_and(|key| observed.artifacts.contains(key)) {
        return PlannedState::Cached;
    }
    let mut on: Vec<WaitingOn> = inputs
        .iter()
        .filter(|(_, input)| input.key.as_ref().is_none_or(|key| !observed.artifacts.contains(key)))
        .map(|(&kind, input)| WaitingOn::Artifact {
            phase: input.phase.clone(),
            kind,
        })
        .collect();
    if phase.work.kind().reads_files() && !observed.inputs.contains_key(&phase.name) {
        on.push(WaitingOn::InputDigest);
    }
    let attempt = observed
        .attempts
        .get(&phase.name)
        .filter(|attempt| Some(attempt.key.as_str()) == key)
        .map(|attempt| &attempt.attempt);
    match attempt {
        Some(Attempt::Running { attempt }) => PlannedState::Running { attempt: *attempt },
        Some(Attempt::Failed { attempt, message }) => PlannedState::Failed {
            attempt: *attempt,
            message: message.clone(),
        },
        Some(Attempt::Stopped { .. }) | None if !on.is_empty() => PlannedState::Waiting { on },
        Some(Attempt::Stopped { attempt }) => PlannedState::Ready { attempt: attempt + 1 },
        None => PlannedState::Ready { attempt: 1 },
    }
}

fn sentence(phase: &PlannedPhase) -> String {
    let PlannedPhase { name, kind, state, .. } = phase;
    match state {
        PlannedState::Cached => format!("`{name}` ({kind}) is done; its artifact is used again."),
        PlannedState::Ready { attempt: 1 } => format!("`{name}` ({kind}) can start."),
        PlannedState::Ready { attempt } => format!("`{name}` ({kind}) can go on with attempt {attempt}."),
        PlannedState::Running { attempt } => format!("`{name}` ({kind}) is running, attempt {attempt}."),
        PlannedState::Waiting { on } => {
            let reasons: Vec<String> = on.iter().map(reason).collect();
            format!("`{name}` ({kind}) waits for {}.", reasons.join(" and "))
        }
        PlannedState::Failed { attempt, message } => format!("`{name}` ({kind}) failed in attempt {attempt}: {message}."),
    }
}

fn reason(waiting: &WaitingOn) -> String {
    match waiting {
        WaitingOn::Artifact { phase, kind } => format!("the {} of `{phase}`", artifact_name(*kind)),
        WaitingOn::InputDigest => "the digest of its input files".into(),
    }
}

const fn artifact_name(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Tokenizer => "tokenizer",
        ArtifactKind::Corpus => "corpus",
        ArtifactKind::Checkpoint => "checkpoint",
        ArtifactKind::Report => "report",
    }
}

/// Where an attempt reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Directories of the input artifacts.
    pub inputs: BTreeMap<ArtifactKind, String>,
    /// Directory that becomes the output artifact.
    pub output: String,
    /// Directory of the record spool.
    pub spool: String,
    /// Threads for computation; 0 means one per available core.
    pub threads: usize,
}

/// Why there is no assignment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssignmentError {
    /// The plan and the job do not have such a phase.
    #[error("the job has no phase `{0}`")]
    NoSuchPhase(String),
    /// The phase cannot be executed now; the sentence says why.
    #[error("{0}")]
    NotReady(String),
    /// The placement lacks the directory of an input.
    #[error("no directory is given for the {kind} that `{phase}` reads", kind = artifact_name(*kind))]
    NoDirectory {
        /// The phase.
        phase: String,
        /// The kind of artifact.
        kind: ArtifactKind,
    },
}

/// The assignment of one attempt of a phase that is ready, or that runs already (for an executor that restarts it).
///
/// # Errors
/// [`AssignmentError`] if the phase cannot be executed.
pub fn assignment(job: &ValidatedJob, plan: &Plan, phase: &str, attempt: u32, placement: Placement) -> Result<Assignment, AssignmentError> {
    let no_such_phase = || AssignmentError::NoSuchPhase(phase.to_owned());
    let planned = plan.phase(phase).ok_or_else(no_such_phase)?;
    let declared = job.phase(phase).ok_or_else(no_such_phase)?;
    let not_ready = || AssignmentError::NotReady(sentence(planned));
    match planned.state {
        PlannedState::Ready { .. } | PlannedState::Running { .. } => {}
        PlannedState::Cached | PlannedState::Waiting { .. } | PlannedState::Failed { .. } => return Err(not_ready()),
    }
    let key = planned.key.clone().ok_or_else(not_ready)?;
    let Placement {
        inputs: mut directories,
        output,
        spool,
        threads,
    } = placement;
    let mut inputs = BTreeMap::new();
    for (&kind, input) in &planned.inputs {
        let path = directories.remove(&kind).ok_or_else(|| AssignmentError::NoDirectory {
            phase: phase.to_owned(),
            kind,
        })?;
        let key = input.key.clone().ok_or_else(not_ready)?;
        inputs.insert(kind, InputArtifact { path, key });
    }
    Ok(Assignment {
        version: 1,
        job: job.name().to_owned(),
        phase: phase.to_owned(),
        run: run_name(job.name(), phase, &key),
        attempt,
        seed: job.seed,
        work: work(job, &declared.work).ok_or_else(not_ready)?,
        key,
        inputs,
        output,
        spool,
        threads,
    })
}

/// Identity of a phase's execution: equal for all its attempts, different when anything that decides its output is.
#[must_use]
pub fn run_name(job: &str, phase: &str, key: &str) -> String {
    format!("{job}.{phase}.{}", key.get(..12).unwrap_or(key))
}

/// What a worker is told; `None` for phases that this version does not execute.
fn work(job: &ValidatedJob, work: &PhaseWork) -> Option<Work> {
    match work {
        PhaseWork::Tokenizer(tokenizer) => Some(Work::Tokenizer(tokenizer.clone())),
        PhaseWork::Corpus(corpus) => Some(Work::Corpus(corpus.clone())),
        PhaseWork::Pretrain(pretrain) => Some(Work::Pretrain {
            pretrain: pretrain.clone(),
            architecture: job.architecture.clone(),
            precision: job.precision,
        }),
        PhaseWork::Extend(_) | PhaseWork::Sft(_) | PhaseWork::Grpo(_) | PhaseWork::Evaluate(_) | PhaseWork::Serve(_) => None,
    }
}
