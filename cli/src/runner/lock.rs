//! One run per directory: an advisory lock that the system releases when its holder dies, with a note of who that is.

use super::directory::Directory;
use crate::clock;
use crate::failure::{Exit, Failure, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

/// A look at the lock (`fathom status`) holds it for an instant, so a run asks again for this long before it gives up.
const PATIENCE: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(20);
/// The note is written by us and short; more is not read.
const MAX_NOTE_BYTES: u64 = 64 * 1024;

/// Who holds the lock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Since when, in seconds since the Unix epoch.
    pub since: f64,
    /// The job that it runs.
    pub job: String,
    /// Its command line.
    pub command: String,
}

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock of a directory, which is created if need be.
    ///
    /// # Errors
    /// [`Exit::Conflict`], naming the holder, if another process has it.
    pub fn acquire(directory: &Directory, job: &str, command: String) -> Result<Self> {
        super::directory::create(directory.root())?;
        let path = directory.lock_file();
        let Some(mut file) = try_lock(&path, PATIENCE)? else {
            return Err(conflict(directory, read_note(&path)));
        };
        let holder = Holder {
            pid: std::process::id(),
            since: clock::now(),
            job: job.to_owned(),
            command,
        };
        let note = crate::output::json(&holder)?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(note.as_bytes()))
            .map_err(|error| Failure::io("write", &path, &error))?;
        Ok(Self { _file: file })
    }

    /// Who holds the lock of a directory now, without waiting.
    pub fn holder(directory: &Directory) -> Option<Holder> {
        let path = directory.lock_file();
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Ok(()) => None,
            Err(_) => read_note(&path),
        }
    }
}

/// The lock of a worker process: it outlives the runner that started the worker.
#[derive(Debug)]
pub struct WorkerLock {
    _file: File,
}

impl WorkerLock {
    /// Takes the lock, or waits at most `patience` for the worker that holds it. `None` if it is still held then.
    pub fn acquire(path: &Path, patience: Duration) -> Result<Option<Self>> {
        Ok(try_lock(path, patience)?.map(|file| Self { _file: file }))
    }
}

fn try_lock(path: &Path, patience: Duration) -> Result<Option<File>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| Failure::io("open the lock file", path, &error))?;
    let tries = patience.as_millis() / PAUSE.as_millis();
    for remaining in (0..=tries).rev() {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if remaining > 0 => std::thread::sleep(PAUSE),
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => {
                return Err(Failure::io("lock", path, &error).help("put the directory on a local file system with `--dir`"));
            }
        }
    }
    Ok(None)
}

fn read_note(path: &Path) -> Option<Holder> {
    let mut note = String::new();
    File::open(path).ok()?.take(MAX_NOTE_BYTES).read_to_string(&mut note).ok()?;
    serde_json::from_str(&note).ok()
}

fn conflict(directory: &Directory, holder: Option<Holder>) -> Failure {
    let what = format!("another run is using {}", directory.root().display());
    match holder {
        Some(Holder {
            pid,
            since,
            job: _,
            command,
        }) => Failure::new(Exit::Conflict, what)
            .cause(format!("process {pid} holds it since {}: {command}", clock::rfc3339(since)))
            .help("wait for it (`fathom status -w`), stop it with Ctrl-C or `kill`, or run in another directory with `--dir`"),
        None => Failure::new(Exit::Conflict, what).help("try again, or run in another directory with `--dir`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_is_told_who_holds_the_lock() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().join("new"));
        assert_eq!(Lock::holder(&directory), None);
        let lock = Lock::acquire(&directory, "a", "fathom run a.yaml".into()).unwrap();
        assert_eq!(Lock::holder(&directory).unwrap().pid, std::process::id());

        let failure = Lock::acquire(&directory, "b", "fathom run b.yaml".into()).unwrap_err();
        assert_eq!(failure.exit(), Exit::Conflict);
        let mut text = Vec::new();
        failure.print(&mut text, false).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains(&format!("process {} holds it since 20", std::process::id())),
            "{text}"
        );
        assert!(text.contains("fathom run a.yaml"), "{text}");

        drop(lock);
        assert_eq!(Lock::holder(&directory), None);
        Lock::acquire(&directory, "c", String::new()).unwrap();
    }
}
