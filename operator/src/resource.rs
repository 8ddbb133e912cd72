//! The custom resource as the client has it. Its spec stays JSON: a job that does not fit the types must not end the watch of all the others, and is
//! judged by `fathom_spec` like any manifest.

use fathom_spec::crd::{GROUP, PLURAL, VERSION};
use fathom_spec::status::JobStatus;
use k8s_openapi::NamespaceResourceScope;
use kube::Resource;
use kube::api::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// Kind of the custom resource.
pub const KIND: &str = "DeepSeekV3Job";

/// A job in a cluster.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeepSeekV3Job {
    /// `fathom.dev/v1alpha1`.
    #[serde(default)]
    pub api_version: String,
    /// [`KIND`].
    #[serde(default)]
    pub kind: String,
    /// Name, labels and what Kubernetes keeps about it.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted, as in a manifest.
    #[serde(default)]
    pub spec: Value,
    /// What the operator says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
}

impl DeepSeekV3Job {
    /// The status; that of a new job if there is none that can be read.
    #[must_use]
    pub fn status(&self) -> JobStatus {
        let status = self.status.clone().unwrap_or_default();
        serde_json::from_value(status).unwrap_or_default()
    }
}

impl Resource for DeepSeekV3Job {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
