//! The API on a real database: what is reported is what is read.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

mod common;
#[path = "common/database.rs"]
mod database;

use axum::http::{Method, StatusCode};
use common::{get, send_json};
use database::{MANIFEST, RUN, on_server, status, trained};
use serde_json::json;

#[test]
fn what_is_reported_is_read() {
    on_server(|server| async move {
        trained(&server).await;
        let job = get(&server.router, "/api/v1/jobs/job").await.json();
        assert_eq!(
            (&job["state"], &job["phase"], &job["loss"], &job["tokens"]),
            (&"running".into(), &"pretrain".into(), &0.0.into(), &640.into())
        );
        assert_eq!(job["lossSparkline"].as_array().unwrap().len(), 10);
        assert_eq!(job["lossSparkline"][6], "NaN");
        assert_eq!(job["labels"], json!({"team": "nlp"}));
        assert_eq!(job["allowedActions"], json!(["pause", "cancel", "fork"]));
        assert_eq!(job["phases"][1]["run"], RUN);
        assert_eq!(job["health"]["verdict"], "failing", "{}", job["health"]);

        let run = get(&server.router, &format!("/api/v1/runs/{RUN}")).await.json();
        assert_eq!(
            (&run["attempt"], &run["lastStep"], &run["flopsPerToken"]),
            (&1.into(), &10.into(), &10.0.into())
        );
        let attempts = get(&server.router, &format!("/api/v1/runs/{RUN}/attempts")).await.json();
        assert_eq!(
            (&attempts["items"][0]["outcome"], &attempts["items"][0]["lastStep"]),
            (&"running".into(), &10.into())
        );

        let metrics = get(&server.router, &format!("/api/v1/runs/{RUN}/metrics")).await.json();
        let names: Vec<_> = metrics["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|metric| metric["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["loss.main", "moe.load", "tokens_per_second"]);
        let loss = &metrics["items"][0];
        assert_eq!(
            (&loss["points"], &loss["last"], &loss["better"], &loss["lastStep"]),
            (&10.into(), &0.0.into(), &"lower".into(), &10.into())
        );
        let load = &metrics["items"][1];
        assert_eq!(
            (&load["shape"], &load["axes"], &load["points"]),
            (&json!([2, 2]), &json!(["layer", "expert"]), &10.into())
        );
    });
}

#[test]
fn series_keep_extremes_and_axes() {
    on_server(|server| async move {
        trained(&server).await;
        let path = format!("/api/v1/runs/{RUN}/series?metric=loss.main&metric=unknown");
        let raw = get(&server.router, &path).await.json();
        assert_eq!((&raw["bucketSteps"], &raw["from"], &raw["to"]), (&1.into(), &0.into(), &10.into()));
        assert_eq!(raw["series"][0]["step"], json!([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]));
        assert_eq!(
            (&raw["series"][0]["last"][6], &raw["series"][0]["nonFinite"][6]),
            (&"NaN".into(), &1.into())
        );
        assert_eq!(raw["series"][1]["step"], json!([]), "a metric that the run does not have is empty");
        let flops = get(&server.router, &format!("{path}&x=flops&points=2&from=0&to=15")).await.json();
        assert_eq!((&flops["bucketSteps"], &flops["series"][0]["n"]), (&8.into(), &json!([7, 3])));
        assert_eq!(flops["series"][0]["x"], json!([7.0 * 640.0, 6400.0]));
        assert_eq!(
            (&flops["series"][0]["min"][0], &flops["series"][0]["max"][0]),
            (&4.0.into(), &9.0.into())
        );
        let time = get(&server.router, &format!("{path}&x=time&attempt=1")).await.json();
        assert_eq!(time["series"][0]["x"][0], 1001.0);
        assert_eq!(
            get(&server.router, &format!("{path}&attempt=2")).await.status,
            StatusCode::NOT_FOUND
        );
        let body = json!({"runs": [RUN, RUN], "metrics": ["loss.main"], "points": 10});
        let both = send_json(&server.router, Method::POST, "/api/v1/series:query", &body).await.json();
        assert_eq!(
            (both["items"].as_array().unwrap().len(), &both["items"][1]["run"]),
            (2, &RUN.into())
        );
        let compared = get(&server.router, &format!("/api/v1/compare?run={RUN}&run={RUN}")).await.json();
        assert_eq!(
            (&compared["manifest"], &compared["metrics"][0]["best"]),
            (&json!([]), &json!([0.0, 0.0]))
        );
    });
}

#[test]
fn matrices_are_read_by_step_and_by_row() {
    on_server(|server| async move {
        trained(&server).await;
        let path = format!("/api/v1/runs/{RUN}/matrices/moe.load");
        let newest = get(&server.router, &path).await.json();
        assert_eq!(
            (&newest["step"], &newest["exact"], &newest["rows"], &newest["columns"]),
            (&10.into(), &true.into(), &2.into(), &2.into())
        );
        let third = get(&server.router, &format!("{path}?step=3")).await.json();
        let values = {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD
                .decode(third["values"].as_str().unwrap())
                .unwrap()
        };
        let first = f32::from_le_bytes(values[..4].try_into().unwrap());
        assert!((first - 3.0).abs() < 1e-3, "{first}");
        let steps = get(&server.router, &format!("{path}/steps?limit=4000")).await.json();
        assert_eq!((&steps["total"], steps["items"].as_array().unwrap().len()), (&10.into(), 10));
        let rows = get(&server.router, &format!("{path}/rows?reduce=mean")).await.json();
        assert_eq!((rows["step"].as_array().unwrap().len(), &rows["rows"]), (10, &2.into()));
        assert_eq!(
            get(&server.router, &format!("/api/v1/runs/{RUN}/matrices/loss.main")).await.status,
            StatusCode::NOT_FOUND
        );
    });
}

#[test]
fn jobs_are_listed_in_pages() {
    on_server(|server| async move {
        for index in 0..5 {
            let mut body = status("succeeded", "succeeded");
            body["uid"] = format!("u{index}").into();
            body["runs"] = json!([]);
            let path = format!("/api/v1/jobs/job-{index}/status");
            assert_eq!(send_json(&server.router, Method::PUT, &path, &body).await.status, StatusCode::OK);
        }
        let mut seen = Vec::new();
        let mut path = "/api/v1/jobs?limit=2".to_owned();
        loop {
            let page = get(&server.router, &path).await.json();
            seen.extend(
                page["items"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|job| job["name"].as_str().unwrap().to_owned()),
            );
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("/api/v1/jobs?limit=2&cursor={cursor}");
        }
        assert_eq!(seen, ["job-4", "job-3", "job-2", "job-1", "job-0"]);
        let first = get(&server.router, "/api/v1/jobs?limit=2").await.json();
        let foreign = get(
            &server.router,
            &format!("/api/v1/jobs?sort=name&cursor={}", first["nextCursor"].as_str().unwrap()),
        )
        .await;
        assert_eq!(
            (foreign.status, foreign.problem().as_str()),
            (StatusCode::BAD_REQUEST, "invalidCursor")
        );
        let filtered = get(
            &server.router,
            "/api/v1/jobs?sort=name&filter=name~JOB-3%20AND%20label.team%3Dnlp&limit=1",
        )
        .await
        .json();
        assert_eq!(
            (&filtered["items"][0]["name"], filtered["items"].as_array().unwrap().len()),
            (&"job-3".into(), 1)
        );
        assert_eq!(get(&server.router, "/api/v1/jobs?state=running").await.json()["items"], json!([]));
    });
}

#[test]
fn a_list_shows_what_each_job_shows_and_follows_it() {
    on_server(|server| async move {
        trained(&server).await;
        let mut other = status("succeeded", "succeeded");
        other["uid"] = "other".into();
        other["runs"] = json!([]);
        let path = "/api/v1/jobs/other/status";
        assert_eq!(send_json(&server.router, Method::PUT, path, &other).await.status, StatusCode::OK);
        let list = async || get(&server.router, "/api/v1/jobs?sort=name").await.json()["items"].clone();
        let alone = async |name: &str| get(&server.router, &format!("/api/v1/jobs/{name}")).await.json();
        let first = list().await;
        assert_eq!(first[0], alone("job").await);
        assert_eq!(first[1], alone("other").await);
        assert_eq!(list().await[0]["lossSparkline"], first[0]["lossSparkline"]);

        // The same step again, as a validation or a new attempt reports it: no number of the run changes but its records.
        let writer = format!("{RUN}/2/0");
        let event = json!({"event": {"kind": "AttemptStarted", "step": 9, "message": "resumed"}});
        let metrics = json!({"metrics": {"step": 10, "tokens": 640, "scalars": {"loss.main": 0.25}, "matrices": {}}});
        let records: Vec<_> = [event, metrics]
            .into_iter()
            .zip(0..)
            .map(|(body, sequence)| json!({"writer": writer, "sequence": sequence, "time": 1010.0, "body": body}))
            .collect();
        let body = json!({"writer": writer, "records": records});
        let path = format!("/api/v1/runs/{RUN}/metrics:batch");
        assert_eq!(send_json(&server.router, Method::POST, &path, &body).await.status, StatusCode::OK);
        let after = list().await;
        assert_eq!((&first[0]["loss"], &after[0]["loss"]), (&0.0.into(), &0.25.into()));
        assert_eq!(after[0], alone("job").await);
    });
}

#[test]
fn events_health_and_lineage() {
    on_server(|server| async move {
        trained(&server).await;
        let events = get(&server.router, "/api/v1/jobs/job/events?after=0").await.json();
        let kinds: Vec<_> = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["kind"].as_str().unwrap().to_owned())
            .collect();
        assert!(
            kinds.starts_with(&["JobCreated".into(), "PhaseChanged".into(), "PhaseChanged".into()]),
            "{kinds:?}"
        );
        assert!(kinds.contains(&"CheckpointCommitted".into()), "{kinds:?}");
        let health = get(&server.router, "/api/v1/jobs/job/health").await.json();
        assert_eq!(
            (&health["verdict"], health["tiles"].as_array().unwrap().len(), &health["run"]),
            (&"failing".into(), 6, &RUN.into())
        );
        let checkpoints = json!({"items": [{"step": 10, "tokens": 640, "bytes": 100, "files": 2, "path": "/c/10", "verified": true}]});
        let reply = send_json(
            &server.router,
            Method::PUT,
            &format!("/api/v1/runs/{RUN}/checkpoints"),
            &checkpoints,
        )
        .await;
        assert_eq!(reply.status, StatusCode::NO_CONTENT);
        let listed = get(&server.router, "/api/v1/jobs/job/checkpoints").await.json();
        assert_eq!(
            (&listed["items"][0]["step"], &listed["items"][0]["state"]),
            (&10.into(), &"committed".into())
        );
        let lineage = get(&server.router, "/api/v1/jobs/job/lineage").await.json();
        let kinds: Vec<_> = lineage["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["kind"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(kinds, ["input", "artifact", "checkpoint"]);
        let data = get(&server.router, &format!("/api/v1/runs/{RUN}/data")).await.json();
        assert_eq!(data["items"][0]["statistics"], json!({"tokens": 7}));
    });
}

/// The rules that a page shows are those of the manifest, and of the newest one.
#[test]
fn a_manifest_sets_what_a_run_is_judged_by() {
    on_server(|server| async move {
        trained(&server).await;
        let rules = async || {
            let health = get(&server.router, "/api/v1/jobs/job/health").await.json();
            let tiles = health["tiles"].as_array().unwrap();
            let rule = |id: &str| {
                tiles.iter().find(|tile| tile["id"] == id).unwrap()["rule"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            };
            (rule("gradient"), rule("balance"))
        };
        let (gradient, balance) = rules().await;
        assert!(gradient.contains("clipped at 1 after"), "{gradient}");
        assert!(!balance.contains("layer above 0.5 on"), "{balance}");

        let mut report = status("running", "running");
        let manifest = MANIFEST.replace("  seed: 42\n", "  seed: 42\n  health: {balance: {watchMaxViolation: 0.5}}\n");
        assert_ne!(manifest, MANIFEST);
        report["manifest"] = json!(manifest);
        let reply = send_json(&server.router, Method::PUT, "/api/v1/jobs/job/status", &report).await;
        assert_eq!(reply.json(), json!({"generation": 2}));
        let (_, balance) = rules().await;
        assert!(balance.contains("layer above 0.5 on"), "{balance}");
    });
}
