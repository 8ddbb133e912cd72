//! `/openapi.json` and `/docs`, whose files are in the binary: they work without a network.

use crate::Api;
use crate::etag::none_match;
use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

/// The routes.
pub(crate) fn docs(document: &OpenApi) -> Router<Api> {
    // A document that cannot be written is a defect that the test of `openapi` finds.
    let text = Bytes::from(document.to_pretty_json().unwrap_or_default());
    let tag = format!("\"{}\"", &blake3::hash(&text).to_hex()[..24]);
    let serve = move |headers: HeaderMap| {
        let (text, tag) = (text.clone(), tag.clone());
        async move { openapi(&headers, text, &tag) }
    };
    // The page remembers nothing and sends nothing elsewhere: no validator badge.
    let config = Config::from("/openapi.json").validator_url("none");
    Router::new()
        .route("/openapi.json", get(serve))
        .merge(SwaggerUi::new("/docs").config(config))
}

fn openapi(headers: &HeaderMap, text: Bytes, tag: &str) -> Response {
    let unchanged = none_match(headers, tag);
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        text.into_response()
    };
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(tag) = HeaderValue::try_from(tag) {
        fields.insert(header::ETAG, tag);
    }
    response
}
