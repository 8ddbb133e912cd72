//! The status file of a job: written by the run that holds the lock, read by anyone.

use super::directory::{self, JobDirectory};
use crate::failure::{Exit, Failure, Result};
use crate::output;
use fathom_spec::ValidatedJob;
use fathom_spec::state::{InvalidTransition, JobStatus, PhaseState};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A status file has a few kilobytes; more is not read.
const MAX_BYTES: u64 = 16 << 20;

/// The status file of a run.
#[derive(Debug)]
pub struct StatusFile {
    path: PathBuf,
    status: JobStatus,
}

impl StatusFile {
    /// Begins a run: phases that an earlier run left are known by name and kind.
    pub fn begin(job: &ValidatedJob, directory: &JobDirectory) -> Result<Self> {
        directory::create(directory.root())?;
        let path = directory.status();
        let mut status = JobStatus::new(job);
        // A status file of an older version says nothing that the directories do not say.
        let earlier = read(&path).ok().flatten();
        for phase in &mut status.phases {
            let known = earlier.iter().flat_map(|earlier| &earlier.phases);
            if let Some(known) = known.into_iter().find(|known| known.name == phase.name && known.kind == phase.kind) {
                phase.state = known.state.clone();
            }
        }
        let file = Self { path, status };
        file.write()?;
        Ok(file)
    }

    /// State of a phase.
    pub fn state(&self, phase: &str) -> PhaseState {
        self.status
            .phases
            .iter()
            .find(|known| known.name == phase)
            .map_or(PhaseState::Pending, |known| known.state.clone())
    }

    /// Changes the state of a phase, durably.
    pub fn transition(&mut self, phase: &str, change: impl FnOnce(PhaseState) -> Result<PhaseState, InvalidTransition>) -> Result {
        let state = change(self.state(phase))
            .map_err(|error| Failure::new(Exit::Failed, format!("the state of phase `{phase}` is confused")).caused_by(&error))?;
        self.set(phase, state)
    }

    /// Replaces the state of a phase, durably.
    pub fn set(&mut self, phase: &str, state: PhaseState) -> Result {
        if let Some(known) = self.status.phases.iter_mut().find(|known| known.name == phase) {
            known.state = state;
        }
        self.write()
    }

    fn write(&self) -> Result {
        directory::replace(&self.path, output::json(&self.status)?.as_bytes())
    }
}

/// Reads a status file; nothing if it does not exist.
pub fn read(path: &Path) -> Result<Option<JobStatus>> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(|error| Failure::io("read", path, &error))?,
    };
    let mut text = String::new();
    file.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::io("read", path, &error))?;
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} is not a status file", path.display())).caused_by(&error))
}
