//! Finished artifacts: where they are, whether they are whole, how a finished phase's work becomes one.

use super::directory::{self, Directory};
use crate::commands::worker_failure;
use crate::failure::{Exit, Failure, Result};
use fathom_spec::artifact::{ArtifactKind, ArtifactManifest};
use fathom_spec::manifest::Storage;
use fathom_worker::artifact::{self, Depth};
use fathom_worker::checkpoint::Corruption;
use std::path::{Path, PathBuf};

/// Where artifacts are kept.
#[derive(Clone, Debug)]
pub struct ArtifactStore {
    root: PathBuf,
}

/// What is at the place of an artifact.
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// The artifact, its files as they were committed.
    Whole(ArtifactManifest),
    /// Something that is not, or no longer, the artifact.
    Damaged(Corruption),
}

impl ArtifactStore {
    /// The store that a manifest names. The default one lies in the local directory.
    ///
    /// # Errors
    /// If it is not on a file system.
    pub fn new(storage: &Storage, directory: &Directory) -> Result<Self> {
        if *storage == Storage::default() {
            return Ok(Self {
                root: directory.artifacts(),
            });
        }
        match storage.uri.strip_prefix("file://") {
            Some(path) if !path.is_empty() => Ok(Self { root: path.into() }),
            _ => Err(Failure::new(
                Exit::InvalidManifest,
                format!("storage `{}` is not supported by this version", storage.uri),
            )
            .help("use file://DIRECTORY; pvc:// is storage of a cluster")),
        }
    }

    /// The store in a directory.
    pub fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where an artifact is, or would be.
    pub fn path(&self, kind: ArtifactKind, key: &str) -> PathBuf {
        directory::artifact(&self.root, kind, key)
    }

    /// Looks for an artifact.
    pub fn find(&self, kind: ArtifactKind, key: &str, depth: Depth) -> Found {
        let path = self.path(kind, key);
        match artifact::open(&path, depth) {
            Ok(found) if found.key == key && found.kind == kind => Found::Whole(found),
            Ok(_) => Found::Damaged(Corruption::BadManifest {
                path: path.join(fathom_spec::artifact::ARTIFACT_MANIFEST),
                problem: "describes another artifact".into(),
            }),
            Err(Corruption::NoManifest(_)) if !path.exists() => Found::Nothing,
            Err(corruption) => Found::Damaged(corruption),
        }
    }

    /// Moves a damaged artifact out of the way, to a name of its own. Returns that name.
    pub fn set_aside(&self, kind: ArtifactKind, key: &str) -> Result<PathBuf> {
        let path = self.path(kind, key);
        let aside = (1_u32..)
            .map(|number| path.with_extension(format!("damaged-{number}")))
            .find(|aside| !aside.exists())
            .unwrap_or_else(|| path.with_extension("damaged"));
        std::fs::rename(&path, &aside).map_err(|error| Failure::io("move aside", &path, &error))?;
        Ok(aside)
    }

    /// Moves the complete artifact in `work` to its place, which is free. Returns the place.
    pub fn keep(&self, work: &Path, artifact: &ArtifactManifest) -> Result<PathBuf> {
        let place = self.path(artifact.kind, &artifact.key);
        if let Some(parent) = place.parent() {
            directory::create(parent)?;
        }
        match std::fs::rename(work, &place) {
            Ok(()) => Ok(place),
            Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
                self.copy(work, &place, artifact)?;
                std::fs::remove_dir_all(work).map_err(|error| Failure::io("remove", work, &error))?;
                Ok(place)
            }
            Err(error) => Err(Failure::io("move the finished artifact to", &place, &error)),
        }
    }

    /// Copies an artifact to another file system: aside first, compared with its digests, then renamed.
    fn copy(&self, work: &Path, place: &Path, artifact: &ArtifactManifest) -> Result {
        let aside = place.with_extension("partial");
        if aside.exists() {
            std::fs::remove_dir_all(&aside).map_err(|error| Failure::io("remove", &aside, &error))?;
        }
        copy_files(work, &aside, artifact)?;
        artifact::open(&aside, Depth::Digests)
            .map_err(|corruption| worker_failure(&corruption.into_error("check the disk, then run again")))?;
        std::fs::rename(&aside, place).map_err(|error| Failure::io("move the finished artifact to", place, &error))
    }
}

/// Copies the files of an artifact, its manifest last.
pub fn copy_files(from: &Path, to: &Path, artifact: &ArtifactManifest) -> Result {
    let names = artifact.files.keys().map(String::as_str);
    for name in names.chain([fathom_spec::artifact::ARTIFACT_MANIFEST]) {
        let (source, target) = (from.join(name), to.join(name));
        if let Some(parent) = target.parent() {
            directory::create(parent)?;
        }
        std::fs::copy(&source, &target)
            .and_then(|_| std::fs::File::open(&target)?.sync_all())
            .map_err(|error| Failure::io("copy", &source, &error))?;
    }
    Ok(())
}
