//! `POST /runs/{run}/logs:batch`.

use crate::body::{self, Coding};
use crate::problem::{Code, Problem};
use crate::view::LogLevel;
use crate::{Api, runs};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use fathom_store::logs::{LogFilter, NewLine};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A line of a worker's log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReportedLine {
    /// Byte of the log at which it begins.
    position: u64,
    /// When it was seen, in seconds since the Unix epoch.
    time: f64,
    /// Weight.
    #[schema(value_type = LogLevel)]
    level: String,
    /// The text.
    text: String,
}

/// Lines of one worker's log.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct LogsBatch {
    /// Attempt, from 1.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    attempt: i32,
    /// Rank of the worker, from 0.
    #[schema(minimum = 0, maximum = 2_147_483_647)]
    rank: i32,
    /// Byte of the log at which these lines begin.
    offset: u64,
    /// The lines, in order.
    lines: Vec<ReportedLine>,
    /// Byte after the last of them.
    next_offset: u64,
}

/// What is durable now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LogsAccepted {
    /// The log is durable up to this byte.
    durable_offset: u64,
}

/// Takes in lines of a worker's log. Lines that are there already are skipped.
#[utoipa::path(post, path = "/runs/{run}/logs:batch", operation_id = "ingestLogs", tag = "ingest",
    params(("run" = String, Path), ("Content-Encoding" = Option<String>, Header, description = "`zstd`, `gzip` or `identity`.")),
    request_body = LogsBatch,
    responses((status = 200, body = LogsAccepted),
              (status = 409, description = "Bytes before these are missing; `expectedOffset` says from where."),
              (status = 422)))]
pub(super) async fn logs(
    State(api): State<Api>,
    Path(run): Path<String>,
    headers: HeaderMap,
    content: Body,
) -> Result<Json<LogsAccepted>, Problem> {
    let coding = Coding::of(&headers)?;
    let kind = body::media_type(&headers);
    if kind != "application/json" {
        return Err(body::unsupported(&kind, "application/json"));
    }
    let limit = api.config.limits.ingest_bytes;
    let bytes = body::read(&api.config, &headers, content, limit).await?;
    let parsed = tokio::task::spawn_blocking(move || body::parse::<LogsBatch>(&coding.decode(bytes, limit)?)).await;
    let batch = parsed.map_err(|error| Problem::internal("a batch could not be read", &error))??;
    check(&batch, api.config.limits.ingest_lines)?;
    let row = runs::find(&api, &run).await?;
    let lines: Vec<NewLine<'_>> = batch
        .lines
        .iter()
        .map(|line| NewLine {
            position: line.position,
            time: line.time,
            level: &line.level,
            text: &line.text,
        })
        .collect();
    let stored = api
        .store
        .add_lines(row.id, batch.attempt, batch.rank, batch.offset, &lines, batch.next_offset)
        .await;
    let durable_offset = stored.map_err(|error| match error {
        fathom_store::Error::Gap { expected } => {
            let detail = format!("The log's bytes from {expected} on are missing.");
            Problem::new(Code::SEQUENCE_GAP, detail).expected_offset(expected)
        }
        other => other.into(),
    })?;
    api.telemetry.logged(lines.len() as u64);
    let newest = api
        .timed("lines_before", api.store.lines_before(&[row.id], &LogFilter::default(), None, 1))
        .await?;
    if let Some(line) = newest.items.first().filter(|_| !lines.is_empty()) {
        api.hub.log(&row.name, line.id);
    }
    Ok(Json(LogsAccepted { durable_offset }))
}

fn check(batch: &LogsBatch, most: usize) -> Result<(), Problem> {
    if batch.lines.len() > most {
        let detail = format!("The batch holds {} lines; a request may hold {most}.", batch.lines.len());
        return Err(Problem::new(Code::TOO_LARGE, detail).hint("Send it in parts."));
    }
    let wrong = |pointer: &str, detail: &str| Err(Problem::new(Code::INVALID, "A part of the batch is not valid.").at(pointer, detail));
    if batch.attempt < 1 || batch.rank < 0 {
        return wrong("/attempt", "attempts count from 1, ranks from 0");
    }
    if batch.next_offset < batch.offset {
        return wrong("/nextOffset", "expected at least `offset`");
    }
    for (index, line) in batch.lines.iter().enumerate() {
        if !["error", "warn", "info", "debug"].contains(&line.level.as_str()) {
            return wrong(&format!("/lines/{index}/level"), "expected error, warn, info or debug");
        }
        if !(batch.offset..batch.next_offset).contains(&line.position) {
            return wrong(&format!("/lines/{index}/position"), "expected a byte from `offset` to `nextOffset`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(level: &str, position: u64, offset: u64, next_offset: u64) -> LogsBatch {
        let line = ReportedLine {
            position,
            time: 0.0,
            level: level.into(),
            text: "a".into(),
        };
        LogsBatch {
            attempt: 1,
            rank: 0,
            offset,
            lines: vec![line],
            next_offset,
        }
    }

    #[test]
    fn batches_are_checked() {
        assert!(check(&batch("info", 5, 5, 7), 1).is_ok());
        for (wrong, code) in [
            (batch("loud", 5, 5, 7), "invalid"),
            (batch("info", 4, 5, 7), "invalid"),
            (batch("info", 7, 5, 7), "invalid"),
            (batch("info", 5, 7, 5), "invalid"),
        ] {
            assert_eq!(check(&wrong, 1).unwrap_err().code(), code);
        }
        assert_eq!(check(&batch("info", 5, 5, 7), 0).unwrap_err().code(), "tooLarge");
    }
}
