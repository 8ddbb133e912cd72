//! What is there: the job and its children, as plain values that a decision can be made from.

use crate::names;
use crate::resource::DeepSeekV3Job;
use fathom_spec::status::JobStatus;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, ContainerState, ContainerStateTerminated, Pod, Service};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A job and its children.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Name of the job.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its identity.
    pub uid: String,
    /// Its generation: a change of the spec is another one.
    pub generation: i64,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it waits for our finalizer.
    pub finalizer: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What is wanted.
    pub spec: Value,
    /// What was last said of it.
    pub status: JobStatus,
    /// Whether its Service exists.
    pub service: bool,
    /// Its `ConfigMaps`.
    pub orders: BTreeSet<String>,
    /// The Kubernetes Jobs of its attempts, and those that have their names.
    pub attempts: Vec<ObservedAttempt>,
    /// Their pods.
    pub pods: Vec<ObservedPod>,
}

/// The Kubernetes Job of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedAttempt {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// Whether it is of this job, not only of its name.
    pub owned: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether a queue holds it.
    pub suspended: bool,
    /// How far it is.
    pub state: AttemptState,
}

/// How far a Kubernetes Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptState {
    /// Its pods execute it, or are yet to.
    Active,
    /// All its pods exited with success.
    Complete,
    /// A pod failed; the others may still be going.
    Failed {
        /// Kubernetes' words.
        message: String,
    },
}

/// A pod of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedPod {
    /// Its name.
    pub name: String,
    /// The Kubernetes Job that it is of.
    pub attempt: String,
    /// Its rank.
    pub rank: u32,
    /// The node that it is on.
    pub node: Option<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// How far it is.
    pub state: PodState,
}

/// How far a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodState {
    /// It does not run yet; why, as far as Kubernetes says.
    Waiting {
        /// Kubernetes' words.
        message: String,
    },
    /// It runs.
    Running,
    /// It exited with success.
    Succeeded {
        /// Its termination message.
        message: String,
    },
    /// It failed.
    Failed(PodFailure),
}

/// How a pod failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFailure {
    /// Exit code of its container, if that ran.
    pub exit_code: Option<i32>,
    /// Kubernetes' word: `OOMKilled`, `Evicted`, `Error`.
    pub reason: String,
    /// The container's last words.
    pub message: String,
    /// When it ended.
    pub at: Option<Timestamp>,
    /// Whether Kubernetes ended it for a reason of its own: preemption, a drained node.
    pub disrupted: bool,
}

/// Reads a job and its children from the API server; nothing if the job is gone. Reads are not from a cache: a decision is never older than what it changes.
///
/// # Errors
/// What the API server or the network says, or a status that this version cannot read.
pub async fn observe(client: &Client, namespace: &str, name: &str) -> Result<Option<(DeepSeekV3Job, Observed)>, kube::Error> {
    let jobs: Api<DeepSeekV3Job> = Api::namespaced(client.clone(), namespace);
    let Some(job) = jobs.get_opt(name).await? else { return Ok(None) };
    let uid = job.uid().unwrap_or_default();
    let children = ListParams::default().labels(&format!("{}={uid}", names::JOB_UID));
    let attempts: Api<Job> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let orders: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let (attempts, pods, service, orders) = tokio::try_join!(
        attempts.list(&children),
        pods.list(&children),
        async { services.get_metadata_opt(&names::service(name, &uid)).await },
        orders.list_metadata(&children),
    )?;
    let observed = Observed {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        generation: job.metadata.generation.unwrap_or_default(),
        deleting: job.metadata.deletion_timestamp.is_some(),
        finalizer: job.finalizers().iter().any(|one| one == names::FINALIZER),
        labels: job.labels().clone(),
        spec: job.spec.clone(),
        status: job.status().map_err(kube::Error::SerdeError)?,
        service: service.is_some_and(|service| is_owned(&service.metadata.owner_references, &uid)),
        orders: orders.items.iter().map(ResourceExt::name_any).collect(),
        attempts: attempts.items.iter().map(|job| attempt(job, &uid)).collect(),
        pods: pods.items.iter().map(pod).collect(),
        uid,
    };
    Ok(Some((job, observed)))
}

fn is_owned(owners: &Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>>, uid: &str) -> bool {
    owners.iter().flatten().any(|owner| owner.uid == uid)
}

fn attempt(job: &Job, uid: &str) -> ObservedAttempt {
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let holds = |kind: &str| conditions.clone().find(|one| one.type_ == kind && one.status == "True");
    let state = if let Some(failed) = holds("Failed").or_else(|| holds("FailureTarget")) {
        AttemptState::Failed {
            message: failed.message.clone().unwrap_or_default(),
        }
    } else if holds("Complete").is_some() {
        AttemptState::Complete
    } else {
        AttemptState::Active
    };
    ObservedAttempt {
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        owned: is_owned(&job.metadata.owner_references, uid),
        deleting: job.metadata.deletion_timestamp.is_some(),
        suspended: job.spec.as_ref().and_then(|spec| spec.suspend).unwrap_or(false),
        state,
    }
}

fn pod(pod: &Pod) -> ObservedPod {
    let status = pod.status.clone().unwrap_or_default();
    let annotation = pod.annotations().get("batch.kubernetes.io/job-completion-index");
    let label = pod.labels().get("batch.kubernetes.io/job-name");
    let container = status.container_statuses.as_ref().and_then(|all| all.first());
    let container_state = container.and_then(|container| container.state.clone()).unwrap_or_default();
    let condition = |kind: &str| status.conditions.iter().flatten().find(|one| one.type_ == kind);
    let disrupted = condition("DisruptionTarget").is_some_and(|one| one.status == "True");
    let state = match status.phase.as_deref() {
        Some("Succeeded") => PodState::Succeeded {
            message: container_state.terminated.and_then(|ended| ended.message).unwrap_or_default(),
        },
        Some("Failed") => PodState::Failed(failure(status.reason, status.message, container_state.terminated, disrupted)),
        Some("Running") => match container_state {
            // Its container has ended and its phase is about to follow.
            ContainerState {
                terminated: Some(ended), ..
            } if ended.exit_code != 0 => PodState::Failed(failure(None, None, Some(ended), disrupted)),
            _ => PodState::Running,
        },
        _ => {
            let waiting = container_state.waiting.and_then(|waiting| {
                let reason = waiting.reason.unwrap_or_default();
                let message = waiting.message.map(|message| format!(": {message}")).unwrap_or_default();
                (reason != "ContainerCreating" && reason != "PodInitializing").then(|| format!("{reason}{message}"))
            });
            let unscheduled = condition("PodScheduled").filter(|one| one.status == "False");
            let unscheduled = unscheduled.and_then(|one| one.message.clone());
            PodState::Waiting {
                message: waiting.or(unscheduled).unwrap_or_default(),
            }
        }
    };
    ObservedPod {
        name: pod.name_any(),
        attempt: label.cloned().unwrap_or_default(),
        rank: annotation.and_then(|rank| rank.parse().ok()).unwrap_or(0),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        state,
    }
}

fn failure(reason: Option<String>, message: Option<String>, ended: Option<ContainerStateTerminated>, disrupted: bool) -> PodFailure {
    let at = ended.as_ref().and_then(|ended| Some(ended.finished_at.as_ref()?.0));
    PodFailure {
        exit_code: ended.as_ref().map(|ended| ended.exit_code),
        reason: reason.or_else(|| ended.as_ref()?.reason.clone()).unwrap_or_default(),
        message: message.or_else(|| ended?.message).unwrap_or_default(),
        at,
        disrupted,
    }
}
