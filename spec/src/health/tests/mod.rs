//! Verdicts, stalls and JSON, on steady runs without noise. Realistic curves are in `tests/health.rs`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod rules;

use super::*;
use crate::record::EventKind;
use std::collections::BTreeMap;

const START: f64 = 1.8e9;

/// A run whose steps all take the same time. Returns the time of its last step.
fn steady(seconds: f64, steps: u64) -> (Detector, f64) {
    let mut detector = Detector::new(Thresholds::default());
    assert!(continue_steady(&mut detector, START, seconds, 1..=steps, |_| 0.0).is_empty());
    (detector, START + seconds * steps as f64)
}

/// Adds steps, each after a pause.
fn continue_steady(
    detector: &mut Detector,
    mut time: f64,
    seconds: f64,
    steps: std::ops::RangeInclusive<u64>,
    pause: impl Fn(u64) -> f64,
) -> Vec<Detection> {
    let mut found = Vec::new();
    for step in steps {
        time += seconds + pause(step);
        let scalars = scalars(step);
        found.extend(detector.observe(&StepView {
            step,
            tokens: 4096 * step,
            time,
            scalars: &scalars,
            load: Some(Load {
                rows: 2,
                columns: 4,
                values: &[2048.0, 2048.0, 1024.0, 3072.0, 2048.0, 2048.0, 2048.0, 2048.0],
            }),
        }));
    }
    found
}

fn scalars(step: u64) -> BTreeMap<String, f64> {
    let wave = (step % 5) as f64 - 2.0;
    let values = [
        ("loss.main", 3.0 + 0.0625 * wave),
        ("gradient_norm", 0.5 + 0.0625 * wave),
        ("tokens_per_second", 4096.0),
        ("moe.max_violation.worst", 0.5),
    ];
    values.map(|(name, value)| (name.to_owned(), value)).into()
}

fn with_nan(step: u64) -> BTreeMap<String, f64> {
    let mut scalars = scalars(step);
    scalars.insert("loss.main".into(), f64::NAN);
    scalars
}

fn broken(detector: &Detector, step: u64, time: f64) -> Detector {
    let mut detector = detector.clone();
    let scalars = with_nan(step);
    detector.observe(&StepView {
        step,
        tokens: 4096 * step,
        time,
        scalars: &scalars,
        load: None,
    });
    detector
}

fn running(now: f64) -> Situation {
    Situation {
        now,
        running: true,
        phase_state: "running".into(),
        started: Some(START),
        ..Situation::default()
    }
}

/// Verdict and first reason of a running job whose steps take `seconds`, `after` seconds after its last step.
fn silence(seconds: f64, after: f64) -> (Verdict, Option<Code>) {
    let (detector, last) = steady(seconds, 300);
    let health = assess(&detector, &running(last + after));
    (health.verdict, health.reasons.first().map(|reason| reason.code))
}

#[test]
fn stalls_and_their_floors() {
    let (watch, stalled) = ((Verdict::Watch, Some(Code::NoProgress)), (Verdict::Stalled, Some(Code::NoProgress)));
    for (seconds, after, expected) in [
        // The floors: 30 s and 120 s.
        (0.02, 29.0, (Verdict::Healthy, None)),
        (0.02, 31.0, watch),
        (0.02, 119.0, watch),
        (0.02, 121.0, stalled),
        // Three and ten steps.
        (60.0, 179.0, (Verdict::Healthy, None)),
        (60.0, 181.0, watch),
        (60.0, 599.0, watch),
        (60.0, 601.0, stalled),
    ] {
        assert_eq!(silence(seconds, after), expected, "{after} s after a step of {seconds} s");
    }

    // Validations of 200 s are usual in this run; the first two are not known to be, the third is.
    let (mut detector, last) = steady(1.0, 100);
    continue_steady(&mut detector, last, 1.0, 101..=400, |step| {
        if step.is_multiple_of(100) { 200.0 } else { 0.0 }
    });
    let last = last + 300.0 + 3.0 * 200.0;
    let verdict = |detector: &Detector, after: f64| assess(detector, &running(last + after)).verdict;
    assert_eq!(verdict(&detector, 300.0), Verdict::Healthy);
    assert_eq!(verdict(&detector, 310.0), Verdict::Watch);
    assert_eq!(verdict(&detector, 610.0), Verdict::Stalled);
    // Progress of a validation is a sign of life, a paused run is silent by right, and a new attempt may take its time.
    let mut situation = running(last + 610.0);
    situation.last_record = Some(last + 605.0);
    assert_eq!(assess(&detector, &situation).verdict, Verdict::Healthy);
    situation = running(last + 1e6);
    situation.running = false;
    assert_eq!(assess(&detector, &situation).verdict, Verdict::Healthy);
    detector.restart(400, last + 100.0);
    assert_eq!(verdict(&detector, 399.0), Verdict::Healthy);
    assert_eq!(verdict(&detector, 704.0), Verdict::Stalled);
}

#[test]
fn the_worst_reason_gives_the_verdict() {
    let (healthy, last) = steady(2.0, 300);
    let broken = broken(&healthy, 301, last);
    let empty = Detector::new(Thresholds::default());
    let calm = Situation {
        started: None,
        ..running(last + 1.0)
    };
    let with = |change: &dyn Fn(&mut Situation)| {
        let mut situation = calm.clone();
        change(&mut situation);
        situation
    };
    let restarts = |count: usize| with(&move |s| s.restarts = (0..count).map(|i| s.now - 600.0 - i as f64).collect());
    let aged = |age: f64| {
        with(&move |s| {
            s.checkpoint = Some(CheckpointMark {
                step: 200,
                time: s.now - age,
            });
            s.checkpoint_interval = Some(100.0);
        })
    };
    let lost = with(&|s| s.heartbeat = Some(s.now - 61.0));
    let finished = |succeeded: bool| {
        with(&move |s| {
            s.running = false;
            s.restarts = vec![s.now - 1.0; 9];
            let message = (!succeeded).then(|| "the disk is full".to_owned());
            s.finished = Some(Finished {
                succeeded,
                message,
                time: Some(s.now),
            });
        })
    };
    let event = |kind: EventKind| {
        with(&move |s| {
            s.events = vec![EventSummary {
                kind,
                step: Some(299),
                time: s.now,
                message: "of an event".into(),
            }];
        })
    };
    use {ActionKind as A, Code as C, Verdict as V};
    for (name, detector, situation, verdict, code, action) in [
        ("nothing", &empty, calm.clone(), V::NoData, None, A::Wait),
        (
            "never began",
            &empty,
            with(&|s| s.started = Some(s.now - 700.0)),
            V::Stalled,
            Some(C::NoProgress),
            A::Open,
        ),
        ("good", &healthy, calm.clone(), V::Healthy, None, A::None),
        ("restarts", &healthy, restarts(2), V::Watch, Some(C::Restarts), A::Open),
        ("many restarts", &healthy, restarts(5), V::Failing, Some(C::CrashLoop), A::Open),
        (
            "no step between",
            &healthy,
            with(&|s| s.restarts = vec![s.now - 0.5; 3]),
            V::Failing,
            Some(C::CrashLoop),
            A::Open,
        ),
        ("checkpoint", &healthy, aged(199.0), V::Healthy, None, A::None),
        ("old checkpoint", &healthy, aged(201.0), V::Watch, Some(C::CheckpointOld), A::Open),
        (
            "very old checkpoint",
            &healthy,
            aged(401.0),
            V::Failing,
            Some(C::CheckpointOld),
            A::Open,
        ),
        (
            "dropped",
            &healthy,
            event(EventKind::RecordsDropped),
            V::Watch,
            Some(C::RecordsDropped),
            A::Open,
        ),
        (
            "weights",
            &healthy,
            event(EventKind::NonFinite),
            V::Failing,
            Some(C::NonFinite),
            A::Rollback,
        ),
        (
            "broken before old",
            &broken,
            aged(201.0),
            V::Failing,
            Some(C::NonFinite),
            A::Rollback,
        ),
        (
            "lost before broken",
            &broken,
            lost.clone(),
            V::Stalled,
            Some(C::HeartbeatLost),
            A::Resume,
        ),
        ("lost without a step", &empty, lost, V::Stalled, Some(C::HeartbeatLost), A::Resume),
        ("succeeded", &healthy, finished(true), V::Healthy, None, A::None),
        (
            "succeeded somehow",
            &broken,
            finished(true),
            V::Healthy,
            Some(C::NonFinite),
            A::Rollback,
        ),
        ("failed", &healthy, finished(false), V::Failing, Some(C::JobFailed), A::Open),
        ("diverged", &broken, finished(false), V::Failing, Some(C::JobFailed), A::Rollback),
    ] {
        let health = assess(detector, &situation);
        let found = (
            health.verdict,
            health.reasons.first().map(|reason| reason.code),
            health.next_action.kind,
        );
        assert_eq!(found, (verdict, code, action), "{name}: {health:?}");
        assert_eq!(health.tiles.len(), 6, "{name}");
        if name == "succeeded somehow" {
            assert!(health.reasons.iter().all(|reason| reason.severity == Severity::Watch));
        }
    }
}
