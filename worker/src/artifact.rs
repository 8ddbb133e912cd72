//! Artifacts: the immutable directories that phases leave. `artifact.json` is written last, so a directory without it is not an artifact.

use crate::checkpoint::{Corruption, durable};
use crate::error::{Error, Result};
use fathom_spec::artifact::{ARTIFACT_MANIFEST, ArtifactKind, ArtifactManifest};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

pub use crate::checkpoint::durable::Depth;

/// Format version that this code writes and reads.
const VERSION: u32 = 1;
/// Limit of a manifest's length in bytes.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// What a phase says about its artifact; [`commit`] adds the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// What the artifact holds.
    pub kind: ArtifactKind,
    /// Name of the phase that made it.
    pub phase: String,
    /// Cache key of the phase.
    pub key: String,
    /// Cache keys of the artifacts that it was made from.
    pub lineage: BTreeMap<ArtifactKind, String>,
    /// Optimizer steps taken, for a checkpoint.
    pub step: Option<u64>,
    /// Statistics of the phase, shown in reports.
    pub statistics: serde_json::Value,
}

/// Makes the artifact `destination` of the files under `staging`: they are hashed and synced, `artifact.json` is written, the directory
/// renamed, all durable on return. The two may be the same path (a phase that works in its output directory): then writing `artifact.json`
/// is the commit. An older artifact at `destination` is replaced in one step. Top-level entries whose name begins with a dot are work files
/// (checkpoints of the running phase, say): they are not part of the artifact and are removed after the commit, not before, so that a crash
/// loses none in vain.
///
/// # Errors
/// [`Error::Io`] naming the path; [`Error::Config`] if `destination` holds something that is not an artifact, which is never deleted.
pub fn commit(staging: &Path, destination: &Path, description: Description) -> Result<ArtifactManifest> {
    let in_place = staging == destination;
    if !in_place {
        check_replaceable(destination)?;
    }
    let manifest_path = staging.join(ARTIFACT_MANIFEST);
    if manifest_path.exists() {
        fs::remove_file(&manifest_path).map_err(Error::io("remove the earlier", &manifest_path))?;
    }
    let names = durable::list_files(staging, |name| name.starts_with('.'))?;
    let files = durable::digest_files(staging, &names)?;
    let Description {
        kind,
        phase,
        key,
        lineage,
        step,
        statistics,
    } = description;
    let manifest = ArtifactManifest {
        version: VERSION,
        kind,
        phase,
        key,
        files,
        lineage,
        step,
        statistics,
    };
    durable::sync_tree(staging)?;
    write_manifest(staging, &manifest)?;
    if in_place {
        durable::sync_parent(staging)?;
    } else {
        durable::replace_directory(staging, destination)?;
    }
    remove_work_files(destination)?;
    Ok(manifest)
}

/// Opens an artifact and compares its files with its manifest.
///
/// # Errors
/// [`Corruption`] naming the file; [`Corruption::NoManifest`] if there is no artifact at `path`.
pub fn open(path: &Path, depth: Depth) -> Result<ArtifactManifest, Corruption> {
    let manifest_path = path.join(ARTIFACT_MANIFEST);
    let bad = |problem: String| Corruption::BadManifest {
        path: manifest_path.clone(),
        problem,
    };
    let json = durable::read_manifest(&manifest_path, MAX_MANIFEST_BYTES)?;
    let manifest: ArtifactManifest = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
    if manifest.version != VERSION {
        return Err(bad(format!(
            "has format version {}; this program reads version {VERSION}",
            manifest.version
        )));
    }
    if let Some(name) = manifest.files.keys().find(|name| !durable::is_inside(name)) {
        return Err(bad(format!("names the file `{name}`, outside the artifact")));
    }
    durable::compare(path, &manifest.files, depth)?;
    Ok(manifest)
}

/// Writes the manifest under a name that nobody reads and renames it, so that it too is whole or absent.
fn write_manifest(directory: &Path, manifest: &ArtifactManifest) -> Result<()> {
    let json = serde_json::to_vec_pretty(manifest).map_err(|error| Error::Config {
        problem: format!("the manifest of the artifact cannot be written as JSON: {error}"),
        cure: "use finite numbers and string keys in the statistics".into(),
    })?;
    let path = directory.join(ARTIFACT_MANIFEST);
    let staging = durable::sibling(&path, durable::STAGING_PREFIX);
    durable::write_file(&staging, &json)?;
    fs::rename(&staging, &path).map_err(Error::io("rename a finished file to", &path))?;
    durable::sync_directory(directory)
}

fn check_replaceable(destination: &Path) -> Result<()> {
    let mut entries = match fs::read_dir(destination) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("list", destination)(error)),
    };
    if entries.next().is_none() || destination.join(ARTIFACT_MANIFEST).exists() {
        return Ok(());
    }
    Err(Error::Config {
        problem: format!(
            "{} exists and is not an artifact (it has no {ARTIFACT_MANIFEST})",
            destination.display()
        ),
        cure: "move it away or choose another output directory".into(),
    })
}

fn remove_work_files(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io("list", directory))? {
        let entry = entry.map_err(Error::io("list", directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            let path = entry.path();
            let is_directory = entry.file_type().map_err(Error::io("read the type of", &path))?.is_dir();
            let removed = if is_directory {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(Error::io("remove the work file", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
