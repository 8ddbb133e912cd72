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

/// Every operation, with its name for messages.
fn each(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let methods = item.as_object().unwrap().iter();
        methods.map(move |(method, operation)| (format!("{} {path}", method.to_uppercase()), operation))
    })
}

/// What a value is, or what it refers to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value.get("$ref").and_then(Value::as_str);
    reference.map_or(value, |reference| document.pointer(reference.trim_start_matches('#')).unwrap())
}

#[test]
fn every_operation_says_which_problems_it_may_answer_with() {
    let document = document();
    for (name, operation) in each(&document) {
        let responses = operation["responses"].as_object().unwrap();
        assert!(!responses.contains_key("default"), "{name}: `default` would allow any status");
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let takes = |key: &str, value: &str| parameters.iter().any(|parameter| parameter[key] == value);
        let open = operation["security"] == serde_json::json!([{}]);
        let body = operation.get("requestBody").is_some();
        for (status, expected) in [
            ("400", body || !parameters.is_empty()),
            ("401", !open),
            ("403", !open),
            ("404", takes("in", "path")),
            ("408", body),
            ("409", takes("name", "Idempotency-Key")),
            ("410", takes("name", "cursor")),
            ("412", takes("name", "If-Match")),
            ("413", body),
            ("415", body),
            ("429", !open),
            ("500", true),
            ("503", true),
            ("504", true),
        ] {
            assert!(!expected || responses.contains_key(status), "{name} does not list {status}");
        }
        for (status, response) in responses {
            let response = resolved(&document, response);
            assert!(
                response["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{name} {status} has no description"
            );
            assert!(
                response["headers"].get("X-Request-Id").is_some(),
                "{name} {status} does not have X-Request-Id"
            );
            if status.starts_with(['4', '5']) {
                let schema = &response["content"]["application/problem+json"]["schema"]["$ref"];
                assert_eq!(schema, "#/components/schemas/Problem", "{name} {status}");
            }
        }
    }
}

#[test]
fn every_stream_names_its_messages() {
    let document = document();
    let mut streams = Vec::new();
    for (name, operation) in each(&document) {
        let content = &operation["responses"]["200"]["content"];
        let Some(stream) = content.get("text/event-stream") else { continue };
        let messages = resolved(&document, &stream["schema"])["oneOf"].as_array().unwrap();
        for message in messages {
            let data = &message["properties"]["data"];
            assert_eq!(data["contentMediaType"], "application/json", "{name}");
            assert_eq!(resolved(&document, &data["contentSchema"])["type"], "object", "{name}: {message}");
        }
        streams.push((name, messages.len()));
    }
    assert_eq!(
        streams,
        [("GET /api/v1/events".into(), 6), ("GET /api/v1/runs/{run}/events".into(), 6)]
    );
}

/// Places of schemas that say nothing, or contradict themselves.
fn vague(schema: &Value, place: &str, found: &mut Vec<String>) {
    let fields = schema.as_object().unwrap();
    let says = ["$ref", "type", "oneOf", "allOf", "anyOf"]
        .iter()
        .any(|word| fields.contains_key(*word));
    if !says {
        found.push(format!("{place} has no type"));
    }
    if place.contains('/') && !place.contains("/oneOf/") && !place.contains("/allOf/") && fields.contains_key("properties") {
        found.push(format!("{place} repeats an object that should be referred to"));
    }
    for word in ["oneOf", "allOf", "anyOf"] {
        let parts = fields.get(word).and_then(Value::as_array).into_iter().flatten();
        for (index, part) in parts.enumerate() {
            vague(part, &format!("{place}/{word}/{index}"), found);
        }
    }
    let types: BTreeSet<&str> = fields
        .get("allOf")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|part| part["type"].as_str())
        .collect();
    if types.len() > 1 {
        found.push(format!("{place} is of several types at once: {types:?}"));
    }
    for (name, property) in fields.get("properties").and_then(Value::as_object).into_iter().flatten() {
        vague(property, &format!("{place}/{name}"), found);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(part) = fields.get(word).filter(|part| part.is_object()) {
            vague(part, &format!("{place}/{word}"), found);
        }
    }
}

#[test]
fn every_property_has_one_type() {
    let document = document();
    let mut found = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        vague(schema, name, &mut found);
    }
    for (name, operation) in each(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let place = format!("{name} {}", parameter["name"]);
            vague(&parameter["schema"], &place, &mut found);
            assert!(
                !parameter["schema"].to_string().contains("\"null\""),
                "{place}: a parameter is absent, not null"
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
    let values = &document["components"]["schemas"]["ComparedField"]["properties"]["values"];
    assert_eq!(
        values["items"]["$ref"], "#/components/schemas/AnyJson",
        "values of manifests are no objects only"
    );
}
