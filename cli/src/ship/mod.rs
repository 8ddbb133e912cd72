//! Sends what a local directory holds to a server: states of jobs, records, logs, checkpoints and artifacts. The files are the buffer: a
//! server that is away for an hour finds everything when it comes back, and the server takes each record once however often it is sent.

mod job;
mod paths;
mod run;

use crate::client::{Client, Refusal};
use crate::failure::Failure;
use crate::runner::directory::Directory;
use job::JobShipper;
use std::collections::BTreeMap;

/// Sends a local directory.
#[derive(Debug)]
pub struct Shipper {
    directory: Directory,
    client: Client,
    jobs: BTreeMap<String, JobShipper>,
}

/// Why a pass ended early. The next one goes on where it was.
#[derive(Debug)]
pub enum Broken {
    /// The server is away, or refused for now.
    Away(String),
    /// A file cannot be read, or the server refused for good.
    Stuck(String),
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unreachable(reason) => Self::Away(reason),
            Refusal::Problem(problem) => {
                let text = format!("{} {}: {}", problem.status, problem.text("title"), problem.text("detail"));
                if problem.passes() { Self::Away(text) } else { Self::Stuck(text) }
            }
        }
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = failure.print(&mut text, false);
        Self::Stuck(String::from_utf8_lossy(&text).trim().to_owned())
    }
}

impl Shipper {
    /// A shipper of `directory`.
    pub fn new(directory: Directory, client: Client) -> Self {
        Self {
            directory,
            client,
            jobs: BTreeMap::new(),
        }
    }

    /// Sends what is new, a bounded part of it. Returns whether there may be more at once. A job that cannot be sent does not hold up the
    /// others; what is wrong with it is told in `stuck`.
    pub fn pass(&mut self, stuck: &mut Vec<String>) -> Result<bool, String> {
        let names = match self.directory.jobs() {
            Ok(names) => names,
            Err(failure) => {
                stuck.push(format!("{:?}", Broken::from(failure)));
                return Ok(false);
            }
        };
        let mut more = false;
        self.jobs.retain(|name, _| names.contains(name));
        for name in names {
            let job = self
                .jobs
                .entry(name.clone())
                .or_insert_with(|| JobShipper::new(&self.directory, &name));
            match job.pass(&self.client) {
                Ok(again) => more |= again,
                Err(Broken::Away(reason)) => return Err(reason),
                Err(Broken::Stuck(reason)) => stuck.push(format!("job `{name}`: {reason}")),
            }
        }
        Ok(more)
    }
}
