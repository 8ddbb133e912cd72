//! Which model the user means: a directory, or the newest checkpoint of a job.

use super::directory::Directory;
use super::status;
use super::storage::ArtifactStore;
use crate::failure::{Exit, Failure, Result};
use fathom_spec::artifact::ArtifactKind;
use fathom_spec::state::{JobStatus, PhaseState};
use fathom_worker::checkpoint::store;
use std::path::{Path, PathBuf};

/// Directory of the checkpoints of a running phase, in its work directory.
pub const CHECKPOINTS: &str = ".checkpoints";

/// A checkpoint of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCheckpoint {
    /// Phase that wrote it.
    pub phase: String,
    /// Step; nothing for a finished artifact, which is its phase's last.
    pub step: Option<u64>,
    /// Where it is.
    pub path: PathBuf,
}

/// The directory of a model: `name` itself if it is one, else the newest checkpoint of the job of that name.
pub fn find(directory: &Directory, name: Option<&str>) -> Result<PathBuf> {
    if let Some(path) = name.map(Path::new).filter(|path| path.join("config.json").is_file()) {
        return Ok(path.to_path_buf());
    }
    if let Some(path) = name.map(Path::new).filter(|path| path.is_dir()) {
        return Err(Failure::new(Exit::NotFound, format!("{} holds no config.json", path.display()))
            .help("name a directory in the Hugging Face layout, or a job"));
    }
    let job = directory.choose_job(name)?;
    checkpoints(directory, &job)?
        .pop()
        .map(|checkpoint| checkpoint.path)
        .ok_or_else(|| {
            Failure::new(Exit::NotFound, format!("job `{job}` has no checkpoint yet")).help(format!("see `fathom status {job}`"))
        })
}

/// All checkpoints of a job, the newest last: those of running phases, and the artifacts of finished ones.
pub fn checkpoints(directory: &Directory, job: &str) -> Result<Vec<JobCheckpoint>> {
    let files = directory.job(job);
    let Some(JobStatus { phases, .. }) = status::read(&files.status())? else {
        return Ok(Vec::new());
    };
    let artifacts = artifacts(directory, job)?;
    let mut found = Vec::new();
    for phase in phases {
        match phase.state {
            PhaseState::Pending => {}
            PhaseState::Cached { key } | PhaseState::Succeeded { key, .. } => {
                let path = artifacts.path(ArtifactKind::Checkpoint, &key);
                if path.is_dir() {
                    found.push(JobCheckpoint {
                        phase: phase.name,
                        step: None,
                        path,
                    });
                }
            }
            PhaseState::Running { key, .. } | PhaseState::Stopped { key, .. } | PhaseState::Failed { key, .. } => {
                let work = files.run(&phase.name, &key).work().join(CHECKPOINTS);
                // Damaged ones are for `ckpt verify`.
                let listed = store::list(&work, |_, _| {}).map_err(|error| crate::commands::worker_failure(&error))?;
                found.extend(listed.into_iter().map(|checkpoint| JobCheckpoint {
                    phase: phase.name.clone(),
                    step: Some(checkpoint.manifest.step),
                    path: checkpoint.path,
                }));
            }
        }
    }
    Ok(found)
}

/// Where the artifacts of a job are, by the manifest of its newest run.
fn artifacts(directory: &Directory, job: &str) -> Result<ArtifactStore> {
    let path = directory.job(job).manifest();
    let text = std::fs::read_to_string(&path).map_err(|error| Failure::io("read", &path, &error))?;
    let job = fathom_spec::parse_manifest(&text).map_err(|_| {
        Failure::new(Exit::InvalidManifest, format!("{} is not valid", path.display())).help("run the job's manifest again")
    })?;
    ArtifactStore::new(&job.storage, directory)
}
