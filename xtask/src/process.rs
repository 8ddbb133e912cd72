//! Where things are, and how other programs are run.

use crate::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where things are.
#[derive(Clone, Debug)]
pub struct Context {
    /// The repository.
    pub root: PathBuf,
    /// `$FATHOM_CACHE`: builds, tools, virtual environments.
    pub cache: PathBuf,
    /// `CARGO_TARGET_DIR` of every cargo that is started here.
    pub target: PathBuf,
    /// The cargo that runs us, so that a toolchain override holds for its children too.
    cargo: PathBuf,
}

impl Context {
    /// Reads the environment, once.
    pub fn from_environment() -> Result<Self, Error> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        // Set by `cargo run`; the path that was compiled in may belong to another clone that shares the target directory.
        let package = variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
        let root = package
            .parent()
            .ok_or_else(|| Error::Missing(format!("{} has no parent directory", package.display())))?;
        let cache = cache_directory(variable("FATHOM_CACHE"), variable("XDG_CACHE_HOME"), variable("HOME"))?;
        let target = variable("CARGO_TARGET_DIR").unwrap_or_else(|| cache.join("target"));
        Ok(Self {
            root: root.to_path_buf(),
            // A relative path would mean another place for a child with another working directory.
            cache: root.join(cache),
            target: root.join(target),
            cargo: variable("CARGO").unwrap_or_else(|| PathBuf::from("cargo")),
        })
    }

    /// A cargo invocation in the repository, with the shared target directory.
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .args(arguments)
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target);
        // The build script of the API would not notice a folder that appears after its first run.
        let dashboard = self.root.join("web").join("dist");
        if dashboard.join("index.html").is_file() {
            command.env("FATHOM_WEB_DIST", dashboard);
        }
        // What cargo set for us describes the package xtask; build scripts would take it for a change and run again.
        for (name, _) in std::env::vars_os() {
            if name
                .to_str()
                .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// Makes the target directory this clone's: our own crates are built again if another clone was the last to build there. Cargo
    /// names them by their path *inside* the workspace and compares times only, so it would take the other clone's builds for ours.
    pub fn claim_target(&self) -> Result<(), Error> {
        let stamp = self.target.join("fathom-workspace");
        let root = self.root.to_string_lossy();
        if std::fs::read_to_string(&stamp).is_ok_and(|last| last == root) {
            return Ok(());
        }
        let failed = |source| Error::File {
            path: stamp.clone(),
            source,
        };
        std::fs::create_dir_all(&self.target).map_err(failed)?;
        for profile in ["dev", "release"] {
            let packages = [
                "fathom-spec",
                "fathom-kernels",
                "fathom-worker",
                "fathom-store",
                "fathom-api",
                "fathom",
                "xtask",
            ]
            .map(|name| format!("--package={name}"));
            run(self.cargo(&["clean", "--quiet", "--profile", profile]).args(packages))?;
        }
        std::fs::write(&stamp, root.as_bytes()).map_err(failed)
    }

    /// Another program, in the repository.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// The `fathom` binary of a profile directory (`debug`, `release`).
    pub fn fathom(&self, profile: &str) -> PathBuf {
        self.target.join(profile).join(format!("fathom{}", std::env::consts::EXE_SUFFIX))
    }
}

/// `$FATHOM_CACHE`, or `fathom` under the user's cache directory.
fn cache_directory(fathom: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf, Error> {
    fathom
        .or_else(|| xdg.map(|directory| directory.join("fathom")))
        .or_else(|| home.map(|directory| directory.join(".cache").join("fathom")))
        .ok_or_else(|| {
            Error::Missing("none of FATHOM_CACHE, XDG_CACHE_HOME and HOME is set; set FATHOM_CACHE to a directory for builds".into())
        })
}

/// The command line as a person would type it.
pub fn display(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a program with our input and output; anything but success is an error.
pub fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed {
        command: display(command),
        status: status.to_string(),
    })
}

/// As [`run`] for a program that ends with 77 where it lacks something, which it has named. Returns whether it ran.
pub fn run_if_possible(command: &mut Command) -> Result<bool, Error> {
    let status = command.status().map_err(|source| start_error(command, source))?;
    match status.code() {
        Some(0) => Ok(true),
        Some(77) => Ok(false),
        _ => Err(Error::Failed {
            command: display(command),
            status: status.to_string(),
        }),
    }
}

/// Runs a program and returns its standard output, which must be UTF-8; its standard error is ours.
pub fn output(command: &mut Command) -> Result<String, Error> {
    let output = command
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|source| start_error(command, source))?;
    if !output.status.success() {
        return Err(Error::Failed {
            command: display(command),
            status: output.status.to_string(),
        });
    }
    String::from_utf8(output.stdout).map_err(|_| Error::Output {
        command: display(command),
        problem: "the output is not UTF-8".into(),
    })
}

/// The SHA-256 of bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> Result<String, Error> {
    let mut command = Command::new("sha256sum");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().map_err(|source| start_error(&command, source))?;
    // It prints nothing before it has read everything.
    let written = child.stdin.take().map_or(Ok(()), |mut input| input.write_all(bytes));
    let output = child.wait_with_output().map_err(|source| start_error(&command, source))?;
    written.map_err(|source| start_error(&command, source))?;
    digest_of(&command, &String::from_utf8_lossy(&output.stdout))
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn sha256_of_file(path: &Path) -> Result<String, Error> {
    let mut command = Command::new("sha256sum");
    command.arg("--").arg(path);
    let printed = output(&mut command)?;
    digest_of(&command, &printed)
}

/// The first word of what `sha256sum` prints; it puts a backslash before it where the file's name has one.
fn digest_of(command: &Command, printed: &str) -> Result<String, Error> {
    let digest = printed.split_whitespace().next().unwrap_or_default().trim_start_matches('\\');
    if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digest.to_string());
    }
    Err(Error::Output {
        command: display(command),
        problem: format!("`{}` is no SHA-256", printed.trim()),
    })
}

/// The error of a program that could not be started.
pub fn start_error(command: &Command, source: std::io::Error) -> Error {
    Error::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    }
}

/// Whether a program can be run at all, with an argument that makes it end at once.
pub fn works(program: impl AsRef<std::ffi::OsStr>, argument: &str) -> bool {
    succeeds(Command::new(program).arg(argument))
}

/// Whether a program that says nothing to anybody ends well.
pub fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_variables_in_order() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            (path("f"), path("x"), path("h"), Some("f")),
            (None, path("x"), path("h"), Some("x/fathom")),
            (None, None, path("h"), Some("h/.cache/fathom")),
            (None, None, None, None),
        ];
        for (fathom, xdg, home, expected) in cases {
            assert_eq!(cache_directory(fathom, xdg, home).ok(), expected.map(PathBuf::from));
        }
    }

    #[test]
    fn a_failing_program_is_an_error_that_names_it() {
        let error = run(Command::new("false").arg("now")).unwrap_err().to_string();
        assert!(error.contains("`false now` failed"), "{error}");
        let error = output(&mut Command::new("no-such-program-anywhere")).unwrap_err().to_string();
        assert!(error.contains("could not be started"), "{error}");
    }

    #[test]
    fn a_digest_is_that_of_the_bytes() {
        assert_eq!(
            sha256(b"abc").unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(digest_of(&Command::new("sha256sum"), "no digest").is_err());
    }

    #[test]
    fn output_is_what_the_program_printed() {
        assert_eq!(output(Command::new("printf").arg("two\nlines")).unwrap(), "two\nlines");
    }
}
