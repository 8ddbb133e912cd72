//! Orders and outcomes: what passes between the operator and the pods.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::order::{ORDER_VERSION, Order, Outcome, Owner};
use fathom_spec::parse_manifest;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn spec() -> Value {
    json!({
        "seed": 7,
        "model": { "preset": "unit", "architecture": { "vocab_size": 512 } },
        "worker": { "threads": 3, "image": "example/fathom:1" },
        "restart": { "maxRestarts": 9 },
        "phases": [
            { "name": "tokenizer", "tokenizer": { "vocabSize": 384, "input": [{ "paths": ["*.txt"] }] } },
            { "name": "corpus", "corpus": { "sequenceLength": 32, "input": [{ "paths": ["*.txt"] }] } },
            { "name": "pretrain", "pretrain": { "tokens": 1280, "batch": { "sequences": 4 } } },
        ],
    })
}

fn order(spec: &Value, index: usize) -> Order {
    let owner = Owner {
        namespace: "research".into(),
        uid: "0a1b".into(),
    };
    let inputs = BTreeMap::from([("tokenizer".into(), "aa".into()), ("corpus".into(), "bb".into())]);
    Order::new("job", owner, spec, index, &inputs)
}

#[test]
fn an_order_holds_what_its_phase_depends_on() {
    let order = order(&spec(), 1);
    assert_eq!(order.phase, "corpus");
    assert_eq!(order.inputs, BTreeMap::from([("tokenizer".to_owned(), "aa".to_owned())]));
    let job = parse_manifest(&order.manifest.to_string()).unwrap();
    assert_eq!((job.phases.len(), job.seed, job.name()), (2, 7, "job"));
}

/// Or an edit of a later phase would be another order for one that runs.
#[test]
fn what_does_not_decide_the_output_is_not_in_it() {
    for (pointer, value) in [
        ("/worker/threads", json!(1)),
        ("/worker/image", json!("example/fathom:2")),
        ("/restart/maxRestarts", json!(0)),
        ("/phases/2/pretrain/tokens", json!(2560)),
    ] {
        let mut edited = spec();
        *edited.pointer_mut(pointer).unwrap() = value;
        assert_eq!(order(&edited, 1), order(&spec(), 1), "{pointer}");
    }
    for (pointer, value) in [
        ("/seed", json!(8)),
        ("/phases/0/tokenizer/vocabSize", json!(512)),
        ("/phases/1/name", json!("text")),
    ] {
        let mut edited = spec();
        *edited.pointer_mut(pointer).unwrap() = value;
        assert_ne!(order(&edited, 1), order(&spec(), 1), "{pointer}");
    }
}

#[test]
fn an_outcome_survives_the_way_and_nothing_else_is_one() {
    let outcome = Outcome {
        version: ORDER_VERSION,
        key: "ab".repeat(32),
        input: Some("cd".repeat(32)),
        cached: false,
        step: Some(10),
    };
    let text = serde_json::to_string(&outcome).unwrap();
    assert_eq!(Outcome::parse(&text), Some(outcome));
    for wrong in [
        String::new(),
        "error: the disk is full".into(),
        text.replace("\"version\":1", "\"version\":2"),
        text.replace("cached", "cache"),
    ] {
        assert_eq!(Outcome::parse(&wrong), None, "{wrong}");
    }
}
