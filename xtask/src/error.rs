//! Why a developer command failed.

use std::path::PathBuf;

/// Why a developer command failed. Each message says what to do.
#[derive(Debug)]
pub enum Error {
    /// The command line is wrong.
    Usage(String),
    /// Something that must be installed or set is not.
    Missing(String),
    /// A program could not be started.
    Start {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A program ended without success.
    Failed {
        /// The command line.
        command: String,
        /// How it ended, in words.
        status: String,
    },
    /// A file could not be read or written.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A program printed something that is not understood.
    Output {
        /// The command line.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A process of the cluster ended or does not do its work.
    Daemon {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
        /// Where it writes.
        log: PathBuf,
        /// The last lines of that.
        tail: String,
    },
    /// Rules of the repository that do not hold, one per line.
    Rules(Vec<String>),
    /// Steps of `test` that failed, by name.
    Steps(Vec<String>),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Usage(text) => write!(f, "{text}\n(`cargo xtask --help` lists the commands)"),
            Error::Missing(text) => f.write_str(text),
            Error::Start { program, source } => write!(f, "`{program}` could not be started: {source}; is it installed and on PATH?"),
            Error::Failed { command, status } => write!(f, "`{command}` failed: {status}"),
            Error::File { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Output { command, problem } => write!(f, "`{command}`: {problem}"),
            Error::Daemon { name, problem, log, tail } => {
                write!(f, "{name} {problem}; the end of its log, {}:\n{tail}", log.display())
            }
            Error::Rules(problems) => {
                writeln!(f, "{} problem(s):", problems.len())?;
                f.write_str(&problems.join("\n"))
            }
            Error::Steps(names) => write!(f, "failed: {}", names.join(", ")),
        }
    }
}

impl std::error::Error for Error {}
