//! Files and directories that survive a crash: syncing, digests and atomic replacement.

use super::Corruption;
use crate::error::{Error, Result};
use fathom_spec::artifact::FileDigest;
use rayon::prelude::*;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};

/// Unit of reading for digests: large enough for BLAKE3 to spread over cores, small beside a model.
const DIGEST_BLOCK: usize = 4 << 20;

/// How thoroughly a directory is compared with its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every file exists and has its size: finds deleted and truncated files in microseconds.
    Sizes,
    /// Every byte of every file is hashed too: finds any altered bit, at the speed of the disk.
    Digests,
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::io("sync the directory", path))
}

/// Makes the name of `path` in its parent directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Makes every file and directory under `root` durable, the innermost first.
pub(crate) fn sync_tree(root: &Path) -> Result<()> {
    for entry in walkdir::WalkDir::new(root).contents_first(true) {
        let entry = entry.map_err(|error| walk_error(root, error))?;
        if entry.file_type().is_dir() {
            sync_directory(entry.path())?;
        } else if entry.file_type().is_file() {
            File::open(entry.path())
                .and_then(|file| file.sync_all())
                .map_err(Error::io("sync", entry.path()))?;
        }
    }
    Ok(())
}

/// Writes a small file whole and syncs it.
pub(crate) fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).map_err(Error::io("write", path))?;
    file.sync_all().map_err(Error::io("sync", path))
}

/// Paths of all regular files under `root`, relative to it, with `/` between components, sorted. Entries for which `skip` says yes
/// (by their relative path) are left out with everything below them.
pub(crate) fn list_files(root: &Path, skip: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut walk = walkdir::WalkDir::new(root).min_depth(1).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| walk_error(root, error))?;
        let relative = relative_name(root, entry.path())?;
        if skip(&relative) {
            if entry.file_type().is_dir() {
                walk.skip_current_dir();
            }
        } else if entry.file_type().is_file() {
            names.push(relative);
        } else if !entry.file_type().is_dir() {
            return Err(Error::Data {
                place: entry.path().display().to_string(),
                problem: "is neither a regular file nor a directory, so it cannot be part of a checkpoint or artifact".into(),
                cure: "replace links by the files they point to".into(),
            });
        }
    }
    names.sort();
    Ok(names)
}

fn relative_name(root: &Path, path: &Path) -> Result<String> {
    let relative = path.strip_prefix(root).unwrap_or(path);
    relative.to_str().map(str::to_owned).ok_or_else(|| Error::Data {
        place: path.display().to_string(),
        problem: "the file name is not valid UTF-8".into(),
        cure: "rename the file".into(),
    })
}

fn walk_error(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_path_buf();
    let source = error
        .into_io_error()
        .unwrap_or_else(|| std::io::Error::other("the directory contains itself"));
    Error::Io {
        action: "list",
        path,
        source,
    }
}

/// Size and BLAKE3 digest of a file, with constant memory.
pub(crate) fn digest_file(path: &Path) -> Result<FileDigest> {
    digest(path).map_err(Error::io("read", path))
}

fn digest(path: &Path) -> std::io::Result<FileDigest> {
    let mut file = File::open(path)?;
    let mut block = vec![0; DIGEST_BLOCK];
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    loop {
        let filled = fill(&mut file, &mut block)?;
        hasher.update_rayon(&block[..filled]);
        bytes += filled as u64;
        if filled < block.len() {
            return Ok(FileDigest {
                bytes,
                blake3: hasher.finalize().to_hex().to_string(),
            });
        }
    }
}

/// Reads until `block` is full or the file ends; returns how much was read.
fn fill(file: &mut File, block: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Digests of the named files under `root`, several files at a time.
pub(crate) fn digest_files(root: &Path, names: &[String]) -> Result<BTreeMap<String, FileDigest>> {
    names
        .par_iter()
        .map(|name| Ok((name.clone(), digest_file(&root.join(name))?)))
        .collect()
}

/// Compares the files under `root` with a manifest's list. The first offending file in name order is reported, whatever the thread count.
pub(crate) fn compare(root: &Path, files: &BTreeMap<String, FileDigest>, depth: Depth) -> Result<(), Corruption> {
    for (name, expected) in files {
        check_size(&root.join(name), expected)?;
    }
    if depth == Depth::Sizes {
        return Ok(());
    }
    let files: Vec<_> = files.iter().collect();
    let results: Vec<_> = files
        .par_iter()
        .map(|(name, expected)| check_digest(&root.join(name), expected))
        .collect();
    results.into_iter().collect()
}

fn check_size(path: &Path, expected: &FileDigest) -> Result<(), Corruption> {
    let metadata = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if metadata.len() == expected.bytes {
        Ok(())
    } else {
        Err(Corruption::WrongSize {
            path: path.to_path_buf(),
            expected: expected.bytes,
            found: metadata.len(),
        })
    }
}

fn check_digest(path: &Path, expected: &FileDigest) -> Result<(), Corruption> {
    let found = digest(path).map_err(|source| unreadable(path, source))?;
    if found.blake3 == expected.blake3 {
        Ok(())
    } else {
        Err(Corruption::Altered {
            path: path.to_path_buf(),
            expected: expected.blake3.clone(),
            found: found.blake3,
        })
    }
}

/// The corruption that a failed read of a committed file amounts to.
pub(crate) fn unreadable(path: &Path, source: std::io::Error) -> Corruption {
    if source.kind() == std::io::ErrorKind::NotFound {
        Corruption::Missing(path.to_path_buf())
    } else {
        Corruption::Unreadable {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Reads a manifest of at most `limit` bytes.
pub(crate) fn read_manifest(path: &Path, limit: u64) -> Result<Vec<u8>, Corruption> {
    let file = File::open(path).map_err(|source| match unreadable(path, source) {
        Corruption::Missing(path) => Corruption::NoManifest(path),
        other => other,
    })?;
    let mut bytes = Vec::new();
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| unreadable(path, source))?;
    if bytes.len() as u64 > limit {
        let problem = format!("is larger than {limit} bytes, the limit of a manifest");
        return Err(Corruption::BadManifest {
            path: path.to_path_buf(),
            problem,
        });
    }
    Ok(bytes)
}

/// Whether a manifest may name this file: a relative path of plain components, so that no manifest reaches outside its directory.
pub(crate) fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && Path::new(name)
            .components()
            .all(|component| matches!(component, Component::Normal(_)))
}

/// Gives the synced directory `staging` the name `destination`, in one atomic step that is durable on return. What had that name before
/// is swapped out and removed. `staging` and `destination` must be in the same file system.
pub(crate) fn replace_directory(staging: &Path, destination: &Path) -> Result<()> {
    if destination.exists() {
        match renameat_with(CWD, staging, CWD, destination, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // File systems without exchange (some network ones): the old directory goes first, so a crash here loses it, never mixes.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                remove_directory(destination)?;
                fs::rename(staging, destination).map_err(Error::io("rename a finished directory to", destination))?;
            }
            Err(error) => return Err(Error::io("rename a finished directory to", destination)(error.into())),
        }
    } else {
        fs::rename(staging, destination).map_err(Error::io("rename a finished directory to", destination))?;
    }
    sync_parent(destination)?;
    if staging.exists() {
        fs::remove_dir_all(staging).map_err(Error::io("remove", staging))?;
    }
    Ok(())
}

/// Prefix of directories that are being written.
pub(crate) const STAGING_PREFIX: &str = ".tmp-";
/// Prefix of directories that are being removed.
pub(crate) const TRASH_PREFIX: &str = ".trash-";

/// Removes a directory so that a crash leaves either all of it under its name or none of it.
pub(crate) fn remove_directory(path: &Path) -> Result<()> {
    let trash = sibling(path, TRASH_PREFIX);
    if trash.exists() {
        fs::remove_dir_all(&trash).map_err(Error::io("remove", &trash))?;
    }
    fs::rename(path, &trash).map_err(Error::io("rename for removal", path))?;
    sync_parent(path)?;
    fs::remove_dir_all(&trash).map_err(Error::io("remove", &trash))
}

/// The path beside `path` whose name has `prefix` in front.
pub(crate) fn sibling(path: &Path, prefix: &str) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{prefix}{name}"))
}
