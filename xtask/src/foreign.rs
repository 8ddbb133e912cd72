//! Checks written in other languages: an outside implementation opens what Fathom writes. All of them are listed here, except Megatron's
//! reader, which `worker/tests/data_megatron.rs` runs where `worker/tests/megatron/setup.sh` has installed it.

use crate::error::Error;
use crate::process::{self, Context};
use std::path::PathBuf;

/// A Python script that is its own judge: it exits with 0 or says what differs. It runs in the repository with `FATHOM_BIN` set to
/// the debug binary.
struct Check {
    /// Name, also of the virtual environment.
    name: &'static str,
    /// What it proves.
    proves: &'static str,
    /// Folder with `check.py` and `requirements.txt`.
    folder: &'static str,
}

const CHECKS: &[Check] = &[Check {
    name: "transformers",
    proves: "transformers loads a checkpoint and computes the same logits and losses",
    folder: "worker/tests/transformers",
}];

/// Makes the virtual environments of all checks.
pub fn install(context: &Context) -> Result<(), Error> {
    process::run(&mut context.command("bash", &["worker/tests/megatron/setup.sh"]))?;
    for check in CHECKS {
        environment(context, check.name, &context.root.join(check.folder).join("requirements.txt"))?;
    }
    Ok(())
}

/// Runs the checks that can run. Returns the reasons of those that were skipped.
pub fn run(context: &Context) -> Result<Vec<String>, Error> {
    let mut skipped = Vec::new();
    for check in CHECKS {
        let python = python_of(context, check.name);
        if !process::works(&python, "--version") {
            skipped.push(format!("{}: not installed; `cargo xtask test --python` installs it", check.name));
            continue;
        }
        println!("{}: {}", check.name, check.proves);
        let script = format!("{}/check.py", check.folder);
        process::run(context.command(python, &[&script]).env("FATHOM_BIN", context.fathom("debug")))?;
    }
    Ok(skipped)
}

/// Makes a virtual environment under the cache directory with what a requirements file asks for; returns its Python.
pub fn environment(context: &Context, name: &str, requirements: &std::path::Path) -> Result<PathBuf, Error> {
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
    Ok(python)
}

fn directory_of(context: &Context, name: &str) -> PathBuf {
    context.cache.join("venv").join(name)
}

fn python_of(context: &Context, name: &str) -> PathBuf {
    let programs = if cfg!(windows) { "Scripts" } else { "bin" };
    directory_of(context, name).join(programs).join("python")
}
