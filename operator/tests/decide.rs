//! Decisions against a small model of Kubernetes, in which everything that can happen does, at any moment.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{UID, World};
use fathom_operator::decide::decide;
use fathom_operator::names;
use fathom_operator::observe::{AttemptState, ObservedAttempt, PodState};
use fathom_spec::status::{ConditionKind, FailureCause, PhaseProgress};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn phases_follow_each_other_to_the_end() {
    let mut world = World::new(2);
    world.pass(3);
    let status = &world.observed.status;
    assert!(status.holds(ConditionKind::Complete), "{status:#?}");
    assert_eq!(status.restarts, 0);
    assert_eq!(
        world.created,
        ["tokenizer", "corpus", "pretrain"].map(|phase| format!("quicks-0a1b2-{phase}-a1"))
    );
    assert_eq!(status.summary.as_ref().unwrap().phase, "Complete");
    // Whatever becomes of the children.
    world.observed.attempts.clear();
    world.observed.pods.clear();
    assert!(!world.operate());
}

/// At most four requests per phase: the status twice, the order, the Kubernetes Job.
#[test]
fn a_phase_takes_four_writes() {
    let mut world = World::new(2);
    world.settle();
    let mut writes = 0;
    world.start();
    while world.operate() {
        writes += 1;
    }
    world.finish();
    while world.operate() {
        writes += 1;
    }
    assert!(writes <= 4, "{writes}");
}

#[test]
fn a_lost_rank_restarts_all_of_them_once() {
    let mut world = World::new(2);
    world.pass(2);
    world.start();
    world.fail(1, 137);
    world.settle();
    let phase = world.phase("pretrain");
    assert_eq!((phase.state, phase.attempt, phase.interruptions), (PhaseProgress::Restarting, 1, 1));
    let failure = phase.last_failure.clone().unwrap();
    assert_eq!((failure.class, failure.exit_code), (FailureCause::Infrastructure, Some(137)));
    assert!(failure.pod.unwrap().ends_with("-1") && failure.message.contains("what the worker said"));
    // The other rank still runs: nothing new starts.
    assert!(!world.operate());
    world.collect();
    world.pass(1);
    let status = &world.observed.status;
    assert!(status.holds(ConditionKind::Complete));
    assert_eq!((status.restarts, world.created.len()), (1, 4));
}

#[test]
fn budgets_are_exact() {
    for (exit_code, max, attempts) in [(1, 0, 1), (1, 2, 3), (64, 5, 1), (70, 5, 1), (137, 0, 21)] {
        let mut world = World::new(1);
        world.observed.spec["restart"] = json!({ "maxRestarts": max });
        for _ in 0..30 {
            world.settle();
            world.start();
            world.fail(0, exit_code);
            world.settle();
            world.collect();
            world.wait(600);
        }
        let phase = world.phase("tokenizer");
        assert_eq!((phase.state, phase.attempt), (PhaseProgress::Failed, attempts), "code {exit_code}");
        assert!(world.observed.status.holds(ConditionKind::Failed));
        assert_eq!(world.created.len(), attempts as usize);
    }
}

/// Sixteen phases with the longest names, each of which failed with the longest words, fit in the status: the model asserts it at every step.
#[test]
fn the_largest_status_fits() {
    let mut world = World::new(1);
    let name = |index: usize| format!("{}-{index:02}", "p".repeat(37));
    let mut phases = vec![json!({ "name": name(0), "tokenizer": { "vocabSize": 384, "input": [{ "paths": ["/data/*.txt"] }] } })];
    for index in 1..16 {
        phases.push(json!({ "name": name(index), "corpus": { "sequenceLength": 32, "input": [{ "paths": ["/data/*.txt"] }] } }));
    }
    world.observed.spec["phases"] = phases.into();
    let words = "it said so at length ".repeat(200);
    for _ in 0..16 {
        world.settle();
        world.start();
        for pod in &mut world.observed.pods {
            pod.name = "n".repeat(253);
            pod.node = Some("n".repeat(253));
        }
        world.fail(0, 1);
        for pod in &mut world.observed.pods {
            if let PodState::Failed(failure) = &mut pod.state {
                failure.message.clone_from(&words);
            }
        }
        world.settle();
        let failure = world
            .observed
            .status
            .phases
            .iter()
            .rev()
            .find_map(|phase| phase.last_failure.clone())
            .unwrap();
        assert!(failure.message.len() > 500, "{}", failure.message);
        world.collect();
        world.pass(1);
    }
    assert!(world.observed.status.holds(ConditionKind::Complete), "{:#?}", world.observed.status);
    assert_eq!(world.observed.status.restarts, 16);
}

/// A worker that stops when it is told costs nothing, however often.
#[test]
fn preemption_is_free() {
    let mut world = World::new(1);
    world.observed.spec["restart"] = json!({ "maxRestarts": 0 });
    for _ in 0..40 {
        world.settle();
        world.start();
        world.fail(0, 75);
        world.settle();
        world.collect();
    }
    world.pass(3);
    assert!(world.observed.status.holds(ConditionKind::Complete), "{:#?}", world.observed.status);
}

#[test]
fn attempts_without_progress_come_ever_more_slowly() {
    let mut world = World::new(1);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        world.settle();
        world.start();
        world.fail(0, 137);
        world.settle();
        world.collect();
        let decision = decide(&world.observed, world.now);
        let mut pause = 0;
        // The status says what it waits for.
        if decision.status != world.observed.status {
            world.operate();
        }
        while world.going().is_empty() && pause < 100 {
            world.settle();
            if world.going().is_empty() {
                world.wait(1);
                pause += 1;
            }
        }
        pauses.push(pause);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8]);
}

#[test]
fn suspending_takes_the_pods_away_and_resuming_goes_on_with_another_attempt() {
    let mut world = World::new(2);
    world.pass(2);
    world.start();
    world.settle();
    world.observed.spec["suspend"] = true.into();
    world.observed.generation += 1;
    world.settle();
    assert!(world.observed.attempts.last().unwrap().deleting);
    assert!(world.observed.status.holds(ConditionKind::Suspended));
    world.collect();
    world.settle();
    assert_eq!(world.phase("pretrain").state, PhaseProgress::Pending);
    world.wait(100_000);
    assert!(!world.operate());
    world.observed.spec["suspend"] = false.into();
    world.pass(1);
    assert!(world.observed.status.holds(ConditionKind::Complete));
    assert_eq!(world.created.last().unwrap(), "quicks-0a1b2-pretrain-a2");
    assert_eq!(world.phase("pretrain").restarts, 0);
}

#[test]
fn a_deleted_job_waits_for_its_pods() {
    let mut world = World::new(2);
    world.settle();
    world.start();
    world.settle();
    world.observed.deleting = true;
    world.settle();
    assert!(!world.gone && world.observed.attempts[0].deleting);
    world.collect();
    world.settle();
    assert!(world.gone);
}

#[test]
fn an_unfit_job_is_refused_with_the_place_and_can_be_corrected() {
    for (pointer, value, words) in [
        ("/storage/uri", json!("file://x"), "pvc://CLAIM"),
        ("/phases/2/pretrain/tokens", json!("many"), "spec.phases[2].pretrain.tokens"),
        ("/parallelism/data", json!(3), "power of two"),
    ] {
        let mut world = World::new(1);
        let correct = world.observed.spec.clone();
        *world.observed.spec.pointer_mut(pointer).unwrap() = value;
        world.settle();
        let accepted = world
            .observed
            .status
            .conditions
            .iter()
            .find(|one| one.kind == ConditionKind::Accepted)
            .unwrap()
            .clone();
        assert_eq!(accepted.reason, "Invalid");
        assert!(accepted.message.contains(words), "{}", accepted.message);
        assert!(world.created.is_empty());
        world.observed.spec = correct;
        world.pass(3);
        assert!(world.observed.status.holds(ConditionKind::Complete));
    }
}

#[test]
fn what_is_not_ours_is_left_alone_and_named() {
    let mut world = World::new(1);
    while world.observed.orders.is_empty() {
        assert!(world.operate());
    }
    let name = names::attempt("quickstart", UID, "tokenizer", 1);
    world.observed.attempts.push(ObservedAttempt {
        name: name.clone(),
        uid: "another".into(),
        owned: false,
        deleting: false,
        suspended: false,
        state: AttemptState::Active,
    });
    world.settle();
    assert!(world.created.is_empty());
    assert!(world.phase("tokenizer").message.contains(&name));
    world.observed.attempts.clear();
    world.pass(3);
    assert!(world.observed.status.holds(ConditionKind::Complete));
}

/// What may happen between two requests of the operator.
#[derive(Clone, Debug)]
enum Event {
    Operate,
    Start,
    Finish,
    Fail(usize, i32),
    Collect,
    Reap,
    Wait(i64),
    DeleteAttempt,
    DeletePod(usize),
    Suspend(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => Just(Event::Operate),
        3 => Just(Event::Start),
        2 => Just(Event::Finish),
        2 => (0_usize..4, prop_oneof![Just(1), Just(75), Just(76), Just(137), Just(143)]).prop_map(|(pick, code)| Event::Fail(pick, code)),
        3 => Just(Event::Collect),
        2 => Just(Event::Reap),
        2 => (0_i64..20).prop_map(Event::Wait),
        1 => Just(Event::DeleteAttempt),
        1 => (0_usize..4).prop_map(Event::DeletePod),
        1 => any::<bool>().prop_map(Event::Suspend),
    ]
}

proptest! {
    /// The assertions are in the model: no attempt twice, none beside another, nothing final that changes. When the trouble is over, the job ends.
    #[test]
    fn any_trouble_in_any_order(events in proptest::collection::vec(event(), 0..200), ranks in prop_oneof![Just(1_u32), Just(2), Just(4)]) {
        let mut world = World::new(ranks);
        world.observed.spec["restart"] = json!({ "maxRestarts": 1000 });
        for event in events {
            match event {
                Event::Operate => { world.operate(); }
                Event::Start => world.start(),
                Event::Finish => world.finish(),
                Event::Fail(pick, code) => world.fail(pick, code),
                Event::Collect => world.collect(),
                Event::Reap => world.reap(),
                Event::Wait(seconds) => world.wait(seconds),
                Event::DeleteAttempt => {
                    if let Some(attempt) = world.observed.attempts.last_mut() {
                        attempt.deleting = true;
                        for pod in world.observed.pods.iter_mut().filter(|pod| pod.attempt == attempt.name) {
                            pod.deleting = true;
                        }
                    }
                }
                Event::DeletePod(pick) => {
                    let count = world.observed.pods.len().max(1);
                    if let Some(pod) = world.observed.pods.get_mut(pick % count) {
                        pod.deleting = true;
                    }
                }
                Event::Suspend(suspend) => {
                    world.observed.spec["suspend"] = suspend.into();
                    world.observed.generation += 1;
                }
            }
        }
        world.observed.spec["suspend"] = false.into();
        for _ in 0..40 {
            world.wait(600);
            world.settle();
            world.reap();
            world.collect();
            world.settle();
            world.start();
            world.settle();
            world.finish();
            world.settle();
        }
        let status = &world.observed.status;
        // Every infrastructure failure counts, so that a job may run out of them here; it has ended either way.
        prop_assert!(status.is_final(), "{status:#?}");
        let attempts: u32 = status.phases.iter().map(|phase| phase.attempt).sum();
        let created: BTreeSet<&String> = world.created.iter().collect();
        prop_assert!(created.len() <= attempts as usize);
    }
}
