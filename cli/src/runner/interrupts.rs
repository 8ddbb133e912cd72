//! Ctrl-C and SIGTERM as the runner takes them: the first asks to stop after a checkpoint, the second to stop now. A wish to pause or to
//! cancel the job (see `local::wish`) is like the first.

use super::directory::JobDirectory;
use super::supervise::Asked;
use crate::failure::{Exit, Failure, Result};
use crate::local::wish;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::time::{Duration, Instant};

/// How often the wish is looked for.
const WISH_INTERVAL: Duration = Duration::from_millis(200);

/// Signals that arrived so far.
#[derive(Debug)]
pub struct Interrupts {
    signals: Signals,
    asked: Asked,
    exit: Exit,
    job: JobDirectory,
    looked: Instant,
}

impl Interrupts {
    /// Takes over SIGINT and SIGTERM for the rest of the process, and follows what is wished of `job`.
    pub fn new(job: JobDirectory) -> Result<Self> {
        let signals =
            Signals::new([SIGINT, SIGTERM]).map_err(|error| Failure::new(Exit::Failed, "cannot handle signals").caused_by(&error))?;
        Ok(Self {
            signals,
            asked: Asked::Continue,
            exit: Exit::Interrupted,
            job,
            looked: Instant::now(),
        })
    }

    /// Takes in the signals that arrived since the last call. Returns what is asked now, if that changed.
    pub fn poll(&mut self) -> Option<Asked> {
        let before = self.asked;
        for signal in self.signals.pending() {
            if self.asked == Asked::Continue {
                self.exit = if signal == SIGTERM { Exit::Cancelled } else { Exit::Interrupted };
            }
            self.asked = next(self.asked);
        }
        if self.asked == Asked::Continue && self.wished() {
            self.exit = Exit::Cancelled;
            self.asked = Asked::Stop;
        }
        (self.asked != before).then_some(self.asked)
    }

    /// Whether somebody wishes the job to stop. A file that cannot be read is no wish.
    fn wished(&mut self) -> bool {
        if self.looked.elapsed() < WISH_INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        wish::read(&self.job).ok().flatten().is_some()
    }

    /// What is asked.
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// The exit code of a run that was stopped: by the kind of the first signal.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

fn next(asked: Asked) -> Asked {
    match asked {
        Asked::Continue => Asked::Stop,
        Asked::Stop | Asked::Kill => Asked::Kill,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asks_to_stop_and_two_to_stop_now() {
        assert_eq!(next(Asked::Continue), Asked::Stop);
        assert_eq!(next(Asked::Stop), Asked::Kill);
        assert_eq!(next(Asked::Kill), Asked::Kill);
    }
}
