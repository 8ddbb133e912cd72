//! A run whose workers report to a store.
#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part of this module, and a helper that fails fails its test.

use crate::common;
use fathom_spec::record::{Body, EventKind, LifecycleEvent, MetricBatch, Record};
use fathom_store::ingest::{Batch, Ingested};
use fathom_store::jobs::JobReport;
use fathom_store::read::{Range, View};
use fathom_store::runs::{RunReport, RunRow};
use fathom_store::{Error, Store};
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;

/// Runs a test on every kind of database.
pub fn on_each<F: Future<Output = ()>>(test: impl Fn(Store) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::connect(&common::database()).await.unwrap();
        test(store.clone()).await;
        store.close().await;
        #[cfg(feature = "embedded")]
        {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::embedded(directory.path()).await.unwrap();
            test(store.clone()).await;
            store.close().await;
        }
    });
}

pub const RUN: &str = "job.pretrain.0123456789ab";

pub async fn run(store: &Store) -> RunRow {
    let nothing = json!([]);
    let report = JobReport {
        uid: "uid",
        state: "running",
        message: None,
        labels: &json!({}),
        phases: &nothing,
        submitted: "a: 1",
        effective: "a: 1\nb: 2",
    };
    let job = store.report_job("default", "job", &report).await.unwrap();
    let report = RunReport {
        name: RUN,
        phase: "pretrain",
        kind: "pretrain",
        key: "0123456789abcdef",
        state: "running",
        flops_per_token: Some(2.0),
    };
    store.report_run(job.id, &report).await.unwrap();
    store.run("default", RUN).await.unwrap()
}

/// A worker's stream: one attempt.
pub struct Writer {
    pub name: String,
    pub sequence: u64,
}

impl Writer {
    pub fn new(attempt: u32) -> Self {
        Self {
            name: format!("{RUN}/{attempt}/0"),
            sequence: 0,
        }
    }

    pub fn record(&mut self, body: Body) -> Record {
        self.sequence += 1;
        Record {
            writer: self.name.clone(),
            sequence: self.sequence - 1,
            time: 1e9 + self.sequence as f64,
            body,
        }
    }

    pub fn event(&mut self, kind: EventKind, step: u64) -> Record {
        self.record(Body::Event(LifecycleEvent {
            kind,
            step: Some(step),
            message: format!("{kind:?}"),
        }))
    }

    pub fn step(&mut self, step: u64, scalars: &[(&str, f64)]) -> Record {
        self.record(Body::Metrics(MetricBatch {
            step,
            tokens: step.saturating_mul(100),
            scalars: scalars.iter().map(|&(name, value)| (name.to_owned(), value)).collect(),
            matrices: BTreeMap::new(),
        }))
    }

    pub async fn send(&self, store: &Store, run: &RunRow, records: &[Record]) -> Result<Ingested, Error> {
        let previous = records[0].sequence.checked_sub(1);
        store
            .ingest(
                run,
                &Batch {
                    writer: &self.name,
                    previous,
                    records,
                },
            )
            .await
    }
}

/// The points of a series as the whole run's resolved view has them.
pub async fn points(store: &Store, run: &RunRow, name: &str, from: u64, to: u64) -> Vec<(u64, f64)> {
    let series = store.series_by_name(run.id, name).await.unwrap().id;
    let mut points = Vec::new();
    let mut at = from;
    while at <= to {
        let range = Range {
            from: at,
            to: to.min(at + 3_999),
            buckets: 4_000,
        };
        let window = store.window(run.id, &[series], range, View::Resolved).await.unwrap();
        assert_eq!(window.bucket_bits, 0);
        points.extend(window.series[&series].iter().map(|bucket| {
            assert_eq!(bucket.count, 1, "step {}", bucket.last_step);
            (bucket.last_step, bucket.last)
        }));
        at += 4_000;
    }
    points
}

pub fn loss(step: u64) -> f64 {
    10.0 / (1.0 + step as f64).sqrt() + ((step * 7919) % 13) as f64 * 0.001
}
