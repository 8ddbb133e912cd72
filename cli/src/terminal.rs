//! What the terminal can show and what the user wants to see.

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use std::io::IsTerminal;

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How much to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Progress and notes.
    Normal,
    /// Also attempts, worker processes and every event.
    Verbose,
}

/// The terminal as one command sees it.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// ANSI colours on standard error.
    pub colour: bool,
    /// Standard error is a terminal: bars may be drawn.
    pub interactive: bool,
    /// How much to tell.
    pub verbosity: Verbosity,
}

impl Terminal {
    /// Looks at standard error and the environment. `NO_COLOR` counts when it is set and not empty (no-color.org).
    pub fn new(colour: Colour, verbosity: Verbosity) -> Self {
        let interactive = std::io::stderr().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let colour = match colour {
            Colour::Auto => interactive && !refused && !dumb,
            Colour::Always => true,
            Colour::Never => false,
        };
        Self {
            colour,
            interactive: interactive && !dumb,
            verbosity,
        }
    }

    /// Sends the log lines that `FATHOM_LOG` chooses, warnings by default, to standard error.
    pub fn start_log(&self) {
        self.log_from("warn");
    }

    /// [`Terminal::start_log`] for a service whose log is what its owners see of it.
    pub fn start_service_log(&self) {
        self.log_from("info");
    }

    fn log_from(&self, level: &str) {
        let filter =
            tracing_subscriber::EnvFilter::try_from_env("FATHOM_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
        // A second subscriber in one process is refused, which is fine.
        let _ = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(self.colour)
            .with_writer(std::io::stderr)
            .try_init();
    }

    /// Tells something on standard error, unless quiet.
    pub fn note(&self, text: &str) {
        if self.verbosity > Verbosity::Quiet {
            eprintln!("{text}");
        }
    }
}

/// While it lives, the terminal does not show Ctrl-C as `^C`: those two characters would break the line of a progress bar in two, of which
/// one stays behind.
#[derive(Debug)]
pub struct ControlEchoOff {
    before: Termios,
}

impl ControlEchoOff {
    /// Changes the terminal of standard error; nothing if it is none, or if this process is in its background and may not.
    pub fn new() -> Option<Self> {
        let terminal = std::io::stderr();
        if tcgetpgrp(&terminal).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(&terminal, OptionalActions::Now, &quiet).ok()?;
        Some(Self { before })
    }
}

impl Drop for ControlEchoOff {
    fn drop(&mut self) {
        // The terminal may be gone.
        let _ = tcsetattr(std::io::stderr(), OptionalActions::Now, &self.before);
    }
}
