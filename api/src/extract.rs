//! Extractors whose rejections are problems.

use crate::Api;
use crate::auth::Principal;
use crate::body;
use crate::problem::{Code, Problem};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

/// Query parameters. Unknown ones are ignored, as the conventions say for reads.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let axum::extract::Query(value) = axum::extract::Query::try_from_uri(&parts.uri)
            .map_err(|rejection| Problem::new(Code::INVALID_QUERY, format!("{}.", rejection.body_text())))?;
        Ok(Self(value))
    }
}

/// Query parameters in order, for those that may be repeated.
#[derive(Debug, Default)]
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    /// Every value of a parameter, empty ones left out.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(own, value)| own == name && !value.is_empty());
        values.map(|(_, value)| value.clone()).collect()
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one<T: std::str::FromStr<Err: std::fmt::Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        match self.all(name).as_slice() {
            [] => Ok(None),
            [text] => text
                .parse()
                .map(Some)
                .map_err(|error: T::Err| Problem::query(name, error.to_string())),
            [_, _, ..] => Err(Problem::query(name, "is given more than once")),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Pairs {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Query::from_request_parts(parts, state).await.map(|Query(pairs)| Self(pairs))
    }
}

/// A JSON body.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (parts, content) = request.into_parts();
        let kind = body::media_type(&parts.headers);
        if kind != "application/json" && !kind.ends_with("+json") {
            return Err(body::unsupported(&kind, "application/json"));
        }
        let bytes = body::read(&api.config, &parts.headers, content, api.config.limits.body_bytes).await?;
        body::parse(&bytes).map(Self)
    }
}

/// A request that changes something: who asks, its headers, and its whole body.
pub(crate) struct Command {
    pub(crate) principal: Principal,
    pub(crate) method: axum::http::Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl FromRequest<Api> for Command {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        let (mut parts, content) = request.into_parts();
        let principal = Principal::from_request_parts(&mut parts, api).await?;
        let body = body::read(&api.config, &parts.headers, content, api.config.limits.body_bytes).await?;
        Ok(Self {
            principal,
            method: parts.method,
            path: parts.uri.path().to_owned(),
            headers: parts.headers,
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_may_be_repeated_where_that_is_meant() {
        let pairs = [("a", "1"), ("a", "2"), ("b", "3"), ("c", ""), ("d", "x")];
        let pairs = Pairs(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect());
        assert_eq!(pairs.all("a"), ["1", "2"]);
        assert_eq!(pairs.one::<u64>("b").unwrap(), Some(3));
        assert_eq!(pairs.one::<u64>("c").unwrap(), None);
        assert_eq!(pairs.one::<u64>("a").unwrap_err().code(), "invalidQuery");
        assert_eq!(pairs.one::<u64>("d").unwrap_err().code(), "invalidQuery");
    }
}
