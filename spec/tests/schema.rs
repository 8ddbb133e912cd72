//! The JSON Schema, `explain`, and the manifests that `init` writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::manifest::Preset;
use fathom_spec::schema::{explain, json_schema};
use fathom_spec::{init_manifest, parse_manifest};
use serde_json::{Value, json};

#[test]
fn the_schema_is_draft_2020_12_and_the_same_every_time() {
    let schema = json_schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["apiVersion", "kind", "metadata", "spec"]));
    assert_eq!(schema.to_string(), json_schema().to_string());
    let mut references = Vec::new();
    visit(&schema, &mut |value| {
        references.extend(value.get("$ref").and_then(Value::as_str).map(str::to_owned));
    });
    assert!(!references.is_empty());
    for reference in references {
        let target = schema.pointer(reference.trim_start_matches('#'));
        assert!(target.is_some(), "{reference} leads nowhere");
    }
}

/// Editors and `explain` show these texts; and unknown fields are refused everywhere but in free maps.
#[test]
fn every_object_is_closed_and_every_field_is_described() {
    let schema = json_schema();
    visit(&schema, &mut |value| {
        let Some(properties) = value.get("properties").and_then(Value::as_object) else {
            return;
        };
        assert_eq!(value["additionalProperties"], false, "{value:#}");
        for (name, property) in properties {
            let described = property.get("description").is_some() || property.get("$ref").is_some();
            assert!(described, "{name} has no description: {property:#}");
        }
    });
}

fn visit(value: &Value, visitor: &mut impl FnMut(&Value)) {
    visitor(value);
    match value {
        Value::Object(fields) => fields.values().for_each(|field| visit(field, visitor)),
        Value::Array(elements) => elements.iter().for_each(|element| visit(element, visitor)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn fields_are_explained() {
    let balance = explain("spec.phases.pretrain.balance").unwrap();
    assert_eq!(balance.path, "spec.phases.pretrain.balance");
    assert!(balance.description.starts_with("Expert load balancing"), "{}", balance.description);
    assert!(!balance.required);
    let speed = balance.children.iter().find(|child| child.name == "biasUpdateSpeed").unwrap();
    assert_eq!(
        (speed.expected.as_str(), &speed.default),
        ("a number from 0 to 1", &Some(json!(0.001)))
    );
    assert!(speed.description.contains("routing bias"), "{}", speed.description);
    let until = balance.children.iter().find(|child| child.name == "biasUpdateUntil").unwrap();
    assert_eq!(until.default, Some(json!("96.6%")));

    let ema = explain("spec.phases.pretrain.ema").unwrap();
    assert!(!ema.required && ema.default.is_none(), "no average unless it is asked for");
    assert_eq!(
        (ema.children[0].expected.as_str(), &ema.children[0].default),
        ("a number from 0 to 0.99999", &Some(json!(0.999)))
    );

    let tokens = explain("spec.phases[2].pretrain.tokens").unwrap();
    assert!(tokens.required && tokens.children.is_empty());
    assert_eq!(tokens.expected, "a number of tokens such as 4000000, 512k, 4M, 1.5B or 10T");

    let preset = explain("spec.model.preset").unwrap();
    let words: Vec<&str> = preset.children.iter().map(|child| child.name.as_str()).collect();
    assert_eq!(words, ["unit", "nano", "small", "proxy-1b", "v2-lite", "v3"]);
    assert!(preset.children[5].description.contains("671B"));

    let field = explain("spec.model.architecture.kv_lora_rank").unwrap();
    assert!(!field.required, "a preset has it");
    assert_eq!(explain("").unwrap().children.len(), 4);
    assert_eq!(explain("spec.phases.from").unwrap().expected, "a list");
}

#[test]
fn unknown_fields_are_not_explained() {
    let message = |path: &str| explain(path).unwrap_err().to_string();
    assert_eq!(
        message("spec.phases.pretrain.balanse"),
        "spec.phases.pretrain has no field `balanse`; did you mean `balance`?"
    );
    assert_eq!(message("spce"), "a manifest has no field `spce`; did you mean `spec`?");
    assert_eq!(message("x"), "a manifest has no field `x`; it has apiVersion, kind, metadata, spec");
    assert_eq!(message("spec.seed.x"), "spec.seed has no field `x`");
}

/// Every field that `explain` lists can be explained in turn.
#[test]
fn explanations_can_be_followed_everywhere() {
    let mut paths = vec![String::new()];
    let mut seen = 0;
    while let Some(path) = paths.pop() {
        let explanation = explain(&path).unwrap();
        assert!(!explanation.expected.is_empty(), "{path}");
        assert!(!explanation.description.is_empty(), "{path} has no description");
        seen += 1;
        for child in explanation.children {
            // The words of an enumeration are not fields.
            if !child.expected.is_empty() {
                let separator = if path.is_empty() { "" } else { "." };
                paths.push(format!("{path}{separator}{}", child.name));
            }
        }
    }
    assert!(seen > 150, "{seen}");
}

#[test]
fn init_writes_manifests_that_are_accepted_without_warnings() {
    for preset in Preset::ALL {
        let text = init_manifest(preset);
        let job = parse_manifest(&text).unwrap_or_else(|problems| panic!("{}: {problems:?}", preset.name()));
        assert_eq!((job.preset, job.warnings.as_slice()), (Some(preset), &[][..]));
        assert!(text.lines().all(|line| line.len() < 120));
    }
}
