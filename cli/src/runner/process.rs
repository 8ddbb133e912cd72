//! The worker process: how it is started, signalled and waited for.

use super::directory::RunDirectory;
use super::supervise::Ended;
use crate::failure::{Exit, Failure, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// A running worker. Its own process group keeps Ctrl-C away from it. Its standard input is a pipe that nobody writes to: when the
/// runner dies, however it dies, the pipe closes and the worker stops after a checkpoint (`fathom worker --until-eof`).
#[derive(Debug)]
pub struct Worker {
    child: Child,
}

impl Worker {
    /// Starts a worker of an attempt, rank `rank` of `ranks`.
    pub fn start(run: &RunDirectory, attempt: u32, (rank, ranks): (usize, usize)) -> Result<Self> {
        let log_path = run.log(attempt, rank);
        let log = File::create(&log_path).map_err(|error| Failure::io("create", &log_path, &error))?;
        let errors = log.try_clone().map_err(|error| Failure::io("open", &log_path, &error))?;
        let executable = executable()?;
        let mut command = Command::new(&executable);
        command
            .arg0("fathom")
            .arg("worker")
            .arg("--assignment")
            .arg(run.assignment(attempt));
        if rank == 0 {
            command.arg("--lock").arg(run.worker_lock());
        }
        if ranks > 1 {
            let mut place = OsString::from("file:");
            place.push(run.rendezvous(attempt));
            command
                .args(["--rank", &rank.to_string(), "--ranks", &ranks.to_string(), "--rendezvous"])
                .arg(place);
        }
        let child = command
            .arg("--until-eof")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|error| Failure::io("start the worker", &executable, &error))?;
        Ok(Self { child })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the worker to stop after a checkpoint.
    pub fn stop(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends the worker at once.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Whether and how it ended, without waiting.
    pub fn poll(&mut self) -> Result<Option<Ended>> {
        self.child
            .try_wait()
            .map(|status| status.map(ended))
            .map_err(|error| Failure::new(Exit::Failed, "cannot wait for the worker").caused_by(&error))
    }

    /// A signal to a worker that has just ended reaches nobody; that is no error.
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process_group(pid, signal);
        }
    }
}

impl Drop for Worker {
    /// A runner that gives up (an I/O error of its own) leaves no worker behind.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn ended(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, Some(signal)) => Ended::Signal(signal),
        // wait(2) reports an exit or a signal; stopped and continued children are not reported without WUNTRACED.
        (None, None) => Ended::Exit(-1),
    }
}

/// This program. On Linux by its own inode, so that an upgrade during a run does not mix two versions in one run.
pub fn executable() -> Result<std::path::PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return Ok(own.to_path_buf());
    }
    std::env::current_exe().map_err(|error| Failure::new(Exit::Failed, "cannot find the fathom executable").caused_by(&error))
}
