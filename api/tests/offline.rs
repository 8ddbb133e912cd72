//! The router without a database: who may ask, what is refused and how it is said.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

mod common;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use common::{SECRET, get, offline, offline_with, request, send};
use fathom_api::Auth;
use std::io::Write;

fn plain(method: Method, path: &str, fields: &[(&str, &str)]) -> Request<Body> {
    let request = fields
        .iter()
        .fold(Request::builder().method(method).uri(path), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn nothing_is_told_without_the_secret() {
    let router = offline();
    for path in [
        "/",
        "/api/v1/jobs",
        "/api/v1/version",
        "/openapi.json",
        "/docs/",
        "/metrics",
        "/assets/app.js",
        "/nothing",
    ] {
        for credential in [
            ("x-nothing", ""),
            ("authorization", "Bearer wrong"),
            ("cookie", "fathom_session=wrong"),
            ("authorization", "Bearer "),
        ] {
            let reply = send(&router, plain(Method::GET, path, &[("host", "localhost:1"), credential])).await;
            assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "{path} {credential:?}");
            assert_eq!(reply.problem(), "unauthenticated");
            assert!(reply.json()["hint"].as_str().unwrap().contains("fathom ui"));
        }
    }
}

#[tokio::test]
async fn probes_need_no_secret_and_reveal_nothing() {
    let router = offline();
    let alive = send(&router, plain(Method::GET, "/healthz", &[])).await;
    assert_eq!((alive.status, alive.body.as_slice()), (StatusCode::OK, b"ok\n".as_slice()));
    let ready = send(&router, plain(Method::GET, "/readyz", &[])).await;
    assert_eq!(
        (ready.status, ready.problem().as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    );
    assert_eq!(ready.json()["detail"], "Not ready.");
}

#[tokio::test]
async fn the_link_sets_the_cookie() {
    let router = offline();
    let reply = send(
        &router,
        plain(Method::GET, &format!("/?secret={SECRET}"), &[("host", "127.0.0.1:9")]),
    )
    .await;
    assert_eq!((reply.status, reply.header("location")), (StatusCode::SEE_OTHER, "/"));
    assert_eq!(
        reply.header("set-cookie"),
        format!("fathom_session={SECRET}; Path=/; HttpOnly; SameSite=Strict")
    );
    let wrong = send(&router, plain(Method::GET, "/?secret=wrong", &[("host", "127.0.0.1:9")])).await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (StatusCode::UNAUTHORIZED, ""));
}

#[tokio::test]
async fn a_cookie_needs_the_header_to_change_something() {
    let router = offline();
    let cookie = format!("other=1; fathom_session={SECRET}");
    let fields = [("host", "127.0.0.1:9"), ("cookie", cookie.as_str())];
    assert_eq!(
        send(&router, plain(Method::GET, "/api/v1/version", &fields)).await.status,
        StatusCode::OK
    );
    let refused = send(&router, plain(Method::POST, "/api/v1/jobs:validate", &fields)).await;
    assert_eq!(
        (refused.status, refused.problem().as_str()),
        (StatusCode::FORBIDDEN, "csrfHeaderMissing")
    );
    let fields = [fields[0], fields[1], ("x-fathom-csrf", "1")];
    assert_eq!(
        send(&router, plain(Method::POST, "/api/v1/jobs:validate", &fields)).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn other_sites_are_refused_even_with_the_secret() {
    let router = offline();
    let secret = format!("Bearer {SECRET}");
    for (name, value, code) in [
        ("host", "evil.example", "foreignHost"),
        ("origin", "http://evil.example", "foreignOrigin"),
        ("sec-fetch-site", "cross-site", "foreignOrigin"),
    ] {
        let host = if name == "host" { value } else { "127.0.0.1:9" };
        let fields = [
            ("host", host),
            ("authorization", &secret),
            if name == "host" { ("x-other", "") } else { (name, value) },
        ];
        let reply = send(&router, plain(Method::GET, "/api/v1/version", &fields)).await;
        assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::FORBIDDEN, code));
    }
}

#[tokio::test]
async fn token_mode_does_not_know_the_secret_of_local_mode() {
    let router = offline_with(|config| config.auth = Auth::Tokens);
    let reply = get(&router, "/api/v1/version").await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    assert!(!reply.json()["hint"].as_str().unwrap().contains("fathom ui"));
    let empty = offline_with(|config| config.auth = Auth::Local { secret: String::new() });
    let reply = send(
        &empty,
        plain(
            Method::GET,
            "/api/v1/version",
            &[("host", "localhost"), ("authorization", "Bearer ")],
        ),
    )
    .await;
    assert_eq!(reply.status, StatusCode::UNAUTHORIZED, "an empty secret is no secret");
}

#[tokio::test]
async fn whatever_is_wrong_is_a_problem() {
    let router = offline();
    for (method, path, kind, body, status, code) in [
        (Method::GET, "/api/v1/nothing", "", "", 404, "notFound"),
        (Method::GET, "/nothing.js", "", "", 404, "notFound"),
        (Method::PATCH, "/api/v1/jobs", "", "", 405, "methodNotAllowed"),
        (Method::POST, "/api/v1/jobs/a", "", "", 405, "methodNotAllowed"),
        (Method::POST, "/api/v1/jobs/a:explode", "", "", 405, "methodNotAllowed"),
        (Method::GET, "/api/v1/jobs?limit=0", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?limit=501", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?limit=many", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?sort=colour", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?filter=colour%3Dred", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?state=walking", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs?cursor=abc", "", "", 400, "invalidCursor"),
        (Method::GET, "/api/v1/runs/a/series", "", "", 400, "invalidQuery"),
        (
            Method::GET,
            "/api/v1/runs/a/series?metric=b&points=5000",
            "",
            "",
            400,
            "invalidQuery",
        ),
        (Method::GET, "/api/v1/runs/a/series?metric=b&x=colour", "", "", 400, "invalidQuery"),
        (Method::GET, "/api/v1/jobs/%ff", "", "", 400, "badRequest"),
        (Method::GET, "/api/v1/jobs/a%00b", "", "", 400, "badRequest"),
        (Method::GET, "/api/v1/jobs?filter=name%3D%00", "", "", 400, "badRequest"),
        (Method::GET, "/api/v1/jobs/a/events?severity=loud", "", "", 400, "invalidQuery"),
        (
            Method::GET,
            "/api/v1/runs/a/series?metric=b&from=9007199254740993",
            "",
            "",
            400,
            "invalidQuery",
        ),
        (Method::GET, "/api/v1/jobs", "", "", 503, "unavailable"),
        (Method::POST, "/api/v1/jobs", "application/pdf", "", 415, "unsupportedMediaType"),
        (
            Method::POST,
            "/api/v1/jobs",
            "application/yaml",
            "kind: DeepSeekV3Job",
            422,
            "invalidManifest",
        ),
        (Method::POST, "/api/v1/tokens", "text/plain", "{}", 415, "unsupportedMediaType"),
        (Method::POST, "/api/v1/tokens", "application/json", "{", 400, "invalidBody"),
        (
            Method::POST,
            "/api/v1/tokens",
            "application/json",
            r#"{"name":"a","scopes":["root"],"expiresInDays":1}"#,
            400,
            "invalidBody",
        ),
        (
            Method::POST,
            "/api/v1/tokens",
            "application/json",
            r#"{"name":"","scopes":["admin"],"expiresInDays":1}"#,
            422,
            "invalid",
        ),
        (
            Method::POST,
            "/api/v1/runs/a/metrics:batch",
            "application/json",
            "{}",
            400,
            "invalidBody",
        ),
        (
            Method::POST,
            "/api/v1/runs/a/metrics:batch",
            "text/csv",
            "{}",
            415,
            "unsupportedMediaType",
        ),
        (
            Method::POST,
            "/api/v1/series:query",
            "application/json",
            r#"{"runs":[],"metrics":["a"]}"#,
            422,
            "invalid",
        ),
        (Method::DELETE, "/api/v1/tokens/abc", "", "", 404, "notFound"),
    ] {
        let mut request = request(method.clone(), path);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let reply = send(&router, request.body(Body::from(body)).unwrap()).await;
        let words = String::from_utf8_lossy(&reply.body).to_lowercase();
        assert_eq!(
            (reply.status.as_u16(), reply.problem().as_str()),
            (status, code),
            "{method} {path}: {words}"
        );
        for secret in ["select ", "postgres", "sqlx", "127.0.0.1"] {
            assert!(!words.contains(secret), "{path} tells: {words}");
        }
        assert_eq!(reply.json()["instance"], path.split('?').next().unwrap());
    }
}

#[tokio::test]
async fn methods_that_are_allowed_are_named() {
    let reply = send(&offline(), request(Method::PATCH, "/api/v1/version").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.header("allow"), "GET,HEAD");
    // One route has both forms of the path.
    for (method, path, allowed) in [
        (Method::PATCH, "/api/v1/jobs/a", "GET, HEAD, DELETE"),
        (Method::POST, "/api/v1/jobs/a", "GET, HEAD, DELETE"),
        (Method::POST, "/api/v1/jobs/a:explode", "GET, HEAD, DELETE"),
        (Method::PUT, "/api/v1/jobs/a:pause", "POST"),
    ] {
        let reply = send(&offline(), request(method.clone(), path).body(Body::empty()).unwrap()).await;
        assert_eq!(
            (reply.problem().as_str(), reply.header("allow")),
            ("methodNotAllowed", allowed),
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn the_request_id_is_kept_if_it_is_harmless() {
    let router = offline();
    let with = |id: &str| {
        request(Method::GET, "/api/v1/version")
            .header("x-request-id", id)
            .body(Body::empty())
            .unwrap()
    };
    assert_eq!(send(&router, with("trace-1.a_b")).await.header("x-request-id"), "trace-1.a_b");
    let replaced = send(&router, with("a b\"")).await;
    assert!(replaced.header("x-request-id").starts_with("req_"));
    assert_ne!(
        get(&router, "/api/v1/version").await.header("x-request-id"),
        get(&router, "/api/v1/version").await.header("x-request-id")
    );
}

#[tokio::test]
async fn bodies_are_bounded_plain_and_decoded() {
    let router = offline_with(|config| {
        config.limits.body_bytes = 100;
        config.limits.ingest_bytes = 1000;
    });
    let large = request(Method::POST, "/api/v1/jobs:validate").header("content-type", "application/yaml");
    let reply = send(&router, large.body(Body::from("a".repeat(101))).unwrap()).await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "tooLarge")
    );
    assert!(reply.json()["detail"].as_str().unwrap().contains("100 bytes"));

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; 1 << 20]).unwrap();
    let zstd = zstd::encode_all([b' '; 1 << 16].as_slice(), 19).unwrap();
    for (coding, bomb) in [("gzip", encoder.finish().unwrap()), ("zstd", zstd)] {
        let ingest = request(Method::POST, "/api/v1/runs/a/metrics:batch")
            .header("content-type", "application/json")
            .header("content-encoding", coding);
        let reply = send(&router, ingest.body(Body::from(bomb)).unwrap()).await;
        // The gzip bomb is larger than the limit even before it is decoded.
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::PAYLOAD_TOO_LARGE, "tooLarge"),
            "{coding}"
        );
    }
    let brotli = request(Method::POST, "/api/v1/runs/a/metrics:batch")
        .header("content-type", "application/json")
        .header("content-encoding", "br");
    let reply = send(&router, brotli.body(Body::empty()).unwrap()).await;
    assert_eq!(
        (reply.status, reply.header("accept-encoding")),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, "zstd, gzip, identity")
    );
}

#[tokio::test]
async fn a_body_that_does_not_arrive_times_out() {
    let router = offline_with(|config| config.limits.body_seconds = 0);
    let never = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let request = request(Method::POST, "/api/v1/jobs:validate").body(never).unwrap();
    let reply = send(&router, request).await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (StatusCode::REQUEST_TIMEOUT, "requestTimeout")
    );
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_given_up() {
    let router = offline_with(|config| config.limits.request_seconds = 0);
    let never = Body::from_stream(tokio_stream::pending::<Result<Vec<u8>, std::io::Error>>());
    let reply = send(&router, request(Method::POST, "/api/v1/jobs:validate").body(never).unwrap()).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
}

#[tokio::test]
async fn too_many_requests_are_told_when_to_come_back() {
    let router = offline_with(|config| {
        config.limits.burst_requests = 2;
        config.limits.requests_per_second = 1;
    });
    let first = get(&router, "/api/v1/version").await;
    assert_eq!(
        (first.header("ratelimit-policy"), first.header("ratelimit")),
        ("\"default\";q=2;w=2", "\"default\";r=1;t=1")
    );
    let _ = get(&router, "/api/v1/version").await;
    let refused = get(&router, "/api/v1/version").await;
    assert_eq!(
        (refused.status, refused.problem().as_str(), refused.header("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, "rateLimited", "1")
    );
    let alive = send(&router, plain(Method::GET, "/healthz", &[])).await;
    assert_eq!(alive.status, StatusCode::OK, "probes are not counted");
}

#[tokio::test]
async fn too_many_at_once_are_turned_away() {
    let router = offline_with(|config| config.limits.concurrent_requests = 0);
    let reply = get(&router, "/api/v1/version").await;
    assert_eq!(
        (reply.status, reply.problem().as_str(), reply.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "1")
    );
}

#[tokio::test]
async fn pages_and_data_carry_their_policies() {
    let router = offline();
    let page = get(&router, "/jobs/some-job/curves").await;
    assert_eq!(
        (page.status, page.header("content-type")),
        (StatusCode::OK, "text/html; charset=utf-8")
    );
    assert!(page.header("content-security-policy").starts_with("default-src 'self'"));
    assert_eq!(page.header("cache-control"), "no-cache");
    let data = get(&router, "/api/v1/version").await;
    assert!(data.header("content-security-policy").starts_with("default-src 'none'"));
    assert_eq!(data.header("cache-control"), "no-store");
    for reply in [&page, &data] {
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(reply.header(name), value);
        }
    }
}

#[tokio::test]
async fn the_server_describes_itself() {
    let router = offline();
    let version = get(&router, "/api/v1/version").await.json();
    assert_eq!(
        (&version["api"], &version["limits"]["ingestPoints"]),
        (&"v1".into(), &100_000.into())
    );
    let me = get(&router, "/api/v1/whoami").await.json();
    assert_eq!((&me["name"], me["scopes"].as_array().unwrap().len()), (&"local".into(), 4));
    let docs = get(&router, "/docs/").await;
    assert_eq!(docs.status, StatusCode::OK);
    let page = String::from_utf8(docs.body).unwrap();
    assert!(!page.contains("https://"), "the page loads something from elsewhere");
    let metrics = get(&router, "/metrics").await;
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(
        text.contains("fathom_http_requests_total{route=\"/api/v1/whoami\",method=\"GET\",status=\"200\"} 1"),
        "{text}"
    );
}

#[tokio::test]
async fn manifests_are_judged_with_places() {
    let router = offline();
    let validate = |text: &'static str| {
        let request = request(Method::POST, "/api/v1/jobs:validate").header("content-type", "application/yaml");
        send(&router, request.body(Body::from(text)).unwrap())
    };
    let reply = validate("kind: DeepSeekV3Job\nspec:\n  sed: 1\n").await.json();
    assert_eq!(reply["valid"], false);
    let typo = reply["problems"]
        .as_array()
        .unwrap()
        .iter()
        .find(|problem| problem["path"] == "spec.sed")
        .unwrap();
    assert_eq!((&typo["line"], &typo["suggestion"]), (&3.into(), &"seed".into()));
}

#[tokio::test]
async fn large_answers_are_compressed_for_those_who_accept_it() {
    let router = offline();
    let reply = send(
        &router,
        request(Method::GET, "/openapi.json")
            .header("accept-encoding", "gzip")
            .body(Body::empty())
            .unwrap(),
    )
    .await;
    assert_eq!((reply.status, reply.header("content-encoding")), (StatusCode::OK, "gzip"));
}
