//! What is known of a run beside its steps, and every reason for a verdict.

use super::detection::{Code, Detection, Severity};
use super::detector::Detector;
use super::view::{Reason, Since};
use super::words::{count, plain, span};
use crate::record::EventKind;

const HOUR: f64 = 3600.0;

/// What is known of a run at one time. All times are seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Situation {
    /// The time.
    pub now: f64,
    /// Whether a process executes the run. Only then do the absence of steps, heartbeats and checkpoints mean anything.
    pub running: bool,
    /// State of the phase in one word, as [`crate::state::PhaseState::word`] gives it.
    pub phase_state: String,
    /// When the current attempt began to train.
    pub started: Option<f64>,
    /// Last sign that the process lives; none where nobody gives one.
    pub heartbeat: Option<f64>,
    /// Last record of any kind. Progress of a validation counts, so that a long one is no stall.
    pub last_record: Option<f64>,
    /// The newest checkpoint.
    pub checkpoint: Option<CheckpointMark>,
    /// Usual seconds between checkpoints.
    pub checkpoint_interval: Option<f64>,
    /// When attempts began after one that failed or was lost; not those after a pause that was asked for.
    pub restarts: Vec<f64>,
    /// How the run ended.
    pub finished: Option<Finished>,
    /// Events of the run that are not superseded, in any order.
    pub events: Vec<EventSummary>,
}

/// A checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CheckpointMark {
    /// The step after which it was written.
    pub step: u64,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Finished {
    /// Whether it did what it was to do.
    pub succeeded: bool,
    /// Why it failed.
    pub message: Option<String>,
    /// When, in seconds since the Unix epoch.
    pub time: Option<f64>,
}

/// An event that may be a reason.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSummary {
    /// What happened.
    pub kind: EventKind,
    /// Optimizer step, where there is one.
    pub step: Option<u64>,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// One sentence for people.
    pub message: String,
}

/// Every reason, the most important first.
pub(super) fn reasons(detector: &Detector, s: &Situation) -> Vec<Reason> {
    let mut reasons = Vec::new();
    reasons.extend(s.finished.as_ref().and_then(job_failed));
    if s.running && s.finished.is_none() {
        reasons.extend(heartbeat_lost(detector, s));
        reasons.extend(no_progress(detector, s));
        reasons.extend(checkpoint_old(detector, s));
    }
    if s.finished.is_none() {
        reasons.extend(restarts(detector, s));
    }
    reasons.extend(training(detector));
    for event in &s.events {
        let reason = of_event(event, s.now);
        // The detector has seen a non-finite metric itself; the event adds those of weights.
        reasons.extend(reason.filter(|reason| reasons.iter().all(|known| known.code != reason.code)));
    }
    if s.finished.as_ref().is_some_and(|finished| finished.succeeded) {
        for reason in &mut reasons {
            reason.severity = Severity::Watch;
        }
    }
    reasons.sort_by_key(|reason| (std::cmp::Reverse(reason.severity), reason.code));
    reasons
}

fn reason(code: Code, severity: Severity, since: Since, text: String) -> Reason {
    Reason {
        code,
        severity,
        text,
        since,
        page: code.page(),
        metric: None,
        layer: None,
        expert: None,
    }
}

/// The active detections; those of several layers become one reason that shows the worst.
fn training(detector: &Detector) -> Vec<Reason> {
    let mut active: Vec<&Detection> = detector.active().collect();
    active.sort_by(|a, b| {
        let rank = |detection: &Detection| (detection.code, std::cmp::Reverse(detection.severity));
        rank(a).cmp(&rank(b)).then(b.value.total_cmp(&a.value))
    });
    let groups = active.chunk_by(|a, b| (a.code, a.severity) == (b.code, b.severity));
    groups
        .filter_map(|group| {
            let (worst, others) = group.split_first()?;
            let text = match others.len() {
                0 => worst.text.clone(),
                others => format!("{}; {} likewise", worst.text, count(others, "other layer")),
            };
            let first = group.iter().min_by_key(|detection| detection.onset)?;
            let since = Since {
                step: Some(first.onset),
                time: first.time,
            };
            Some(Reason {
                metric: Some(worst.metric.clone()),
                layer: worst.layer,
                expert: worst.expert,
                ..reason(worst.code, worst.severity, since, text)
            })
        })
        .collect()
}

fn job_failed(finished: &Finished) -> Option<Reason> {
    let text = finished.message.clone().unwrap_or_else(|| "The job failed".to_owned());
    let since = Since {
        step: None,
        time: finished.time,
    };
    (!finished.succeeded).then(|| reason(Code::JobFailed, Severity::Failing, since, text))
}

fn heartbeat_lost(detector: &Detector, s: &Situation) -> Option<Reason> {
    let limit = detector.thresholds().progress.heartbeat_seconds;
    let heartbeat = s.heartbeat.filter(|heartbeat| s.now - heartbeat > limit)?;
    let since = Since {
        step: detector.last_step(),
        time: Some(heartbeat),
    };
    let text = format!(
        "No heartbeat of the worker for {}; it counts as lost after {}",
        span(s.now - heartbeat),
        span(limit)
    );
    Some(reason(Code::HeartbeatLost, Severity::Stalled, since, text))
}

/// When the run last moved, and whether that was the start of an attempt. None if nothing is known.
pub(super) fn last_move(detector: &Detector, s: &Situation) -> Option<(f64, bool)> {
    let (moved, starting) = match (detector.pace.moved(), s.started) {
        (Some(moved), Some(started)) if started > moved => (started, true),
        (Some(moved), _) => (moved, detector.pace.starting()),
        (None, started) => (started?, true),
    };
    Some((s.last_record.map_or(moved, |record| record.max(moved)), starting))
}

fn no_progress(detector: &Detector, s: &Situation) -> Option<Reason> {
    let (moved, starting) = last_move(detector, s)?;
    let silence = s.now - moved;
    let limits = detector.pace.limits(starting, &detector.thresholds().progress);
    let (severity, limit) = if silence > limits.stalled {
        (Severity::Stalled, limits.stalled)
    } else if silence > limits.watch {
        (Severity::Watch, limits.watch)
    } else {
        return None;
    };
    let usual = match detector.step_seconds() {
        Some(seconds) => format!("a step takes {}", span(seconds)),
        None => "there was no step yet".to_owned(),
    };
    let since = Since {
        step: detector.last_step(),
        time: Some(moved),
    };
    let text = format!("No step for {}: {usual}, and the limit is {}", span(silence), span(limit));
    Some(reason(Code::NoProgress, severity, since, text))
}

fn checkpoint_old(detector: &Detector, s: &Situation) -> Option<Reason> {
    let t = &detector.thresholds().checkpoint;
    let interval = s.checkpoint_interval.filter(|interval| *interval > 0.0)?;
    // What a crash would cost was made since the checkpoint and since the attempt began, whichever is later.
    let written = s.checkpoint.map(|checkpoint| checkpoint.time);
    let from = match (written, s.started) {
        (Some(written), Some(started)) => written.max(started),
        (written, started) => written.or(started)?,
    };
    let age = s.now - from;
    let severity = if age <= t.min_seconds || age <= t.watch_intervals * interval {
        return None;
    } else if age <= t.failing_intervals * interval {
        Severity::Watch
    } else {
        Severity::Failing
    };
    let since = Since {
        step: s.checkpoint.map(|checkpoint| checkpoint.step),
        time: Some(from),
    };
    let text = format!(
        "No checkpoint for {}, {:.1} times the usual {}; a crash would lose that work",
        span(age),
        age / interval,
        span(interval)
    );
    Some(reason(Code::CheckpointOld, severity, since, text))
}

/// Restarts of the last hour.
pub(super) fn recent_restarts(s: &Situation) -> Vec<f64> {
    let mut recent: Vec<f64> = s
        .restarts
        .iter()
        .copied()
        .filter(|time| (0.0..=HOUR).contains(&(s.now - time)))
        .collect();
    recent.sort_unstable_by(f64::total_cmp);
    recent
}

fn restarts(detector: &Detector, s: &Situation) -> Option<Reason> {
    let t = &detector.thresholds().restarts;
    let recent = recent_restarts(s);
    let last_step = detector.pace.last_step_time().unwrap_or(f64::NEG_INFINITY);
    let fruitless = s.restarts.iter().filter(|time| **time > last_step && **time <= s.now).count();
    let since = Since {
        step: None,
        time: recent.first().copied(),
    };
    if fruitless >= t.without_step as usize {
        let text = format!("{} in a row without a step between them", count(fruitless, "restart"));
        Some(reason(Code::CrashLoop, Severity::Failing, since, text))
    } else if recent.len() >= t.failing_per_hour as usize {
        let text = format!(
            "{} within the last hour, {} are a crash loop",
            count(recent.len(), "restart"),
            t.failing_per_hour
        );
        Some(reason(Code::CrashLoop, Severity::Failing, since, text))
    } else if recent.len() >= t.watch_per_hour as usize {
        let text = format!("{} within the last hour", count(recent.len(), "restart"));
        Some(reason(Code::Restarts, Severity::Watch, since, text))
    } else {
        None
    }
}

fn of_event(event: &EventSummary, now: f64) -> Option<Reason> {
    let recent = now - event.time <= HOUR;
    let (code, severity) = match event.kind {
        EventKind::NonFinite => (Code::NonFinite, Severity::Failing),
        EventKind::CheckpointRejected if recent => (Code::CheckpointRejected, Severity::Watch),
        EventKind::RecordsDropped if recent => (Code::RecordsDropped, Severity::Watch),
        EventKind::CheckpointRejected
        | EventKind::RecordsDropped
        | EventKind::AttemptStarted
        | EventKind::CheckpointCommitted
        | EventKind::DataWarning
        | EventKind::AttemptStopped
        | EventKind::PhaseCompleted
        | EventKind::AttemptFailed => return None,
    };
    let since = Since {
        step: event.step,
        time: Some(event.time),
    };
    Some(reason(code, severity, since, event.message.clone()))
}

/// The text of the rule for checkpoints, for the tile.
pub(super) fn checkpoint_rule(detector: &Detector, s: &Situation) -> String {
    let t = &detector.thresholds().checkpoint;
    match s.checkpoint_interval {
        Some(interval) => format!(
            "checkpoint age: watch above {}, failing above {}",
            span((t.watch_intervals * interval).max(t.min_seconds)),
            span((t.failing_intervals * interval).max(t.min_seconds))
        ),
        None => format!(
            "checkpoint age: watch above {} intervals, failing above {}",
            plain(t.watch_intervals),
            plain(t.failing_intervals)
        ),
    }
}
