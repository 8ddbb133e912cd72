//! The outermost layer: request id, span and metrics of each request, the body of every problem, and the headers of every answer.

use crate::Api;
use crate::problem::Problem;
use crate::secret::hex;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use std::any::Any;
use std::time::Instant;
use tower_http::catch_panic::ResponseForPanic;
use tracing::Instrument;

/// Header of the request id, in both directions.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the dashboard may load: its own files, inline styles (charts place their marks with them), and images it draws itself.
const PAGE_POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; \
                           base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// A shared worker lives under the policy of its script: it may read the event stream.
const SCRIPT_POLICY: &str = "default-src 'none'; connect-src 'self'; frame-ancestors 'none'";
/// Nothing else is a document.
const DATA_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// The layer.
pub(crate) async fn envelope(State(api): State<Api>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&api, request.headers());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    // A label of metrics: patterns, never paths, so that their number is bounded.
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |matched| matched.as_str().to_owned());
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = %route);
    let response = next.run(request).instrument(span.clone()).await;
    let response = complete(response, &path, &id);
    let elapsed = started.elapsed();
    let status = response.status().as_u16();
    api.telemetry.request(&route, method.as_str(), status, elapsed);
    tracing::debug!(parent: &span, http.status = status, duration_ms = elapsed.as_secs_f64() * 1e3, "answered {method} {path}");
    response
}

/// The id that the client chose, if it can stand in a log line, or a new one.
fn request_id(api: &Api, headers: &HeaderMap) -> String {
    let usable = |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    let chosen = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(usable);
    chosen.map_or_else(
        || {
            let salt = (api.config.clock)().timestamp_micros();
            format!("req_{}", hex(&api.secrets.fresh("request", salt)[..10]))
        },
        str::to_owned,
    )
}

/// Writes the problem of an unsuccessful answer and the headers of every answer.
fn complete(mut response: Response, path: &str, id: &str) -> Response {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let problem = response.extensions_mut().remove::<Problem>();
        let problem = problem.unwrap_or_else(|| Problem::of_status(status)).complete(path, id);
        *response.status_mut() = problem.status();
        let text = serde_json::to_vec(&problem).unwrap_or_default();
        *response.body_mut() = Body::from(text);
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::CONTENT_ENCODING);
        headers.remove(header::ETAG);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(REQUEST_ID, id);
    }
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let policy = if kind.starts_with(b"text/html") {
        PAGE_POLICY
    } else if kind.starts_with(b"text/javascript") {
        SCRIPT_POLICY
    } else {
        DATA_POLICY
    };
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What nobody declared cacheable is not: answers change with every step and hold a user's data.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// A panic of a handler is a problem like others. The panic hook has printed where it happened.
#[derive(Clone)]
pub(crate) struct Panicked;

impl ResponseForPanic for Panicked {
    type ResponseBody = Body;

    fn response_for_panic(&mut self, panic: Box<dyn Any + Send + 'static>) -> Response {
        use axum::response::IntoResponse;
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(panic = %message, "a handler panicked");
        Problem::of_status(axum::http::StatusCode::INTERNAL_SERVER_ERROR).into_response()
    }
}
