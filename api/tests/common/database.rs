//! A server on a real database, and a job that has trained.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use crate::common::{Reply, SECRET, Wishes, send_json};
use axum::Router;
use axum::http::{Method, StatusCode};
use fathom_api::{Api, Config};
use fathom_store::Store;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;

#[path = "../../../store/tests/common/mod.rs"]
mod postgres;

pub const RUN: &str = "job.pretrain.0123456789ab";
pub const KEY: &str = "0123456789abcdef";

pub struct Server {
    pub api: Api,
    pub router: Router,
    pub wishes: Arc<Wishes>,
}

/// Runs a test on a server of its own.
pub fn on_server<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::connect(&postgres::database()).await.unwrap();
        test(online(store.clone())).await;
        store.close().await;
    });
}

pub fn status(state: &str, phase: &str) -> Value {
    json!({
        "uid": "u1", "manifest": MANIFEST, "effective": "spec: {seed: 1}", "state": state, "labels": {"team": "nlp"},
        "phases": [
            {"name": "tokenizer", "kind": "tokenizer", "state": "cached", "key": "aaaaaaaaaaaaaaaa"},
            {"name": "pretrain", "kind": "pretrain", "state": phase, "key": KEY, "run": RUN, "attempt": 1, "restarts": 0}
        ],
        "runs": [{"name": RUN, "phase": "pretrain", "kind": "pretrain", "key": KEY, "state": phase, "flopsPerToken": 10.0}],
        "artifacts": [{"kind": "tokenizer", "key": "aaaaaaaaaaaaaaaa", "phase": "tokenizer", "bytes": 5, "files": 1, "path": "/a", "lineage": {},
                       "statistics": {"tokens": 7}}]
    })
}

pub const MANIFEST: &str = include_str!("../../../examples/quickstart.yaml");

pub fn event(sequence: u64, kind: &str, step: u64) -> Value {
    json!({"writer": format!("{RUN}/1/0"), "sequence": sequence, "time": 1000.0 + sequence as f64,
           "body": {"event": {"kind": kind, "step": step, "message": format!("{kind} at {step}")}}})
}

pub fn step(sequence: u64, step: u64, loss: impl Into<Value>) -> Value {
    let loss: Value = loss.into();
    let load: Vec<u8> = [step as f32, 2.0, 3.0, 4.0]
        .iter()
        .flat_map(|value: &f32| value.to_le_bytes())
        .collect();
    let load = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(load)
    };
    json!({"writer": format!("{RUN}/1/0"), "sequence": sequence, "time": 1000.0 + sequence as f64,
           "body": {"metrics": {"step": step, "tokens": step * 64, "scalars": {"loss.main": loss, "tokens_per_second": 64.0},
                                "matrices": {"moe.load": {"rows": 2, "columns": 2, "values": load}}}}})
}

pub async fn ingest(server: &Server, records: &[Value]) -> Reply {
    let body = json!({"writer": format!("{RUN}/1/0"), "records": records});
    send_json(&server.router, Method::POST, &format!("/api/v1/runs/{RUN}/metrics:batch"), &body).await
}

/// A job that has trained ten steps; the loss of step 7 is NaN.
pub async fn trained(server: &Server) {
    let reply = send_json(
        &server.router,
        Method::PUT,
        "/api/v1/jobs/job/status",
        &status("running", "running"),
    )
    .await;
    assert_eq!(
        (reply.status, reply.json()),
        (StatusCode::OK, json!({"generation": 1})),
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    let mut records = vec![event(0, "AttemptStarted", 0)];
    records.extend((1..=10).map(|number| step(number, number, if number == 7 { json!("NaN") } else { json!(10.0 - number as f64) })));
    records.push(event(11, "CheckpointCommitted", 10));
    let reply = ingest(server, &records).await;
    let expected = json!({"writer": format!("{RUN}/1/0"), "durableSequence": 11, "duplicates": 0});
    assert_eq!(reply.json(), expected);
}

/// A server with a database of its own, and what was wanted of it.
fn online(store: Store) -> Server {
    let wishes = Arc::new(Wishes::default());
    let mut config = Config::local(SECRET.into(), [7; 32]);
    // A few seconds after the records of the tests.
    config.clock = || chrono::DateTime::UNIX_EPOCH + chrono::TimeDelta::seconds(1020);
    let api = Api::new(store, config, wishes.clone());
    let router = fathom_api::router(api.clone());
    Server { api, router, wishes }
}
