//! Checks written in other languages: an outside implementation opens what Fathom writes. All of them are listed here, except Megatron's
//! reader, which `worker/tests/data_megatron.rs` runs where `worker/tests/megatron/setup.sh` has installed it.

use crate::error::Error;
use crate::process::{self, Context};
use std::path::{Path, PathBuf};

/// A Python script that is its own judge: it exits with 0 or says what differs. It runs in the repository with `FATHOM_BIN` set to
/// the debug binary.
struct Check {
    /// Name, also of the virtual environment.
    name: &'static str,
    /// What it proves.
    proves: &'static str,
    /// Folder with `check.py` and `requirements.txt`.
    folder: &'static str,
    /// Whether it is installed without being asked for: what it needs is a few megabytes.
    small: bool,
}

const CHECKS: &[Check] = &[
    Check {
        name: "schemathesis",
        proves: "every answer of the server is what api/openapi.json says",
        folder: "api/tests/schemathesis",
        small: true,
    },
    Check {
        name: "transformers",
        proves: "transformers loads exports in f32, bf16 and fp8, computes the same logits and writes the same text; Fathom imports what it saves",
        folder: "worker/tests/transformers",
        small: false,
    },
];

/// Makes the virtual environments of all checks.
pub fn install(context: &Context) -> Result<(), Error> {
    process::run(&mut context.command("bash", &["worker/tests/megatron/setup.sh"]))?;
    for check in CHECKS {
        environment(context, check.name, &check.requirements(context))?;
    }
    Ok(())
}

/// Runs the checks that can run. Returns the reasons of those that were skipped.
pub fn run(context: &Context) -> Result<Vec<String>, Error> {
    let mut skipped = Vec::new();
    for check in CHECKS {
        let python = match check.python(context) {
            Ok(python) => python,
            Err(reason) => {
                skipped.push(format!("{}: {reason}", check.name));
                continue;
            }
        };
        println!("{}: {}", check.name, check.proves);
        let script = format!("{}/check.py", check.folder);
        process::run(context.command(python, &[&script]).env("FATHOM_BIN", context.fathom("debug")))?;
    }
    Ok(skipped)
}

impl Check {
    fn requirements(&self, context: &Context) -> PathBuf {
        context.root.join(self.folder).join("requirements.txt")
    }

    /// The Python that has what the check needs, or why there is none.
    fn python(&self, context: &Context) -> Result<PathBuf, String> {
        let python = python_of(context, self.name);
        if !self.small {
            let installed = process::works(&python, "--version");
            return if installed {
                Ok(python)
            } else {
                Err("not installed; `cargo xtask test --python` installs it".into())
            };
        }
        let wanted = self.requirements(context);
        if process::works(&python, "--version") && same(&wanted, &installed_file(context, self.name)) {
            return Ok(python);
        }
        environment(context, self.name, &wanted).map_err(|error| {
            format!("cannot be installed: {error}; it needs PyPI and python3 with venv (Debian: apt-get install python3 python3-venv)")
        })
    }
}

/// Whether two files are there and equal.
fn same(left: &Path, right: &Path) -> bool {
    std::fs::read(left).is_ok_and(|left| std::fs::read(right).is_ok_and(|right| left == right))
}

/// Makes a virtual environment under the cache directory with what a requirements file asks for; returns its Python.
pub fn environment(context: &Context, name: &str, requirements: &Path) -> Result<PathBuf, Error> {
    let python = python_of(context, name);
    if !process::works(&python, "--version") {
        if !process::works("python3", "--version") {
            return Err(Error::Missing(
                "python3 is missing; on Debian: apt-get install python3 python3-venv".into(),
            ));
        }
        let directory = directory_of(context, name).to_string_lossy().into_owned();
        process::run(&mut context.command("python3", &["-m", "venv", &directory]))?;
    }
    let file = requirements.to_string_lossy();
    process::run(&mut context.command(
        &python,
        &["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", &file],
    ))?;
    let installed = installed_file(context, name);
    std::fs::copy(requirements, &installed).map_err(|source| Error::File { path: installed, source })?;
    Ok(python)
}

/// What was last installed into a virtual environment: a copy of its requirements.
fn installed_file(context: &Context, name: &str) -> PathBuf {
    directory_of(context, name).join("installed.txt")
}

fn directory_of(context: &Context, name: &str) -> PathBuf {
    context.cache.join("venv").join(name)
}

fn python_of(context: &Context, name: &str) -> PathBuf {
    let programs = if cfg!(windows) { "Scripts" } else { "bin" };
    directory_of(context, name).join(programs).join("python")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_known_by_its_requirements() {
        let mut context = Context::from_environment().unwrap();
        context.cache = context.cache.join("check").join(format!("foreign-{}", std::process::id()));
        for check in CHECKS {
            assert!(check.requirements(&context).is_file(), "{}", check.name);
            assert!(context.root.join(check.folder).join("check.py").is_file(), "{}", check.name);
            let installed = installed_file(&context, check.name);
            assert!(!same(&check.requirements(&context), &installed));
            std::fs::create_dir_all(directory_of(&context, check.name)).unwrap();
            std::fs::copy(check.requirements(&context), &installed).unwrap();
            assert!(same(&check.requirements(&context), &installed));
            std::fs::write(&installed, "another version\n").unwrap();
            assert!(!same(&check.requirements(&context), &installed));
        }
        let large = CHECKS.iter().find(|check| !check.small).unwrap();
        assert!(
            large.python(&context).unwrap_err().contains("--python"),
            "it is not installed without being asked for"
        );
        std::fs::remove_dir_all(&context.cache).unwrap();
    }
}
