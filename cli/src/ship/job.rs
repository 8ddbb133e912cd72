//! Sends one job: its state and phases, the runs that belong to it, the artifacts that it made or found.

use super::Broken;
use super::paths::{self, Paths};
use super::run::RunShipper;
use crate::client::Client;
use crate::clock;
use crate::commands::metrics::key;
use crate::failure::{Failure, Result};
use crate::local::intent::uid;
use crate::local::queue::Queue;
use crate::local::wish::{self, Wish};
use crate::runner::directory::{Directory, JobDirectory, kind_name};
use crate::runner::lock::Lock;
use crate::runner::report::figures;
use crate::runner::status;
use crate::runner::storage::{ArtifactStore, Found};
use fathom_spec::plan::run_name;
use fathom_spec::size::flops_per_token;
use fathom_spec::state::{JobState, JobStatus, PhaseState, PhaseStatus};
use fathom_spec::{PhaseWork, ValidatedJob, parse_manifest};
use fathom_worker::artifact::Depth;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Sends one job.
#[derive(Debug)]
pub(super) struct JobShipper {
    name: String,
    directory: Directory,
    files: JobDirectory,
    paths: Paths,
    /// What was sent last.
    sent: Option<Value>,
    manifest: Option<(String, ValidatedJob)>,
    runs: BTreeMap<String, RunShipper>,
    artifacts: BTreeMap<String, Value>,
}

impl JobShipper {
    pub(super) fn new(directory: &Directory, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            paths: Paths::new(directory, name),
            files: directory.job(name),
            directory: directory.clone(),
            sent: None,
            manifest: None,
            runs: BTreeMap::new(),
            artifacts: BTreeMap::new(),
        }
    }

    /// Sends a part of what is new. Returns whether there may be more.
    pub(super) fn pass(&mut self, client: &Client) -> Result<bool, Broken> {
        let Some(status) = status::read(&self.files.status())? else {
            return Ok(false);
        };
        if !self.read_manifest()? {
            return Ok(false);
        }
        let body = self.body(&status)?;
        if self.sent.as_ref() != Some(&body) {
            client.put(&format!("/api/v1/jobs/{}/status", self.name), &body)?;
            self.sent = Some(body);
        }
        let mut more = false;
        for run in self.runs.values_mut() {
            more |= run.pass(client)?;
        }
        Ok(more)
    }

    /// Reads the manifest, which changes when the job is run again. False if there is none yet.
    fn read_manifest(&mut self) -> Result<bool> {
        let path = self.files.manifest();
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            text => text.map_err(|error| Failure::io("read", &path, &error))?,
        };
        if self.manifest.as_ref().is_none_or(|(known, _)| *known != text) {
            // It was valid when the job was run; another version of this program may see it otherwise.
            match parse_manifest(&text) {
                Ok(job) => self.manifest = Some((text, job)),
                Err(_) => return Ok(self.manifest.is_some()),
            }
        }
        Ok(true)
    }

    fn body(&mut self, status: &JobStatus) -> Result<Value> {
        let Some((text, job)) = self.manifest.clone() else {
            return Ok(Value::Null);
        };
        let storage = ArtifactStore::new(&job.storage, &self.directory)?;
        let running = Lock::holder(&self.directory).is_some_and(|holder| holder.job == self.name);
        let waiting = Queue::new(self.directory.clone())
            .waiting()?
            .iter()
            .any(|entry| entry.job == self.name);
        let (state, message) = match (running, waiting) {
            (false, true) => ("queued", None),
            _ => state(status, running, wish::read(&self.files)?),
        };
        let message = message.map(|message| self.paths.relative(&message));
        let mut phases = Vec::new();
        let mut runs = Vec::new();
        let mut artifacts = Vec::new();
        for phase in &status.phases {
            let artifact = self.artifact(&storage, phase);
            phases.push(view(&self.name, phase, running, artifact.as_ref(), &self.paths));
            artifacts.extend(artifact);
            let Some(key) = key(&phase.state) else { continue };
            let directory = self.files.run(&phase.name, key);
            if !directory.root().is_dir() {
                continue;
            }
            let name = run_name(&self.name, &phase.name, key);
            runs.push(json!({
                "name": name,
                "phase": phase.name,
                "kind": phase.kind.name(),
                "key": key,
                "state": word(&phase.state, running),
                "flopsPerToken": flops(&job, &phase.name),
            }));
            self.runs
                .entry(name.clone())
                .or_insert_with(|| RunShipper::new(name, directory, self.paths.clone()));
        }
        Ok(json!({
            "uid": uid(&self.name),
            "state": state,
            "message": message,
            "labels": job.metadata.labels,
            "manifest": text,
            "effective": effective(&job)?,
            "phases": phases,
            "runs": runs,
            "artifacts": artifacts,
        }))
    }

    /// The artifact of a finished phase. Artifacts never change, so each is read once.
    fn artifact(&mut self, storage: &ArtifactStore, phase: &PhaseStatus) -> Option<Value> {
        let key = match &phase.state {
            PhaseState::Cached { key } | PhaseState::Succeeded { key, .. } => key,
            PhaseState::Pending | PhaseState::Running { .. } | PhaseState::Stopped { .. } | PhaseState::Failed { .. } => return None,
        };
        if let Some(known) = self.artifacts.get(key) {
            return Some(known.clone());
        }
        let kind = phase.kind.produces()?;
        let Found::Whole(artifact) = storage.find(kind, key, Depth::Sizes) else {
            return None;
        };
        let value = json!({
            "kind": kind_name(kind),
            "key": key,
            "phase": artifact.phase,
            "step": artifact.step,
            "bytes": artifact.files.values().map(|file| file.bytes).sum::<u64>(),
            "files": artifact.files.len(),
            "path": paths::absolute(&storage.path(kind, key)),
            "lineage": artifact.lineage.iter().map(|(&kind, key)| (kind_name(kind).to_owned(), json!(key))).collect::<Map<_, _>>(),
            "statistics": artifact.statistics,
        });
        self.artifacts.insert(key.clone(), value.clone());
        Some(value)
    }
}

/// The state of a job in one word, and why. A phase that is under way without a runner was left behind by one that died.
fn state(status: &JobStatus, running: bool, wish: Option<Wish>) -> (&'static str, Option<String>) {
    match (status.state(), running, wish) {
        (JobState::Succeeded, ..) => ("succeeded", None),
        (JobState::Failed { phase, message }, false, _) => ("failed", Some(format!("phase `{phase}`: {message}"))),
        (_, true, _) => ("running", None),
        (_, false, Some(Wish::Pause)) => ("paused", None),
        (_, false, Some(Wish::Cancel)) => ("cancelled", None),
        (JobState::Pending, false, None) => ("pending", None),
        (JobState::Running { .. }, false, None) => (
            "stopped",
            Some("its runner died; running it again goes on from the last checkpoint".into()),
        ),
        (JobState::Stopped, false, None) => ("stopped", None),
    }
}

fn word(state: &PhaseState, running: bool) -> &'static str {
    match state {
        PhaseState::Running { .. } if !running => "stopped",
        state => state.word(),
    }
}

fn view(job: &str, phase: &PhaseStatus, running: bool, artifact: Option<&Value>, paths: &Paths) -> Value {
    let mut view = json!({
        "name": phase.name,
        "kind": phase.kind.name(),
        "state": word(&phase.state, running),
        "restarts": 0,
    });
    let mut set = |name: &str, value: Value| view[name] = value;
    set("startedAt", json!(phase.state.started().map(clock::rfc3339_fine)));
    if let Some(key) = key(&phase.state) {
        set("key", json!(key));
        set("run", json!(run_name(job, &phase.name, key)));
    }
    match &phase.state {
        PhaseState::Pending | PhaseState::Cached { .. } => {}
        PhaseState::Running {
            attempt,
            since,
            started: _,
            restarts,
            checkpoint,
            key: _,
        } => {
            set("attempt", json!(attempt));
            set("startedAt", json!(clock::rfc3339_fine(phase.state.started().unwrap_or(*since))));
            set("restarts", json!(restarts));
            set("checkpointStep", json!(checkpoint));
        }
        PhaseState::Stopped {
            attempt,
            checkpoint,
            started: _,
            key: _,
        } => {
            set("attempt", json!(attempt));
            set("checkpointStep", json!(checkpoint));
        }
        PhaseState::Succeeded {
            attempts,
            started: _,
            at,
            key: _,
        } => {
            set("attempt", json!(attempts));
            set("finishedAt", json!(clock::rfc3339_fine(*at)));
        }
        PhaseState::Failed {
            attempt,
            checkpoint,
            failure,
            started: _,
            at,
            key: _,
        } => {
            set("attempt", json!(attempt));
            set("checkpointStep", json!(checkpoint));
            set("message", json!(paths.relative(&failure.message)));
            set("finishedAt", json!(at.map(clock::rfc3339_fine)));
        }
    }
    if let (Some(artifact), Some(kind)) = (artifact, phase.kind.produces()) {
        set("summary", json!(figures(kind, &artifact["statistics"]).join("  ")));
    }
    view
}

/// Floating-point operations per trained token of a phase, forward and backward (three times the forward pass).
fn flops(job: &ValidatedJob, phase: &str) -> Option<f64> {
    let phase = job.phase(phase)?;
    let PhaseWork::Pretrain(pretrain) = &phase.work else { return None };
    let corpus = phase.inputs.values().map(|&maker| &job.phases[maker].work);
    let mut length = corpus.filter_map(|work| {
        if let PhaseWork::Corpus(corpus) = work {
            Some(corpus.sequence_length)
        } else {
            None
        }
    });
    let flops = flops_per_token(&job.architecture, length.next_back()?);
    let mtp = if pretrain.mtp.weight > 0.0 {
        flops.mtp_linear + flops.mtp_attention
    } else {
        0.0
    };
    Some(3.0 * (flops.linear + flops.attention + mtp))
}

fn effective(job: &ValidatedJob) -> Result<String> {
    serde_saphyr::to_string(job)
        .map_err(|error| Failure::new(crate::failure::Exit::Failed, "cannot write the effective manifest").caused_by(&error))
}
