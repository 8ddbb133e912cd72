//! The part of a status that is for readers: conditions and summary, derived from the phases. `fathom_spec::status` says what they mean.

use crate::culprit::shorten;
use crate::decide::Standing;
use crate::observe::Observed;
use fathom_spec::status::{Condition, ConditionKind, JobStatus, MAX_MESSAGE_BYTES, PhaseProgress, PhaseStatus, Summary, Truth};
use jiff::{Timestamp, Unit};

/// A time as Kubernetes writes it: RFC 3339, whole seconds.
#[must_use]
pub fn time(now: Timestamp) -> String {
    now.round(Unit::Second).unwrap_or(now).to_string()
}

/// A word and a sentence.
struct Because<'a>(&'a str, String);

/// Adds conditions to a status.
struct Sayer<'a> {
    status: &'a mut JobStatus,
    generation: i64,
    now: Timestamp,
}

impl Sayer<'_> {
    fn say(&mut self, kind: ConditionKind, holds: bool, Because(reason, message): Because<'_>) {
        self.status.say(Condition {
            kind,
            status: if holds { Truth::True } else { Truth::False },
            reason: reason.to_owned(),
            message: shorten(&message, MAX_MESSAGE_BYTES),
            last_transition_time: time(self.now),
            observed_generation: Some(self.generation),
        });
    }
}

/// The status of a job that cannot be executed as it is.
#[must_use]
pub fn refused(mut status: JobStatus, observed: &Observed, problem: &str, now: Timestamp) -> JobStatus {
    status.observed_generation = Some(observed.generation);
    status.summary = Some(Summary {
        phase: "Refused".into(),
        ..Summary::default()
    });
    let mut sayer = Sayer {
        status: &mut status,
        generation: observed.generation,
        now,
    };
    sayer.say(ConditionKind::Accepted, false, Because("Invalid", problem.to_owned()));
    let waits = "nothing is executed until the spec is corrected".to_owned();
    sayer.say(ConditionKind::Progressing, false, Because("Invalid", waits));
    status
}

/// The status of a job whose phases stand as they do.
#[must_use]
pub(crate) fn standing(mut status: JobStatus, observed: &Observed, standing: &Standing, now: Timestamp) -> JobStatus {
    let phases = status.phases.clone();
    let done = phases.iter().filter(|phase| phase.is_done()).count();
    let mut sayer = Sayer {
        status: &mut status,
        generation: observed.generation,
        now,
    };
    sayer.say(
        ConditionKind::Accepted,
        true,
        Because("Valid", "the manifest can be executed".into()),
    );
    let suspended = matches!(standing, Standing::Suspended);
    let why = if suspended {
        "`spec.suspend` is true"
    } else {
        "`spec.suspend` is false"
    };
    let reason = if suspended { "Suspended" } else { "NotSuspended" };
    sayer.say(ConditionKind::Suspended, suspended, Because(reason, why.into()));
    let current = match *standing {
        Standing::At(index) => Some(&phases[index]),
        Standing::Suspended | Standing::Complete | Standing::Failed(_) => None,
    };
    let degraded = current.and_then(|phase| (phase.state == PhaseProgress::Restarting).then(|| degradation(phase)));
    match degraded {
        Some(because) => sayer.say(ConditionKind::Degraded, true, because),
        None => sayer.say(ConditionKind::Degraded, false, Because("AsExpected", String::new())),
    }
    let (progressing, because) = match *standing {
        Standing::At(index) => (true, progress(&phases[index])),
        Standing::Suspended => (
            false,
            Because("Suspended", "nothing is executed until `spec.suspend` is false".into()),
        ),
        Standing::Complete => (false, Because("Complete", format!("all {done} phases are done"))),
        Standing::Failed(index) => (false, Because("Failed", format!("phase `{}` failed", phases[index].name))),
    };
    sayer.say(ConditionKind::Progressing, progressing, because);
    let summary = match *standing {
        Standing::At(index) => {
            let phase = &phases[index];
            let attempt = if phase.attempt > 1 {
                format!(", attempt {}", phase.attempt)
            } else {
                String::new()
            };
            (
                phase.name.clone(),
                format!("{}/{} {:?}{attempt}", done + 1, phases.len(), phase.state),
            )
        }
        Standing::Suspended => ("Suspended".into(), format!("{done}/{}", phases.len())),
        Standing::Complete => {
            sayer.say(
                ConditionKind::Complete,
                true,
                Because("AllPhasesDone", format!("all {done} phases are done")),
            );
            ("Complete".into(), format!("{done}/{}", phases.len()))
        }
        Standing::Failed(index) => {
            let phase = &phases[index];
            let failure = phase
                .last_failure
                .as_ref()
                .map(|failure| failure.message.as_str())
                .unwrap_or_default();
            let message = format!("phase `{}` failed in attempt {}: {failure}", phase.name, phase.attempt);
            sayer.say(ConditionKind::Failed, true, Because("PhaseFailed", message));
            ("Failed".into(), format!("{done}/{}, {}", phases.len(), phase.name))
        }
    };
    if status.is_final() && status.completion_time.is_none() {
        status.completion_time = Some(time(now));
    }
    let (phase, progress) = summary;
    status.summary = Some(Summary {
        phase,
        progress,
        ..status.summary.take().unwrap_or_default()
    });
    status
}

fn progress(phase: &PhaseStatus) -> Because<'static> {
    let PhaseStatus { name, message, .. } = phase;
    let (reason, what) = match phase.state {
        PhaseProgress::Pending => ("Pending", "waits"),
        PhaseProgress::Queued => ("Queued", "waits for a queue"),
        PhaseProgress::Starting => ("Starting", "is being started"),
        PhaseProgress::Running => ("Running", "is being executed"),
        PhaseProgress::Restarting => ("Restarting", "is about to be tried again"),
        PhaseProgress::Cached | PhaseProgress::Succeeded => ("Done", "is done"),
        PhaseProgress::Failed => ("Failed", "failed"),
    };
    let more = if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    };
    Because(reason, format!("phase `{name}` {what}, attempt {}{more}", phase.attempt))
}

fn degradation(phase: &PhaseStatus) -> Because<'static> {
    let failure = phase.last_failure.as_ref();
    let message = failure.map_or_else(String::new, |failure| {
        format!("attempt {} of `{}` failed: {}", failure.attempt, phase.name, failure.message)
    });
    Because("Restarting", message)
}
