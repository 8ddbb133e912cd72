//! Does what was decided: one request to the API server.

use crate::build::{self, Workers};
use crate::decide::Action;
use crate::names::FINALIZER;
use crate::observe::Observed;
use crate::resource::DeepSeekV3Job;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::batch::v1::Job;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server or the network refused.
    #[error("cannot {what}")]
    Kubernetes {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: kube::Error,
    },
    /// An object of that name exists that is not of this job.
    #[error("{kind} `{name}` exists and is not of this job: delete or rename it")]
    NameCollision {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// A value is no JSON.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
}

/// Whether a request that is made again finds its effect, and that is as good: the answer was lost, or it was late.
trait Repeated<T> {
    fn or_already(self, code: u16) -> Result<Option<T>, kube::Error>;
}

impl<T> Repeated<T> for Result<T, kube::Error> {
    fn or_already(self, code: u16) -> Result<Option<T>, kube::Error> {
        match self {
            Ok(value) => Ok(Some(value)),
            Err(kube::Error::Api(status)) if status.code == code => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Does it.
///
/// # Errors
/// [`Error`]; the next reconciliation decides anew.
pub async fn apply(client: &Client, job: &DeepSeekV3Job, observed: &Observed, action: Action, workers: &Workers) -> Result<(), Error> {
    let jobs: Api<DeepSeekV3Job> = Api::namespaced(client.clone(), &observed.namespace);
    match action {
        Action::Nothing => Ok(()),
        Action::AddFinalizer => {
            // Tests the version that was read, or finalizers of others could be lost.
            let mut finalizers = job.finalizers().to_vec();
            finalizers.push(FINALIZER.into());
            finalize(&jobs, job, &finalizers, "add the finalizer").await
        }
        Action::RemoveFinalizer => {
            let mut finalizers = job.finalizers().to_vec();
            finalizers.retain(|one| one != FINALIZER);
            finalize(&jobs, job, &finalizers, "remove the finalizer").await
        }
        Action::CreateService => create(client, observed, &build::service(observed), "create the Service").await,
        Action::CreateOrder { name, order } => {
            create(client, observed, &build::order(observed, &name, &order)?, "create the ConfigMap").await
        }
        Action::CreateAttempt {
            job,
            phase,
            attempt,
            order,
        } => {
            let child = build::attempt(observed, &job, &job.phases[phase], attempt, &order, workers);
            create(client, observed, &child, "create the Kubernetes Job").await
        }
        Action::DeleteAttempt { name, uid } => {
            let attempts: Api<Job> = Api::namespaced(client.clone(), &observed.namespace);
            let parameters = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let what = "delete the Kubernetes Job";
            let deleted = attempts.delete(&name, &parameters).await;
            deleted
                .or_already(404)
                .map(|_| ())
                .map_err(|source| Error::Kubernetes { what, source })
        }
    }
}

async fn finalize(jobs: &Api<DeepSeekV3Job>, job: &DeepSeekV3Job, finalizers: &[String], what: &'static str) -> Result<(), Error> {
    let patch = json!({ "metadata": { "resourceVersion": job.resource_version(), "finalizers": finalizers } });
    let patched = jobs.patch(&job.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
    patched
        .or_already(404)
        .map(|_| ())
        .map_err(|source| Error::Kubernetes { what, source })
}

/// Creates an object. One of that name that is of this job is what an earlier request made.
async fn create<K>(client: &Client, observed: &Observed, object: &K, what: &'static str) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &observed.namespace);
    let failed = |source| Error::Kubernetes { what, source };
    let created = api.create(&PostParams::default(), object).await;
    if created.or_already(409).map_err(failed)?.is_some() {
        return Ok(());
    }
    let name = object.name_any();
    match api.get_metadata_opt(&name).await.map_err(failed)? {
        Some(found) if found.owner_references().iter().all(|owner| owner.uid != observed.uid) => Err(Error::NameCollision {
            kind: K::kind(&()).into_owned(),
            name,
        }),
        // Ours, or gone again: the next reconciliation sees.
        Some(_) | None => Ok(()),
    }
}

/// Writes the status, if the job is still as it was read: a decision that was made from something older is not remembered.
///
/// # Errors
/// [`Error`]; a conflict is one.
pub async fn write_status(
    client: &Client,
    job: &DeepSeekV3Job,
    observed: &Observed,
    status: &fathom_spec::status::JobStatus,
) -> Result<(), Error> {
    let jobs: Api<DeepSeekV3Job> = Api::namespaced(client.clone(), &observed.namespace);
    let mut job = job.clone();
    job.status = Some(serde_json::to_value(status)?);
    let what = "write the status";
    let written = jobs.replace_status(&observed.name, &PostParams::default(), &job).await;
    written.map(|_| ()).map_err(|source| Error::Kubernetes { what, source })
}
