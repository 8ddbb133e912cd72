//! The JSON Schema of the manifest, and `fathom explain`.

use crate::manifest::DeepSeekV3Job;
use crate::problem::did_you_mean;
use crate::shape::{describe, resolve, without_null, words};
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<DeepSeekV3Job>();
    schema.insert("$id".into(), "https://fathom.dev/schemas/v1alpha1/deepseekv3job.json".into());
    schema.to_value()
});

/// The JSON Schema (draft 2020-12) of a manifest, for editors. The same for every call.
#[must_use]
pub fn json_schema() -> Value {
    SCHEMA.clone()
}

pub(crate) fn schema() -> &'static Value {
    &SCHEMA
}

/// What a field of the manifest is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The path that was asked for, without list indices.
    pub path: String,
    /// What values it takes.
    pub expected: String,
    /// Its default, if it has a fixed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// What it means.
    pub description: String,
    /// Its fields, or the words that it may be.
    pub children: Vec<Child>,
}

/// A field below an explained one, or one of its words.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Child {
    /// Its name.
    pub name: String,
    /// What values it takes; empty for a word.
    pub expected: String,
    /// Its default, if it has a fixed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Whether it must be given.
    pub required: bool,
    /// What it means.
    pub description: String,
}

/// A path that the manifest does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ExplainError {
    /// The longest part of the path that exists; empty for none.
    pub parent: String,
    /// The field that it does not have.
    pub field: String,
    /// The field that was probably meant.
    pub suggestion: Option<String>,
    /// The fields that exist there.
    pub fields: Vec<String>,
}

impl std::fmt::Display for ExplainError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            parent,
            field,
            suggestion,
            fields,
        } = self;
        let place = if parent.is_empty() { "a manifest" } else { parent };
        write!(formatter, "{place} has no field `{field}`")?;
        match suggestion {
            Some(suggestion) => write!(formatter, "; did you mean `{suggestion}`?"),
            None if fields.is_empty() => Ok(()),
            None => write!(formatter, "; it has {}", fields.join(", ")),
        }
    }
}

/// Explains a field: `spec.phases.pretrain.balance`, with or without list indices (`spec.phases[2].pretrain`). An empty path explains
/// the whole manifest.
///
/// # Errors
/// [`ExplainError`] if there is no such field.
pub fn explain(path: &str) -> Result<Explanation, ExplainError> {
    let root = schema();
    let mut declared = root;
    let mut walked: Vec<&str> = Vec::new();
    let mut required = true;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name = part.split('[').next().unwrap_or(part);
        let container = elements(root, declared);
        let properties = container.get("properties").and_then(Value::as_object);
        let Some(property) = properties.and_then(|properties| properties.get(name)) else {
            let fields: Vec<String> = properties.into_iter().flat_map(|all| all.keys().cloned()).collect();
            return Err(ExplainError {
                parent: walked.join("."),
                field: crate::tree::shorten(name),
                suggestion: did_you_mean(name, fields.iter().map(String::as_str)).map(str::to_owned),
                fields,
            });
        };
        required = is_required(container, name);
        declared = property;
        walked.push(name);
    }
    Ok(Explanation {
        path: walked.join("."),
        expected: describe(root, declared),
        default: declared.get("default").cloned(),
        required,
        description: description(root, declared),
        children: children(root, elements(root, declared)),
    })
}

/// The schema of the elements of a list, or `schema` itself.
fn elements<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let mut schema = without_null(root, schema);
    while let Some(items) = schema.get("items") {
        schema = without_null(root, items);
    }
    schema
}

fn is_required(container: &Value, name: &str) -> bool {
    container
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|all| all.iter().any(|one| one == name))
}

/// The field's own text, and that of its type where it adds something.
fn description(root: &Value, schema: &Value) -> String {
    let text = |schema: &Value| schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let own = text(schema);
    let of_type = text(elements(root, resolve(root, schema)));
    if own.is_empty() || own == of_type {
        of_type
    } else if of_type.is_empty() {
        own
    } else {
        format!("{own}\n\n{of_type}")
    }
}

fn children(root: &Value, container: &Value) -> Vec<Child> {
    if let Some(properties) = container.get("properties").and_then(Value::as_object) {
        return properties
            .iter()
            .map(|(name, property)| Child {
                name: name.clone(),
                expected: describe(root, property),
                default: property.get("default").cloned(),
                required: is_required(container, name),
                description: property
                    .get("description")
                    .or_else(|| without_null(root, property).get("description"))
                    .and_then(Value::as_str)
                    .unwrap_or_default()
                    .to_owned(),
            })
            .collect();
    }
    let alternatives = container.get("oneOf").and_then(Value::as_array);
    alternatives
        .into_iter()
        .flatten()
        .filter_map(|one| {
            Some(Child {
                name: (*words(one).first()?).to_owned(),
                expected: String::new(),
                default: None,
                required: false,
                description: one.get("description").and_then(Value::as_str).unwrap_or_default().to_owned(),
            })
        })
        .collect()
}
