//! The history of a local directory: what the server has is what the workers' spools hold, whatever dies meanwhile.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;

use common::Sandbox;
use common::job::{Background, Random, manifest, prepare, send};
use common::server::{Server, served, settled, spooled, visit};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::process::Stdio;
use std::time::Duration;

#[test]
fn kills_of_the_runner_leave_the_history_of_every_step_once() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 76_800);
    let server = Server::start(&sandbox);
    let mut random = Random(11);
    // In the first phases, while a worker starts, and several times while it trains.
    for turn in 0..8 {
        let mut run = Background::start(&sandbox, &["run", &file]);
        if turn >= 2 {
            run.worker("pretrain")
                .unwrap_or_else(|| panic!("the run ended after {turn} kills: {:?}", run.seen));
        }
        std::thread::sleep(Duration::from_millis(random.below(600)));
        run.signal(Signal::KILL);
        assert_eq!(run.end(), None, "it was killed");
    }
    let run = Background::start(&sandbox, &["run", &file]);
    assert_eq!(run.end(), Some(0));
    let name = settled(&server, "job", "succeeded");
    let spooled = spooled(&sandbox, "job");
    assert_eq!(spooled.keys().copied().collect::<Vec<_>>(), (1..=600).collect::<Vec<_>>());
    assert_eq!(served(&server, &name), spooled);
    visit(&server, "job");
    server.end();
}

#[test]
fn a_killed_runner_takes_its_server_along_and_the_next_one_tells_the_rest() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 51_200);
    let mut random = Random(12);
    let start = || {
        let mut command = sandbox.command(&["run", &file, "-v"]);
        command.env_remove("FATHOM_NO_UI").env("FATHOM_LOG", "warn");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    for _ in 0..4 {
        let mut run = start();
        std::thread::sleep(Duration::from_millis(700 + random.below(1_500)));
        run.kill().unwrap();
        run.wait().unwrap();
    }
    assert!(start().wait().unwrap().success());
    let server = Server::start(&sandbox);
    let name = settled(&server, "job", "succeeded");
    let spooled = spooled(&sandbox, "job");
    assert_eq!(spooled.len(), 400);
    assert_eq!(served(&server, &name), spooled);
    visit(&server, "job");
    server.end();
}

#[test]
fn kills_of_server_and_worker_leave_the_history_of_every_step_once() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 76_800);
    let mut server = Server::start(&sandbox);
    let mut run = Background::start(&sandbox, &["run", &file]);
    let mut random = Random(4);
    let mut worker = run.worker("pretrain").unwrap();
    for turn in 0..8 {
        std::thread::sleep(Duration::from_millis(random.below(400)));
        if turn % 2 == 0 {
            send(worker, Signal::KILL);
            worker = run
                .worker("pretrain")
                .unwrap_or_else(|| panic!("the run ended after {turn} kills: {:?}", run.seen));
        } else {
            server.kill();
            server = Server::start(&sandbox);
        }
    }
    assert_eq!(run.end(), Some(0));
    let name = settled(&server, "job", "succeeded");
    let spooled = spooled(&sandbox, "job");
    assert_eq!(spooled.len(), 600);
    assert_eq!(served(&server, &name), spooled);
    let attempts = server.get(&format!("/api/v1/runs/{name}/attempts"));
    assert!(attempts["items"].as_array().unwrap().len() >= 5, "{attempts}");
    server.end();

    // A lost database is made again from the spools.
    std::fs::remove_dir_all(sandbox.path(".fathom/postgres")).unwrap();
    let server = Server::start(&sandbox);
    let name = settled(&server, "job", "succeeded");
    assert_eq!(served(&server, &name), spooled);
    let matrix = server.get(&format!("/api/v1/runs/{name}/matrices/moe.load?step=600"));
    assert_eq!((&matrix["step"], &matrix["exact"]), (&json!(600), &json!(true)));
    server.end();
}

#[test]
fn a_job_over_rest_really_runs_pauses_resumes_and_survives_its_server() {
    let sandbox = Sandbox::new();
    prepare(&sandbox, "unused", 128);
    let text = manifest("by-rest", 153_600);
    let server = Server::start(&sandbox);
    let (status, refused) = server.post("/api/v1/jobs", "apiVersion: fathom.dev/v1alpha1\nkind: DeepSeekV3Job\nspec: {}\n");
    assert!((400..500).contains(&status), "{status} {refused}");
    assert!(refused["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{refused}");
    let (status, created) = server.post("/api/v1/jobs", &text);
    assert_eq!((status, &created["name"]), (202, &json!("by-rest")), "{created}");
    // Killed at once: what was accepted is not forgotten.
    server.kill();
    let server = Server::start(&sandbox);
    let trained = |phase: &Value| {
        phase["items"]
            .as_array()
            .is_some_and(|phases| phases.iter().any(|phase| phase["step"].as_u64() > Some(20)))
    };
    server.wait("/api/v1/jobs/by-rest/phases", "training", trained);
    // The run goes on without the server that started it, and the next one can pause it.
    server.kill();
    let server = Server::start(&sandbox);
    let (status, paused) = server.post("/api/v1/jobs/by-rest:pause", "");
    assert_eq!(status, 202, "{paused}");
    server.wait("/api/v1/jobs/by-rest", "a pause", |job| job["state"] == "paused");
    let (status, again) = server.post("/api/v1/jobs/by-rest:pause", "");
    assert_eq!((status, &again["code"]), (409, &json!("conflict")), "{again}");
    let (status, resumed) = server.post("/api/v1/jobs/by-rest:resume", "");
    assert_eq!(status, 202, "{resumed}");
    let name = settled(&server, "by-rest", "succeeded");
    assert_eq!(served(&server, &name), spooled(&sandbox, "by-rest"));
    server.end();
}

#[test]
fn clients_that_go_away_do_not_cost_the_database_its_connection() {
    let sandbox = Sandbox::new();
    let server = Server::start(&sandbox);
    let address = server.base.trim_start_matches("http://");
    let mut random = Random(9);
    for _ in 0..100 {
        let mut client = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "GET /api/v1/jobs HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
            server.secret
        );
        std::io::Write::write_all(&mut client, request.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(random.below(5_000)));
    }
    assert_eq!(server.get("/api/v1/jobs")["items"], json!([]));
    server.end();
}

#[test]
fn nothing_is_reached_without_the_secret_or_from_elsewhere() {
    let sandbox = Sandbox::new();
    let mut server = Server::start(&sandbox);
    let secret = std::mem::replace(&mut server.secret, "0".repeat(64));
    for path in [
        "/",
        "/api/v1/jobs",
        "/api/v1/version",
        "/openapi.json",
        "/docs",
        "/metrics",
        "/jobs/x",
        "/api/v1/events",
        "/nothing",
    ] {
        let (status, body) = server.request("GET", path, &[], "");
        assert_eq!(status, 401, "{path}: {body}");
        assert!(!body.to_string().contains(&secret));
    }
    server.secret = secret;
    for (header, value) in [
        ("Host", "evil.example"),
        ("Origin", "https://evil.example"),
        ("Sec-Fetch-Site", "cross-site"),
    ] {
        let (status, body) = server.request("GET", "/api/v1/jobs", &[(header, value)], "");
        assert_eq!(status, 403, "{header}: {body}");
    }
    assert_eq!(server.request("GET", "/healthz", &[], "").0, 200);
    assert_eq!(server.get("/api/v1/jobs")["items"], json!([]));
    let (status, missing) = server.request("GET", "/api/v1/jobs/none", &[], "");
    assert_eq!(
        (status, &missing["code"], missing["requestId"].is_string()),
        (404, &json!("notFound"), true),
        "{missing}"
    );
    server.end();
}
