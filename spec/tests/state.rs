//! Transitions of phases, and the state of a job that follows from them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::init_manifest;
use fathom_spec::manifest::Preset;
use fathom_spec::parse_manifest;
use fathom_spec::plan::Attempt;
use fathom_spec::state::{Failure, FailureClass, InvalidTransition, JobState, JobStatus, PhaseState};

fn failure(exit_code: Option<i32>) -> Failure {
    Failure {
        class: FailureClass::of(exit_code),
        exit_code,
        message: "what and why".into(),
    }
}

fn running() -> PhaseState {
    PhaseState::Pending.start("k".into(), 1.0).unwrap()
}

#[test]
fn a_phase_that_succeeds() {
    let state = running().checkpoint(10).unwrap().succeed(9.0).unwrap();
    let done = PhaseState::Succeeded {
        key: "k".into(),
        attempts: 1,
        started: Some(1.0),
        at: 9.0,
    };
    assert_eq!(state, done);
    assert_eq!(
        done.clone().reuse("k".into()),
        Ok(done.clone()),
        "its own artifact is not somebody else's"
    );
    assert_eq!(done.clone().reuse("other".into()), Ok(PhaseState::Cached { key: "other".into() }));
    assert_eq!(done.observed(), None);
}

#[test]
fn stopping_and_going_on() {
    let stopped = running().checkpoint(10).unwrap().stop().unwrap();
    assert_eq!(stopped.observed().unwrap().attempt, Attempt::Stopped { attempt: 1 });
    let PhaseState::Running { attempt, checkpoint, .. } = stopped.clone().start("k".into(), 2.0).unwrap() else {
        panic!()
    };
    assert_eq!((attempt, checkpoint), (2, 10));
    assert_eq!(
        stopped.clone().start("k".into(), 2.0).unwrap().started(),
        Some(1.0),
        "the first attempt's"
    );
    assert_eq!(stopped.clone().start("other".into(), 2.0).unwrap().started(), Some(2.0));
    // With another key it is other work.
    let PhaseState::Running { attempt, checkpoint, .. } = stopped.start("other".into(), 2.0).unwrap() else {
        panic!()
    };
    assert_eq!((attempt, checkpoint), (1, 0));
}

#[test]
fn restarts_end_with_the_budget_and_progress_refills_it() {
    let mut state = running();
    for expected in [2, 3] {
        state = state.fail(failure(Some(74)), 2, 3.0).unwrap();
        let PhaseState::Running { attempt, .. } = state else {
            panic!("{state:?}")
        };
        assert_eq!(attempt, expected);
    }
    let given_up = state.clone().fail(failure(None), 2, 4.0).unwrap();
    assert!(
        matches!(
            given_up,
            PhaseState::Failed {
                attempt: 3,
                started: Some(1.0),
                at: Some(4.0),
                ..
            }
        ),
        "{given_up:?}"
    );
    let older = r#"{"state": "stopped", "key": "k", "attempt": 1, "checkpoint": 5}"#;
    assert_eq!(
        serde_json::from_str::<PhaseState>(older).unwrap().started(),
        None,
        "a file of an older version"
    );
    // An old checkpoint is no progress; a newer one is.
    let same = state.clone().checkpoint(0).unwrap().fail(failure(None), 2, 4.0).unwrap();
    assert!(matches!(same, PhaseState::Failed { .. }));
    let newer = state.checkpoint(5).unwrap().fail(failure(None), 2, 4.0).unwrap();
    assert!(
        matches!(
            newer,
            PhaseState::Running {
                attempt: 4,
                restarts: 1,
                checkpoint: 5,
                ..
            }
        ),
        "{newer:?}"
    );
}

#[test]
fn failures_that_a_restart_would_repeat() {
    for (code, class) in [
        (64, FailureClass::Permanent),
        (65, FailureClass::Permanent),
        (70, FailureClass::Diverged),
    ] {
        let state = running().fail(failure(Some(code)), 9, 1.0).unwrap();
        let PhaseState::Failed { failure, .. } = &state else {
            panic!("{state:?}")
        };
        assert_eq!(failure.class, class);
    }
    for code in [Some(74), Some(1), Some(101), None] {
        assert_eq!(FailureClass::of(code), FailureClass::Transient);
    }
}

/// Every state with every transition: allowed exactly where the table says.
#[test]
fn transitions_that_are_refused() {
    let stopped = running().stop().unwrap();
    let succeeded = running().succeed(1.0).unwrap();
    let failed = running().fail(failure(Some(64)), 0, 1.0).unwrap();
    let cached = PhaseState::Pending.reuse("k".into()).unwrap();
    for state in [PhaseState::Pending, stopped, succeeded, failed, cached] {
        let word = state.word();
        let refused = |transition| Err(InvalidTransition { state: word, transition });
        assert_eq!(state.clone().checkpoint(1), refused("commit a checkpoint"));
        assert_eq!(state.clone().succeed(1.0), refused("succeed"));
        assert_eq!(state.clone().stop(), refused("stop"));
        assert_eq!(state.clone().fail(failure(None), 1, 1.0), refused("fail"));
        assert!(state.clone().start("k".into(), 1.0).is_ok());
        assert!(state.reuse("k".into()).is_ok());
    }
    let error = running().start("k".into(), 1.0).unwrap_err();
    assert_eq!(error.to_string(), "a phase that is running cannot start");
    assert!(running().reuse("k".into()).is_err());
}

#[test]
fn a_job_follows_its_phases_and_survives_a_file() {
    let job = parse_manifest(&init_manifest(Preset::Nano)).unwrap();
    let mut status = JobStatus::new(&job);
    assert_eq!(status.state(), JobState::Pending);
    let round_trip = |status: &JobStatus| {
        let text = serde_json::to_string(status).unwrap();
        assert_eq!(&serde_json::from_str::<JobStatus>(&text).unwrap(), status, "{text}");
    };
    status.phases[0].state = PhaseState::Cached { key: "t".into() };
    assert_eq!(status.state(), JobState::Stopped);
    round_trip(&status);
    status.phases[1].state = running();
    assert_eq!(status.state(), JobState::Running { phase: "corpus".into() });
    assert_eq!(status.attempts()["corpus"].attempt, Attempt::Running { attempt: 1 });
    assert_eq!(status.attempts().len(), 1);
    round_trip(&status);
    status.phases[1].state = running().succeed(5.0).unwrap();
    status.phases[2].state = running().fail(failure(Some(65)), 3, 6.0).unwrap();
    let failed = JobState::Failed {
        phase: "pretrain".into(),
        message: "what and why".into(),
    };
    assert_eq!(status.state(), failed);
    round_trip(&status);
    status.phases[2].state = running().succeed(7.0).unwrap();
    assert_eq!(status.state(), JobState::Succeeded);
    round_trip(&status);
}
