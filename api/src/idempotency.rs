//! `Idempotency-Key`: a POST that is sent twice is done once. The answer is kept for a day with a fingerprint of the request.

use crate::Api;
use crate::extract::Command;
use crate::problem::{Code, Problem};
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use fathom_store::idempotency::{Answer, Claim};
use std::future::Future;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const MOST_CHARACTERS: usize = 255;
/// Largest answer that is kept.
const MOST_BYTES: usize = 1 << 20;

/// Does `work` once per key. Only answers that would be the same the next time are kept: after a fault of the server, or a conflict with a
/// state that may change, the key can be used again.
pub(crate) async fn once(api: &Api, command: &Command, work: impl Future<Output = Result<Response, Problem>>) -> Result<Response, Problem> {
    let Some(key) = key(&command.headers)? else {
        return work.await;
    };
    let principal = &command.principal.key;
    let claim = api
        .timed("claim_key", api.store.claim_key(principal, &key, &fingerprint(command)))
        .await?;
    match claim {
        Claim::Claimed => {}
        Claim::Busy => return Err(Problem::new(Code::IN_PROGRESS, "The first request with this key has no answer yet.").retry_after(1)),
        Claim::Other => {
            let detail = "This Idempotency-Key was used for a request with another path or body.";
            return Err(Problem::new(Code::KEY_REUSED, detail).hint("Use a new key for each new request."));
        }
        Claim::Answered(answer) => return Ok(replay(answer)),
    }
    let done = match work.await {
        Ok(response) => keep(api, principal, &key, response).await,
        Err(problem) => Err(problem),
    };
    if done.is_err() {
        // If this fails too, the claim expires by itself.
        let _ = api.timed("release_key", api.store.release_key(principal, &key)).await;
    }
    done
}

/// Stores a successful answer and returns it.
async fn keep(api: &Api, principal: &str, key: &str, response: Response) -> Result<Response, Problem> {
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, MOST_BYTES)
        .await
        .map_err(|error| Problem::internal("an answer is too large to be kept", &error))?;
    let location = parts
        .headers
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let answer = Answer {
        status: parts.status.as_u16(),
        location,
        body: body.to_vec(),
    };
    api.timed("finish_key", api.store.finish_key(principal, key, &answer)).await?;
    Ok(Response::from_parts(parts, Body::from(body)))
}

/// The answer again.
fn replay(answer: Answer) -> Response {
    let Answer { status, location, body } = answer;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(location) = location.and_then(|location| HeaderValue::try_from(location).ok()) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// The key of a request.
fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(KEY) else { return Ok(None) };
    let printable = |text: &&str| (1..=MOST_CHARACTERS).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    // The draft says a structured-field string, in quotes; most clients send it bare.
    let text = value.to_str().ok().map(|text| text.trim().trim_matches('"')).filter(printable);
    let wrong = || {
        Problem::new(
            Code::BAD_REQUEST,
            format!("`Idempotency-Key` has 1 to {MOST_CHARACTERS} printable ASCII characters."),
        )
    };
    text.map(|text| Some(text.to_owned())).ok_or_else(wrong)
}

/// What makes two requests the same.
fn fingerprint(command: &Command) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for part in [command.method.as_str().as_bytes(), command.path.as_bytes(), &command.body] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Principal;
    use axum::http::Method;

    #[test]
    fn keys() {
        let read = |value: &str| key(&HeaderMap::from_iter([(KEY, HeaderValue::try_from(value).unwrap())]));
        assert_eq!(read("\"abc\"").unwrap().as_deref(), Some("abc"));
        assert_eq!(read("abc").unwrap().as_deref(), Some("abc"));
        assert!(read("").is_err() && read(&"a".repeat(256)).is_err());
        assert_eq!(key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn the_fingerprint_sees_method_path_and_body() {
        let command = |path: &str, body: &str| Command {
            principal: Principal::local(),
            method: Method::POST,
            path: path.into(),
            headers: HeaderMap::new(),
            body: body.into(),
        };
        assert_eq!(fingerprint(&command("/a", "b")), fingerprint(&command("/a", "b")));
        assert_ne!(fingerprint(&command("/a", "b")), fingerprint(&command("/ab", "")));
        assert_ne!(fingerprint(&command("/a", "b")), fingerprint(&command("/a", "c")));
    }

    #[test]
    fn a_replay_says_so() {
        let response = replay(Answer {
            status: 202,
            location: Some("/api/v1/jobs/a".into()),
            body: b"{}".to_vec(),
        });
        assert_eq!(response.status().as_u16(), 202);
        assert_eq!(response.headers()[REPLAYED], "true");
        assert_eq!(response.headers()[header::LOCATION], "/api/v1/jobs/a");
    }
}
