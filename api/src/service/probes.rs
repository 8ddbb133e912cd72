//! `/healthz`, `/readyz`, `/metrics`.

use crate::Api;
use crate::problem::{Code, Problem};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::time::Duration;

/// How long the database may take to answer a probe.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", operation_id = "healthz", tag = "service", security(()), responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether it can serve: its database answers.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "service", security(()),
    responses((status = 200, content_type = "text/plain", body = String)))]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    match patiently(async move { api.timed("ping", api.store.ping()).await }).await {
        Some(()) => Ok("ok\n"),
        None => Err(Problem::new(Code::UNAVAILABLE, "Not ready.").retry_after(2)),
    }
}

/// The server's own metrics, `OpenMetrics` text.
#[utoipa::path(get, path = "/metrics", operation_id = "serverMetrics", tag = "service",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    let asked = api.clone();
    if let Some(bytes) = patiently(async move { asked.timed("size", asked.store.size()).await }).await {
        api.telemetry.database(bytes);
    }
    let text = api
        .telemetry
        .text()
        .map_err(|error| Problem::internal("metrics cannot be written", &error))?;
    Ok((
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        text,
    ))
}

/// What the database answers in time. A question that takes longer is left to end: a query that is cut off takes its connection with it.
async fn patiently<T: Send + 'static>(question: impl Future<Output = Result<T, Problem>> + Send + 'static) -> Option<T> {
    let answer = tokio::time::timeout(PATIENCE, tokio::spawn(question)).await;
    answer.ok()?.ok()?.ok()
}
