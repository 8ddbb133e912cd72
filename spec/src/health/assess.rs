//! The verdict.

use super::detection::{Code, Severity};
use super::detector::Detector;
use super::reasons::{Situation, reasons};
use super::tiles::tiles;
use super::view::{ActionKind, Health, NextAction, Reason, Verdict};

/// The health of a run: what its steps show and what is known of its process.
///
/// Stalled comes before failing, failing before watch, watch before healthy. A run without a step has no data, unless something is wrong
/// already. A finished run is healthy if it succeeded, with what was wrong at its end kept as things to look at, and failing if not.
#[must_use]
pub fn assess(detector: &Detector, situation: &Situation) -> Health {
    let reasons = reasons(detector, situation);
    let succeeded = situation.finished.as_ref().is_some_and(|finished| finished.succeeded);
    let worst = reasons.first().map(|reason| reason.severity);
    let (verdict, since) = match worst {
        Some(_) | None if succeeded => (Verdict::Healthy, situation.finished.as_ref().and_then(|finished| finished.time)),
        Some(severity) => (severity.into(), earliest(&reasons, severity)),
        None if detector.last_step().is_none() => (Verdict::NoData, None),
        None => (Verdict::Healthy, detector.alarms.calm()),
    };
    Health {
        verdict,
        since,
        next_action: next_action(detector, situation, &reasons, verdict),
        tiles: tiles(detector, situation, &reasons),
        reasons,
        evaluated_at: situation.now,
        step: detector.last_step(),
        run: None,
    }
}

/// When the first of the reasons of this severity began.
fn earliest(reasons: &[Reason], severity: Severity) -> Option<f64> {
    let times = reasons
        .iter()
        .filter(|reason| reason.severity == severity)
        .filter_map(|reason| reason.since.time);
    times.min_by(f64::total_cmp)
}

fn next_action(detector: &Detector, s: &Situation, reasons: &[Reason], verdict: Verdict) -> NextAction {
    let (kind, text) = match reasons.first() {
        None if verdict == Verdict::NoData => match s.phase_state.as_str() {
            "stopped" => (ActionKind::Resume, "Resume the run: it stopped before its first step".to_owned()),
            _ => (ActionKind::Wait, "Wait for the first step".to_owned()),
        },
        None if !s.running && s.finished.is_none() && s.phase_state == "stopped" => (ActionKind::Resume, resume(s)),
        None => (ActionKind::None, "Nothing to do".to_owned()),
        Some(reason) => action(detector, s, reasons, reason),
    };
    NextAction { kind, text, href: None }
}

fn resume(s: &Situation) -> String {
    match s.checkpoint {
        Some(checkpoint) => format!("Resume the run from the checkpoint of step {}", checkpoint.step),
        None => "Start the run again: it has no checkpoint".to_owned(),
    }
}

/// The action of the most important reason.
fn action(detector: &Detector, s: &Situation, reasons: &[Reason], reason: &Reason) -> (ActionKind, String) {
    let cure = "lower learningRate.peak or optimizer.clipNorm";
    match reason.code {
        Code::JobFailed => match reasons.iter().find(|reason| reason.code == Code::NonFinite) {
            Some(broken) => (ActionKind::Rollback, format!("{} and {cure}", rollback(s, broken.since.step))),
            None if s.checkpoint.is_some() => (
                ActionKind::Resume,
                format!("Remove the cause that the message names, then {}", lower(&resume(s))),
            ),
            None => (ActionKind::Open, "Open the logs, remove the cause and run the job again".to_owned()),
        },
        Code::HeartbeatLost => (
            ActionKind::Resume,
            format!("Open the logs to see how the worker ended. {}", resume(s)),
        ),
        Code::NoProgress => {
            let logs = match detector.last_step() {
                Some(step) => format!("Open the logs of the worker after step {step}"),
                None => "Open the logs of the worker: it has made no step".to_owned(),
            };
            match reason.severity {
                Severity::Stalled => (ActionKind::Open, format!("{logs}. If it hangs, pause the job. {}", resume(s))),
                Severity::Watch | Severity::Failing => (ActionKind::Wait, "Wait: the next step may be on its way".to_owned()),
            }
        }
        Code::NonFinite => (ActionKind::Rollback, format!("{} and {cure}", rollback(s, reason.since.step))),
        Code::LossSpike | Code::LossDiverging if reason.severity == Severity::Failing => {
            (ActionKind::Rollback, format!("{} and {cure}", rollback(s, reason.since.step)))
        }
        Code::LossSpike => (
            ActionKind::Wait,
            "Wait: the loss usually recovers within some hundred steps; keep the checkpoints from before".to_owned(),
        ),
        Code::LossDiverging => (
            ActionKind::Open,
            "Open the curves: compare training and validation loss with the learning rate".to_owned(),
        ),
        Code::Overfitting => (
            ActionKind::Open,
            "Open the curves and the checkpoints: take the one with the lowest validation loss, then train on more text or for fewer tokens"
                .to_owned(),
        ),
        Code::GradientSpike => (
            ActionKind::Wait,
            "Wait and watch the loss: a jump of the gradient often comes before one of the loss".to_owned(),
        ),
        Code::GradientClipped => (
            ActionKind::Open,
            "Open the curves of gradient norm and learning rate: the effective learning rate falls while gradients are clipped".to_owned(),
        ),
        Code::ThroughputDrop => (
            ActionKind::Open,
            format!(
                "Open the curve of step_seconds and the events since step {}",
                reason.since.step.unwrap_or(0)
            ),
        ),
        Code::ExpertDead | Code::ExpertImbalance | Code::ImbalanceRising => {
            let page = format!("Open the expert map at MoE layer {}", reason.layer.unwrap_or(0));
            match reason.severity {
                Severity::Failing => (
                    ActionKind::Open,
                    format!("{page}; if it does not recover, raise balance.biasUpdateSpeed"),
                ),
                Severity::Watch | Severity::Stalled => (ActionKind::Open, page),
            }
        }
        Code::CheckpointOld => (
            ActionKind::Open,
            "Open the checkpoints and the log for failed writes: disk space, permissions".to_owned(),
        ),
        Code::CheckpointRejected => (ActionKind::Open, "Open the checkpoints and verify them".to_owned()),
        Code::CrashLoop | Code::Restarts => (ActionKind::Open, "Open the logs at the end of the last attempt".to_owned()),
        Code::RecordsDropped => (
            ActionKind::Open,
            "Open the events: curves have gaps where records were dropped; training is not affected".to_owned(),
        ),
    }
}

fn rollback(s: &Situation, onset: Option<u64>) -> String {
    match (s.checkpoint, onset) {
        (Some(checkpoint), Some(onset)) if checkpoint.step >= onset => format!("Roll back to a checkpoint from before step {onset}"),
        (Some(checkpoint), _) => format!("Roll back to the checkpoint of step {}", checkpoint.step),
        (None, _) => "Start the run again, for it has no checkpoint,".to_owned(),
    }
}

fn lower(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default()
}
