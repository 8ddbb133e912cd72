//! Why a phase ended early. Every error names the place and the cure, and maps to one exit code.

use fathom_spec::assignment::ExitCode;
use std::path::{Path, PathBuf};

/// Why a phase ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The assignment cannot be executed.
    #[error("{problem}; {cure}")]
    Config {
        /// What is wrong, and where.
        problem: String,
        /// What to do about it.
        cure: String,
    },
    /// An input is unreadable or wrong.
    #[error("{place}: {problem}; {cure}")]
    Data {
        /// File, with line or row where known.
        place: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        cure: String,
    },
    /// Training became non-finite.
    #[error("{quantity} became {value} at step {step}; {cure}")]
    Diverged {
        /// Which quantity.
        quantity: String,
        /// Its value.
        value: f64,
        /// Optimizer step.
        step: u64,
        /// What to do about it.
        cure: String,
    },
    /// Reading or writing failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The failed operation, as an infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The ranks of the attempt did not find each other.
    #[error("{problem}; {cure}")]
    Rendezvous {
        /// What happened, and for how long it was waited.
        problem: String,
        /// What to do about it.
        cure: String,
    },
    /// Another rank of the attempt is gone: the cause is in its log.
    #[error("rank {rank} at {address} is lost")]
    PeerLost {
        /// Which one.
        rank: usize,
        /// Where it was.
        address: String,
        /// How it was noticed.
        #[source]
        source: std::io::Error,
    },
    /// Stopped on request, with nothing lost.
    #[error("stopped on request")]
    Stopped,
}

/// A full disk is the one I/O error that always has the same cure.
fn with_cure(source: std::io::Error) -> std::io::Error {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            let text = format!("{source}; free some space and run again: it goes on from the last checkpoint");
            std::io::Error::new(source.kind(), text)
        }
        _ => source,
    }
}

/// Result of a phase or a part of one.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The exit code of a worker that ends with this error.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config { .. } => ExitCode::BadConfig,
            Self::Data { .. } => ExitCode::BadData,
            Self::Diverged { .. } => ExitCode::Diverged,
            Self::Io { .. } => ExitCode::Io,
            Self::Rendezvous { .. } => ExitCode::Rendezvous,
            Self::PeerLost { .. } => ExitCode::PeerLost,
            Self::Stopped => ExitCode::Stopped,
        }
    }

    /// For `map_err` on I/O: `read(path).map_err(Error::io("read", path))`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source: with_cure(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_full_disk_names_the_path_and_the_cure() {
        let full = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let error = Error::io("write", Path::new("/data/model.safetensors"))(full);
        assert_eq!(error.to_string(), "cannot write /data/model.safetensors");
        let cause = error.source().unwrap().to_string();
        assert!(cause.contains("os error 28") && cause.contains("free some space"), "{cause}");
        assert_eq!(error.exit_code(), ExitCode::Io);
    }
}
