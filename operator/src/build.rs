//! The children of a job, built from what was decided. Pure: the same decision gives the same objects.

use crate::names;
use crate::observe::Observed;
use crate::resource::KIND;
use fathom_spec::job::PhaseKind;
use fathom_spec::manifest::{Claim, Device, Toleration as Tolerated, TolerationOperator};
use fathom_spec::order::Order;
use fathom_spec::{ValidatedJob, ValidatedPhase};
use k8s_openapi::api::batch::v1::{Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMap, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, LocalObjectReference,
    PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecurityContext,
    Service, ServicePort, ServiceSpec, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::BTreeMap;

/// Port on which rank 0 waits for the others.
const RENDEZVOUS_PORT: i32 = 29_500;
/// Where pods find their order.
const ORDER_DIRECTORY: &str = "/etc/fathom/order";
/// File of the order there, and key of the `ConfigMap`.
const ORDER_FILE: &str = "order.json";
/// Where pods find artifacts and checkpoints.
const STORAGE_DIRECTORY: &str = "/var/lib/fathom";
/// How long a worker may take to write a checkpoint after SIGTERM, in seconds.
const GRACE_SECONDS: i64 = 120;
/// User and group of the processes, and owner of their files.
const USER: i64 = 65_532;

/// What an installation decides for all workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Image of workers whose job names none.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
}

/// The headless Service of a job: it gives each pod a name, also before it is ready, as ranks look for each other while they start.
#[must_use]
pub fn service(observed: &Observed) -> Service {
    Service {
        metadata: metadata(
            observed,
            names::service(&observed.name, &observed.uid),
            names::labels(&observed.name, &observed.uid),
        ),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from([(names::JOB_UID.into(), observed.uid.clone())])),
            ports: Some(vec![ServicePort {
                name: Some("rendezvous".into()),
                port: RENDEZVOUS_PORT,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The `ConfigMap` with the order of a phase. Nothing can change it: what runs does not depend on what is edited.
///
/// # Errors
/// If the order is no JSON.
pub fn order(observed: &Observed, name: &str, order: &Order) -> Result<ConfigMap, serde_json::Error> {
    let mut labels = names::labels(&observed.name, &observed.uid);
    labels.insert(names::PHASE.into(), order.phase.clone());
    Ok(ConfigMap {
        metadata: metadata(observed, name.to_owned(), labels),
        immutable: Some(true),
        data: Some(BTreeMap::from([(ORDER_FILE.into(), serde_json::to_string_pretty(order)?)])),
        ..ConfigMap::default()
    })
}

/// The Kubernetes Job of an attempt: one pod per rank, none of which is ever started again.
#[must_use]
pub fn attempt(observed: &Observed, job: &ValidatedJob, phase: &ValidatedPhase, attempt: u32, order: &str, workers: &Workers) -> Job {
    let name = names::attempt(&observed.name, &observed.uid, &phase.name, attempt);
    let mut labels = names::attempt_labels(&observed.name, &observed.uid, &phase.name, attempt);
    let queue = job.worker.queue.clone().or_else(|| observed.labels.get(names::QUEUE).cloned());
    let pod_labels = labels.clone();
    if let Some(queue) = &queue {
        labels.insert(names::QUEUE.into(), queue.clone());
    }
    let ranks = phase.work.kind().ranks(&job.parallelism);
    let completions = i32::try_from(ranks).unwrap_or(i32::MAX);
    Job {
        metadata: metadata(observed, name.clone(), labels),
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".into()),
            completions: Some(completions),
            parallelism: Some(completions),
            backoff_limit: Some(0),
            // The default starts another pod for a rank while the first one still ends.
            pod_replacement_policy: Some("Failed".into()),
            pod_failure_policy: Some(fail_at_once()),
            // Afterwards it is Kueue's to write.
            suspend: queue.map(|_| true),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(pod_labels),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(observed, job, phase, &name, (attempt, ranks), order, workers)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

/// Exit codes after which no pod need go on: bad configuration, bad data, divergence.
fn fail_at_once() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "FailJob".into(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: None,
                operator: "In".into(),
                values: vec![64, 65, 70],
            }),
            on_pod_conditions: None,
        }],
    }
}

fn pod(
    observed: &Observed,
    job: &ValidatedJob,
    phase: &ValidatedPhase,
    name: &str,
    (attempt, ranks): (u32, u32),
    order: &str,
    workers: &Workers,
) -> PodSpec {
    let service = names::service(&observed.name, &observed.uid);
    let mut arguments = vec![
        "pod".to_owned(),
        format!("--order={ORDER_DIRECTORY}/{ORDER_FILE}"),
        format!("--storage={STORAGE_DIRECTORY}"),
        format!("--attempt={attempt}"),
        format!("--threads={}", job.worker.threads),
    ];
    if ranks > 1 {
        arguments.extend([
            "--rank=$(JOB_COMPLETION_INDEX)".to_owned(),
            format!("--ranks={ranks}"),
            format!("--rendezvous={name}-0.{service}.{}.svc:{RENDEZVOUS_PORT}", observed.namespace),
        ]);
    }
    let mut volumes = vec![
        Volume {
            name: "order".into(),
            config_map: Some(ConfigMapVolumeSource {
                name: order.to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
        memory("shm", "Memory"),
        memory("tmp", ""),
    ];
    let mut mounts = vec![
        mount("order", ORDER_DIRECTORY, None, true),
        mount("shm", "/dev/shm", None, false),
        mount("tmp", "/tmp", None, false),
    ];
    if let Some(Claim { name, prefix }) = job.storage.claim() {
        volumes.push(claim("storage", name, false));
        mounts.push(mount("storage", STORAGE_DIRECTORY, prefix, false));
    }
    for (index, data) in job.worker.volumes.iter().enumerate() {
        let name = format!("data-{index}");
        volumes.push(claim(&name, &data.claim, data.read_only));
        mounts.push(mount(&name, &data.path, data.prefix.as_deref(), data.read_only));
    }
    PodSpec {
        restart_policy: Some("Never".into()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        subdomain: Some(service),
        // Workers hold no credentials of the cluster.
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        node_selector: (!job.worker.node_selector.is_empty()).then(|| job.worker.node_selector.clone()),
        tolerations: (!job.worker.tolerations.is_empty()).then(|| job.worker.tolerations.iter().map(toleration).collect()),
        image_pull_secrets: (!job.worker.image_pull_secrets.is_empty()).then(|| {
            job.worker
                .image_pull_secrets
                .iter()
                .map(|name| LocalObjectReference { name: name.clone() })
                .collect()
        }),
        volumes: Some(volumes),
        containers: vec![Container {
            name: "worker".into(),
            image: Some(job.worker.image.clone().unwrap_or_else(|| workers.image.clone())),
            image_pull_policy: Some(workers.image_pull_policy.clone()),
            args: Some(arguments),
            env: Some(vec![EnvVar {
                name: "RUST_BACKTRACE".into(),
                value: Some("1".into()),
                value_from: None,
            }]),
            resources: resources(job, phase.work.kind()),
            // The last lines of a worker that dies say why; rank 0 writes its outcome itself.
            termination_message_policy: Some("FallbackToLogsOnError".into()),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                read_only_root_filesystem: Some(true),
                capabilities: Some(Capabilities {
                    add: None,
                    drop: Some(vec!["ALL".into()]),
                }),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(mounts),
            ..Container::default()
        }],
        ..PodSpec::default()
    }
}

/// What a pod asks for and is limited to. Phases that prepare data take no GPU.
fn resources(job: &ValidatedJob, kind: PhaseKind) -> Option<ResourceRequirements> {
    let mut quantities: BTreeMap<String, Quantity> = job
        .worker
        .resources
        .iter()
        .map(|(name, amount)| (name.clone(), Quantity(amount.clone())))
        .collect();
    let prepares = matches!(kind, PhaseKind::Tokenizer | PhaseKind::Corpus);
    if prepares {
        quantities.remove("nvidia.com/gpu");
    } else if job.worker.device == Device::Cuda {
        quantities
            .entry("nvidia.com/gpu".into())
            .or_insert_with(|| Quantity(job.worker.gpus_per_node.to_string()));
    }
    (!quantities.is_empty()).then(|| ResourceRequirements {
        requests: Some(quantities.clone()),
        limits: Some(quantities),
        claims: None,
    })
}

fn toleration(tolerated: &Tolerated) -> Toleration {
    let Tolerated {
        key,
        operator,
        value,
        effect,
    } = tolerated;
    let operator = match operator {
        TolerationOperator::Exists => "Exists",
        TolerationOperator::Equal => "Equal",
    };
    Toleration {
        key: Some(key.clone()),
        operator: Some(operator.into()),
        value: value.clone(),
        effect: effect.clone(),
        toleration_seconds: None,
    }
}

fn memory(name: &str, medium: &str) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: (!medium.is_empty()).then(|| medium.into()),
            size_limit: None,
        }),
        ..Volume::default()
    }
}

fn claim(name: &str, claim: &str, read_only: bool) -> Volume {
    Volume {
        name: name.into(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.into(),
            read_only: read_only.then_some(true),
        }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, sub_path: Option<&str>, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        sub_path: sub_path.map(str::to_owned),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn metadata(observed: &Observed, name: String, labels: BTreeMap<String, String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(observed.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![OwnerReference {
            api_version: format!("{}/{}", fathom_spec::crd::GROUP, fathom_spec::crd::VERSION),
            kind: KIND.into(),
            name: observed.name.clone(),
            uid: observed.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}
