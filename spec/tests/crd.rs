//! The `CustomResourceDefinition`: what Kubernetes demands of a schema, and the rules in CEL. The same rules are judged by a real API server in the
//! tests of the operator.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::crd::{custom_resource_definition, validate};
use fathom_spec::parse_manifest;
use serde_json::{Value, json};

/// A valid manifest, as the API server has it.
fn manifest() -> Value {
    json!({
        "apiVersion": "fathom.dev/v1alpha1",
        "kind": "DeepSeekV3Job",
        "metadata": { "name": "job" },
        "spec": {
            "model": { "preset": "unit" },
            "phases": [
                { "name": "tokenizer", "tokenizer": { "vocabSize": 384, "input": [{ "paths": ["*.txt"] }] } },
                { "name": "corpus", "corpus": { "sequenceLength": 32, "input": [{ "paths": ["*.txt"] }] } },
                { "name": "pretrain", "from": ["corpus"], "pretrain": { "tokens": "4M", "batch": { "sequences": 4 } } },
            ],
        },
    })
}

fn changed(pointer: &str, value: Value) -> Value {
    let mut manifest = manifest();
    set(&mut manifest, pointer, value);
    manifest
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap();
    match parent {
        Value::Array(elements) => elements[field.parse::<usize>().unwrap()] = value,
        other => other[field] = value,
    }
}

fn schema() -> &'static Value {
    &custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// A structural schema has a type everywhere and none of what cannot be pruned; costs of rules need bounds everywhere.
#[test]
fn the_schema_is_structural_and_bounded() {
    let mut fields = 0;
    visit("", schema(), &mut |path, node| {
        fields += 1;
        let object = node.as_object().unwrap();
        for forbidden in ["$ref", "oneOf", "const", "additionalItems", "definitions", "$defs", "title"] {
            assert!(!object.contains_key(forbidden), "{path} has {forbidden}");
        }
        if node["x-kubernetes-int-or-string"] == true {
            assert!(!object.contains_key("type"), "{path}");
            return;
        }
        assert!(!object.contains_key("anyOf"), "{path}");
        let bound = |name: &str| assert!(object.contains_key(name), "{path} has no {name}: {node}");
        match node["type"].as_str().unwrap_or_else(|| panic!("{path} has no type: {node}")) {
            "array" => bound("maxItems"),
            "string" if !object.contains_key("enum") && !path.ends_with("apiVersion") && !path.ends_with("kind") => bound("maxLength"),
            "object" if object.contains_key("additionalProperties") => bound("maxProperties"),
            _ => {}
        }
        if let Some(default) = node["default"].as_str() {
            let least = node["minLength"].as_u64().unwrap_or(0);
            assert!(default.len() as u64 >= least, "{path} has a default that it refuses");
        }
        // Unknown formats are ignored by the API server, and `duration` is another one there.
        if let Some(format) = object.get("format") {
            assert!(
                ["int64", "double", "date-time"].contains(&format.as_str().unwrap()),
                "{path}: {format}"
            );
        }
    });
    assert!(fields > 200, "{fields}");
}

#[test]
fn every_field_is_explained() {
    visit("", schema(), &mut |path, node| {
        let named = path
            .rsplit('.')
            .next()
            .is_some_and(|name| !name.ends_with("[]") && !name.is_empty());
        let kubernetes = ["apiVersion", "kind", "metadata"].contains(&path.trim_start_matches('.'));
        let described = node.get("description").is_some();
        assert!(
            !named || kubernetes || described || path.ends_with("{}"),
            "{path} has no description"
        );
    });
}

fn visit(path: &str, node: &Value, visitor: &mut impl FnMut(&str, &Value)) {
    visitor(path, node);
    for (name, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        visit(&format!("{path}.{name}"), property, visitor);
    }
    if let Some(items) = node.get("items") {
        visit(&format!("{path}[]"), items, visitor);
    }
    if let Some(values) = node.get("additionalProperties") {
        visit(&format!("{path}{{}}"), values, visitor);
    }
}

#[test]
fn what_is_valid_breaks_no_rule() {
    validate(&manifest(), None).unwrap();
    for example in ["quickstart", "small", "v3"] {
        let text = std::fs::read_to_string(format!("{}/../examples/{example}.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        parse_manifest(&text).unwrap();
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        validate(&object, None).unwrap();
    }
}

/// The rules refuse nothing that `parse_manifest` accepts: what runs on a laptop is taken by a cluster.
#[test]
fn what_breaks_a_rule_is_wrong_everywhere() {
    for (pointer, value, path, message) in [
        ("/metadata/name", json!("a".repeat(41)), "", "at most 40 characters"),
        ("/metadata/name", json!("7th"), "", "beginning with a letter"),
        ("/spec/model", json!({}), "spec.model", "no model is given"),
        (
            "/spec/parallelism",
            json!({ "pipeline": 3, "microBatches": 2 }),
            "spec.parallelism",
            "even number of stages",
        ),
        (
            "/spec/parallelism",
            json!({ "pipeline": 2, "microBatches": 3 }),
            "spec.parallelism",
            "even number of stages",
        ),
        ("/spec/storage", json!({ "uri": "ftp://x" }), "spec.storage.uri", "expected file://"),
        ("/spec/storage", json!({ "uri": "s3://" }), "spec.storage.uri", "expected file://"),
        ("/spec/phases/2/pretrain", Value::Null, "spec.phases[2]", "exactly one kind"),
        ("/spec/phases/2/serve", json!({}), "spec.phases[2]", "exactly one kind"),
        ("/spec/phases/2/from", json!(["corpse"]), "spec.phases", "`from` names other phases"),
        (
            "/spec/phases/2/from",
            json!(["pretrain"]),
            "spec.phases",
            "`from` names other phases",
        ),
    ] {
        let mut object = changed(pointer, value.clone());
        if value.is_null() {
            object["spec"]["phases"][2].as_object_mut().unwrap().remove("pretrain");
        }
        let violations = validate(&object, None).unwrap_err();
        assert!(
            violations.iter().any(|one| one.path == path && one.message.contains(message)),
            "{pointer} = {value}: {violations:?}"
        );
        parse_manifest(&object.to_string()).unwrap_err();
    }
}

/// A job whose tokenizer is done and whose corpus is being made.
fn started() -> Value {
    let mut object = manifest();
    object["status"] = json!({ "phases": [
        { "name": "tokenizer", "state": "Succeeded" },
        { "name": "corpus", "state": "Running" },
        { "name": "pretrain", "state": "Pending" },
    ]});
    object
}

#[test]
fn what_was_started_stays_as_it_is() {
    let old = started();
    for (pointer, value, frozen) in [
        ("/spec/phases/2/pretrain/tokens", json!("8M"), None),
        ("/spec/restart", json!({ "maxRestarts": 9 }), None),
        ("/spec/worker", json!({ "threads": 2 }), None),
        ("/metadata/labels", json!({ "team": "x" }), None),
        (
            "/spec/phases/1/corpus/sequenceLength",
            json!(64),
            Some("cannot be changed or removed"),
        ),
        (
            "/spec/phases/0/tokenizer/vocabSize",
            json!(512),
            Some("cannot be changed or removed"),
        ),
        ("/spec/phases/1/name", json!("text"), Some("cannot be changed or removed")),
        ("/spec/seed", json!(1), Some("seed, precision")),
        ("/spec/model/preset", json!("nano"), Some("seed, precision")),
        ("/spec/precision", json!("fp8"), Some("seed, precision")),
    ] {
        let mut new = old.clone();
        set(&mut new, pointer, value.clone());
        match (validate(&new, Some(&old)), frozen) {
            (Ok(()), None) => {}
            (Err(violations), Some(message)) => {
                assert!(
                    violations.iter().any(|one| one.message.contains(message)),
                    "{pointer}: {violations:?}"
                );
            }
            (result, _) => panic!("{pointer} = {value}: {result:?}"),
        }
        // Before anything was started, everything may change.
        let mut pending = old.clone();
        for phase in pending["status"]["phases"].as_array_mut().unwrap() {
            phase["state"] = "Pending".into();
        }
        let mut new = pending.clone();
        set(&mut new, pointer, value);
        let violations = validate(&new, Some(&pending)).err().unwrap_or_default();
        // A new name alone leaves `from` behind.
        let left = violations.iter().filter(|one| !one.message.contains("`from` names")).count();
        assert_eq!(left, 0, "{pointer}: {violations:?}");
    }
}
