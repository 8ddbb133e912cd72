//! A small model of Kubernetes, as far as a job sees it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_operator::decide::{Action, Decision, decide};
use fathom_operator::names;
use fathom_operator::observe::{AttemptState, Observed, ObservedAttempt, ObservedPod, PodFailure, PodState};
use fathom_spec::status::{ConditionKind, JobStatus, MAX_STATUS_BYTES, PhaseStatus};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub const UID: &str = "0a1b2c3d-4e5f-6789-abcd-ef0123456789";

pub fn spec(ranks: u32) -> Value {
    json!({
        "model": { "preset": "unit", "architecture": { "vocab_size": 384 } },
        "parallelism": { "data": ranks },
        "storage": { "uri": "pvc://data/jobs" },
        "phases": [
            { "name": "tokenizer", "tokenizer": { "vocabSize": 384, "input": [{ "paths": ["/data/*.txt"] }] } },
            { "name": "corpus", "corpus": { "sequenceLength": 32, "input": [{ "paths": ["/data/*.txt"] }] } },
            { "name": "pretrain", "pretrain": { "tokens": 1280, "batch": { "sequences": 4, "microBatch": 1 } } },
        ],
    })
}

/// Kubernetes, as far as a job sees it.
pub struct World {
    pub observed: Observed,
    pub now: Timestamp,
    /// Every Kubernetes Job that was ever created.
    pub created: Vec<String>,
    pub gone: bool,
}

impl World {
    pub fn new(ranks: u32) -> Self {
        Self {
            observed: Observed {
                name: "quickstart".into(),
                namespace: "research".into(),
                uid: UID.into(),
                generation: 1,
                deleting: false,
                finalizer: false,
                labels: BTreeMap::new(),
                spec: spec(ranks),
                status: JobStatus::default(),
                service: false,
                orders: BTreeSet::new(),
                attempts: Vec::new(),
                pods: Vec::new(),
            },
            now: Timestamp::from_second(1_000_000).unwrap(),
            created: Vec::new(),
            gone: false,
        }
    }

    pub fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// One request of the operator. Returns whether there was one.
    pub fn operate(&mut self) -> bool {
        if self.gone {
            return false;
        }
        let Decision { status, action, .. } = decide(&self.observed, self.now);
        self.check(&status);
        if status != self.observed.status {
            self.observed.status = status;
            return true;
        }
        match action {
            Action::Nothing => return false,
            Action::AddFinalizer => self.observed.finalizer = true,
            Action::RemoveFinalizer => {
                assert!(self.going().is_empty(), "the job goes before its pods");
                self.gone = true;
            }
            Action::CreateService => self.observed.service = true,
            Action::CreateOrder { name, .. } => assert!(self.observed.orders.insert(name)),
            Action::CreateAttempt {
                job,
                phase,
                attempt,
                order,
            } => {
                assert!(self.observed.orders.contains(&order));
                assert!(self.going().is_empty(), "an attempt starts while pods of another are going");
                let name = names::attempt("quickstart", UID, &job.phases[phase].name, attempt);
                // One that was taken away before anybody had seen it or its pods never was.
                let seen = self.observed.status.phases[phase].job.is_some() || self.observed.pods.iter().any(|pod| pod.attempt == name);
                assert!(!self.created.contains(&name) || !seen, "{name} is started twice");
                self.created.push(name.clone());
                let ranks = job.phases[phase].work.kind().ranks(&job.parallelism);
                self.observed.attempts.push(ObservedAttempt {
                    uid: format!("uid-{}", self.created.len()),
                    owned: true,
                    deleting: false,
                    suspended: false,
                    state: AttemptState::Active,
                    name: name.clone(),
                });
                let waiting = PodState::Waiting { message: String::new() };
                self.observed.pods.extend((0..ranks).map(|rank| ObservedPod {
                    name: format!("{name}-{rank}"),
                    attempt: name.clone(),
                    rank,
                    node: None,
                    deleting: false,
                    state: waiting.clone(),
                }));
            }
            Action::DeleteAttempt { name, uid } => {
                let attempt = self
                    .observed
                    .attempts
                    .iter_mut()
                    .find(|one| one.name == name && one.uid == uid)
                    .unwrap();
                attempt.deleting = true;
                for pod in self.observed.pods.iter_mut().filter(|pod| pod.attempt == name) {
                    pod.deleting = true;
                }
            }
        }
        true
    }

    pub fn settle(&mut self) {
        for _ in 0..64 {
            if !self.operate() {
                return;
            }
        }
        panic!("the operator does not come to rest: {:#?}", self.observed);
    }

    pub fn going(&self) -> Vec<&ObservedPod> {
        let is_going = |pod: &&ObservedPod| matches!(pod.state, PodState::Waiting { .. } | PodState::Running);
        self.observed.pods.iter().filter(is_going).collect()
    }

    /// What holds of every status.
    pub fn check(&self, status: &JobStatus) {
        assert!(!(status.holds(ConditionKind::Complete) && status.holds(ConditionKind::Failed)));
        assert!(serde_json::to_vec(status).unwrap().len() <= MAX_STATUS_BYTES);
        if self.observed.status.is_final() {
            assert_eq!(*status, self.observed.status, "what has ended has changed");
        }
        for (new, old) in status.phases.iter().zip(&self.observed.status.phases) {
            assert!(new.attempt == old.attempt || new.attempt == old.attempt + 1, "{old:?} to {new:?}");
            assert!(!old.is_done() || new == old, "{old:?} to {new:?}");
        }
    }

    pub fn current(&self) -> Option<usize> {
        self.observed
            .attempts
            .iter()
            .position(|attempt| attempt.owned && !attempt.deleting && attempt.state == AttemptState::Active)
    }

    /// The pods of the newest attempt run.
    pub fn start(&mut self) {
        let Some(current) = self.current() else { return };
        let name = self.observed.attempts[current].name.clone();
        for pod in self.observed.pods.iter_mut().filter(|pod| pod.attempt == name && !pod.deleting) {
            if matches!(pod.state, PodState::Waiting { .. }) {
                pod.state = PodState::Running;
            }
        }
    }

    /// They finish their phase.
    pub fn finish(&mut self) {
        let Some(current) = self.current() else { return };
        let attempt = &mut self.observed.attempts[current];
        let pods: Vec<&mut ObservedPod> = self.observed.pods.iter_mut().filter(|pod| pod.attempt == attempt.name).collect();
        if pods.is_empty() || !pods.iter().all(|pod| pod.state == PodState::Running && !pod.deleting) {
            return;
        }
        for pod in pods {
            let outcome = json!({ "version": 1, "key": "ab".repeat(32), "input": "cd".repeat(32), "cached": false });
            let message = if pod.rank == 0 { outcome.to_string() } else { String::new() };
            pod.state = PodState::Succeeded { message };
        }
        attempt.state = AttemptState::Complete;
    }

    /// One of them fails, and so does the Kubernetes Job; the others see it later.
    pub fn fail(&mut self, pick: usize, exit_code: i32) {
        let Some(current) = self.current() else { return };
        let name = self.observed.attempts[current].name.clone();
        let at = Some(self.now);
        let mut running: Vec<&mut ObservedPod> = self
            .observed
            .pods
            .iter_mut()
            .filter(|pod| pod.attempt == name && pod.state == PodState::Running)
            .collect();
        let count = running.len();
        if let Some(pod) = running.get_mut(pick % count.max(1)) {
            pod.state = PodState::Failed(PodFailure {
                exit_code: Some(exit_code),
                reason: "Error".into(),
                message: "what the worker said".into(),
                at,
                disrupted: false,
            });
            self.observed.attempts[current].state = AttemptState::Failed {
                message: "a pod failed".into(),
            };
        }
    }

    /// What is being deleted goes.
    pub fn collect(&mut self) {
        // Its controller counts a pod that is gone as failed.
        for attempt in self
            .observed
            .attempts
            .iter_mut()
            .filter(|attempt| attempt.state == AttemptState::Active)
        {
            if self.observed.pods.iter().any(|pod| pod.deleting && pod.attempt == attempt.name) {
                attempt.state = AttemptState::Failed {
                    message: "a pod was deleted".into(),
                };
            }
        }
        self.observed.pods.retain(|pod| !pod.deleting);
        let pods = &self.observed.pods;
        self.observed
            .attempts
            .retain(|attempt| !attempt.deleting || pods.iter().any(|pod| pod.attempt == attempt.name));
    }

    /// Pods of a failed Kubernetes Job are ended by its controller.
    pub fn reap(&mut self) {
        let at = Some(self.now);
        let failed: Vec<String> = self
            .observed
            .attempts
            .iter()
            .filter(|one| matches!(one.state, AttemptState::Failed { .. }))
            .map(|one| one.name.clone())
            .collect();
        for pod in self.observed.pods.iter_mut().filter(|pod| failed.contains(&pod.attempt)) {
            if matches!(pod.state, PodState::Waiting { .. } | PodState::Running) {
                pod.state = PodState::Failed(PodFailure {
                    exit_code: Some(76),
                    reason: "Error".into(),
                    message: String::new(),
                    at,
                    disrupted: false,
                });
            }
        }
    }

    pub fn phase(&self, name: &str) -> &PhaseStatus {
        self.observed.status.phases.iter().find(|phase| phase.name == name).unwrap()
    }

    /// A job without trouble, to the end of so many phases.
    pub fn pass(&mut self, phases: usize) {
        for _ in 0..phases {
            self.settle();
            self.start();
            self.settle();
            self.finish();
            self.settle();
        }
    }
}
