//! `GET /events` and `GET /runs/{run}/events`.

use super::offset::Offset;
use super::topic::gap;
use crate::Api;
use crate::problem::{Code, Problem};
use crate::telemetry::Telemetry;
use crate::view::{Event, LiveMessage};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

/// Proxies close connections that are silent for longer.
const COMMENT_PERIOD: Duration = Duration::from_secs(15);
/// Streams end after this time and come back with a credential that is checked again.
const LONGEST: Duration = Duration::from_secs(3600);
/// Events that are fetched for a reader that comes back; beyond it, it reads the list.
const MOST_MISSED: u32 = 500;

/// Everything that happens, as server-sent events.
#[utoipa::path(get, path = "/events", operation_id = "streamEvents", tag = "live",
    params(("Last-Event-ID" = Option<String>, Header, description = "Where to go on: the `id` of the last message that was seen.")),
    responses((status = 200, content_type = "text/event-stream", body = LiveMessage,
               description = "Messages `metrics`, `event`, `job`, `health`, `log`, `gap`.")))]
pub(crate) async fn all(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Problem> {
    open(&api, None, &headers).await
}

/// What happens in one run, as server-sent events.
#[utoipa::path(get, path = "/runs/{run}/events", operation_id = "streamRunEvents", tag = "live",
    params(("run" = String, Path), ("Last-Event-ID" = Option<String>, Header, description = "Where to go on: the `id` of the last message that was seen.")),
    responses((status = 200, content_type = "text/event-stream", body = LiveMessage,
               description = "Messages `metrics`, `event`, `health`, `log`, `gap`.")))]
pub(crate) async fn run(State(api): State<Api>, Path(run): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let row = api.timed("run", api.store.run(&api.config.project, &run)).await?;
    open(&api, Some((row.name, row.id)), &headers).await
}

/// Counts a reader for as long as its stream lives.
struct Reader {
    telemetry: Telemetry,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.telemetry.reader_closed();
    }
}

async fn open(api: &Api, run: Option<(String, i64)>, headers: &HeaderMap) -> Result<Response, Problem> {
    let permit = api.readers.clone().try_acquire_owned().map_err(|_| {
        let detail = format!("There are {} live streams already.", api.config.limits.live_readers);
        Problem::new(Code::OVERLOADED, detail).retry_after(30)
    })?;
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(Offset::parse);
    if !api.hub.has_begun() {
        // Without it, a reader that comes back after a restart would get all events there ever were.
        let newest = api.timed("last_event", api.store.last_event()).await?;
        api.hub.begin_after(newest);
    }
    let closed = || Problem::new(Code::UNAVAILABLE, "The server is stopping.").retry_after(5);
    let subscription = api
        .hub
        .subscribe(run.as_ref().map(|(name, _)| name.as_str()), last)
        .ok_or_else(closed)?;
    let mut first = subscription.first;
    if let Some(after) = subscription.events_after {
        first.extend(missed(api, run.map(|(_, id)| id), after).await?);
    }
    api.telemetry.reader_opened();
    let reader = Reader {
        telemetry: api.telemetry.clone(),
        _permit: permit,
    };
    let end = Instant::now() + LONGEST;
    let then = BroadcastStream::new(subscription.then).map(|message| match message {
        Ok(frame) => frame,
        Err(BroadcastStreamRecvError::Lagged(_)) => gap(),
    });
    let frames = tokio_stream::iter(first)
        .chain(then)
        .timeout_repeating(tokio::time::interval_at(Instant::now() + COMMENT_PERIOD, COMMENT_PERIOD))
        .map_while(move |frame| {
            let comment = Bytes::from_static(b": still here\n\n");
            let frame = frame.unwrap_or(comment);
            if frame == gap() {
                reader.telemetry.gap();
            }
            (Instant::now() < end).then_some(Ok::<Bytes, Infallible>(frame))
        });
    let fields = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would collect the stream otherwise.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((fields, Body::from_stream(frames)).into_response())
}

/// The events that a reader missed while it was away, without ids: its place is after them already.
async fn missed(api: &Api, run: Option<i64>, after: i64) -> Result<Vec<Bytes>, Problem> {
    let rows = api.timed("events_after", api.store.events_after(run, after, MOST_MISSED)).await?;
    let frames = rows.into_iter().filter_map(|row| {
        let data = serde_json::to_string(&Event::from(row)).ok()?;
        Some(Bytes::from(format!("event: event\ndata: {data}\n\n")))
    });
    Ok(frames.collect())
}
