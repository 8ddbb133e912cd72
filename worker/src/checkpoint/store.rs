//! A directory of checkpoints. See the [module](super) for why a crash at any moment is harmless.

use super::durable::{self, Depth, STAGING_PREFIX, TRASH_PREFIX};
use super::safetensors::{self, TensorSink, TensorSpec};
use super::{Corruption, durable::is_inside};
use crate::error::{Error, Result};
use fathom_spec::artifact::FileDigest;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// File name of a checkpoint's manifest.
pub const MANIFEST: &str = "manifest.json";
/// File name of the manifest's own digest, in the format of `b3sum`.
pub const MANIFEST_DIGEST: &str = "manifest.json.b3";
/// Format version that this code writes and reads.
const VERSION: u32 = 1;
/// Limit of a manifest's length in bytes: 1,000 files need about 200 KB, the rest is for the trainer's state.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;
const STEP_PREFIX: &str = "step-";

/// What a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckpointManifest {
    /// Format version, 1.
    pub version: u32,
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Every file but the manifest and its digest, by path relative to the checkpoint.
    pub files: BTreeMap<String, FileDigest>,
    /// What the trainer needs beside the files to go on (schedule, data position, random state): its own business.
    pub state: serde_json::Value,
}

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// Its directory.
    pub path: PathBuf,
    /// Its manifest.
    pub manifest: CheckpointManifest,
}

/// A checkpoint that is being written. Files may also be put under [`Staging::path`] by other means: those are hashed at the commit.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    files: BTreeMap<String, FileDigest>,
}

impl Staging {
    /// The directory to write to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes tensors ([`safetensors::save`]), which are hashed on the way and not read again.
    ///
    /// # Errors
    /// Those of [`safetensors::save`].
    pub fn write_tensors(
        &mut self,
        stem: &str,
        tensors: &[TensorSpec],
        shard_bytes: u64,
        fill: impl FnMut(&TensorSpec, &mut TensorSink<'_>) -> Result<()>,
    ) -> Result<()> {
        let written = safetensors::save(&self.path, stem, tensors, shard_bytes, fill)?;
        self.files.extend(written.into_iter().map(|file| (file.name, file.digest)));
        Ok(())
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        durable::write_file(&self.path.join(name), bytes)?;
        let digest = FileDigest {
            bytes: bytes.len() as u64,
            blake3: blake3::hash(bytes).to_hex().to_string(),
        };
        self.files.insert(name.to_owned(), digest);
        Ok(())
    }

    /// Makes a directory inside the checkpoint, whose files `write` produces.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path; whatever `write` returns.
    pub fn write_directory(&mut self, name: &str, write: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let mut inner = Self {
            path: self.path.join(name),
            files: BTreeMap::new(),
        };
        fs::create_dir(&inner.path).map_err(Error::io("create the directory", &inner.path))?;
        write(&mut inner)?;
        let files = inner.files.into_iter().map(|(file, digest)| (format!("{name}/{file}"), digest));
        self.files.extend(files);
        Ok(())
    }

    /// Hashes what was written by other means and returns the digests of all files.
    fn digests(&mut self) -> Result<BTreeMap<String, FileDigest>> {
        let names = durable::list_files(&self.path, |_| false)?;
        if let Some(reserved) = names.iter().find(|name| *name == MANIFEST || *name == MANIFEST_DIGEST) {
            return Err(Error::Config {
                problem: format!("a checkpoint may not hold a file `{reserved}`"),
                cure: "rename it".into(),
            });
        }
        let unhashed: Vec<String> = names.into_iter().filter(|name| !self.files.contains_key(name)).collect();
        self.files.extend(durable::digest_files(&self.path, &unhashed)?);
        Ok(std::mem::take(&mut self.files))
    }
}

/// The one writer of a directory of checkpoints. Readers use the free functions of this module, which change nothing.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Steps that this process committed or verified in full: [`Store::retain`] need not read them again.
    trusted: BTreeSet<u64>,
}

impl Store {
    /// Opens a directory, creating it if needed, and removes what an interrupted commit or deletion left.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory).map_err(Error::io("create the directory", directory))?;
        for name in entry_names(directory)? {
            if name.starts_with(STAGING_PREFIX) || name.starts_with(TRASH_PREFIX) {
                let path = directory.join(name);
                fs::remove_dir_all(&path).map_err(Error::io("remove the leftover", &path))?;
            }
        }
        Ok(Self {
            directory: directory.to_path_buf(),
            trusted: BTreeSet::new(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Commits a checkpoint whose files `write` produces. On return it is durable; on error nothing is left of it. A checkpoint of the same
    /// step (rejected at an earlier resume, say) is replaced.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path, disk full included; whatever `write` returns.
    pub fn commit(
        &mut self,
        step: u64,
        tokens: u64,
        state: serde_json::Value,
        write: impl FnOnce(&mut Staging) -> Result<()>,
    ) -> Result<Checkpoint> {
        let path = self.directory.join(directory_name(step));
        let staging_path = durable::sibling(&path, STAGING_PREFIX);
        let result = self.stage(&staging_path, step, tokens, state, write).and_then(|manifest| {
            durable::replace_directory(&staging_path, &path)?;
            Ok(manifest)
        });
        match result {
            Ok(manifest) => {
                self.trusted.insert(step);
                Ok(Checkpoint { path, manifest })
            }
            Err(error) => {
                // Best effort: the error that matters is the first one, and `open` removes what remains. Freeing the space now lets the
                // run go on after a full disk.
                let _ = fs::remove_dir_all(&staging_path);
                Err(error)
            }
        }
    }

    fn stage(
        &mut self,
        path: &Path,
        step: u64,
        tokens: u64,
        state: serde_json::Value,
        write: impl FnOnce(&mut Staging) -> Result<()>,
    ) -> Result<CheckpointManifest> {
        if path.exists() {
            fs::remove_dir_all(path).map_err(Error::io("remove the leftover", path))?;
        }
        fs::create_dir(path).map_err(Error::io("create the directory", path))?;
        let mut staging = Staging {
            path: path.to_path_buf(),
            files: BTreeMap::new(),
        };
        write(&mut staging)?;
        let files = staging.digests()?;
        let manifest = CheckpointManifest {
            version: VERSION,
            step,
            tokens,
            files,
            state,
        };
        durable::sync_tree(path)?;
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| Error::Config {
            problem: format!("the state of the checkpoint cannot be written as JSON: {error}"),
            cure: "use finite numbers and string keys".into(),
        })?;
        durable::write_file(&path.join(MANIFEST_DIGEST), digest_line(&json).as_bytes())?;
        durable::write_file(&path.join(MANIFEST), &json)?;
        durable::sync_directory(path)?;
        Ok(manifest)
    }

    /// The newest checkpoint that is whole, every byte verified. Newer ones that are not are passed to `on_rejected` with the reason.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be listed.
    pub fn newest_valid(&mut self, on_rejected: impl FnMut(&Path, &Corruption)) -> Result<Option<Checkpoint>> {
        let newest = newest_valid(&self.directory, on_rejected)?;
        self.trusted.extend(newest.as_ref().map(|checkpoint| checkpoint.manifest.step));
        Ok(newest)
    }

    /// Removes all checkpoints older than the `keep`th valid one (`keep` counts as 1 at least) and returns their paths. The newest valid
    /// one always stays: it counts first and its bytes are verified unless this process wrote or verified them. Damaged checkpoints do not
    /// count and stay for inspection until they are older than those kept.
    ///
    /// # Errors
    /// [`Error::Io`] naming the path.
    pub fn retain(&mut self, keep: usize) -> Result<Vec<PathBuf>> {
        let mut kept = 0;
        let mut removed = Vec::new();
        for (step, path) in steps(&self.directory)?.into_iter().rev() {
            if kept >= keep.max(1) {
                durable::remove_directory(&path)?;
                self.trusted.remove(&step);
                removed.push(path);
            } else {
                let depth = if kept > 0 || self.trusted.contains(&step) {
                    Depth::Sizes
                } else {
                    Depth::Digests
                };
                if check(&path, depth).is_ok() {
                    kept += 1;
                }
            }
        }
        Ok(removed)
    }
}

/// All checkpoints of a directory whose manifests can be read, in order of steps; the content of the files is not looked at. A directory
/// that does not exist holds none.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be listed.
pub fn list(directory: &Path, mut on_rejected: impl FnMut(&Path, &Corruption)) -> Result<Vec<Checkpoint>> {
    let mut checkpoints = Vec::new();
    for path in steps(directory)?.into_values() {
        match read(&path) {
            Ok(checkpoint) => checkpoints.push(checkpoint),
            Err(corruption) => on_rejected(&path, &corruption),
        }
    }
    Ok(checkpoints)
}

/// Reads a checkpoint's manifest and checks it against its own digest and the directory's name.
///
/// # Errors
/// [`Corruption`] naming the manifest.
pub fn read(path: &Path) -> Result<Checkpoint, Corruption> {
    let manifest_path = path.join(MANIFEST);
    let bad = |problem: String| Corruption::BadManifest {
        path: manifest_path.clone(),
        problem,
    };
    let json = durable::read_manifest(&manifest_path, MAX_MANIFEST_BYTES)?;
    let digest_path = path.join(MANIFEST_DIGEST);
    let digest = fs::read(&digest_path).map_err(|source| durable::unreadable(&digest_path, source))?;
    if digest != digest_line(&json).as_bytes() {
        return Err(bad(format!(
            "was altered after it was committed: its BLAKE3 digest is not the one in {MANIFEST_DIGEST}"
        )));
    }
    let manifest: CheckpointManifest = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
    if manifest.version != VERSION {
        return Err(bad(format!(
            "has format version {}; this program reads version {VERSION}",
            manifest.version
        )));
    }
    if let Some(name) = manifest.files.keys().find(|name| !is_inside(name)) {
        return Err(bad(format!("names the file `{name}`, outside the checkpoint")));
    }
    let expected = directory_name(manifest.step);
    // An exported copy may have any name; one that looks like a step must be that step.
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if step_of(name).is_some() && name != expected => Err(bad(format!("belongs to {expected}, not to {name}"))),
        _ => Ok(Checkpoint {
            path: path.to_path_buf(),
            manifest,
        }),
    }
}

/// Reads every byte of a checkpoint and compares it with the manifest.
///
/// # Errors
/// [`Corruption`] naming the first file that is missing, short, long or altered.
pub fn verify(path: &Path) -> Result<Checkpoint, Corruption> {
    check(path, Depth::Digests)
}

/// The newest checkpoint of a directory that [`verify`] accepts; see [`Store::newest_valid`].
///
/// # Errors
/// [`Error::Io`] if the directory cannot be listed.
pub fn newest_valid(directory: &Path, mut on_rejected: impl FnMut(&Path, &Corruption)) -> Result<Option<Checkpoint>> {
    for path in steps(directory)?.into_values().rev() {
        match verify(&path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(corruption) => on_rejected(&path, &corruption),
        }
    }
    Ok(None)
}

fn check(path: &Path, depth: Depth) -> Result<Checkpoint, Corruption> {
    let checkpoint = read(path)?;
    durable::compare(path, &checkpoint.manifest.files, depth)?;
    Ok(checkpoint)
}

fn digest_line(json: &[u8]) -> String {
    format!("{}  {MANIFEST}\n", blake3::hash(json).to_hex())
}

fn directory_name(step: u64) -> String {
    format!("{STEP_PREFIX}{step:010}")
}

fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix(STEP_PREFIX)?.parse().ok()?;
    (directory_name(step) == name).then_some(step)
}

fn steps(directory: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let names = entry_names(directory)?;
    Ok(names
        .into_iter()
        .filter_map(|name| step_of(&name).map(|step| (step, directory.join(name))))
        .collect())
}

/// Names in a directory; those that are not UTF-8 are not ours. A directory that does not exist has none.
fn entry_names(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("list", directory)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", directory))?;
        names.extend(entry.file_name().into_string().ok());
    }
    Ok(names)
}
