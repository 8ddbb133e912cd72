//! The loop around the decisions: watches jobs, their Kubernetes Jobs and pods, and reconciles what changed.

use crate::apply::{self, apply, write_status};
use crate::build::Workers;
use crate::decide::{Action, Decision, decide};
use crate::names::{JOB, JOB_UID};
use crate::observe::observe;
use crate::resource::DeepSeekV3Job;
use fathom_spec::status::MAX_STATUS_BYTES;
use futures_util::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::Api;
use kube::runtime::controller::{Action as Next, Config, Controller};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Jobs that are reconciled at the same time; the library's default has no bound.
const CONCURRENCY: u16 = 16;
/// Steps of one reconciliation; a job needs fewer until it has to wait for something.
const MAX_STEPS: u32 = 16;
/// How long a reconciliation may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// First pause after a failed reconciliation; it doubles with each in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the operator is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// The only namespace to look after; all of them by default.
    pub namespace: Option<String>,
    /// What all workers have.
    pub workers: Workers,
}

struct Context {
    client: Client,
    workers: Workers,
    /// Failures in a row, by UID of the job.
    failures: Mutex<HashMap<String, u32>>,
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state could not be read.
    #[error("cannot read the job and its children")]
    Observe(#[source] kube::Error),
    /// A change was not made.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// The status is too large for etcd to carry thousands of.
    #[error("the status would have {0} bytes, more than {MAX_STATUS_BYTES}")]
    StatusTooLarge(usize),
    /// It took too long.
    #[error("not done after {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Looks after all jobs until `stop` is done.
pub async fn run(client: Client, options: Options, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let Options { namespace, workers } = options;
    // Bounded, so that a watch that died silently is noticed.
    let all = || watcher::Config::default().timeout(200);
    let children = || all().labels(JOB_UID);
    let jobs: Api<DeepSeekV3Job> = scoped(&client, namespace.as_deref());
    let attempts: Api<Job> = scoped(&client, namespace.as_deref());
    let pods: Api<Pod> = scoped(&client, namespace.as_deref());
    let context = Arc::new(Context {
        client,
        workers,
        failures: Mutex::default(),
    });
    Controller::new(jobs, all())
        .owns(attempts, children())
        .watches(pods, children(), |pod: Pod| {
            let job = pod.labels().get(JOB).cloned();
            let namespace = pod.namespace();
            job.zip(namespace).map(|(job, namespace)| ObjectRef::new(&job).within(&namespace))
        })
        .with_config(Config::default().concurrency(CONCURRENCY))
        .graceful_shutdown_on(stop)
        .run(reconcile, |job, error, context| pause(&job, error, &context), context)
        .for_each(|result| async {
            // Failed reconciliations are reported where they fail; what is left are the watches' own troubles.
            if let Err(error) = result
                && !matches!(error, kube::runtime::controller::Error::ReconcilerFailed(..))
            {
                tracing::debug!(%error, "watch");
            }
        })
        .await;
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

async fn reconcile(job: Arc<DeepSeekV3Job>, context: Arc<Context>) -> Result<Next, Error> {
    let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
    let reconciling = reconcile_once(&context.client, &namespace, &name, &context.workers);
    let result = tokio::time::timeout(DEADLINE, reconciling).await.unwrap_or(Err(Error::Deadline));
    if result.is_ok() {
        context
            .failures
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(&uid(&job));
    }
    let look_again = result?;
    Ok(look_again.map_or_else(Next::await_change, Next::requeue))
}

fn uid(job: &DeepSeekV3Job) -> String {
    job.uid().unwrap_or_default()
}

/// What to do after a failed reconciliation.
fn pause(job: &DeepSeekV3Job, error: &Error, context: &Context) -> Next {
    let mut failures = context.failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let count = failures.entry(uid(job)).or_default();
    let pause = FIRST_PAUSE.saturating_mul(1 << (*count).min(16)).min(LONGEST_PAUSE);
    *count += 1;
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(job = %job.name_any(), namespace = %job.namespace().unwrap_or_default(), %error, cause, ?pause, "reconciliation failed");
    Next::requeue(pause)
}

/// Takes a job as far as it can go now. Returns when to look again, if not at the next event.
///
/// # Errors
/// [`Error`]; nothing is lost, and it may be tried again at once.
async fn reconcile_once(client: &Client, namespace: &str, name: &str, workers: &Workers) -> Result<Option<Duration>, Error> {
    for _ in 0..MAX_STEPS {
        let Some((job, observed)) = observe(client, namespace, name).await.map_err(Error::Observe)? else {
            return Ok(None);
        };
        let Decision {
            status,
            action,
            look_again,
        } = decide(&observed, Timestamp::now());
        if status != observed.status {
            let bytes = serde_json::to_vec(&status).map_err(apply::Error::Json)?.len();
            if bytes > MAX_STATUS_BYTES {
                return Err(Error::StatusTooLarge(bytes));
            }
            write_status(client, &job, &observed, &status).await?;
            let phase = status.summary.as_ref().map(|summary| summary.phase.as_str()).unwrap_or_default();
            let progress = status.summary.as_ref().map(|summary| summary.progress.as_str()).unwrap_or_default();
            tracing::info!(job = name, namespace, phase, progress, "status");
            // What follows is decided from what is written.
            continue;
        }
        if action == Action::Nothing {
            return Ok(look_again);
        }
        tracing::info!(job = name, namespace, action = action.word(), "act");
        apply(client, &job, &observed, action, workers).await?;
    }
    Ok(Some(Duration::from_millis(100)))
}
