//! Where a job executes: devices, processes, storage, restarts.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the model is spread over devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Parallelism {
    /// Pipeline stages `[PP]`.
    #[schemars(range(min = 1))]
    pub pipeline: u32,
    /// Ranks that share the routed experts `[EP]`.
    #[schemars(range(min = 1))]
    pub expert: u32,
    /// Replicas that see different data `[DP]`.
    #[schemars(range(min = 1))]
    pub data: u32,
    /// Order of forward and backward passes in the pipeline.
    pub schedule: Schedule,
    /// Micro-batches per optimizer step and replica; with DualPipe, even.
    #[schemars(range(min = 1))]
    pub micro_batches: u32,
}

impl Default for Parallelism {
    fn default() -> Self {
        Self {
            pipeline: 1,
            expert: 1,
            data: 1,
            schedule: Schedule::Dualpipe,
            micro_batches: 1,
        }
    }
}

/// Order of forward and backward passes in a pipeline (paper, section 3.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Schedule {
    /// Bidirectional, with overlapped pairs of forward and backward passes.
    #[serde(rename = "dualpipe")]
    Dualpipe,
    /// DualPipe on half the devices, each holding both ends of the V.
    #[serde(rename = "dualpipe-v")]
    DualpipeV,
    /// One forward, one backward.
    #[serde(rename = "1f1b")]
    OneForwardOneBackward,
}

/// Where and on what the phases execute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkerSpec {
    /// Kind of device that computes.
    pub device: Device,
    /// Threads for computation; 0 means one per available core. Results do not depend on it.
    #[schemars(range(max = 4096))]
    pub threads: u32,
    /// Container image; the operator's own by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// GPUs of one node, which form one pod.
    #[schemars(range(min = 1, max = 16))]
    pub gpus_per_node: u32,
    /// Kubernetes resource requests of one pod (`cpu: "8"`, `memory: 64Gi`).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, String>,
    /// Labels that nodes must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that pods tolerate.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Kueue queue that admits the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// Volumes with files that phases read, mounted in the pods; ignored by the local runner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub volumes: Vec<DataVolume>,
    /// Secrets of the job's namespace with which its image is pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<String>,
}

impl Default for WorkerSpec {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            threads: 0,
            image: None,
            gpus_per_node: 8,
            resources: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            queue: None,
            volumes: Vec::new(),
            image_pull_secrets: Vec::new(),
        }
    }
}

/// A `PersistentVolumeClaim` that is mounted in the pods of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataVolume {
    /// Name of the claim, in the namespace of the job.
    #[schemars(length(max = 253))]
    pub claim: String,
    /// Directory of the volume that is mounted; all of it by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Where it is mounted: an absolute path.
    pub path: String,
    /// Whether pods can only read it.
    #[serde(default = "yes")]
    pub read_only: bool,
}

const fn yes() -> bool {
    true
}

/// A node taint that pods tolerate, as in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Toleration {
    /// Key of the taint.
    pub key: String,
    /// `Exists` or `Equal`.
    #[serde(default)]
    pub operator: TolerationOperator,
    /// Value of the taint, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; all of them by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
}

/// How a toleration compares with a taint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum TolerationOperator {
    /// Any value of the key.
    Exists,
    /// The same value.
    #[default]
    Equal,
}

/// Kind of device that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// The processor.
    Cpu,
    /// NVIDIA GPUs.
    Cuda,
}

/// Where artifacts live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Storage {
    /// `file://DIRECTORY` (relative to the working directory), `pvc://CLAIM/PREFIX` (a `PersistentVolumeClaim` of a cluster), `s3://BUCKET/PREFIX`,
    /// `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`.
    pub uri: String,
}

/// A directory of a `PersistentVolumeClaim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<'a> {
    /// Name of the claim.
    pub name: &'a str,
    /// Directory below the root of its volume; none for the root.
    pub prefix: Option<&'a str>,
}

impl Storage {
    /// The claim of `pvc://CLAIM/PREFIX`; none for other storage.
    #[must_use]
    pub fn claim(&self) -> Option<Claim<'_>> {
        let place = self.uri.strip_prefix("pvc://")?;
        let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_matches('/');
        (!name.is_empty()).then_some(Claim {
            name,
            prefix: (!prefix.is_empty()).then_some(prefix),
        })
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            uri: "file://.fathom/artifacts".into(),
        }
    }
}

/// What happens when a worker fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Restart {
    /// Restarts of a phase without progress between them; a newer checkpoint refills the budget.
    #[schemars(range(max = 1000))]
    pub max_restarts: u32,
}

impl Default for Restart {
    fn default() -> Self {
        Self { max_restarts: 3 }
    }
}
