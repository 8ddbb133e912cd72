//! States of phases and jobs: what the status file of a run holds. A transition consumes the old state and returns the new one, or an
//! error that names both.

use crate::job::PhaseKind;
use crate::plan::{Attempt, ObservedAttempt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// State of a phase. Times are seconds since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum PhaseState {
    /// Not started.
    Pending,
    /// Its artifact existed before; nothing was done.
    #[serde(rename_all = "camelCase")]
    Cached {
        /// Key of the artifact.
        key: String,
    },
    /// A worker executes it.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Key of the artifact that it will be.
        key: String,
        /// Attempt, from 1.
        attempt: u32,
        /// Start of the attempt.
        since: f64,
        /// Start of the first attempt, where it is known.
        #[serde(default)]
        started: Option<f64>,
        /// Restarts since the last newer checkpoint; the budget of `restart.maxRestarts`.
        restarts: u32,
        /// Step of the newest checkpoint, 0 for none.
        checkpoint: u64,
    },
    /// Stopped on request with nothing lost; running again goes on.
    #[serde(rename_all = "camelCase")]
    Stopped {
        /// Key of the artifact that it will be.
        key: String,
        /// Last attempt.
        attempt: u32,
        /// Step of the newest checkpoint, 0 for none.
        checkpoint: u64,
        /// Start of the first attempt, where it is known.
        #[serde(default)]
        started: Option<f64>,
    },
    /// Complete.
    #[serde(rename_all = "camelCase")]
    Succeeded {
        /// Key of the artifact.
        key: String,
        /// Attempts that it took.
        attempts: u32,
        /// Start of the first attempt, where it is known.
        #[serde(default)]
        started: Option<f64>,
        /// Completion.
        at: f64,
    },
    /// Given up.
    #[serde(rename_all = "camelCase")]
    Failed {
        /// Key of the artifact that it would have been.
        key: String,
        /// Last attempt.
        attempt: u32,
        /// Step of the newest checkpoint, 0 for none.
        checkpoint: u64,
        /// Why, and what to do about it.
        failure: Failure,
        /// Start of the first attempt, where it is known.
        #[serde(default)]
        started: Option<f64>,
        /// End of the last attempt, where it is known.
        #[serde(default)]
        at: Option<f64>,
    },
}

/// Why an attempt ended early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Failure {
    /// What happens with it.
    pub class: FailureClass,
    /// Exit code of the worker; none if a signal ended it.
    pub exit_code: Option<i32>,
    /// The error with its cure, at most 512 characters.
    pub message: String,
}

/// What happens after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureClass {
    /// It would fail again: bad configuration or data.
    Permanent,
    /// A restart may help: crash, signal, disk.
    Transient,
    /// Training became non-finite; a restart from the same checkpoint would repeat it.
    Diverged,
}

impl FailureClass {
    /// The class of a worker's exit code; none for a signal. The codes of success and of a requested stop are no failures.
    #[must_use]
    pub const fn of(exit_code: Option<i32>) -> Self {
        match exit_code {
            Some(64 | 65) => Self::Permanent,
            Some(70) => Self::Diverged,
            // Crashes, signals, I/O errors and codes that only a broken worker has.
            Some(_) | None => Self::Transient,
        }
    }
}

/// A transition that a state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a phase that is {state} cannot {transition}")]
pub struct InvalidTransition {
    /// The state, as an adjective.
    pub state: &'static str,
    /// The transition, as an infinitive.
    pub transition: &'static str,
}

impl PhaseState {
    /// The state in one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Cached { .. } => "cached",
            Self::Running { .. } => "running",
            Self::Stopped { .. } => "stopped",
            Self::Succeeded { .. } => "succeeded",
            Self::Failed { .. } => "failed",
        }
    }

    const fn refuse<T>(&self, transition: &'static str) -> Result<T, InvalidTransition> {
        Err(InvalidTransition {
            state: self.word(),
            transition,
        })
    }

    /// Finds that the artifact exists already.
    ///
    /// # Errors
    /// [`InvalidTransition`] from a running phase.
    pub fn reuse(self, key: String) -> Result<Self, InvalidTransition> {
        match self {
            Self::Succeeded {
                key: own,
                attempts,
                started,
                at,
            } if own == key => Ok(Self::Succeeded {
                key,
                attempts,
                started,
                at,
            }),
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => {
                Ok(Self::Cached { key })
            }
            Self::Running { .. } => self.refuse("be found complete"),
        }
    }

    /// Starts the next attempt. A stopped or failed phase goes on from its newest checkpoint if its key is the same; with another key,
    /// and for a pending phase, the first attempt starts.
    ///
    /// # Errors
    /// [`InvalidTransition`] from a running phase.
    pub fn start(self, key: String, now: f64) -> Result<Self, InvalidTransition> {
        let (attempt, checkpoint, started) = match &self {
            Self::Stopped {
                key: own,
                attempt,
                checkpoint,
                started,
            } if *own == key => (attempt.saturating_add(1), *checkpoint, started.or(Some(now))),
            Self::Failed {
                key: own,
                attempt,
                checkpoint,
                failure: _,
                started,
                at: _,
            } if *own == key => (attempt.saturating_add(1), *checkpoint, started.or(Some(now))),
            // A phase that is complete starts again if its artifact is gone.
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => (1, 0, Some(now)),
            Self::Running { .. } => return self.refuse("start"),
        };
        Ok(Self::Running {
            key,
            attempt,
            since: now,
            started,
            restarts: 0,
            checkpoint,
        })
    }

    /// Commits a checkpoint. A newer one refills the budget of restarts.
    ///
    /// # Errors
    /// [`InvalidTransition`] unless the phase is running.
    pub fn checkpoint(self, step: u64) -> Result<Self, InvalidTransition> {
        match self {
            Self::Running {
                key,
                attempt,
                since,
                started,
                restarts,
                checkpoint,
            } => Ok(Self::Running {
                key,
                attempt,
                since,
                started,
                restarts: if step > checkpoint { 0 } else { restarts },
                checkpoint: checkpoint.max(step),
            }),
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => {
                self.refuse("commit a checkpoint")
            }
        }
    }

    /// Completes the phase.
    ///
    /// # Errors
    /// [`InvalidTransition`] unless the phase is running.
    pub fn succeed(self, now: f64) -> Result<Self, InvalidTransition> {
        match self {
            Self::Running { key, attempt, started, .. } => Ok(Self::Succeeded {
                key,
                attempts: attempt,
                started,
                at: now,
            }),
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => {
                self.refuse("succeed")
            }
        }
    }

    /// Stops the phase on request.
    ///
    /// # Errors
    /// [`InvalidTransition`] unless the phase is running.
    pub fn stop(self) -> Result<Self, InvalidTransition> {
        match self {
            Self::Running {
                key,
                attempt,
                checkpoint,
                started,
                ..
            } => Ok(Self::Stopped {
                key,
                attempt,
                checkpoint,
                started,
            }),
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => {
                self.refuse("stop")
            }
        }
    }

    /// Ends the attempt with a failure: the next attempt runs if the failure may pass and the budget allows it, otherwise the phase
    /// has failed.
    ///
    /// # Errors
    /// [`InvalidTransition`] unless the phase is running.
    pub fn fail(self, failure: Failure, max_restarts: u32, now: f64) -> Result<Self, InvalidTransition> {
        match self {
            Self::Running {
                key,
                attempt,
                since: _,
                started,
                restarts,
                checkpoint,
            } => match failure.class {
                FailureClass::Transient if restarts < max_restarts => Ok(Self::Running {
                    key,
                    attempt: attempt.saturating_add(1),
                    since: now,
                    started,
                    restarts: restarts + 1,
                    checkpoint,
                }),
                FailureClass::Transient | FailureClass::Permanent | FailureClass::Diverged => Ok(Self::Failed {
                    key,
                    attempt,
                    checkpoint,
                    failure,
                    started,
                    at: Some(now),
                }),
            },
            Self::Pending | Self::Cached { .. } | Self::Stopped { .. } | Self::Succeeded { .. } | Self::Failed { .. } => {
                self.refuse("fail")
            }
        }
    }

    /// Start of the first attempt, where there was one and it is known.
    #[must_use]
    pub const fn started(&self) -> Option<f64> {
        match self {
            Self::Pending | Self::Cached { .. } => None,
            Self::Running { started, .. }
            | Self::Stopped { started, .. }
            | Self::Succeeded { started, .. }
            | Self::Failed { started, .. } => *started,
        }
    }

    /// What the planner needs to know about the phase.
    #[must_use]
    pub fn observed(&self) -> Option<ObservedAttempt> {
        let (key, attempt) = match self {
            Self::Running { key, attempt, .. } => (key, Attempt::Running { attempt: *attempt }),
            Self::Stopped { key, attempt, .. } => (key, Attempt::Stopped { attempt: *attempt }),
            Self::Failed { key, attempt, failure, .. } => {
                let failed = Attempt::Failed {
                    attempt: *attempt,
                    message: failure.message.clone(),
                };
                (key, failed)
            }
            Self::Pending | Self::Cached { .. } | Self::Succeeded { .. } => return None,
        };
        Some(ObservedAttempt { key: key.clone(), attempt })
    }
}

/// The status file of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JobStatus {
    /// Format version, 1.
    pub version: u32,
    /// Name of the job.
    pub job: String,
    /// The phases, in order.
    pub phases: Vec<PhaseStatus>,
}

/// A phase in a status file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PhaseStatus {
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: PhaseKind,
    /// State.
    pub state: PhaseState,
}

/// State of a job, derived from its phases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum JobState {
    /// No phase was started.
    Pending,
    /// A phase is executed.
    Running {
        /// The phase.
        phase: String,
    },
    /// Between phases, or stopped on request; running again goes on.
    Stopped,
    /// Every artifact is there.
    Succeeded,
    /// A phase has failed.
    Failed {
        /// The phase.
        phase: String,
        /// Why, and what to do about it.
        message: String,
    },
}

impl JobStatus {
    /// The attempts of all phases, for [`crate::plan::Observed`].
    #[must_use]
    pub fn attempts(&self) -> BTreeMap<String, ObservedAttempt> {
        self.phases
            .iter()
            .filter_map(|phase| Some((phase.name.clone(), phase.state.observed()?)))
            .collect()
    }

    /// The status of a job of which nothing was done.
    #[must_use]
    pub fn new(job: &crate::ValidatedJob) -> Self {
        Self {
            version: 1,
            job: job.name().to_owned(),
            phases: job
                .phases
                .iter()
                .map(|phase| PhaseStatus {
                    name: phase.name.clone(),
                    kind: phase.work.kind(),
                    state: PhaseState::Pending,
                })
                .collect(),
        }
    }

    /// The state of the job: the first failure, else what runs, else whether everything or nothing is done.
    #[must_use]
    pub fn state(&self) -> JobState {
        let mut running = None;
        let (mut pending, mut done) = (0, 0);
        for phase in &self.phases {
            match &phase.state {
                PhaseState::Failed { failure, .. } => {
                    return JobState::Failed {
                        phase: phase.name.clone(),
                        message: failure.message.clone(),
                    };
                }
                PhaseState::Running { .. } => running = running.or(Some(&phase.name)),
                PhaseState::Pending => pending += 1,
                PhaseState::Cached { .. } | PhaseState::Succeeded { .. } => done += 1,
                PhaseState::Stopped { .. } => {}
            }
        }
        match running {
            Some(phase) => JobState::Running { phase: phase.clone() },
            None if done == self.phases.len() => JobState::Succeeded,
            None if pending == self.phases.len() => JobState::Pending,
            None => JobState::Stopped,
        }
    }
}
