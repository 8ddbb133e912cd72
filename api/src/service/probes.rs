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
    responses((status = 200, content_type = "text/plain", body = String),
              (status = 503, body = Problem, content_type = "application/problem+json")))]
pub(super) async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    match tokio::time::timeout(PATIENCE, api.timed("ping", api.store.ping())).await {
        Ok(Ok(())) => Ok("ok\n"),
        Ok(Err(_)) | Err(_) => Err(Problem::new(Code::UNAVAILABLE, "Not ready.").retry_after(2)),
    }
}

/// The server's own metrics, `OpenMetrics` text.
#[utoipa::path(get, path = "/metrics", operation_id = "serverMetrics", tag = "service",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, Problem> {
    let text = api
        .telemetry
        .text()
        .map_err(|error| Problem::internal("metrics cannot be written", &error))?;
    Ok((
        [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
        text,
    ))
}
