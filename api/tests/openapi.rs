//! The document that the routes make: what clients are generated from.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

use serde_json::Value;
use std::collections::BTreeSet;

fn document() -> Value {
    serde_json::to_value(fathom_api::openapi()).unwrap()
}

/// Method and path of every operation.
fn operations(document: &Value) -> BTreeSet<String> {
    let methods = ["get", "put", "post", "delete"];
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| {
        let methods = methods.iter().filter(|method| item.get(**method).is_some());
        methods
            .map(|method| format!("{} {path}", method.to_uppercase()))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of_path).collect()
}

#[test]
fn every_route_of_the_contract_is_there() {
    let expected: BTreeSet<String> = "
        GET /healthz
        GET /metrics
        GET /readyz
        GET /api/v1/compare
        GET /api/v1/events
        GET /api/v1/jobs
        POST /api/v1/jobs
        POST /api/v1/jobs:plan
        POST /api/v1/jobs:validate
        GET /api/v1/jobs/{job}
        DELETE /api/v1/jobs/{job}
        POST /api/v1/jobs/{job}:cancel
        POST /api/v1/jobs/{job}:fork
        POST /api/v1/jobs/{job}:pause
        POST /api/v1/jobs/{job}:resume
        GET /api/v1/jobs/{job}/checkpoints
        GET /api/v1/jobs/{job}/events
        GET /api/v1/jobs/{job}/generations
        GET /api/v1/jobs/{job}/health
        GET /api/v1/jobs/{job}/lineage
        GET /api/v1/jobs/{job}/logs
        GET /api/v1/jobs/{job}/manifest
        GET /api/v1/jobs/{job}/phases
        GET /api/v1/jobs/{job}/runs
        PUT /api/v1/jobs/{job}/status
        GET /api/v1/projects
        GET /api/v1/runs/{run}
        GET /api/v1/runs/{run}/attempts
        PUT /api/v1/runs/{run}/checkpoints
        GET /api/v1/runs/{run}/data
        GET /api/v1/runs/{run}/events
        GET /api/v1/runs/{run}/logs
        POST /api/v1/runs/{run}/logs:batch
        GET /api/v1/runs/{run}/matrices/{name}
        GET /api/v1/runs/{run}/matrices/{name}/rows
        GET /api/v1/runs/{run}/matrices/{name}/steps
        GET /api/v1/runs/{run}/metrics
        POST /api/v1/runs/{run}/metrics:batch
        GET /api/v1/runs/{run}/series
        POST /api/v1/series:query
        GET /api/v1/tokens
        POST /api/v1/tokens
        DELETE /api/v1/tokens/{id}
        GET /api/v1/version
        GET /api/v1/whoami"
        .lines()
        .map(|line| line.trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(operations(&document()), expected);
}

#[test]
fn it_is_openapi_3_1_and_every_reference_leads_somewhere() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(elements) => elements.iter().for_each(|value| collect(value, references)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_types_of_the_contract_have_their_names() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in [
        "Attempt",
        "Checkpoint",
        "Event",
        "Health",
        "Job",
        "LogLine",
        "Metric",
        "Number",
        "Phase",
        "Problem",
        "Reason",
        "Run",
        "Tile",
        "Verdict",
        "JobState",
        "PhaseStateWord",
    ] {
        assert!(schemas.contains_key(name), "{name} is missing among {:?}", schemas.keys());
    }
    assert_eq!(
        schemas["Number"]["oneOf"][1]["enum"],
        serde_json::json!(["NaN", "Infinity", "-Infinity"])
    );
}

#[test]
fn fields_of_answers_are_always_there_and_those_of_requests_may_be_left_out() {
    let document = document();
    let required = |name: &str| document["components"]["schemas"][name]["required"].as_array().unwrap().len();
    let properties = |name: &str| document["components"]["schemas"][name]["properties"].as_object().unwrap().len();
    for answer in ["Job", "Phase", "Run", "Health", "Tile", "List_Job", "SeriesColumns"] {
        assert_eq!(required(answer), properties(answer), "{answer}");
    }
    for request in ["StatusReport", "ForkRequest", "Problem"] {
        assert!(required(request) < properties(request), "{request}");
    }
}

#[test]
fn every_operation_has_an_identifier_of_its_own_and_a_tag() {
    let document = document();
    let mut identifiers = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let identifier = operation["operationId"].as_str().unwrap_or_default().to_owned();
            assert!(
                !identifier.is_empty() && identifiers.insert(identifier.clone()),
                "{method} {path}: `{identifier}`"
            );
            assert!(
                operation["tags"].as_array().is_some_and(|tags| !tags.is_empty()),
                "{method} {path} has no tag"
            );
            assert!(
                operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
                "{method} {path} has no summary"
            );
        }
    }
}

#[test]
fn the_committed_document_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
    let fresh = format!("{}\n", fathom_api::openapi().to_pretty_json().unwrap());
    if std::env::var_os("FATHOM_BLESS").is_some() {
        std::fs::write(path, &fresh).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == fresh,
        "api/openapi.json is stale: run `FATHOM_BLESS=1 cargo test -p fathom-api --test openapi`"
    );
}
