//! The one error of the API: RFC 9457 `application/problem+json`. Handlers return a [`Problem`]; the outermost layer (`envelope.rs`) fills in
//! what only it knows (path, request id) and writes the body, so that answers of axum itself (405, 404) look the same.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::error::Error;
use std::fmt::Write;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// Prefix of every problem's `type`.
const TYPE_PREFIX: &str = "https://fathom.dev/problems/";

/// A kind of problem: a stable code for programs, a status and a title for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) code: &'static str,
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
}

macro_rules! codes {
    ($($name:ident = $status:ident $code:literal $title:literal;)*) => {
        impl Code {
            $(pub(crate) const $name: Self = Self { code: $code, status: StatusCode::$status, title: $title };)*
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

codes! {
    BAD_REQUEST = BAD_REQUEST "badRequest" "The request cannot be understood";
    INVALID_QUERY = BAD_REQUEST "invalidQuery" "A query parameter is not valid";
    INVALID_BODY = BAD_REQUEST "invalidBody" "The body is not valid";
    INVALID_CURSOR = BAD_REQUEST "invalidCursor" "The cursor does not belong to this list";
    UNAUTHENTICATED = UNAUTHORIZED "unauthenticated" "Authentication is needed";
    FORBIDDEN = FORBIDDEN "forbidden" "Not allowed";
    FOREIGN_HOST = FORBIDDEN "foreignHost" "The request names a host that is not this server";
    FOREIGN_ORIGIN = FORBIDDEN "foreignOrigin" "The request comes from another site";
    CSRF = FORBIDDEN "csrfHeaderMissing" "A header against forged requests is missing";
    MISSING_SCOPE = FORBIDDEN "missingScope" "The token lacks a scope";
    NOT_FOUND = NOT_FOUND "notFound" "Not found";
    METHOD_NOT_ALLOWED = METHOD_NOT_ALLOWED "methodNotAllowed" "The method is not allowed here";
    NOT_ACCEPTABLE = NOT_ACCEPTABLE "notAcceptable" "No such representation";
    REQUEST_TIMEOUT = REQUEST_TIMEOUT "requestTimeout" "The request took too long to arrive";
    CONFLICT = CONFLICT "conflict" "The state does not allow this";
    SEQUENCE_GAP = CONFLICT "sequenceGap" "Records are missing before these";
    IN_PROGRESS = CONFLICT "requestInProgress" "The first request with this key is still running";
    GONE = GONE "cursorExpired" "The cursor has expired";
    PRECONDITION_FAILED = PRECONDITION_FAILED "stale" "The resource has changed";
    PRECONDITION_REQUIRED = PRECONDITION_REQUIRED "preconditionRequired" "A precondition is needed";
    TOO_LARGE = PAYLOAD_TOO_LARGE "tooLarge" "The body is too large";
    URI_TOO_LONG = URI_TOO_LONG "uriTooLong" "The address is too long";
    UNSUPPORTED_MEDIA_TYPE = UNSUPPORTED_MEDIA_TYPE "unsupportedMediaType" "The body has an unsupported type";
    INVALID_MANIFEST = UNPROCESSABLE_ENTITY "invalidManifest" "The manifest is not valid";
    INVALID = UNPROCESSABLE_ENTITY "invalid" "The content is not valid";
    KEY_REUSED = UNPROCESSABLE_ENTITY "idempotencyKeyReused" "The key was used for another request";
    RATE_LIMITED = TOO_MANY_REQUESTS "rateLimited" "Too many requests";
    HEADERS_TOO_LARGE = REQUEST_HEADER_FIELDS_TOO_LARGE "headersTooLarge" "The headers are too large";
    INTERNAL = INTERNAL_SERVER_ERROR "internal" "Something went wrong in the server";
    OVERLOADED = SERVICE_UNAVAILABLE "overloaded" "The server is busy";
    UNAVAILABLE = SERVICE_UNAVAILABLE "unavailable" "A part of the server is not available";
    TIMEOUT = GATEWAY_TIMEOUT "timeout" "The answer took too long";
}

impl Code {
    /// The kind that stands for a bare status, as axum answers it.
    pub(crate) fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::UNAUTHENTICATED,
            StatusCode::FORBIDDEN => Self::FORBIDDEN,
            StatusCode::NOT_FOUND => Self::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED => Self::METHOD_NOT_ALLOWED,
            StatusCode::NOT_ACCEPTABLE => Self::NOT_ACCEPTABLE,
            StatusCode::REQUEST_TIMEOUT => Self::REQUEST_TIMEOUT,
            StatusCode::CONFLICT => Self::CONFLICT,
            StatusCode::GONE => Self::GONE,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TOO_LARGE,
            StatusCode::URI_TOO_LONG => Self::URI_TOO_LONG,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::UNPROCESSABLE_ENTITY => Self::INVALID,
            StatusCode::TOO_MANY_REQUESTS => Self::RATE_LIMITED,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => Self::HEADERS_TOO_LARGE,
            StatusCode::SERVICE_UNAVAILABLE => Self::UNAVAILABLE,
            StatusCode::GATEWAY_TIMEOUT => Self::TIMEOUT,
            other if other.is_client_error() => Self {
                status: other,
                ..Self::BAD_REQUEST
            },
            _ => Self::INTERNAL,
        }
    }
}

/// One wrong part of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProblemDetail {
    /// JSON pointer into the body, or the name of a query parameter.
    pub pointer: String,
    /// What is wrong with it.
    pub detail: String,
}

/// The body of every answer that is not a success (RFC 9457). Boxed, so that a [`Result`] with it stays small.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub struct Problem(Box<Content>);

/// The body of every answer that is not a success (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Content {
    /// Address of the kind of problem.
    #[serde(rename = "type")]
    kind: String,
    /// The kind in a few words.
    title: String,
    /// HTTP status.
    status: u16,
    /// What happened.
    detail: String,
    /// Path of the request.
    instance: String,
    /// The kind for programs.
    code: String,
    /// Each wrong part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<ProblemDetail>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Identity of the request, also in the header `x-request-id` and in the server's log.
    request_id: String,
    /// Where the writer's stream goes on (code `sequenceGap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_sequence: Option<u64>,
    /// Byte at which a worker's log goes on (code `sequenceGap`).
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_offset: Option<u64>,
    #[serde(skip)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl PartialSchema for Problem {
    fn schema() -> RefOr<Schema> {
        Content::schema()
    }
}

impl ToSchema for Problem {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        Content::schemas(schemas);
    }
}

impl Problem {
    /// A problem of a kind, with what happened.
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Content {
            kind: format!("{TYPE_PREFIX}{}", code.code),
            title: code.title.to_owned(),
            status: code.status.as_u16(),
            detail: detail.into(),
            instance: String::new(),
            code: code.code.to_owned(),
            errors: Vec::new(),
            hint: None,
            request_id: String::new(),
            expected_sequence: None,
            expected_offset: None,
            headers: Vec::new(),
        }))
    }

    /// What a bare status means.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let code = Code::of(status);
        Self::new(code, format!("{}.", code.title))
    }

    /// A fault of the server. Its causes are logged here, once; the client learns nothing of them.
    pub(crate) fn internal(what: &'static str, error: &dyn Error) -> Self {
        tracing::error!(error = %chain(error), "{what}");
        Self::new(
            Code::INTERNAL,
            "The server could not answer; its log has the cause under this request id.",
        )
    }

    /// No such thing.
    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(Code::NOT_FOUND, format!("There is no {what} `{}`.", shorten(name)))
    }

    /// A query parameter that cannot be used.
    pub(crate) fn query(name: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self::new(Code::INVALID_QUERY, format!("`{name}`: {detail}")).at(name, detail)
    }

    /// Adds a wrong part.
    #[must_use]
    pub(crate) fn at(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.0.errors.push(ProblemDetail {
            pointer: pointer.into(),
            detail: detail.into(),
        });
        self
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds where a writer's stream goes on.
    #[must_use]
    pub(crate) fn expected_sequence(mut self, sequence: u64) -> Self {
        self.0.expected_sequence = Some(sequence);
        self
    }

    /// Adds the byte at which a worker's log goes on.
    #[must_use]
    pub(crate) fn expected_offset(mut self, offset: u64) -> Self {
        self.0.expected_offset = Some(offset);
        self
    }

    /// Adds a header of the answer.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.0.headers.push((name, value));
        }
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        self.header(header::RETRY_AFTER, seconds)
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The kind for programs.
    #[must_use]
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// Completes the problem of a request.
    pub(crate) fn complete(mut self, instance: &str, request_id: &str) -> Self {
        self.0.instance = instance.to_owned();
        self.0.request_id = request_id.to_owned();
        self
    }
}

impl IntoResponse for Problem {
    /// The status with the problem beside it: the envelope writes the body.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        for (name, value) in &self.0.headers {
            response.headers_mut().insert(name, value.clone());
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A name of the client's as it may be repeated to it.
pub(crate) fn shorten(text: &str) -> String {
    const SHOWN: usize = 100;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let mut start: String = text.chars().take(SHOWN).collect();
    start.push('…');
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn codes_are_unique_and_no_success() {
        let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.code).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.status.is_client_error() || code.status.is_server_error(), "{}", code.code);
        }
    }

    #[test]
    fn a_bare_status_keeps_its_status() {
        for status in [
            400, 401, 403, 404, 405, 406, 408, 409, 410, 413, 414, 415, 418, 422, 429, 431, 500, 503, 504,
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(Problem::of_status(status).status(), status);
        }
        assert_eq!(
            Problem::of_status(StatusCode::NOT_IMPLEMENTED).status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
    }

    #[test]
    fn causes_are_logged_in_one_line() {
        #[derive(Debug, thiserror::Error)]
        #[error("reading failed")]
        struct Outer(#[source] std::fmt::Error);
        assert_eq!(chain(&Outer(std::fmt::Error)), format!("reading failed: {}", std::fmt::Error));
    }

    #[test]
    fn names_are_repeated_shortened() {
        assert_eq!(shorten("abc"), "abc");
        assert_eq!(shorten(&"é".repeat(200)).chars().count(), 101);
    }
}
