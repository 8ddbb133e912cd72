//! Entity tags. A job's representation changes with every step, its version only with its state, so a tag has two parts:
//! `"<identity>-<version>.<digest of the body>"`. `If-None-Match` looks at all of it, `If-Match` at identity and version.

use crate::problem::{Code, Problem};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// Identity and version of a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Version(String);

impl Version {
    /// `identity` separates resources that had the same name one after the other.
    pub(crate) fn new(identity: &str, version: i64) -> Self {
        let identity = blake3::hash(identity.as_bytes()).to_hex();
        Self(format!("{}-{version}", &identity[..8]))
    }

    fn tag(&self, body: &[u8]) -> String {
        let digest = blake3::hash(body).to_hex();
        format!("\"{}.{}\"", self.0, &digest[..16])
    }

    /// Checks `If-Match`. Without it, `required` decides.
    pub(crate) fn check(&self, headers: &HeaderMap, required: bool) -> Result<(), Problem> {
        let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
        if given.peek().is_none() {
            if required {
                let detail = "This needs `If-Match` with the `ETag` of what you have seen.";
                return Err(
                    Problem::new(Code::PRECONDITION_REQUIRED, detail).hint("GET the resource first; `If-Match: *` skips the check.")
                );
            }
            return Ok(());
        }
        // Weak tags never match: RFC 9110 demands strong comparison.
        let matches = |tag: &str| tag == "*" || tag.strip_prefix('"').and_then(|tag| tag.split('.').next()) == Some(self.0.as_str());
        if tags(given).iter().any(|tag| matches(tag)) {
            Ok(())
        } else {
            Err(
                Problem::new(Code::PRECONDITION_FAILED, "The resource has changed since you read it.")
                    .hint("GET it again, then decide anew."),
            )
        }
    }
}

fn tags<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<&'a str> {
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}

/// Whether `If-None-Match` names the tag, weakly compared.
pub(crate) fn none_match(headers: &HeaderMap, tag: &str) -> bool {
    let bare = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    tags(headers.get_all(header::IF_NONE_MATCH).iter())
        .iter()
        .any(|given| *given == "*" || bare(given) == bare(tag))
}

/// JSON with its tag, or 304 if the client has it.
pub(crate) fn tagged<T: Serialize>(status: StatusCode, version: &Version, view: &T, headers: &HeaderMap) -> Result<Response, Problem> {
    let body = serde_json::to_vec(view).map_err(|error| Problem::internal("a view cannot be written as JSON", &error))?;
    let tag = version.tag(&body);
    let fields = [
        (header::ETAG, HeaderValue::try_from(&tag).ok()),
        // The client may keep it but must ask each time.
        (header::CACHE_CONTROL, Some(HeaderValue::from_static("private, no-cache"))),
        (header::CONTENT_TYPE, Some(HeaderValue::from_static("application/json"))),
    ];
    let unchanged = status == StatusCode::OK && none_match(headers, &tag);
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        (status, body).into_response()
    };
    for (name, value) in fields {
        if let Some(value) = value {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::try_from(value).unwrap())])
    }

    #[test]
    fn if_match_looks_at_the_version() {
        let version = Version::new("uid", 3);
        let check = |value: &str| {
            version
                .check(&headers(header::IF_MATCH, value), true)
                .map_err(|problem| problem.status().as_u16())
        };
        assert_eq!(check(&version.tag(b"one")), Ok(()));
        assert_eq!(check(&version.tag(b"other")), Ok(()), "another loss is no other version");
        assert_eq!(check(&format!("\"x\", {}", version.tag(b""))), Ok(()));
        assert_eq!(check("*"), Ok(()));
        assert_eq!(check(&Version::new("uid", 4).tag(b"one")), Err(412));
        assert_eq!(check(&Version::new("other", 3).tag(b"one")), Err(412));
        assert_eq!(check(&format!("W/{}", version.tag(b"one"))), Err(412));
        assert_eq!(version.check(&HeaderMap::new(), true).unwrap_err().status().as_u16(), 428);
        assert!(version.check(&HeaderMap::new(), false).is_ok());
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        let version = Version::new("uid", 1);
        let first = tagged(StatusCode::OK, &version, &1, &HeaderMap::new()).unwrap();
        let tag = first.headers()[header::ETAG].to_str().unwrap();
        let send = |view: u8, tag: &str| {
            let answer = tagged(StatusCode::OK, &version, &view, &headers(header::IF_NONE_MATCH, tag));
            answer.unwrap().status().as_u16()
        };
        assert_eq!(send(1, tag), 304);
        assert_eq!(send(1, &format!("W/{tag}")), 304);
        assert_eq!(send(2, tag), 200);
    }
}
