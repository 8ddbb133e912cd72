//! Where the server of a local directory is, and that there is only one.

use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use crate::runner::directory::{self, Directory};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Where a server is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Its address, `http://127.0.0.1:7316`.
    pub address: String,
    /// The secret of this launch.
    pub secret: String,
    /// Its process.
    pub pid: u32,
    /// Whether a command started it for itself alone: it runs no jobs and ends with the command.
    #[serde(default)]
    pub private: bool,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Endpoint")
            .field("address", &self.address)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The link that opens the dashboard.
    pub fn link(&self) -> String {
        format!("{}/?secret={}", self.address, self.secret)
    }

    /// A client of the server.
    pub fn client(&self) -> Client {
        Client::new(&self.address, &self.secret)
    }

    /// The server that holds a directory now, if it has said where it is.
    pub fn of(directory: &Directory) -> Option<Self> {
        let file = File::open(lock_file(directory)).ok()?;
        // Nobody holds it: what `server.json` says is out of date.
        if file.try_lock_shared().is_ok() {
            return None;
        }
        serde_json::from_slice(&std::fs::read(file_of(directory)).ok()?).ok()
    }

    /// Writes where the server is, for its owner's eyes only.
    pub fn write(&self, directory: &Directory) -> Result {
        let path = file_of(directory);
        let aside = path.with_extension("new");
        let text = output::json(self)?;
        // A leftover of a killed server may have other permissions.
        let _ = std::fs::remove_file(&aside);
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&aside, &path))
            .map_err(|error| Failure::io("write", &path, &error))
    }
}

/// Held by the one server of a directory.
#[derive(Debug)]
pub struct ServerLock {
    _file: File,
}

impl ServerLock {
    /// Takes the lock; `None` if another server has it.
    pub fn acquire(directory: &Directory) -> Result<Option<Self>> {
        directory::create(directory.root())?;
        let path = lock_file(directory);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|error| Failure::io("open the lock file", &path, &error))?;
        // A look at the lock (`Endpoint::of`) holds it for an instant.
        for _ in 0..10 {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { _file: file })),
                Err(TryLockError::WouldBlock) => std::thread::sleep(std::time::Duration::from_millis(20)),
                Err(TryLockError::Error(error)) => return Err(Failure::io("lock", &path, &error)),
            }
        }
        Ok(None)
    }
}

/// A secret for one launch: 256 bits from the system, in hexadecimal digits.
pub fn new_secret() -> Result<String> {
    Ok(random()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Random bytes from the system.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .map_err(|error| Failure::new(Exit::Failed, "the system gives no random bytes").caused_by(&error))?;
    Ok(bytes)
}

fn lock_file(directory: &Directory) -> PathBuf {
    directory.root().join("server.lock")
}

fn file_of(directory: &Directory) -> PathBuf {
    directory.root().join("server.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_holder_of_the_lock_is_the_server_and_only_its_owner_reads_the_secret() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path().join("new"));
        assert_eq!(Endpoint::of(&directory), None);
        let lock = ServerLock::acquire(&directory).unwrap().unwrap();
        assert!(ServerLock::acquire(&directory).unwrap().is_none());
        let endpoint = Endpoint {
            address: "http://127.0.0.1:1".into(),
            secret: new_secret().unwrap(),
            pid: 1,
            private: false,
        };
        endpoint.write(&directory).unwrap();
        assert_eq!(Endpoint::of(&directory).as_ref(), Some(&endpoint));
        let mode = std::fs::metadata(file_of(&directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{endpoint:?}").contains(&endpoint.secret));
        drop(lock);
        assert_eq!(Endpoint::of(&directory), None, "a server that is gone");
    }
}
