//! What passes between the operator and the pods of a phase: the order, a file in a `ConfigMap`, and the outcome, the termination message of rank 0.
//!
//! The operator sees no storage. So it is the pods that hash the files a phase reads and look for its artifact; their outcome tells the
//! operator the key, and the digests that keys of later phases depend on.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Version of [`Order`] and [`Outcome`].
pub const ORDER_VERSION: u32 = 1;

/// One phase to execute, for all its attempts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Order {
    /// Format version; a worker refuses others.
    pub version: u32,
    /// The manifest as far as this phase depends on it.
    pub manifest: Value,
    /// Namespace and identity of the job, which tell its runs from those of others.
    pub owner: Owner,
    /// Name of the phase.
    pub phase: String,
    /// Digests of the files that earlier phases read, by phase.
    pub inputs: BTreeMap<String, String>,
}

/// The object that a phase is executed for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Owner {
    /// Its namespace.
    pub namespace: String,
    /// Its identity.
    pub uid: String,
}

/// How an attempt ended that completed its phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outcome {
    /// Format version.
    pub version: u32,
    /// Cache key of the phase; its artifact is complete.
    pub key: String,
    /// Digest of the files that it read, if it read any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Whether the artifact had existed before.
    pub cached: bool,
    /// Optimizer steps of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
}

impl Order {
    /// The order for the phase at `index` of `spec`, the `spec` of a job that was accepted. What does not decide a phase's output is left out, and so are
    /// later phases: an edit of them is no other order.
    #[must_use]
    pub fn new(name: &str, owner: Owner, spec: &Value, index: usize, inputs: &BTreeMap<String, String>) -> Self {
        let mut kept = serde_json::Map::new();
        for field in ["seed", "model", "precision", "parallelism", "storage"] {
            if let Some(value) = spec.get(field) {
                kept.insert(field.into(), value.clone());
            }
        }
        let phases = spec.get("phases").and_then(Value::as_array);
        let phases: Vec<Value> = phases.into_iter().flatten().take(index + 1).cloned().collect();
        let named = |index: usize| {
            phases
                .get(index)
                .and_then(|phase| phase.get("name")?.as_str())
                .unwrap_or_default()
                .to_owned()
        };
        let phase = named(index);
        let earlier: Vec<String> = (0..index).map(named).collect();
        kept.insert("phases".into(), phases.into());
        Self {
            version: ORDER_VERSION,
            manifest: json!({
                "apiVersion": "fathom.dev/v1alpha1",
                "kind": "DeepSeekV3Job",
                "metadata": { "name": name },
                "spec": kept,
            }),
            owner,
            phase,
            inputs: inputs
                .iter()
                .filter(|(name, _)| earlier.contains(name))
                .map(|(name, digest)| (name.clone(), digest.clone()))
                .collect(),
        }
    }
}

impl Outcome {
    /// Reads a termination message; nothing if it is not an outcome of this version.
    #[must_use]
    pub fn parse(message: &str) -> Option<Self> {
        serde_json::from_str(message)
            .ok()
            .filter(|outcome: &Self| outcome.version == ORDER_VERSION)
    }
}
