//! The `CustomResourceDefinition` of a job, made from the types of the manifest and of the status: schema, rules, columns. Pure, so that the
//! API server, `fathom` and the tests judge by the same text.

mod rules;
mod structural;

use crate::schema;
use crate::status::JobStatus;
use kube_cel::Validator;
use rules::RULES;
use schemars::generate::SchemaSettings;
use serde_json::{Value, json};
use std::sync::LazyLock;
use structural::structural;

/// API group of a job.
pub const GROUP: &str = "fathom.dev";
/// Its version.
pub const VERSION: &str = "v1alpha1";
/// Its name in URLs of the API server.
pub const PLURAL: &str = "deepseekv3jobs";

static DEFINITION: LazyLock<Value> = LazyLock::new(definition);

/// The definition (`apiextensions.k8s.io/v1`).
#[must_use]
pub fn custom_resource_definition() -> &'static Value {
    &DEFINITION
}

/// A rule that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field.
    pub path: String,
    /// What is wrong, and the cure.
    pub message: String,
}

/// Judges an object by the rules that the API server applies to it, against `old`, which it replaces. Types and unknown fields are not judged here.
///
/// # Errors
/// Every rule that it breaks.
pub fn validate(object: &Value, old: Option<&Value>) -> Result<(), Vec<Violation>> {
    let schema = &DEFINITION["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    Validator::new().validate_with_defaults(schema, object, old).map_err(|errors| {
        let violations = errors.into_vec().into_iter().map(|error| Violation {
            path: error.field_path,
            message: error.message,
        });
        violations.collect()
    })
}

fn definition() -> Value {
    let manifest = schema::schema();
    let spec = structural(manifest, &manifest["properties"]["spec"], 1);
    let status = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<JobStatus>()
        .to_value();
    let mut object = json!({
        "type": "object",
        "description": manifest["description"],
        "required": ["metadata", "spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": { "type": "object" },
            "spec": spec,
            "status": structural(&status, &status, 0),
        },
    });
    for (list, keys) in [
        ("/properties/spec/properties/phases", "name"),
        ("/properties/status/properties/phases", "name"),
        ("/properties/status/properties/conditions", "type"),
    ] {
        if let Some(list) = object.pointer_mut(list) {
            list["x-kubernetes-list-type"] = "map".into();
            list["x-kubernetes-list-map-keys"] = json!([keys]);
        }
    }
    for rule in RULES {
        if let Some(place) = object.pointer_mut(rule.at).and_then(Value::as_object_mut) {
            let rules = place.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
            if let Some(rules) = rules.as_array_mut() {
                rules.push(rule.to_value());
            }
        }
    }
    let column = |name: &str, kind: &str, path: &str, description: &str| json!({ "name": name, "type": kind, "jsonPath": path, "description": description });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{PLURAL}.{GROUP}") },
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": "DeepSeekV3Job",
                "listKind": "DeepSeekV3JobList",
                "plural": PLURAL,
                "singular": "deepseekv3job",
                "shortNames": ["dsv3"],
                "categories": ["fathom"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    column("Phase", "string", ".status.summary.phase", "The phase that is executed, or how the job ended"),
                    column("Progress", "string", ".status.summary.progress", "How far that phase is"),
                    column("Loss", "string", ".status.summary.loss", "Training loss of the last reported step"),
                    column("Health", "string", ".status.summary.health", "The verdict of the health detectors"),
                    column("Restarts", "integer", ".status.restarts", "Attempts beyond the first ones"),
                    column("Age", "date", ".metadata.creationTimestamp", "Time since the job was created"),
                ],
                "schema": { "openAPIV3Schema": object },
            }],
        },
    })
}
