//! How a command fails: an exit code, what happened, why, and the next command to try.

use std::fmt;
use std::path::Path;

/// Exit codes of `fathom`: a contract with scripts. Shown by `fathom --help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The job, a phase of it or the command failed.
    Failed = 1,
    /// The command line is wrong (clap uses the same code).
    Usage = 2,
    /// The manifest is not valid.
    InvalidManifest = 3,
    /// The server refused who asks.
    Auth = 4,
    /// A file, job, phase, checkpoint or metric does not exist.
    NotFound = 5,
    /// Somebody else holds the local directory, or a file would be overwritten.
    Conflict = 6,
    /// The server cannot be reached.
    Unreachable = 8,
    /// The run was asked to stop by SIGTERM; it resumes when started again.
    Cancelled = 9,
    /// `health --check`: the verdict is failing or stalled.
    Unhealthy = 10,
    /// The run was stopped from the keyboard (Ctrl-C); it resumes when started again.
    Interrupted = 130,
}

/// The exit codes as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the job, or the command, failed
    2  the command line is wrong
    3  the manifest is not valid
    4  not allowed: the secret or token is missing, wrong or not enough
    5  not found: a file, job, phase, checkpoint or metric
    6  conflict: another run holds the directory, or a file would be overwritten
    8  the server cannot be reached
    9  cancelled: `run` was stopped by SIGTERM; the same command resumes
   10  unhealthy: `health --check` found the verdict failing or stalled
  130  interrupted: `run` was stopped by Ctrl-C; the same command resumes";

/// Why a command ends with a non-zero exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    what: String,
    causes: Vec<String>,
    help: Option<String>,
}

/// Result of a command.
pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// A failure that says what happened, in one sentence without a full stop.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            causes: Vec::new(),
            help: None,
        }
    }

    /// A failure whose text was already shown (the problems of a manifest, the report of an interrupted run).
    pub fn shown(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    /// A failed operation on a file: not found if the file is missing, failed otherwise.
    pub fn io(action: &str, path: &Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Failed,
        };
        Self::new(exit, format!("cannot {action} {}", path.display())).cause(error)
    }

    /// Adds an error and the errors that it was caused by.
    #[must_use]
    pub fn caused_by(mut self, error: &dyn std::error::Error) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            self.causes.push(error.to_string());
            next = error.source();
        }
        self
    }

    /// Adds the errors that an error was caused by, but not the error itself.
    #[must_use]
    pub fn causes_of(self, error: &dyn std::error::Error) -> Self {
        match error.source() {
            Some(source) => self.caused_by(source),
            None => self,
        }
    }

    /// Adds one line of reason.
    #[must_use]
    pub fn cause(mut self, cause: impl fmt::Display) -> Self {
        self.causes.push(cause.to_string());
        self
    }

    /// Adds what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Writes the failure for people. `colour` turns on ANSI escapes.
    pub fn print(&self, to: &mut impl std::io::Write, colour: bool) -> std::io::Result<()> {
        if self.what.is_empty() {
            return Ok(());
        }
        let (red, cyan, reset) = if colour {
            ("\x1b[1;31m", "\x1b[36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        writeln!(to, "{red}error{reset}: {}", self.what)?;
        for cause in &self.causes {
            writeln!(to, "  because: {cause}")?;
        }
        if let Some(help) = &self.help {
            writeln!(to, "  {cyan}next{reset}: {help}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_why_and_what_next() {
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        let failure = Failure::io("read", Path::new("job.yaml"), &missing).help("write one with `fathom init job.yaml`");
        let mut text = Vec::new();
        failure.print(&mut text, false).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "error: cannot read job.yaml\n  because: entity not found\n  next: write one with `fathom init job.yaml`\n"
        );
        assert_eq!(failure.exit(), Exit::NotFound);
    }
}
