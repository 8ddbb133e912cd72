//! Jobs that wait to be run, and the thread that runs them: one after the other, each as a `fathom run` process of its own. An entry stays
//! until its run has ended by itself, so a server that is killed goes on where it was when it is started again.

use super::wish::{self, Wish};
use crate::clock;
use crate::failure::{Exit, Failure, Result};
use crate::runner::directory::{self, Directory};
use crate::runner::lock::Lock;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the queue is looked at.
const INTERVAL: Duration = Duration::from_millis(200);
/// Jobs that may wait.
const MAX_WAITING: usize = 1_000;

/// The queue of a local directory.
#[derive(Clone, Debug)]
pub struct Queue {
    directory: Directory,
}

/// A job that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its name.
    pub job: String,
    /// Its manifest.
    pub path: PathBuf,
}

impl Queue {
    /// The queue of `directory`.
    pub fn new(directory: Directory) -> Self {
        Self { directory }
    }

    fn root(&self) -> PathBuf {
        self.directory.root().join("queue")
    }

    /// The jobs that wait, oldest first.
    pub fn waiting(&self) -> Result<Vec<Waiting>> {
        let root = self.root();
        let names = directory::names(&root)?;
        let entries = names.into_iter().filter_map(|name| {
            let (_, job) = name.strip_suffix(".yaml")?.split_once('-')?;
            Some(Waiting {
                job: job.to_owned(),
                path: root.join(&name),
            })
        });
        Ok(entries.collect())
    }

    /// Adds a job, durably. What was wished of it before is forgotten.
    ///
    /// # Errors
    /// [`Exit::Conflict`] if it waits already or too many do.
    pub fn add(&self, job: &str, manifest: &str) -> Result {
        let waiting = self.waiting()?;
        if waiting.iter().any(|entry| entry.job == job) {
            return Err(Failure::new(Exit::Conflict, format!("job `{job}` is waiting to be run already")));
        }
        if waiting.len() >= MAX_WAITING {
            return Err(Failure::new(Exit::Conflict, format!("{MAX_WAITING} jobs are waiting to be run")).help("cancel some of them"));
        }
        let root = self.root();
        directory::create(&root)?;
        wish::clear(&self.directory.job(job))?;
        let when = (clock::now() * 1e6) as u64;
        directory::replace(&root.join(format!("{when:017}-{job}.yaml")), manifest.as_bytes())
    }

    /// Removes a job that waits. Returns whether it did.
    pub fn remove(&self, job: &str) -> Result<bool> {
        let mut removed = false;
        for entry in self.waiting()?.into_iter().filter(|entry| entry.job == job) {
            remove(&entry.path)?;
            removed = true;
        }
        Ok(removed)
    }

    /// Runs what waits until `stop` is set; then the job that is running is asked to stop after a checkpoint, and stays in the queue.
    pub fn run(&self, stop: &Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if let Err(failure) = self.next(stop) {
                let mut text = Vec::new();
                // Writing to memory does not fail.
                let _ = failure.print(&mut text, false);
                tracing::error!(problem = %String::from_utf8_lossy(&text).trim(), "a job that waits cannot be run; it is tried again");
                std::thread::sleep(Duration::from_secs(5));
            }
            std::thread::sleep(INTERVAL);
        }
    }

    fn next(&self, stop: &Arc<AtomicBool>) -> Result {
        let Some(entry) = self.waiting()?.into_iter().next() else {
            return Ok(());
        };
        // Another run has the directory: it may have been started by hand.
        if Lock::holder(&self.directory).is_some() {
            return Ok(());
        }
        // A run that an earlier server started has stopped on this wish, and that server was not there to take the job off.
        if self.is_stopped(&entry)? {
            return remove(&entry.path);
        }
        tracing::info!(job = entry.job, "running a job from the queue");
        let mut child = start(&self.directory, &entry.path)?;
        let mut asked = false;
        let status = loop {
            let ended = child.try_wait();
            let ended = ended.map_err(|error| Failure::new(Exit::Failed, "cannot wait for the run").caused_by(&error))?;
            if let Some(status) = ended {
                break status;
            }
            if stop.load(Ordering::Relaxed) && !asked {
                asked = true;
                terminate(&child);
            }
            std::thread::sleep(INTERVAL);
        };
        tracing::info!(job = entry.job, %status, "the run has ended");
        // A run that was killed, or stopped because this server stops, goes on when a server is started again.
        let by_itself = status.signal().is_none() && !asked && status.code() != Some(Exit::Conflict as i32);
        if by_itself || self.is_stopped(&entry)? {
            remove(&entry.path)?;
        }
        Ok(())
    }

    /// Whether a job is wished to stop: a job that is added again is wished to run.
    fn is_stopped(&self, entry: &Waiting) -> Result<bool> {
        let wished = wish::read(&self.directory.job(&entry.job))?;
        Ok(matches!(wished, Some(Wish::Pause | Wish::Cancel)))
    }
}

fn remove(path: &Path) -> Result {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", path, &error)),
        _ => Ok(()),
    }
}

fn start(directory: &Directory, manifest: &Path) -> Result<Child> {
    let executable = std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, "cannot find this program").caused_by(&error))?;
    Command::new(executable)
        .arg0("fathom")
        .arg("--dir")
        .arg(directory.root())
        .args(["--quiet", "run", "--no-ui"])
        .arg(manifest)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        // Ctrl-C in the server's terminal is the server's: it passes it on.
        .process_group(0)
        .spawn()
        .map_err(|error| Failure::new(Exit::Failed, "cannot start `fathom run`").caused_by(&error))
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended needs no signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_wait_in_order_and_once() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        let queue = Queue::new(directory.clone());
        assert_eq!(queue.waiting().unwrap(), []);
        wish::write(&directory.job("a-b"), Wish::Pause).unwrap();
        queue.add("a-b", "one").unwrap();
        assert_eq!(wish::read(&directory.job("a-b")).unwrap(), None, "it is wished to run again");
        queue.add("c", "two").unwrap();
        assert_eq!(queue.add("a-b", "again").unwrap_err().exit(), Exit::Conflict);
        let waiting = queue.waiting().unwrap();
        assert_eq!(waiting.iter().map(|entry| entry.job.as_str()).collect::<Vec<_>>(), ["a-b", "c"]);
        assert_eq!(std::fs::read_to_string(&waiting[0].path).unwrap(), "one");
        assert!(queue.remove("a-b").unwrap());
        assert!(!queue.remove("a-b").unwrap());
        assert_eq!(queue.waiting().unwrap().len(), 1);
    }
}
