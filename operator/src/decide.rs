//! What follows from what is there: a pure function of the job, its children and the time. It says first what is to be remembered (the status), then what is to be done,
//! one thing at a time; so it makes no difference when the operator is killed between the two.
//!
//! A phase goes Pending -> Starting -> Running -> Succeeded; a failed attempt takes it to Restarting until its pods are gone, then to Starting with the next attempt. An
//! attempt is begun in the status before its Kubernetes Job is created, and is never begun twice.

use crate::culprit::{Culprit, Finding, find, shorten};
use crate::names;
use crate::observe::{AttemptState, Observed, ObservedAttempt, ObservedPod, PodState};
use crate::report;
use fathom_spec::key::digest;
use fathom_spec::order::{Order, Outcome, Owner};
use fathom_spec::plan::unsupported;
use fathom_spec::status::{FailureCause, JobReference, JobStatus, MAX_MESSAGE_BYTES, PhaseFailure, PhaseProgress, PhaseStatus};
use fathom_spec::{ValidatedJob, parse_manifest};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// Restarts in a row for failures of nodes, network or Kubernetes.
const MAX_INTERRUPTIONS: u32 = 20;
/// First pause before an attempt that follows one without progress; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Longest message of a failure that was got over, in bytes: sixteen phases have to fit in a status.
const MAX_PAST_MESSAGE_BYTES: usize = 128;
/// How soon to look again at what no event will tell.
const SOON: Duration = Duration::from_secs(1);

/// What follows.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What is to be remembered, before anything is done.
    pub status: JobStatus,
    /// What is to be done once that is written.
    pub action: Action,
    /// When to look again, if no event comes before.
    pub look_again: Option<Duration>,
}

/// One change in the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// None.
    Nothing,
    /// Keep the job until its pods are gone.
    AddFinalizer,
    /// Let the job go.
    RemoveFinalizer,
    /// Create the Service that names the pods.
    CreateService,
    /// Create the `ConfigMap` of this name.
    CreateOrder {
        /// Its name.
        name: String,
        /// Its content.
        order: Box<Order>,
    },
    /// Create the Kubernetes Job of an attempt.
    CreateAttempt {
        /// The job.
        job: Box<ValidatedJob>,
        /// Index of the phase.
        phase: usize,
        /// Number of the attempt, from 1.
        attempt: u32,
        /// The `ConfigMap` with its order.
        order: String,
    },
    /// Delete the Kubernetes Job of an attempt, and its pods before it.
    DeleteAttempt {
        /// Its name.
        name: String,
        /// Its identity: another Job of that name is left alone.
        uid: String,
    },
}

impl Action {
    /// In a word, for logs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Nothing => "Nothing",
            Self::AddFinalizer => "AddFinalizer",
            Self::RemoveFinalizer => "RemoveFinalizer",
            Self::CreateService => "CreateService",
            Self::CreateOrder { .. } => "CreateOrder",
            Self::CreateAttempt { .. } => "CreateAttempt",
            Self::DeleteAttempt { .. } => "DeleteAttempt",
        }
    }
}

/// What the phases come to.
pub(crate) enum Standing {
    /// This phase is executed or waited for.
    At(usize),
    /// Nothing is executed because the user said so.
    Suspended,
    /// All are done.
    Complete,
    /// This one failed for good.
    Failed(usize),
}

/// Decides what follows at the time `now`.
#[must_use]
pub fn decide(observed: &Observed, now: Timestamp) -> Decision {
    let status = observed.status.clone();
    if observed.deleting {
        return farewell(observed, status);
    }
    // What has ended stays so, whatever becomes of its children.
    if status.is_final() {
        return act(status, Action::Nothing);
    }
    if !observed.finalizer {
        return act(status, Action::AddFinalizer);
    }
    let job = match accept(observed) {
        Ok(job) => job,
        Err(problem) => return act(report::refused(status, observed, &problem, now), Action::Nothing),
    };
    Deciding {
        observed,
        job,
        now,
        status,
    }
    .decide()
}

fn act(status: JobStatus, action: Action) -> Decision {
    Decision {
        status,
        action,
        look_again: None,
    }
}

/// A job that is being deleted goes when its pods have gone, so that they can write a checkpoint.
fn farewell(observed: &Observed, status: JobStatus) -> Decision {
    if !observed.finalizer {
        return act(status, Action::Nothing);
    }
    let mut owned = observed.attempts.iter().filter(|attempt| attempt.owned);
    if let Some(attempt) = owned.clone().find(|attempt| !attempt.deleting) {
        return act(status, delete(attempt));
    }
    if owned.next().is_some() || observed.pods.iter().any(is_going) {
        return act(status, Action::Nothing);
    }
    act(status, Action::RemoveFinalizer)
}

fn delete(attempt: &ObservedAttempt) -> Action {
    Action::DeleteAttempt {
        name: attempt.name.clone(),
        uid: attempt.uid.clone(),
    }
}

/// Whether a pod's container may still be running.
fn is_going(pod: &ObservedPod) -> bool {
    matches!(pod.state, PodState::Waiting { .. } | PodState::Running)
}

/// The job, if it can be executed on a cluster; else why not.
fn accept(observed: &Observed) -> Result<ValidatedJob, String> {
    let manifest = serde_json::json!({
        "apiVersion": "fathom.dev/v1alpha1",
        "kind": "DeepSeekV3Job",
        "metadata": { "name": observed.name, "labels": observed.labels },
        "spec": observed.spec,
    });
    let job = parse_manifest(&manifest.to_string()).map_err(|problems| {
        let first: Vec<String> = problems
            .iter()
            .take(3)
            .map(|problem| format!("{}: {}", problem.path, problem.message))
            .collect();
        let more = problems.len().saturating_sub(first.len());
        let more = if more > 0 {
            format!("; and {more} more (`fathom validate` shows them all)")
        } else {
            String::new()
        };
        first.join("; ") + &more
    })?;
    let mut reasons = unsupported(&job);
    if job.storage.claim().is_none() {
        reasons.push(format!(
            "storage `{}` is of one machine; use pvc://CLAIM/PREFIX, which all pods can mount",
            job.storage.uri
        ));
    }
    if reasons.is_empty() { Ok(job) } else { Err(reasons.join("; ")) }
}

struct Deciding<'a> {
    observed: &'a Observed,
    job: ValidatedJob,
    now: Timestamp,
    status: JobStatus,
}

impl Deciding<'_> {
    fn decide(mut self) -> Decision {
        self.match_phases();
        self.status.observed_generation = Some(self.observed.generation);
        let current = self.status.phases.iter().position(|phase| !phase.is_done());
        let (standing, action, look_again) = match current {
            None => (Standing::Complete, Action::Nothing, None),
            Some(index) if self.job.suspend => self.halt(index),
            Some(index) => self.advance(index),
        };
        let restarts: u32 = self.status.phases.iter().map(|phase| phase.attempt.saturating_sub(1)).sum();
        self.status.restarts = restarts;
        let status = report::standing(self.status, self.observed, &standing, self.now);
        Decision {
            status,
            action,
            look_again,
        }
    }

    /// One status per phase of the spec. Rules of the definition see to it that no phase that was started is taken away.
    fn match_phases(&mut self) {
        let mut known: BTreeMap<String, PhaseStatus> = self.status.phases.drain(..).map(|phase| (phase.name.clone(), phase)).collect();
        self.status.phases = self
            .job
            .phases
            .iter()
            .map(|phase| known.remove(&phase.name).unwrap_or_else(|| PhaseStatus::pending(&phase.name)))
            .collect();
    }

    fn attempt_name(&self, index: usize) -> String {
        let phase = &self.status.phases[index];
        names::attempt(&self.observed.name, &self.observed.uid, &phase.name, phase.attempt)
    }

    fn attempt(&self, index: usize) -> Option<&ObservedAttempt> {
        let name = self.attempt_name(index);
        self.observed.attempts.iter().find(|attempt| attempt.name == name)
    }

    fn pods(&self, index: usize) -> Vec<&ObservedPod> {
        let name = self.attempt_name(index);
        self.observed.pods.iter().filter(|pod| pod.attempt == name).collect()
    }

    /// Takes the pods of the current phase away, which write a checkpoint as they go. The attempt is over: the next one goes on from there.
    fn halt(&mut self, index: usize) -> (Standing, Action, Option<Duration>) {
        let action = match self.attempt(index) {
            Some(attempt) if attempt.owned && !attempt.deleting => delete(attempt),
            Some(_) | None => Action::Nothing,
        };
        let gone = self.attempt(index).is_none() && !self.pods(index).iter().any(|pod| is_going(pod));
        let phase = &mut self.status.phases[index];
        if gone && phase.state != PhaseProgress::Pending {
            // It may be edited now.
            phase.state = PhaseProgress::Pending;
            phase.job = None;
            phase.order = None;
        }
        phase.message = if gone {
            String::new()
        } else {
            "its pods are stopping after a checkpoint".into()
        };
        (Standing::Suspended, action, None)
    }

    /// Takes the current phase one step further.
    fn advance(&mut self, index: usize) -> (Standing, Action, Option<Duration>) {
        let at = Standing::At(index);
        match self.status.phases[index].state {
            PhaseProgress::Pending => {
                self.begin(index);
                (at, Action::Nothing, None)
            }
            PhaseProgress::Queued | PhaseProgress::Starting | PhaseProgress::Running => self.follow(index),
            PhaseProgress::Restarting => self.restart(index),
            PhaseProgress::Failed => (Standing::Failed(index), Action::Nothing, None),
            // Not the current phase.
            PhaseProgress::Cached | PhaseProgress::Succeeded => (at, Action::Nothing, None),
        }
    }

    /// Begins the next attempt: in the status only.
    fn begin(&mut self, index: usize) {
        let now = report::time(self.now);
        self.status.start_time.get_or_insert_with(|| now.clone());
        let phase = &mut self.status.phases[index];
        phase.attempt += 1;
        phase.state = PhaseProgress::Starting;
        phase.message.clear();
        phase.job = None;
        phase.start_time.get_or_insert(now);
        let (name, _) = self.order(index);
        self.status.phases[index].order = Some(name);
    }

    /// The order of a phase and the name of its `ConfigMap`.
    fn order(&self, index: usize) -> (String, Order) {
        let Observed {
            name,
            namespace,
            uid,
            spec,
            ..
        } = self.observed;
        let inputs = self
            .status
            .phases
            .iter()
            .filter_map(|phase| Some((phase.name.clone(), phase.input.clone()?)))
            .collect();
        let owner = Owner {
            namespace: namespace.clone(),
            uid: uid.clone(),
        };
        let order = Order::new(name, owner, spec, index, &inputs);
        let digest = serde_json::to_value(&order).map(|value| digest(&value)).unwrap_or_default();
        (names::order(name, uid, &order.phase, &digest), order)
    }

    /// Creates what the attempt needs, then follows its pods.
    fn follow(&mut self, index: usize) -> (Standing, Action, Option<Duration>) {
        let Some(attempt) = self.attempt(index).cloned() else {
            // Pods tell of one that was created and is gone.
            let was_there = self.status.phases[index].job.is_some() || !self.pods(index).is_empty();
            return if was_there {
                self.fail(index, lost("its Kubernetes Job was deleted"))
            } else {
                (Standing::At(index), self.create(index), None)
            };
        };
        if !attempt.owned {
            let message = format!("a Kubernetes Job `{}` exists that is not of this job; delete it", attempt.name);
            self.status.phases[index].message = message;
            return (Standing::At(index), Action::Nothing, Some(SOON * 10));
        }
        if self.status.phases[index].job.as_ref().is_some_and(|job| job.uid != attempt.uid) {
            return self.fail(index, lost("its Kubernetes Job was replaced by another one"));
        }
        // A queue takes pods away and gives them back: the attempt is the same.
        if attempt.suspended {
            let phase = &mut self.status.phases[index];
            phase.state = PhaseProgress::Queued;
            phase.message = "a queue has not admitted it yet".into();
            return (Standing::At(index), Action::Nothing, None);
        }
        let pods = self.pods(index);
        match find(&pods, self.now) {
            Finding::Failed(culprit) => return self.fail(index, culprit),
            Finding::Unclear => return (Standing::At(index), Action::Nothing, Some(SOON)),
            Finding::Sound => {}
        }
        if attempt.deleting {
            return self.fail(index, lost("its Kubernetes Job was deleted"));
        }
        match &attempt.state {
            AttemptState::Failed { message } => return self.fail(index, lost(message)),
            AttemptState::Complete => return self.complete(index),
            AttemptState::Active => {}
        }
        let ranks = self.job.phases[index].work.kind().ranks(&self.job.parallelism) as usize;
        let running = pods.iter().filter(|pod| !matches!(pod.state, PodState::Waiting { .. })).count();
        let waiting = pods.iter().find_map(|pod| match &pod.state {
            PodState::Waiting { message } if !message.is_empty() => Some(format!("pod {}: {message}", pod.name)),
            _ => None,
        });
        let (state, message) = if running >= ranks {
            (PhaseProgress::Running, String::new())
        } else {
            (PhaseProgress::Starting, waiting.unwrap_or_default())
        };
        let message = shorten(&message, MAX_MESSAGE_BYTES);
        let phase = &mut self.status.phases[index];
        // Who it is is not worth a write of its own.
        if state != phase.state || message != phase.message {
            phase.job = Some(JobReference {
                name: attempt.name,
                uid: attempt.uid,
            });
            phase.state = state;
            phase.message = message;
        }
        (Standing::At(index), Action::Nothing, None)
    }

    /// What is to be created next for an attempt that was begun.
    fn create(&self, index: usize) -> Action {
        if !self.observed.service {
            return Action::CreateService;
        }
        let phase = &self.status.phases[index];
        // The same as when the attempt was begun: what it depends on cannot be edited since.
        let (name, order) = self.order(index);
        if !self.observed.orders.contains(&name) {
            return Action::CreateOrder {
                name,
                order: Box::new(order),
            };
        }
        Action::CreateAttempt {
            job: Box::new(self.job.clone()),
            phase: index,
            attempt: phase.attempt,
            order: name,
        }
    }

    /// All pods exited with success: the phase is done if rank 0 says what it made.
    fn complete(&mut self, index: usize) -> (Standing, Action, Option<Duration>) {
        let outcome = self.pods(index).into_iter().find_map(|pod| match &pod.state {
            PodState::Succeeded { message } if pod.rank == 0 => Some(Outcome::parse(message)),
            _ => None,
        });
        let outcome = match outcome {
            Some(Some(outcome)) => outcome,
            Some(None) => {
                let culprit = Culprit {
                    class: FailureCause::Application,
                    exit_code: Some(0),
                    ..lost("rank 0 ended without saying what it made; the image is of another version")
                };
                return self.fail(index, culprit);
            }
            // The next attempt finds the artifact, if there is one.
            None => return self.fail(index, lost("the pod of rank 0 was removed before it was asked")),
        };
        let Outcome {
            version: _,
            key,
            input,
            cached,
            step: _,
        } = outcome;
        let phase = &mut self.status.phases[index];
        phase.state = if cached { PhaseProgress::Cached } else { PhaseProgress::Succeeded };
        phase.key = Some(key);
        phase.input = input;
        phase.message.clear();
        if let Some(failure) = &mut phase.last_failure {
            failure.message = shorten(&failure.message, MAX_PAST_MESSAGE_BYTES);
        }
        phase.completion_time = Some(report::time(self.now));
        // The next phase is begun in the same write.
        match self.status.phases.iter().position(|phase| !phase.is_done()) {
            None => (Standing::Complete, Action::Nothing, None),
            Some(next) => {
                if self.status.phases[next].state == PhaseProgress::Pending {
                    self.begin(next);
                }
                (Standing::At(next), Action::Nothing, None)
            }
        }
    }

    /// Records a failed attempt; what follows depends on its class and on the budgets.
    fn fail(&mut self, index: usize, culprit: Culprit) -> (Standing, Action, Option<Duration>) {
        let max_restarts = self.job.restart.max_restarts;
        let now = report::time(self.now);
        let phase = &mut self.status.phases[index];
        let again = match culprit.class {
            FailureCause::Permanent | FailureCause::Diverged => false,
            FailureCause::Application => {
                phase.restarts += 1;
                phase.restarts <= max_restarts
            }
            FailureCause::Infrastructure => {
                phase.interruptions += 1;
                phase.interruptions <= MAX_INTERRUPTIONS
            }
            FailureCause::Preempted => true,
        };
        phase.last_failure = Some(PhaseFailure {
            attempt: phase.attempt,
            at: now.clone(),
            class: culprit.class,
            exit_code: culprit.exit_code,
            pod: (!culprit.pod.is_empty()).then_some(culprit.pod),
            node: culprit.node,
            message: shorten(&culprit.message, MAX_MESSAGE_BYTES),
        });
        if again {
            phase.state = PhaseProgress::Restarting;
            phase.message = "the pods of the failed attempt are going away".into();
            (Standing::At(index), Action::Nothing, None)
        } else {
            phase.state = PhaseProgress::Failed;
            phase.message.clear();
            phase.completion_time = Some(now);
            (Standing::Failed(index), Action::Nothing, None)
        }
    }

    /// Waits until nothing is left of the failed attempt, and a while more if it made no progress; then begins the next.
    fn restart(&mut self, index: usize) -> (Standing, Action, Option<Duration>) {
        let at = Standing::At(index);
        match self.attempt(index) {
            Some(attempt) if attempt.owned && !attempt.deleting => return (at, delete(attempt), None),
            Some(attempt) if attempt.owned => return (at, Action::Nothing, None),
            Some(_) | None => {}
        }
        if self.pods(index).iter().any(|pod| is_going(pod)) {
            return (at, Action::Nothing, None);
        }
        let left = self.pause_left(&self.status.phases[index]);
        if left > Duration::ZERO {
            self.status.phases[index].message = "a pause before the next attempt".into();
            return (at, Action::Nothing, Some(left));
        }
        self.begin(index);
        (at, Action::Nothing, None)
    }

    fn pause_left(&self, phase: &PhaseStatus) -> Duration {
        let Some(failure) = &phase.last_failure else {
            return Duration::ZERO;
        };
        let used = match failure.class {
            FailureCause::Preempted => return Duration::ZERO,
            FailureCause::Application => phase.restarts,
            FailureCause::Infrastructure | FailureCause::Permanent | FailureCause::Diverged => phase.interruptions,
        };
        // The first restart does not wait: the pods have taken a while to go.
        let Some(doublings) = used.checked_sub(2) else {
            return Duration::ZERO;
        };
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings.min(16)).min(LONGEST_PAUSE);
        let since = failure
            .at
            .parse::<Timestamp>()
            .map_or(Duration::MAX, |at| self.now.duration_since(at).unsigned_abs());
        pause.saturating_sub(since)
    }
}

/// A failure that no pod tells of.
fn lost(message: &str) -> Culprit {
    Culprit {
        class: FailureCause::Infrastructure,
        exit_code: None,
        pod: String::new(),
        node: None,
        message: message.to_owned(),
    }
}
