//! A Postgres server that can be stopped and started again, unlike the shared one of the store's tests.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

use super::common::job::wait_until;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A server with its data in a temporary directory.
pub struct Postgres {
    directory: tempfile::TempDir,
    child: Child,
    root: bool,
}

impl Postgres {
    pub fn start() -> Self {
        let directory = tempfile::Builder::new().prefix("fathom-outage-").tempdir().unwrap();
        let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
        if root {
            // initdb and postgres refuse to run as root.
            let owned = Command::new("chown").arg("postgres").arg(directory.path()).status().unwrap();
            assert!(owned.success(), "there is no user postgres: install Debian's package postgresql");
        }
        let initialised = as_postgres(root, &binary("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(directory.path().join("data"))
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(initialised.success(), "initdb: {initialised}");
        let child = serve(directory.path(), root);
        Self { directory, child, root }
    }

    pub fn url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.directory.path().display())
    }

    /// Stops it as an administrator would, at once.
    pub fn stop(&mut self) {
        signal(&self.child, "-INT");
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = serve(self.directory.path(), self.root);
    }

    /// Freezes all its processes for a while.
    pub fn pause(&self, time: Duration) {
        let children = Command::new("pgrep").arg("-P").arg(self.child.id().to_string()).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let all = || children.split_whitespace().map(str::to_owned).chain([self.child.id().to_string()]);
        assert!(Command::new("kill").arg("-STOP").args(all()).status().unwrap().success());
        std::thread::sleep(time);
        // A process that ended meanwhile is no failure.
        let _ = Command::new("kill").arg("-CONT").args(all()).status().unwrap();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        signal(&self.child, "-INT");
        let _ = self.child.wait();
    }
}

fn serve(directory: &Path, root: bool) -> Child {
    let child = as_postgres(root, &binary("postgres"))
        .arg("-D")
        .arg(directory.join("data"))
        .arg("-k")
        .arg(directory)
        .args(["-c", "listen_addresses=", "-c", "fsync=off"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("Postgres", || {
        let asked = Command::new(binary("pg_isready")).arg("-q").arg("-h").arg(directory).status();
        asked.unwrap().success()
    });
    child
}

fn signal(child: &Child, signal: &str) {
    // It may have ended.
    let _ = Command::new("kill")
        .arg(signal)
        .arg(child.id().to_string())
        .stderr(Stdio::null())
        .status();
}

fn as_postgres(root: bool, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "INT"]);
    if root {
        command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
    }
    command.arg(program);
    command
}

/// A program of the server. Debian keeps them by version.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .max();
    newest.unwrap_or_else(|| PathBuf::from(name))
}
