//! Paths in what is sent. Where something is, is said in full; messages for people name what belongs to a job from its directory, because
//! whoever reads the history need not know the machine that wrote it.

use crate::runner::directory::Directory;
use std::path::{Path, PathBuf};

/// The directories that messages name.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    /// Beginnings of paths and what stands for them, the longest first.
    known: Vec<(String, &'static str)>,
}

impl Paths {
    pub(super) fn new(directory: &Directory, job: &str) -> Self {
        let mut known = Vec::new();
        for (path, short) in [(directory.job(job).root(), ""), (directory.root(), "../../")] {
            // Workers are told absolute paths; links may be resolved in what the system says.
            let spellings = [std::path::absolute(path).ok(), path.canonicalize().ok()];
            for text in spellings.iter().flatten().filter_map(|path: &PathBuf| path.to_str()) {
                let beginning = format!("{text}/");
                if known.iter().all(|(other, _)| *other != beginning) {
                    known.push((beginning, short));
                }
            }
        }
        Self { known }
    }

    /// A message whose paths are relative to the directory of the job.
    pub(super) fn relative(&self, message: &str) -> String {
        let mut text = message.to_owned();
        for (beginning, short) in &self.known {
            text = text.replace(beginning, short);
        }
        text
    }
}

/// A path that is understood anywhere on this machine.
pub(super) fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_paths_from_the_job() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().join("real");
        std::fs::create_dir_all(root.join("jobs/a")).unwrap();
        let link = temporary.path().join("link");
        std::os::unix::fs::symlink(&root, &link).unwrap();
        let paths = Paths::new(&Directory::new(&link), "a");
        for spelling in [link, root.canonicalize().unwrap()] {
            let at = spelling.display();
            let message = format!("cannot read {at}/jobs/a/runs/x: see {at}/artifacts/y and {at}/jobs/ab/z and /etc/passwd");
            assert_eq!(
                paths.relative(&message),
                "cannot read runs/x: see ../../artifacts/y and ../../jobs/ab/z and /etc/passwd"
            );
        }
        assert!(absolute(Path::new("a")).starts_with('/'));
    }
}
