//! `POST /runs/{run}/metrics:batch`.

use crate::body::{self, Coding};
use crate::extract::Pairs;
use crate::live::LivePoint;
use crate::number::Number;
use crate::problem::{Code, Problem};
use crate::view::{Event, seconds};
use crate::{Api, monitor, runs};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use fathom_spec::record::{Body as RecordBody, Record};
use fathom_store::ingest::Batch;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// Points of one request that live readers are shown; a writer that sends more catches up, and readers fetch the curve.
const MOST_LIVE: usize = 501;

/// Records of one writer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MetricsBatch {
    /// `<run>/<attempt>/<rank>`.
    writer: String,
    /// Sequence number of the record that the sender has before these, if it has one: the answer is 409 if that one is not durable. A sender
    /// that asks with no records learns whether the server has what it sent before.
    #[serde(default)]
    previous: Option<u64>,
    /// The records, ascending by sequence number.
    #[schema(value_type = Vec<crate::view::Record>)]
    records: Vec<Record>,
}

/// What is durable now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetricsAccepted {
    /// The writer.
    writer: String,
    /// All its records up to this one are durable; none before the first.
    durable_sequence: Option<u64>,
    /// Records that were there already.
    duplicates: usize,
}

/// Takes in records of a worker: JSON, or NDJSON with one record a line; all or nothing. Records that are there already are skipped.
#[utoipa::path(post, path = "/runs/{run}/metrics:batch", operation_id = "ingestMetrics", tag = "ingest",
    params(("run" = String, Path), ("Content-Encoding" = Option<String>, Header, description = "`zstd`, `gzip` or `identity`."),
           ("previous" = Option<u64>, Query, description = "As `previous` of the JSON body, for NDJSON.")),
    request_body(content((MetricsBatch = "application/json"), (String = "application/x-ndjson"))),
    responses((status = 200, body = MetricsAccepted),
              (status = 409, description = "Records before these are missing; `expectedSequence` says from where."),
              (status = 422)))]
pub(super) async fn metrics(
    State(api): State<Api>,
    Path(run): Path<String>,
    pairs: Pairs,
    headers: HeaderMap,
    content: Body,
) -> Result<Json<MetricsAccepted>, Problem> {
    let coding = Coding::of(&headers)?;
    let lines = match body::media_type(&headers).as_str() {
        "application/json" => false,
        "application/x-ndjson" | "application/jsonl" | "application/ndjson" => true,
        other => return Err(body::unsupported(other, "application/json, application/x-ndjson")),
    };
    let previous = pairs.one("previous")?;
    let limit = api.config.limits.ingest_bytes;
    let bytes = body::read(&api.config, &headers, content, limit).await?;
    // Eight megabytes of JSON take longer than a thread that serves requests should.
    let parsed = tokio::task::spawn_blocking(move || parse(&coding.decode(bytes, limit)?, lines, previous)).await;
    let batch = parsed.map_err(|error| Problem::internal("a batch could not be read", &error))??;
    check(&batch, api.config.limits.ingest_points)?;
    let row = runs::find(&api, &run).await?;
    store(&api, &row, batch).await.map(Json)
}

fn parse(bytes: &[u8], lines: bool, previous: Option<u64>) -> Result<MetricsBatch, Problem> {
    if !lines {
        return body::parse(bytes);
    }
    let mut records: Vec<Record> = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let record = serde_json::from_slice(line).map_err(|error| {
            let detail = format!("Line {} is not a record: {error}.", index + 1);
            Problem::new(Code::INVALID_BODY, detail)
        })?;
        records.push(record);
    }
    let writer = records.first().map(|record| record.writer.clone());
    let writer = writer.ok_or_else(|| Problem::new(Code::INVALID_BODY, "The body holds no record."))?;
    Ok(MetricsBatch { writer, previous, records })
}

fn check(batch: &MetricsBatch, most: usize) -> Result<(), Problem> {
    if let Some(index) = batch.records.iter().position(|record| record.writer != batch.writer) {
        let detail = format!(
            "Record {index} is of another writer than `{}`.",
            crate::problem::shorten(&batch.writer)
        );
        return Err(Problem::new(Code::INVALID, detail).at(format!("/records/{index}/writer"), "expected the writer of the request"));
    }
    let points: usize = batch.records.iter().map(points).sum();
    if points > most {
        let detail = format!("The batch holds {points} points (scalars and matrices); a request may hold {most}.");
        return Err(Problem::new(Code::TOO_LARGE, detail).hint("Send it in parts."));
    }
    Ok(())
}

fn points(record: &Record) -> usize {
    match &record.body {
        RecordBody::Metrics(batch) => batch.scalars.len() + batch.matrices.len(),
        RecordBody::Event(_) | RecordBody::Progress(_) => 0,
    }
}

async fn store(api: &Api, run: &fathom_store::runs::RunRow, batch: MetricsBatch) -> Result<MetricsAccepted, Problem> {
    let MetricsBatch { writer, previous, records } = batch;
    let stored = Batch {
        writer: &writer,
        previous,
        records: &records,
    };
    let ingested = api.timed("ingest", api.store.ingest(run, &stored)).await?;
    api.telemetry.ingested(ingested.points as u64, ingested.duplicates as u64);
    let new = records.get(ingested.first_new..).unwrap_or_default();
    announce(api, &run.name, &writer, new, ingested.events);
    if !new.is_empty()
        && let Err(problem) = observe(api, run, new).await
    {
        // The records are durable: the sender must not send them again because the verdict failed.
        tracing::warn!(run.name = %run.name, problem.code = problem.code(), "the health of a run could not be judged");
    }
    Ok(MetricsAccepted {
        writer,
        durable_sequence: ingested.durable_sequence,
        duplicates: ingested.duplicates,
    })
}

/// Judges the run as it is after the records.
async fn observe(api: &Api, run: &fathom_store::runs::RunRow, new: &[Record]) -> Result<(), Problem> {
    let row = runs::find(api, &run.name).await?;
    monitor::observe(api, &row, new).await
}

/// Tells live readers what is new.
fn announce(api: &Api, run: &str, writer: &str, new: &[Record], events: Vec<fathom_store::events::EventRow>) {
    for event in events {
        api.hub.event(&Event::from(event));
    }
    let attempt = writer.rsplit('/').nth(1).and_then(|attempt| attempt.parse().ok()).unwrap_or(0);
    let (mut points, mut matrices) = (Vec::new(), BTreeSet::new());
    for record in new {
        let RecordBody::Metrics(batch) = &record.body else { continue };
        matrices.extend(batch.matrices.keys().cloned());
        if points.len() < MOST_LIVE {
            points.push(LivePoint {
                step: batch.step,
                tokens: batch.tokens,
                time: seconds(record.time),
                attempt,
                scalars: batch.scalars.iter().map(|(name, &value)| (name.clone(), Number(value))).collect(),
            });
        }
    }
    if !points.is_empty() {
        api.hub.metrics(run, points, matrices);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(writer: &str, sequence: u64) -> String {
        format!(
            r#"{{"writer":"{writer}","sequence":{sequence},"time":1.5,"body":{{"metrics":{{"step":1,"tokens":2,"scalars":{{"a":1,"b":"NaN"}},"matrices":{{}}}}}}}}"#
        )
    }

    #[test]
    fn both_forms_are_read() {
        let text = format!("{}\n{}\n\n", line("w", 4), line("w", 5));
        let batch = parse(text.as_bytes(), true, Some(2)).unwrap();
        assert_eq!((batch.writer.as_str(), batch.records.len(), batch.previous), ("w", 2, Some(2)));
        let text = format!(r#"{{"writer":"w","records":[{}]}}"#, line("w", 4));
        let batch = parse(text.as_bytes(), false, None).unwrap();
        assert_eq!((batch.records.len(), batch.previous), (1, None));
        assert!(check(&batch, 2).is_ok());
        assert_eq!(check(&batch, 1).unwrap_err().code(), "tooLarge");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = parse(format!("{}\nrubbish", line("w", 0)).as_bytes(), true, None).unwrap_err();
        assert!(serde_json::to_string(&wrong).unwrap().contains("Line 2"));
        assert_eq!(parse(b"\n", true, None).unwrap_err().code(), "invalidBody");
        let text = format!("{}\n{}", line("w", 0), line("v", 1));
        let mixed = parse(text.as_bytes(), true, None).unwrap();
        assert_eq!(check(&mixed, 100).unwrap_err().code(), "invalid");
    }
}
