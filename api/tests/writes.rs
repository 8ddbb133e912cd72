//! The API on a real database: what changes something, once and only if it may.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

mod common;
#[path = "common/database.rs"]
mod database;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use common::{get, request, send, send_json};
use database::{MANIFEST, RUN, event, ingest, on_server, status, step, trained};
use serde_json::{Value, json};

#[test]
fn records_are_counted_once_and_gaps_named() {
    on_server(|server| async move {
        trained(&server).await;
        let again = ingest(&server, &[step(10, 10, json!(0.0)), event(11, "CheckpointCommitted", 10)])
            .await
            .json();
        assert_eq!((&again["duplicates"], &again["durableSequence"]), (&2.into(), &11.into()));
        let path = format!("/api/v1/runs/{RUN}/metrics:batch");
        let after_a_gap = json!({"writer": format!("{RUN}/1/0"), "previous": 13, "records": [step(14, 12, json!(1.0))]});
        let gap = send_json(&server.router, Method::POST, &path, &after_a_gap).await;
        assert_eq!(
            (gap.status, gap.problem().as_str(), &gap.json()["expectedSequence"]),
            (StatusCode::CONFLICT, "sequenceGap", &12.into())
        );
        let lines = [step(12, 11, json!(1.0)), step(13, 12, json!(2.0))]
            .map(|record| record.to_string())
            .join("\n");
        let body = zstd::encode_all(lines.as_bytes(), 3).unwrap();
        let request = request(Method::POST, &format!("/api/v1/runs/{RUN}/metrics:batch"))
            .header("content-type", "application/x-ndjson")
            .header("content-encoding", "zstd");
        let reply = send(&server.router, request.body(Body::from(body)).unwrap()).await;
        assert_eq!((&reply.json()["durableSequence"], reply.status), (&13.into(), StatusCode::OK));
        let unknown = send_json(
            &server.router,
            Method::POST,
            "/api/v1/runs/a.b.c/metrics:batch",
            &json!({"writer": "a.b.c/1/0", "records": []}),
        )
        .await;
        assert_eq!((unknown.status, unknown.problem().as_str()), (StatusCode::NOT_FOUND, "notFound"));
    });
}

#[test]
fn logs_go_on_where_they_ended() {
    on_server(|server| async move {
        trained(&server).await;
        let path = format!("/api/v1/runs/{RUN}/logs:batch");
        let batch = |offset: u64, texts: &[(&str, &str)]| {
            let lines: Vec<Value> = (0..)
                .zip(texts)
                .map(|(index, (level, text))| json!({"position": offset + index, "time": 1.25, "level": level, "text": text}))
                .collect();
            json!({"attempt": 1, "rank": 0, "offset": offset, "lines": lines, "nextOffset": offset + 10})
        };
        let first = send_json(&server.router, Method::POST, &path, &batch(0, &[("info", "one"), ("error", "two")])).await;
        assert_eq!(first.json(), json!({"durableOffset": 10}));
        let gap = send_json(&server.router, Method::POST, &path, &batch(20, &[])).await;
        assert_eq!((gap.problem().as_str(), &gap.json()["expectedOffset"]), ("sequenceGap", &10.into()));
        let lines = get(&server.router, &format!("/api/v1/runs/{RUN}/logs?limit=1")).await;
        assert_eq!(
            (&lines.json()["items"][0]["text"], &lines.json()["items"][0]["time"]),
            (&"two".into(), &"1970-01-01T00:00:01.250Z".into())
        );
        assert!(lines.header("link").ends_with("rel=\"next\""));
        let next = lines.header("link").trim_start_matches('<').split('>').next().unwrap().to_owned();
        let rest = get(&server.router, &next).await.json();
        assert_eq!((&rest["items"][0]["text"], &rest["nextCursor"]), (&"one".into(), &Value::Null));
        let errors = get(&server.router, "/api/v1/jobs/job/logs?level=error&after=0").await.json();
        assert_eq!(errors["items"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn a_job_is_deleted_only_by_who_has_seen_it() {
    on_server(|server| async move {
        trained(&server).await;
        let seen = get(&server.router, "/api/v1/jobs/job").await;
        let tag = seen.header("etag").to_owned();
        let unchanged = send(
            &server.router,
            request(Method::GET, "/api/v1/jobs/job")
                .header("if-none-match", &tag)
                .body(Body::empty())
                .unwrap(),
        )
        .await;
        // Health carries the time only in `/health`: nothing has changed since.
        assert_eq!(unchanged.status, StatusCode::NOT_MODIFIED);
        let delete = |tag: Option<String>| {
            let mut request = request(Method::DELETE, "/api/v1/jobs/job");
            if let Some(tag) = tag {
                request = request.header("if-match", tag);
            }
            send(&server.router, request.body(Body::empty()).unwrap())
        };
        assert_eq!(delete(None).await.problem(), "preconditionRequired");
        assert_eq!(delete(Some(tag.clone())).await.problem(), "conflict", "it runs");
        assert_eq!(
            send_json(&server.router, Method::PUT, "/api/v1/jobs/job/status", &status("failed", "failed"))
                .await
                .status,
            StatusCode::OK
        );
        assert_eq!(delete(Some(tag)).await.problem(), "stale");
        let tag = get(&server.router, "/api/v1/jobs/job").await.header("etag").to_owned();
        assert_eq!(delete(Some(tag)).await.status, StatusCode::NO_CONTENT);
        assert_eq!(get(&server.router, "/api/v1/jobs/job").await.status, StatusCode::NOT_FOUND);
    });
}

#[test]
fn a_job_is_created_once_per_key() {
    on_server(|server| async move {
        let create = |key: &str, body: &str| {
            let request = request(Method::POST, "/api/v1/jobs")
                .header("content-type", "application/yaml")
                .header("idempotency-key", key);
            send(&server.router, request.body(Body::from(body.to_owned())).unwrap())
        };
        let first = create("k1", MANIFEST).await;
        assert_eq!(
            (first.status, first.header("location")),
            (StatusCode::ACCEPTED, "/api/v1/jobs/quickstart"),
            "{}",
            String::from_utf8_lossy(&first.body)
        );
        assert_eq!((&first.json()["state"], &first.json()["uid"]), (&"queued".into(), &"uid".into()));
        let again = create("k1", MANIFEST).await;
        assert_eq!(
            (again.status, again.header("idempotency-replayed"), again.header("location")),
            (StatusCode::ACCEPTED, "true", "/api/v1/jobs/quickstart")
        );
        assert_eq!(again.json(), first.json());
        assert_eq!(create("k1", "other").await.problem(), "idempotencyKeyReused");
        assert_eq!(create("k2", MANIFEST).await.problem(), "conflict", "the name is taken");
        assert_eq!(*server.wishes.0.lock().unwrap(), ["create quickstart"]);
        let manifest = get(&server.router, "/api/v1/jobs/quickstart/manifest").await.json();
        assert_eq!((&manifest["submitted"], &manifest["generation"]), (&MANIFEST.into(), &1.into()));
        assert!(manifest["effective"].as_str().unwrap().contains("seed"));
    });
}

#[test]
fn wishes_reach_whoever_runs_jobs() {
    on_server(|server| async move {
        trained(&server).await;
        let act = |verb: &str| {
            let path = format!("/api/v1/jobs/job:{verb}");
            let request = request(Method::POST, &path);
            send(&server.router, request.body(Body::empty()).unwrap())
        };
        assert_eq!(act("pause").await.status, StatusCode::ACCEPTED);
        assert_eq!(act("resume").await.problem(), "conflict", "it runs");
        assert_eq!(act("cancel").await.status, StatusCode::ACCEPTED);
        let fork = json!({"name": "fork", "atStep": 10, "patch": {"spec": {"seed": 9}}});
        let forked = send_json(&server.router, Method::POST, "/api/v1/jobs/job:fork", &fork).await;
        assert_eq!(
            (forked.status, &forked.json()["name"]),
            (StatusCode::ACCEPTED, &"fork".into()),
            "{}",
            String::from_utf8_lossy(&forked.body)
        );
        assert_eq!(*server.wishes.0.lock().unwrap(), ["pause job", "cancel job", "fork job to fork"]);
    });
}

#[test]
fn tokens_have_scopes_and_end() {
    on_server(|server| async move {
        let new = json!({"name": "worker", "scopes": ["metrics:write"], "expiresInDays": 1});
        let made = send_json(&server.router, Method::POST, "/api/v1/tokens", &new).await;
        assert_eq!(made.status, StatusCode::CREATED);
        let token = made.json()["token"].as_str().unwrap().to_owned();
        assert!(token.starts_with("fat_"));
        let listed = get(&server.router, "/api/v1/tokens").await.json();
        assert_eq!(
            (&listed["items"][0]["name"], listed["items"][0].get("token")),
            (&"worker".into(), None),
            "the secret is shown once"
        );
        let with = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("host", "localhost")
                .header("authorization", format!("Bearer {token}"));
            send(
                &server.router,
                request.header("content-type", "application/json").body(Body::from("{}")).unwrap(),
            )
        };
        assert_eq!(with(Method::GET, "/api/v1/whoami").await.json()["scopes"], json!(["metrics:write"]));
        assert_eq!(with(Method::GET, "/api/v1/jobs").await.problem(), "missingScope");
        assert_eq!(with(Method::GET, "/api/v1/tokens").await.problem(), "missingScope");
        assert_eq!(
            with(Method::POST, &format!("/api/v1/runs/{RUN}/metrics:batch")).await.problem(),
            "invalidBody"
        );
        let taken = send_json(&server.router, Method::POST, "/api/v1/tokens", &new).await;
        assert_eq!(taken.problem(), "conflict");
        let path = made.header("location").to_owned();
        assert_eq!(
            send(&server.router, request(Method::DELETE, &path).body(Body::empty()).unwrap())
                .await
                .status,
            StatusCode::NO_CONTENT
        );
        assert_eq!(with(Method::GET, "/api/v1/whoami").await.status, StatusCode::UNAUTHORIZED);
    });
}

#[test]
fn what_the_database_cannot_hold_is_the_clients_fault() {
    on_server(|server| async move {
        let put = |report: Value| {
            let router = server.router.clone();
            async move { send_json(&router, Method::PUT, "/api/v1/jobs/job/status", &report).await }
        };
        for pointer in ["/labels/team", "/message", "/uid", "/manifest"] {
            let mut report = status("running", "running");
            report["message"] = json!("");
            *report.pointer_mut(pointer).unwrap() = json!("a\u{0}b");
            let reply = put(report).await;
            assert_eq!(
                (reply.status, reply.problem().as_str()),
                (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
                "{pointer}"
            );
        }
        assert_eq!(
            put(status("running", "running")).await.status,
            StatusCode::OK,
            "the connection still works"
        );
    });
}
