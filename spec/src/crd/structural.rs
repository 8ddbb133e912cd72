//! From a JSON Schema of our types to what a `CustomResourceDefinition` takes: a structural schema (`OpenAPI` v3 without references,
//! alternatives and null), with every list, map and text bounded, which the API server needs to bound the cost of CEL rules.
//!
//! The API server is told less than [`crate::shape`] checks: it cannot parse quantities, and unknown fields are refused by its clients
//! (`kubectl` does so by default) or pruned.

use crate::shape::{resolve, type_of, without_null};
use serde_json::{Map, Value, json};

/// Bounds of what the types leave unbounded.
const MAX_TEXT: u64 = 4096;
const MAX_ITEMS: u64 = 256;
const MAX_PROPERTIES: u64 = 64;

/// The structural schema of `schema`, a part of `root` (which has the `$defs`). Text has at least `least` characters where the types say nothing.
pub(super) fn structural(root: &Value, schema: &Value, least: u64) -> Value {
    let declared = resolve(root, schema);
    let inner = without_null(root, declared);
    let mut out = Map::new();
    let text = [schema, declared, inner]
        .into_iter()
        .find_map(|one| one.get("description")?.as_str());
    let words = words(inner);
    if let Some(description) = describe(text.unwrap_or_default(), &words) {
        out.insert("description".into(), description.into());
    }
    if let Some(default) = schema.get("default").or_else(|| declared.get("default")).and_then(meaningful) {
        out.insert("default".into(), default);
    }
    if !words.is_empty() {
        out.insert("type".into(), "string".into());
        out.insert("enum".into(), words.iter().map(|(word, _)| Value::from(*word)).collect());
        return Value::Object(out);
    }
    match inner.get("format").and_then(Value::as_str) {
        // Quantities are read by the operator; a pattern here would be a second definition of them.
        Some("tokens" | "bytes" | "milestone") => {
            out.insert("x-kubernetes-int-or-string".into(), true.into());
            out.insert("anyOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
            out.insert("maxLength".into(), 64.into());
        }
        Some("dns-label") => {
            out.insert("type".into(), "string".into());
            out.insert("pattern".into(), "^[a-z]([-a-z0-9]*[a-z0-9])?$".into());
            copy(inner, &mut out, &["minLength", "maxLength"]);
        }
        _ => by_type(root, inner, least, &mut out),
    }
    Value::Object(out)
}

fn by_type(root: &Value, schema: &Value, least: u64, out: &mut Map<String, Value>) {
    let kind = type_of(schema).unwrap_or("object");
    out.insert("type".into(), kind.into());
    match kind {
        "object" => object(root, schema, least, out),
        "array" => {
            copy(schema, out, &["minItems"]);
            out.insert(
                "maxItems".into(),
                schema.get("maxItems").cloned().unwrap_or_else(|| MAX_ITEMS.into()),
            );
            let items = schema.get("items").unwrap_or(&Value::Null);
            out.insert("items".into(), structural(root, items, least));
        }
        // 64 bits are the widest integer there is in Kubernetes; the keyword's own names for widths are not known there.
        "integer" => {
            out.insert("format".into(), "int64".into());
            copy(schema, out, &["minimum", "maximum"]);
            let widest = match schema.get("format").and_then(Value::as_str) {
                Some("uint8") => Some(u64::from(u8::MAX)),
                Some("uint16") => Some(u64::from(u16::MAX)),
                Some("uint32") => Some(u64::from(u32::MAX)),
                _ => None,
            };
            if let Some(widest) = widest {
                out.entry("maximum").or_insert_with(|| widest.into());
            }
            out.entry("minimum").or_insert_with(|| 0.into());
        }
        "number" => {
            out.insert("format".into(), "double".into());
            copy(schema, out, &["minimum", "maximum"]);
        }
        "string" => {
            out.insert("minLength".into(), schema.get("minLength").cloned().unwrap_or_else(|| least.into()));
            out.insert(
                "maxLength".into(),
                schema.get("maxLength").cloned().unwrap_or_else(|| MAX_TEXT.into()),
            );
            if schema.get("format").and_then(Value::as_str) == Some("date-time") {
                out.insert("format".into(), "date-time".into());
            }
        }
        _ => {}
    }
}

fn object(root: &Value, schema: &Value, least: u64, out: &mut Map<String, Value>) {
    if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
        let properties = properties
            .iter()
            .map(|(name, property)| (name.clone(), structural(root, property, least)));
        out.insert("properties".into(), Value::Object(properties.collect()));
        copy(schema, out, &["required"]);
    } else if let Some(values) = schema.get("additionalProperties").filter(|values| values.is_object()) {
        out.insert("additionalProperties".into(), structural(root, values, least));
        out.insert("maxProperties".into(), MAX_PROPERTIES.into());
    }
}

/// The words of an enumeration, each with its text.
fn words(schema: &Value) -> Vec<(&str, &str)> {
    if let Some(all) = schema.get("enum").and_then(Value::as_array) {
        return all.iter().filter_map(Value::as_str).map(|word| (word, "")).collect();
    }
    if let Some(word) = schema.get("const").and_then(Value::as_str) {
        let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
        return vec![(word, description)];
    }
    let alternatives = schema.get("oneOf").and_then(Value::as_array);
    alternatives.into_iter().flatten().flat_map(words).collect()
}

/// A text for `kubectl explain`, which does not show the texts of words.
fn describe(text: &str, words: &[(&str, &str)]) -> Option<String> {
    let mut description = text.to_owned();
    if words.len() > 1 {
        for (word, text) in words.iter().filter(|(_, text)| !text.is_empty()) {
            description.push_str(&format!("\n- {word}: {text}"));
        }
    }
    (!description.is_empty()).then_some(description)
}

fn copy(from: &Value, to: &mut Map<String, Value>, keywords: &[&str]) {
    for &keyword in keywords {
        if let Some(value) = from.get(keyword) {
            to.insert(keyword.into(), value.clone());
        }
    }
}

/// A default without what says no more than its absence: nulls, empty text, lists and maps.
fn meaningful(value: &Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Array(items) if items.is_empty() => None,
        Value::Object(fields) if fields.is_empty() => None,
        Value::Object(fields) => {
            let fields = fields.iter().filter_map(|(name, value)| Some((name.clone(), meaningful(value)?)));
            Some(Value::Object(fields.collect()))
        }
        Value::Array(_) | Value::Bool(_) | Value::Number(_) | Value::String(_) => Some(value.clone()),
    }
}
