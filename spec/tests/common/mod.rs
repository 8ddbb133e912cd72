//! Stored outputs: text files that a test compares with, and that `FATHOM_BLESS=1` rewrites.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A folder of stored outputs under `tests/golden`.
pub struct Golden {
    folder: PathBuf,
    extension: &'static str,
    checked: BTreeSet<PathBuf>,
    failures: Vec<String>,
}

impl Golden {
    pub fn new(folder: &str, extension: &'static str) -> Self {
        Self {
            folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder),
            extension,
            checked: BTreeSet::new(),
            failures: Vec::new(),
        }
    }

    /// Inputs beside the outputs, by name.
    #[allow(
        dead_code,
        reason = "each test file compiles this module on its own, and some have their inputs in code"
    )]
    pub fn inputs(&self, extension: &str) -> Vec<(String, String)> {
        let mut inputs: Vec<(String, String)> = files(&self.folder, extension)
            .into_iter()
            .map(|path| (stem(&path), std::fs::read_to_string(&path).unwrap()))
            .collect();
        inputs.sort();
        inputs
    }

    pub fn check(&mut self, name: &str, actual: &str) {
        let path = self.folder.join(name).with_extension(self.extension);
        if std::env::var_os("FATHOM_BLESS").is_some() {
            std::fs::write(&path, actual).unwrap();
        }
        let stored = std::fs::read_to_string(&path).unwrap_or_default();
        if stored != actual {
            self.failures
                .push(format!("{}:\n--- stored\n{stored}--- now\n{actual}", path.display()));
        }
        self.checked.insert(path);
    }

    /// Fails for outputs that differ, and for stored ones that no test produces any more.
    pub fn finish(self) {
        let stale: Vec<PathBuf> = files(&self.folder, self.extension)
            .into_iter()
            .filter(|path| !self.checked.contains(path))
            .collect();
        assert!(stale.is_empty(), "no test produces {stale:?}; remove the files");
        assert!(
            self.failures.is_empty(),
            "{}\nFATHOM_BLESS=1 rewrites the stored outputs",
            self.failures.join("\n")
        );
    }
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_string_lossy().into_owned()
}
