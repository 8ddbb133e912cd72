//! What is wrong with a checkpoint or an artifact on disk.

use crate::error::Error;
use std::path::{Path, PathBuf};

/// Why a directory that should hold a checkpoint or an artifact cannot be trusted. Every variant names the file.
#[derive(Debug, thiserror::Error)]
pub enum Corruption {
    /// The manifest does not exist, so the directory was never committed (or the file was removed).
    #[error("{} does not exist", .0.display())]
    NoManifest(PathBuf),
    /// The manifest cannot be used.
    #[error("{}: {problem}", path.display())]
    BadManifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file of the manifest does not exist.
    #[error("{} is missing", .0.display())]
    Missing(PathBuf),
    /// A file has another size than when it was committed.
    #[error("{} has {found} bytes instead of {expected}", path.display())]
    WrongSize {
        /// The file.
        path: PathBuf,
        /// Size in the manifest, in bytes.
        expected: u64,
        /// Size on disk, in bytes.
        found: u64,
    },
    /// A file has the right size and other content.
    #[error("{} was altered after it was committed: its BLAKE3 digest is {found} instead of {expected}", path.display())]
    Altered {
        /// The file.
        path: PathBuf,
        /// Digest in the manifest.
        expected: String,
        /// Digest of the file on disk.
        found: String,
    },
    /// A file exists and cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Corruption {
    /// The offending file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::NoManifest(path) | Self::Missing(path) => path,
            Self::BadManifest { path, .. } | Self::WrongSize { path, .. } | Self::Altered { path, .. } | Self::Unreadable { path, .. } => {
                path
            }
        }
    }

    /// This corruption as an error of the phase that cannot go on without the file.
    #[must_use]
    pub fn into_error(self, cure: &str) -> Error {
        Error::Data {
            place: self.path().display().to_string(),
            problem: self.to_string(),
            cure: cure.to_owned(),
        }
    }
}
