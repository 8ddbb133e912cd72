//! What is wished of a job beside being run: a file, so that whoever runs it learns of it and nothing is lost when a process dies.

use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::runner::directory::{self, JobDirectory};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wish {
    /// To stop after a checkpoint, and to go on when resumed.
    Pause,
    /// To stop after a checkpoint, for good.
    Cancel,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    wish: Wish,
}

/// Where the wish for a job is kept.
pub fn path(job: &JobDirectory) -> PathBuf {
    job.root().join("wish.json")
}

/// The wish for a job, if there is one.
pub fn read(job: &JobDirectory) -> Result<Option<Wish>> {
    let path = path(job);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| Failure::io("read", &path, &error))?,
    };
    let file: File = serde_json::from_slice(&text)
        .map_err(|error| Failure::new(Exit::Failed, format!("{} is not a wish", path.display())).caused_by(&error))?;
    Ok(Some(file.wish))
}

/// Wishes something of a job.
pub fn write(job: &JobDirectory, wish: Wish) -> Result {
    directory::create(job.root())?;
    directory::replace(&path(job), output::json(&File { wish })?.as_bytes())
}

/// Wishes nothing any more.
pub fn clear(job: &JobDirectory) -> Result {
    let path = path(job);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", &path, &error)),
        _ => Ok(()),
    }
}
