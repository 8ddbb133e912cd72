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
    /// The status; that of a new job if there is none.
    ///
    /// # Errors
    /// If there is one that this version cannot read. It must not be taken for none: what has ended would begin anew.
    pub fn status(&self) -> Result<JobStatus, serde_json::Error> {
        match &self.status {
            None | Some(Value::Null) => Ok(JobStatus::default()),
            Some(status) => serde_json::from_value(status.clone()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_that_cannot_be_read_is_not_that_of_a_new_job() {
        let job = |status: Option<Value>| DeepSeekV3Job {
            status,
            ..DeepSeekV3Job::default()
        };
        for none in [None, Some(Value::Null), Some(json!({}))] {
            assert_eq!(job(none).status().unwrap(), JobStatus::default());
        }
        let newer = json!({ "phases": [{ "name": "pretrain", "state": "Checkpointing" }] });
        assert!(job(Some(newer)).status().is_err());
    }
}
