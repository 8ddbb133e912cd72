//! Checks of where a request comes from. A web page that the user visits can send requests to loopback; it cannot forge `Host`, `Origin` or
//! `Sec-Fetch-Site`, and cannot add a header of our own.

use crate::problem::{Code, Problem};
use axum::http::{HeaderMap, Method, header};

/// What is checked of a request before anyone looks at its credential, in local mode.
pub(crate) fn guard(method: &Method, path: &str, headers: &HeaderMap, hosts: &[String]) -> Result<(), Problem> {
    check_host(headers, hosts)?;
    check_origin(headers)?;
    check_site(method, path, headers)
}

/// A name that resolves to loopback but is not ours (DNS rebinding) is refused.
fn check_host(headers: &HeaderMap, hosts: &[String]) -> Result<(), Problem> {
    let refused = || {
        let detail = "This server only answers to the name of the machine that it runs on.";
        Problem::new(Code::FOREIGN_HOST, detail).hint("Use the link that `fathom ui` prints.")
    };
    let host = text(headers, header::HOST.as_str()).ok_or_else(refused)?;
    let name = host_name(host);
    let loopback = ["127.0.0.1", "localhost", "[::1]"].iter().any(|own| own.eq_ignore_ascii_case(name));
    if loopback || hosts.iter().any(|own| own.eq_ignore_ascii_case(name)) {
        Ok(())
    } else {
        Err(refused())
    }
}

/// `Origin`, where a browser sends it, is this server.
fn check_origin(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let own = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")));
    let host = text(headers, header::HOST.as_str());
    if own.is_some() && own.map(str::to_ascii_lowercase) == host.map(str::to_ascii_lowercase) {
        Ok(())
    } else {
        Err(Problem::new(Code::FOREIGN_ORIGIN, "Pages of other sites may not use this server."))
    }
}

/// `Sec-Fetch-Site`, where a browser sends it, is this server, the address bar, or a link to a page.
fn check_site(method: &Method, path: &str, headers: &HeaderMap) -> Result<(), Problem> {
    let site = text(headers, "sec-fetch-site");
    let followed_link = *method == Method::GET && text(headers, "sec-fetch-mode") == Some("navigate") && !path.starts_with("/api/");
    match site {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) if followed_link => Ok(()),
        Some(_) => Err(Problem::new(Code::FOREIGN_ORIGIN, "Pages of other sites may not use this server.")),
    }
}

/// What a cookie-authenticated request must carry if it changes anything: browsers do not let other sites add it.
pub(super) fn check_csrf(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    let safe = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if safe || text(headers, "x-fathom-csrf") == Some("1") {
        Ok(())
    } else {
        let detail = "A request with a cookie that changes something needs the header `X-Fathom-Csrf: 1`.";
        Err(Problem::new(Code::CSRF, detail))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// A host without its port; an IPv6 address keeps its brackets.
fn host_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn check(method: &Method, path: &str, fields: &[(&str, &str)]) -> &'static str {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect();
        match guard(method, path, &headers, &["lab.example".into()]) {
            Ok(()) => "ok",
            Err(problem) if problem.code() == Code::FOREIGN_HOST.code => "host",
            Err(_) => "origin",
        }
    }

    #[test]
    fn hosts() {
        for (host, answer) in [
            ("127.0.0.1:8080", "ok"),
            ("LocalHost:1", "ok"),
            ("[::1]:9", "ok"),
            ("[::1]", "ok"),
            ("lab.example:80", "ok"),
            ("evil.example:8080", "host"),
            ("127.0.0.1.evil.example", "host"),
            ("127.0.0.1:80:evil", "host"),
            ("", "host"),
        ] {
            assert_eq!(check(&Method::GET, "/", &[("host", host)]), answer, "{host}");
        }
        assert_eq!(check(&Method::GET, "/", &[]), "host");
    }

    #[test]
    fn origins() {
        for (origin, answer) in [
            ("http://127.0.0.1:8080", "ok"),
            ("http://127.0.0.1:9090", "origin"),
            ("http://evil.example", "origin"),
            ("null", "origin"),
            ("127.0.0.1:8080", "origin"),
        ] {
            let fields = [("host", "127.0.0.1:8080"), ("origin", origin)];
            assert_eq!(check(&Method::POST, "/api/v1/jobs", &fields), answer, "{origin}");
        }
    }

    #[test]
    fn sites() {
        for (method, path, site, mode, answer) in [
            (Method::GET, "/api/v1/jobs", "same-origin", "cors", "ok"),
            (Method::GET, "/", "none", "navigate", "ok"),
            (Method::GET, "/jobs/a", "cross-site", "navigate", "ok"),
            (Method::GET, "/api/v1/jobs", "cross-site", "navigate", "origin"),
            (Method::GET, "/assets/app.js", "cross-site", "no-cors", "origin"),
            (Method::POST, "/", "cross-site", "navigate", "origin"),
            (Method::GET, "/api/v1/jobs", "same-site", "cors", "origin"),
        ] {
            let fields = [("host", "localhost"), ("sec-fetch-site", site), ("sec-fetch-mode", mode)];
            assert_eq!(check(&method, path, &fields), answer, "{path} {site} {mode}");
        }
    }

    #[test]
    fn csrf() {
        let mut headers = HeaderMap::new();
        assert!(check_csrf(&Method::GET, &headers).is_ok());
        assert!(check_csrf(&Method::DELETE, &headers).is_err());
        headers.insert("x-fathom-csrf", HeaderValue::from_static("1"));
        assert!(check_csrf(&Method::DELETE, &headers).is_ok());
    }
}
