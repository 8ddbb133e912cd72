//! Layers that bound what one client, and all together, may take: time, requests at once, requests per second.

use crate::Api;
use crate::auth::Principal;
use crate::problem::{Code, Problem};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Refuses addresses with a NUL character: no name holds one, and the database has no text with one.
fn check_address(uri: &Uri) -> Result<(), Problem> {
    let query = uri.query().unwrap_or("");
    if uri.path().contains("%00") || query.contains("%00") {
        return Err(Problem::new(Code::BAD_REQUEST, "The address holds a NUL character."));
    }
    Ok(())
}

/// Bounds the number of requests at a time and the time of each, and finishes what a client no longer waits for: a statement that is cut off costs a
/// connection of the database, and the embedded one has no other. A live stream counts until its first byte only; the hub bounds their number.
pub(crate) async fn bound(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Ok(permit) = Arc::clone(&api.slots).try_acquire_owned() else {
        let detail = format!("The server is busy with {} requests.", api.config.limits.concurrent_requests);
        return Problem::new(Code::OVERLOADED, detail).retry_after(1).into_response();
    };
    let seconds = api.config.limits.request_seconds;
    let answer = tokio::spawn(async move {
        let _permit = permit;
        next.run(request).await
    });
    match tokio::time::timeout(Duration::from_secs(seconds), answer).await {
        Ok(Ok(response)) => response,
        // The layer around this one makes an answer of it.
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Problem::new(Code::UNAVAILABLE, "The server is shutting down.").into_response(),
        },
        Err(_) => Problem::new(Code::TIMEOUT, format!("The answer was not ready within {seconds} s.")).into_response(),
    }
}

/// Bounds the requests per second of a principal.
pub(crate) async fn throttle(State(api): State<Api>, request: Request, next: Next) -> Response {
    let Some(principal) = request.extensions().get::<Principal>() else {
        return next.run(request).await;
    };
    let taken = api.buckets.take(&principal.key, Instant::now());
    let (burst, window) = (api.buckets.burst(), api.buckets.window());
    let mut response = match check_address(request.uri()) {
        _ if !taken.allowed => too_many(&api, taken.wait).into_response(),
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    for (name, value) in [
        ("ratelimit-policy", format!("\"default\";q={burst};w={window}")),
        ("ratelimit", format!("\"default\";r={};t={}", taken.left, taken.wait)),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// The answer to a request too many.
pub(crate) fn too_many(api: &Api, wait: u64) -> Problem {
    let limits = &api.config.limits;
    let detail = format!(
        "More than {} requests per second, after a burst of {}.",
        limits.requests_per_second, limits.burst_requests
    );
    Problem::new(Code::RATE_LIMITED, detail).retry_after(wait)
}
