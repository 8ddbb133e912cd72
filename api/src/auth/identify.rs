//! From a request to its [`Principal`]: the layer in front of every route.

use super::guard::{check_csrf, guard};
use super::scope::required;
use super::{COOKIE, Principal, Scope, TOKEN_PREFIX, token_digest};
use crate::Api;
use crate::bounds::too_many;
use crate::config::Auth;
use crate::problem::{Code, Problem};
use axum::extract::{Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::time::Instant;

/// Where a credential was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Header,
    Cookie,
}

/// The layer.
pub(crate) async fn authenticate(State(api): State<Api>, request: Request, next: Next) -> Response {
    // The body cannot be shared with other threads while the database is asked.
    let (mut parts, body) = request.into_parts();
    match admit(&api, &parts).await {
        Ok(Admitted::Open) => next.run(Request::from_parts(parts, body)).await,
        Ok(Admitted::SignedIn(cookie)) => signed_in(cookie),
        Ok(Admitted::As(principal)) => {
            parts.extensions.insert(principal);
            next.run(Request::from_parts(parts, body)).await
        }
        // Whoever guesses has one bucket, shared by all who guess; a right credential never waits behind them.
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
            let taken = api.buckets.take("anonymous", Instant::now());
            if taken.allowed {
                problem.into_response()
            } else {
                too_many(&api, taken.wait).into_response()
            }
        }
        Err(problem) => problem.into_response(),
    }
}

enum Admitted {
    /// A probe, which needs no credential and learns nothing.
    Open,
    /// The link that `fathom ui` prints.
    SignedIn(HeaderValue),
    As(Principal),
}

async fn admit(api: &Api, request: &Parts) -> Result<Admitted, Problem> {
    let (method, path, headers) = (&request.method, request.uri.path(), &request.headers);
    if matches!(path, "/healthz" | "/readyz") {
        return Ok(Admitted::Open);
    }
    if matches!(api.config.auth, Auth::Local { .. }) {
        guard(method, path, headers, &api.config.hosts)?;
    }
    if let Some(secret) = secret_of_link(method, &request.uri) {
        let known = identify(api, &secret).await?;
        let cookie = known.and_then(|_| cookie(&secret, matches!(api.config.auth, Auth::Tokens)));
        return cookie.map(Admitted::SignedIn).ok_or_else(|| unknown(api));
    }
    let mut found = None;
    for (credential, carrier) in credentials(headers) {
        if let Some(principal) = identify(api, credential).await? {
            found = Some((principal, carrier));
            break;
        }
    }
    let (principal, carrier) = found.ok_or_else(|| unknown(api))?;
    if carrier == Carrier::Cookie {
        check_csrf(method, headers)?;
    }
    match required(method, path) {
        Some(scope) if !principal.may(scope) => {
            let detail = format!(
                "This needs the scope `{}`, which the token `{}` lacks.",
                scope.name(),
                principal.name
            );
            Err(Problem::new(Code::MISSING_SCOPE, detail))
        }
        Some(_) | None => Ok(Admitted::As(principal)),
    }
}

/// The credentials of a request, the header first. A browser may hold cookies of several servers of this machine: names do not include ports.
fn credentials(headers: &HeaderMap) -> Vec<(&str, Carrier)> {
    let bearer = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, credential)| (credential.trim(), Carrier::Header));
    let cookies = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, credential)| (credential, Carrier::Cookie));
    // More than a few are no browser's.
    bearer.into_iter().chain(cookies).take(8).collect()
}

/// Whose credential this is; nobody's if it is unknown or expired.
async fn identify(api: &Api, credential: &str) -> Result<Option<Principal>, Problem> {
    match &api.config.auth {
        // An empty secret would open the door to everyone.
        Auth::Local { secret } if !secret.is_empty() && api.secrets.equal(credential, secret) => return Ok(Some(Principal::local())),
        Auth::Local { .. } | Auth::Tokens => {}
    }
    if !credential.starts_with(TOKEN_PREFIX) || credential.len() > 200 {
        return Ok(None);
    }
    let now = (api.config.clock)();
    let Some(row) = api.timed("token", api.store.token(&token_digest(credential), now)).await? else {
        return Ok(None);
    };
    Ok(Some(Principal {
        key: format!("token:{}", row.id),
        name: row.name,
        scopes: row.scopes.iter().filter_map(|scope| Scope::parse(scope)).collect(),
        expires_at: Some(row.expires_at),
    }))
}

/// The same answer for a missing, a wrong and an expired credential.
fn unknown(api: &Api) -> Problem {
    let problem = Problem::new(Code::UNAUTHENTICATED, "The request carries no credential that this server knows.")
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"fathom\""));
    match api.config.auth {
        Auth::Local { .. } => problem.hint("`fathom ui` prints the link to open."),
        Auth::Tokens => problem.hint("Send `Authorization: Bearer fat_...`."),
    }
}

/// `GET /?secret=...`
fn secret_of_link(method: &Method, uri: &Uri) -> Option<String> {
    if *method != Method::GET || uri.path() != "/" {
        return None;
    }
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?;
    pairs.into_iter().find(|(name, _)| name == "secret").map(|(_, secret)| secret)
}

fn cookie(secret: &str, encrypted: bool) -> Option<HeaderValue> {
    let secure = if encrypted { "; Secure" } else { "" };
    HeaderValue::try_from(format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict{secure}")).ok()
}

/// On to the page without the secret in the address bar. The browser keeps it for as long as it is open.
fn signed_in(cookie: HeaderValue) -> Response {
    let fields = [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, HeaderValue::from_static("/")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::SEE_OTHER, fields).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_in_both_places() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=b; fathom_session=one; fathom_session=two"),
        );
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("bearer  three"));
        let found = credentials(&headers);
        assert_eq!(
            found,
            [("three", Carrier::Header), ("one", Carrier::Cookie), ("two", Carrier::Cookie)]
        );
        headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Basic abc"));
        assert_eq!(credentials(&headers).len(), 2);
    }

    #[test]
    fn links() {
        let secret = |method: Method, uri: &str| secret_of_link(&method, &uri.parse().unwrap());
        assert_eq!(secret(Method::GET, "/?secret=a%2Bb"), Some("a+b".into()));
        assert_eq!(secret(Method::GET, "/?x=1"), None);
        assert_eq!(secret(Method::POST, "/?secret=a"), None);
        assert_eq!(secret(Method::GET, "/jobs?secret=a"), None);
    }

    #[test]
    fn cookies_are_for_this_site_only() {
        let text = cookie("abc", false).unwrap();
        assert_eq!(text, "fathom_session=abc; Path=/; HttpOnly; SameSite=Strict");
        assert!(cookie("a\nb", false).is_none());
    }
}
