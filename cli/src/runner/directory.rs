//! The local directory: everything that `fathom run` keeps.
//!
//! ```text
//! .fathom/                                 --dir, FATHOM_DIR
//!   lock                                   held (flock) by the one run that may write; says who holds it
//!   postgres/, server.*, queue/            the history and its server: see `local`
//!   artifacts/<kind>/<key>/                finished artifacts, immutable; `storage.uri` of the manifest may place them elsewhere
//!     artifact.json                        written last: without it there is no artifact
//!   jobs/<job>/
//!     manifest.yaml                        the manifest of the newest run, as it was given
//!     status.json                          states of the job and its phases
//!     wish.json                            what is wished of the job: to pause, to be cancelled
//!     runs/<phase>/<key12>/                one execution of a phase; another <key12> is another execution (the manifest was edited)
//!       assignment-<attempt>.json          what the worker process is told
//!       worker-<attempt>.log               what it prints
//!       worker.lock                        held by the worker process while it lives
//!       shipped.json                       how much of spool and logs the history has
//!       spool/                             records that it reports
//!       work/                              its output and checkpoints; moved to artifacts/ when complete
//! ```
//!
//! `<key12>` is the first 12 digits of the phase's cache key. Nothing here is deleted by `fathom`: an execution that an edit left
//! unfinished is resumed if the edit is undone.

use crate::failure::{Exit, Failure, Result};
use fathom_spec::artifact::ArtifactKind;
use std::path::{Path, PathBuf};

/// The local directory unless the user names another.
pub const DEFAULT_DIRECTORY: &str = ".fathom";
/// Digits of a cache key that name the directory of an execution.
const KEY_DIGITS: usize = 12;

/// The local directory.
#[derive(Clone, Debug)]
pub struct Directory {
    root: PathBuf,
}

/// The directory of a job.
#[derive(Clone, Debug)]
pub struct JobDirectory {
    root: PathBuf,
}

/// The directory of one execution of a phase.
#[derive(Clone, Debug)]
pub struct RunDirectory {
    root: PathBuf,
}

impl Directory {
    /// The directory at `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The lock file.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Artifacts of jobs whose manifest names no storage.
    pub fn artifacts(&self) -> PathBuf {
        self.root.join("artifacts")
    }

    /// The directory of a job.
    pub fn job(&self, name: &str) -> JobDirectory {
        JobDirectory {
            root: self.root.join("jobs").join(name),
        }
    }

    /// Names of the jobs, in alphabetical order; none if there is no directory.
    pub fn jobs(&self) -> Result<Vec<String>> {
        names(&self.root.join("jobs"))
    }

    /// The job that the user names; without a name, the only one there is.
    pub fn choose_job(&self, name: Option<&str>) -> Result<String> {
        let jobs = self.jobs()?;
        match (name, jobs.as_slice()) {
            (Some(name), _) if jobs.iter().any(|job| job == name) => Ok(name.to_owned()),
            (None, [job]) => Ok(job.clone()),
            (_, []) => Err(Failure::new(Exit::NotFound, format!("there is no job in {}", self.root.display()))
                .help("start one with `fathom run FILE`, or name another directory with `--dir`")),
            (Some(name), _) => Err(
                Failure::new(Exit::NotFound, format!("there is no job `{name}` in {}", self.root.display()))
                    .help(format!("name one of: {}", jobs.join(", "))),
            ),
            (None, _) => Err(
                Failure::new(Exit::Usage, format!("there are {} jobs in {}", jobs.len(), self.root.display()))
                    .help(format!("name one of: {}", jobs.join(", "))),
            ),
        }
    }
}

impl JobDirectory {
    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The manifest of the newest run.
    pub fn manifest(&self) -> PathBuf {
        self.root.join("manifest.yaml")
    }

    /// States of the job and its phases.
    pub fn status(&self) -> PathBuf {
        self.root.join("status.json")
    }

    /// The execution of `phase` under a cache key.
    pub fn run(&self, phase: &str, key: &str) -> RunDirectory {
        RunDirectory {
            root: self.root.join("runs").join(phase).join(short(key)),
        }
    }
}

impl RunDirectory {
    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The assignment of an attempt.
    pub fn assignment(&self, attempt: u32) -> PathBuf {
        self.root.join(format!("assignment-{attempt}.json"))
    }

    /// What a worker of an attempt printed.
    pub fn log(&self, attempt: u32, rank: usize) -> PathBuf {
        self.root.join(match rank {
            0 => format!("worker-{attempt}.log"),
            rank => format!("worker-{attempt}-rank-{rank}.log"),
        })
    }

    /// Where rank 0 of an attempt says how the others reach it.
    pub fn rendezvous(&self, attempt: u32) -> PathBuf {
        self.root.join(format!("rendezvous-{attempt}"))
    }

    /// Held by the worker while it lives.
    pub fn worker_lock(&self) -> PathBuf {
        self.root.join("worker.lock")
    }

    /// Records that the worker reports.
    pub fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    /// The worker's output; it becomes the artifact.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The highest attempt that was made, 0 for none.
    pub fn last_attempt(&self) -> Result<u32> {
        let attempts = names(&self.root)?.into_iter().filter_map(|name| {
            let number = name.strip_prefix("assignment-")?.strip_suffix(".json")?;
            number.parse::<u32>().ok()
        });
        Ok(attempts.max().unwrap_or(0))
    }
}

/// First digits of a cache key, as shown and as used in paths.
pub fn short(key: &str) -> &str {
    key.get(..KEY_DIGITS).unwrap_or(key)
}

/// The directory of an artifact below the artifacts' root.
pub fn artifact(root: &Path, kind: ArtifactKind, key: &str) -> PathBuf {
    root.join(kind_name(kind)).join(key)
}

/// The name of a kind, as in `artifact.json`.
pub fn kind_name(kind: ArtifactKind) -> &'static str {
    match kind {
        ArtifactKind::Tokenizer => "tokenizer",
        ArtifactKind::Corpus => "corpus",
        ArtifactKind::Checkpoint => "checkpoint",
        ArtifactKind::Report => "report",
    }
}

/// Creates a directory and its parents.
pub fn create(path: &Path) -> Result {
    std::fs::create_dir_all(path).map_err(|error| Failure::io("create the directory", path, &error))
}

/// Replaces a file so that a reader sees the old content or the new, never a part.
pub fn replace(path: &Path, content: &[u8]) -> Result {
    let aside = path.with_extension("new");
    let written = std::fs::File::create(&aside).and_then(|mut file| {
        std::io::Write::write_all(&mut file, content)?;
        file.sync_all()
    });
    written
        .and_then(|()| std::fs::rename(&aside, path))
        .map_err(|error| Failure::io("write", path, &error))
}

/// Names of the entries of a directory, sorted; none if it does not exist.
pub fn names(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Failure::io("list", path, &error))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Failure::io("list", path, &error))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_chosen_by_name_or_because_it_is_the_only_one() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Directory::new(temporary.path());
        assert_eq!(directory.choose_job(None).unwrap_err().exit(), Exit::NotFound);
        create(directory.job("a").root()).unwrap();
        assert_eq!(directory.choose_job(None).unwrap(), "a");
        create(directory.job("b").root()).unwrap();
        assert_eq!(directory.choose_job(None).unwrap_err().exit(), Exit::Usage);
        assert_eq!(directory.choose_job(Some("b")).unwrap(), "b");
        assert_eq!(directory.choose_job(Some("c")).unwrap_err().exit(), Exit::NotFound);
    }

    #[test]
    fn attempts_are_counted_from_the_assignments() {
        let temporary = tempfile::tempdir().unwrap();
        let run = Directory::new(temporary.path())
            .job("a")
            .run("pretrain", &"0123456789abcdef".repeat(4));
        assert!(run.root().ends_with("a/runs/pretrain/0123456789ab"));
        assert_eq!(run.last_attempt().unwrap(), 0);
        create(run.root()).unwrap();
        for attempt in [1, 2, 10] {
            replace(&run.assignment(attempt), b"{}").unwrap();
        }
        std::fs::write(run.root().join("assignment-x.json"), "").unwrap();
        assert_eq!(run.last_attempt().unwrap(), 10);
    }
}
