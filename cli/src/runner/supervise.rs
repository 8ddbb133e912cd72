//! What follows when a worker process has ended: a pure function of its exit, its progress and the state of the phase.

use fathom_spec::assignment::ExitCode;
use fathom_spec::state::{Failure, FailureClass, InvalidTransition, PhaseState};
use std::fmt;
use std::time::Duration;

/// First pause before a restart of a worker that made no progress; it doubles with each such restart.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Exit code of a Rust process whose main thread panicked.
const PANICKED: i32 = 101;
/// Longest message in a status file, in characters.
const MAX_MESSAGE: usize = 512;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with a code.
    Exit(i32),
    /// A signal killed it.
    Signal(i32),
}

/// Whether the user asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// No.
    Continue,
    /// To stop after a checkpoint.
    Stop,
    /// To stop now.
    Kill,
}

/// One attempt that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// How its process ended.
    pub ended: Ended,
    /// Whether it left a complete artifact.
    pub artifact: bool,
    /// Whether it committed a checkpoint that is newer than the one it started from.
    pub progressed: bool,
    /// Whether the user asked to stop.
    pub asked: Asked,
    /// What the worker said about its end.
    pub detail: &'a str,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Conclusion {
    /// The state of the phase: running means another attempt.
    pub state: PhaseState,
    /// Why the attempt ended early; nothing if it did not.
    pub reason: Option<Reason>,
    /// How long to wait before another attempt.
    pub pause: Duration,
}

/// Concludes an attempt of a running phase at time `now`. The budget of restarts is the state's: a newer checkpoint has refilled it.
/// A worker that stopped for somebody else's SIGTERM after new progress costs nothing; wrong configuration, wrong data and divergence
/// repeat themselves, so they are not tried again.
///
/// # Errors
/// [`InvalidTransition`] if the phase is not running.
pub fn conclude(attempt: Attempt<'_>, state: PhaseState, max_restarts: u32, now: f64) -> Result<Conclusion, InvalidTransition> {
    let Attempt {
        ended,
        artifact,
        progressed,
        asked,
        detail,
    } = attempt;
    let reason = match reason(ended) {
        Reason::NoArtifact if artifact => {
            return Ok(Conclusion {
                state: state.succeed(now)?,
                reason: None,
                pause: Duration::ZERO,
            });
        }
        reason => reason,
    };
    let class = reason.class();
    let state = if class == FailureClass::Transient && asked != Asked::Continue {
        state.stop()?
    } else if let (Reason::Stopped, true, PhaseState::Running { key, .. }) = (reason, progressed, &state) {
        let key = key.clone();
        state.stop()?.start(key, now)?
    } else {
        let exit_code = match ended {
            Ended::Exit(code) => Some(code),
            Ended::Signal(_) => None,
        };
        let message = if detail.is_empty() {
            reason.to_string()
        } else {
            format!("{reason}: {detail}")
        };
        let message = message.chars().take(MAX_MESSAGE).collect();
        state.fail(Failure { class, exit_code, message }, max_restarts, now)?
    };
    let pause = match state {
        PhaseState::Running { restarts, .. } if !progressed => pause(restarts),
        _ => Duration::ZERO,
    };
    Ok(Conclusion {
        state,
        reason: Some(reason),
        pause,
    })
}

/// Why an attempt ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The assignment cannot be executed.
    BadConfig,
    /// An input is unreadable or wrong.
    BadData,
    /// The loss, a gradient or a weight became NaN or infinite.
    Diverged,
    /// Reading or writing failed.
    Io,
    /// It stopped although nobody asked here (SIGTERM from elsewhere).
    Stopped,
    /// Another rank of its attempt is gone.
    PeerLost,
    /// The ranks of the attempt did not find each other.
    Rendezvous,
    /// It panicked.
    Panicked,
    /// It exited with success, which without a complete artifact is none.
    NoArtifact,
    /// It exited with a code outside the contract.
    Exit(i32),
    /// A signal killed it.
    Signal(i32),
}

impl Reason {
    fn class(self) -> FailureClass {
        match self {
            Self::BadConfig | Self::BadData => FailureClass::Permanent,
            Self::Diverged => FailureClass::Diverged,
            Self::Io
            | Self::Stopped
            | Self::PeerLost
            | Self::Rendezvous
            | Self::Panicked
            | Self::NoArtifact
            | Self::Exit(_)
            | Self::Signal(_) => FailureClass::Transient,
        }
    }
}

/// Whether a rank failed by itself: it neither finished nor stopped, nor lost another one.
pub fn is_culprit(ended: Ended) -> bool {
    !matches!(
        reason(ended),
        Reason::NoArtifact | Reason::Stopped | Reason::PeerLost | Reason::Rendezvous
    )
}

fn reason(ended: Ended) -> Reason {
    match ended {
        Ended::Signal(signal) => Reason::Signal(signal),
        Ended::Exit(code) => match code {
            _ if code == ExitCode::Done as i32 => Reason::NoArtifact,
            _ if code == ExitCode::BadConfig as i32 => Reason::BadConfig,
            _ if code == ExitCode::BadData as i32 => Reason::BadData,
            _ if code == ExitCode::Diverged as i32 => Reason::Diverged,
            _ if code == ExitCode::Io as i32 => Reason::Io,
            _ if code == ExitCode::Stopped as i32 => Reason::Stopped,
            _ if code == ExitCode::PeerLost as i32 => Reason::PeerLost,
            _ if code == ExitCode::Rendezvous as i32 => Reason::Rendezvous,
            PANICKED => Reason::Panicked,
            code => Reason::Exit(code),
        },
    }
}

fn pause(used: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << used.saturating_sub(1).min(16)).min(LONGEST_PAUSE)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadConfig => write!(f, "the worker cannot execute its assignment"),
            Self::BadData => write!(f, "an input is unreadable or wrong"),
            Self::Diverged => write!(f, "training became non-finite"),
            Self::Io => write!(f, "reading or writing failed"),
            Self::Stopped => write!(f, "the worker was stopped by somebody else"),
            Self::PeerLost => write!(f, "a rank lost another one"),
            Self::Rendezvous => write!(f, "the ranks did not find each other"),
            Self::Panicked => write!(f, "the worker panicked"),
            Self::NoArtifact => write!(f, "the worker ended without a complete artifact"),
            Self::Exit(code) => write!(f, "the worker exited with code {code}"),
            Self::Signal(9) => write!(f, "the worker was killed by signal 9 (SIGKILL: out of memory, or `kill -9`)"),
            Self::Signal(signal) => write!(f, "the worker was killed by signal {signal}{}", signal_name(signal)),
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        24 => " (SIGXCPU)",
        25 => " (SIGXFSZ)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Asked::{Continue, Kill, Stop};
    use Ended::{Exit, Signal};

    const NOW: f64 = 9.0;

    fn running(attempt: u32, restarts: u32) -> PhaseState {
        PhaseState::Running {
            key: "k".into(),
            attempt,
            since: NOW,
            started: Some(NOW),
            restarts,
            checkpoint: 10,
        }
    }

    /// The state in short: `running 2/1` is the second attempt after one restart without progress.
    fn short(state: &PhaseState) -> String {
        match state {
            PhaseState::Running { attempt, restarts, .. } => format!("running {attempt}/{restarts}"),
            PhaseState::Failed { failure, .. } => format!("failed {:?} {:?}", failure.class, failure.exit_code),
            other => other.word().to_owned(),
        }
    }

    #[test]
    fn conclusions() {
        for (ended, progressed, asked, restarts, max, expected, pause) in [
            // Never tried again, whatever the budget and the user say.
            (Exit(64), true, Continue, 0, 3, "failed Permanent Some(64)", 0),
            (Exit(65), true, Continue, 0, 3, "failed Permanent Some(65)", 0),
            (Exit(65), false, Stop, 0, 3, "failed Permanent Some(65)", 0),
            (Exit(70), true, Continue, 0, 3, "failed Diverged Some(70)", 0),
            // The budget counts restarts without progress; progress has set the state's counter to 0.
            (Signal(9), false, Continue, 0, 3, "running 2/1", 1),
            (Signal(9), false, Continue, 2, 3, "running 2/3", 4),
            (Signal(9), false, Continue, 3, 3, "failed Transient None", 0),
            (Signal(9), true, Continue, 0, 3, "running 2/1", 0),
            (Exit(101), false, Continue, 0, 3, "running 2/1", 1),
            (Exit(74), false, Continue, 1, 3, "running 2/2", 2),
            (Exit(1), false, Continue, 0, 3, "running 2/1", 1),
            (Exit(0), false, Continue, 0, 3, "running 2/1", 1),
            // No restarts means none, even with progress.
            (Signal(11), true, Continue, 0, 0, "failed Transient None", 0),
            // Stopped from elsewhere: free with progress, else it counts, or it would loop for ever.
            (Exit(75), true, Continue, 0, 0, "running 2/0", 0),
            (Exit(75), false, Continue, 0, 1, "running 2/1", 1),
            (Exit(75), false, Continue, 1, 1, "failed Transient Some(75)", 0),
            // Stopped by the user.
            (Exit(75), true, Stop, 0, 3, "stopped", 0),
            (Signal(15), false, Stop, 0, 3, "stopped", 0),
            (Signal(9), false, Kill, 3, 3, "stopped", 0),
        ] {
            let attempt = Attempt {
                ended,
                artifact: false,
                progressed,
                asked,
                detail: "",
            };
            let conclusion = conclude(attempt, running(1, restarts), max, NOW).unwrap();
            let case = format!("{ended:?} progressed={progressed} {asked:?} {restarts}/{max}");
            assert_eq!(short(&conclusion.state), expected, "{case}");
            assert_eq!(conclusion.pause.as_secs(), pause, "{case}");
        }
    }

    #[test]
    fn success_needs_an_artifact_and_wins_over_a_late_stop() {
        for asked in [Continue, Stop, Kill] {
            let attempt = Attempt {
                ended: Exit(0),
                artifact: true,
                progressed: false,
                asked,
                detail: "",
            };
            let conclusion = conclude(attempt, running(3, 2), 0, NOW).unwrap();
            assert_eq!((conclusion.state.word(), conclusion.reason), ("succeeded", None));
            assert!(conclude(attempt, PhaseState::Pending, 0, NOW).is_err());
        }
    }

    #[test]
    fn messages_are_bounded() {
        let attempt = Attempt {
            ended: Exit(65),
            artifact: false,
            progressed: false,
            asked: Continue,
            detail: &"ä".repeat(1000),
        };
        let conclusion = conclude(attempt, running(1, 0), 3, NOW).unwrap();
        let PhaseState::Failed { failure, .. } = conclusion.state else {
            panic!("not failed")
        };
        assert!(failure.message.starts_with("an input is unreadable or wrong: ää"));
        assert_eq!(failure.message.chars().count(), MAX_MESSAGE);
    }

    #[test]
    fn pauses_double_up_to_a_limit() {
        let pauses: Vec<u64> = (1..=7).map(|used| pause(used).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
