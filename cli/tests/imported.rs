//! A history that a server reads after the fact: what happened, when it happened, and where things are.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;

use common::Sandbox;
use common::job::{Background, manifest, prepare};
use common::server::{Server, served, settled, spooled};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

/// The time, as the API writes it: such texts sort by time.
fn now() -> String {
    let output = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%dT%H:%M:%S.%3NZ"])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member}: {value}"))
}

#[test]
fn a_job_that_ended_before_its_server_began_has_its_own_times() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 12_800);
    let began = now();
    let ran = sandbox.run(&["--quiet", "run", "--no-ui", &file]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ended = now();
    let server = Server::start(&sandbox);
    let run = settled(&server, "job", "succeeded");

    let job = server.get("/api/v1/jobs/job");
    assert_eq!((&job["progress"], &job["state"]), (&json!(1.0), &json!("succeeded")), "{job}");
    assert!(
        began.as_str() <= text(&job, "startedAt") && text(&job, "finishedAt") <= ended.as_str(),
        "{job}"
    );
    let phases = server.get("/api/v1/jobs/job/phases");
    let mut last = began.clone();
    for phase in phases["items"].as_array().unwrap() {
        for member in ["startedAt", "finishedAt"] {
            assert!(text(phase, member) >= last.as_str(), "{member} before {last}: {phase}");
            last = text(phase, member).to_owned();
        }
    }
    assert!(last <= ended, "{last} {ended}");

    let events = server.get("/api/v1/jobs/job/events?limit=500")["items"].as_array().unwrap().clone();
    let times: Vec<&str> = events.iter().map(|event| text(event, "time")).collect();
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    assert!(
        times.iter().all(|time| (began.as_str()..=ended.as_str()).contains(time)),
        "{began} {ended} {times:?}"
    );
    assert_eq!(events.last().unwrap()["kind"], "JobCreated");
    let place = |what: &str| {
        events
            .iter()
            .position(|event| text(event, "message").starts_with(what))
            .unwrap_or_else(|| panic!("{what}: {events:?}"))
    };
    // Newest first: what a phase did comes before that it began.
    assert!(place("Phase `tokenizer` went from pending to succeeded") > place("Phase `corpus` went from pending to succeeded"));
    assert!(place("Phase `corpus` went from pending to succeeded") > place("checkpoint of step"));
    let root = sandbox.path("").canonicalize().unwrap();
    for event in &events {
        assert!(!text(event, "message").contains(root.to_str().unwrap()), "{event}");
    }
    // In pages, each once and in the same order.
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = server.get(&format!("/api/v1/jobs/job/events?limit=7{cursor}"));
        paged.extend(page["items"].as_array().unwrap().iter().map(|event| event["id"].clone()));
        let Some(next) = page["nextCursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, events.iter().map(|event| event["id"].clone()).collect::<Vec<_>>());

    // The validation after the last step is a point of the curve and a figure of the checkpoint's phase.
    let window = server.get(&format!("/api/v1/runs/{run}/series?metric=validation.loss&points=4000"));
    let series = &window["series"][0];
    assert_eq!(series["step"], json!([50, 100]), "{window}");
    let loss = series["last"][1].as_f64().unwrap();
    let artifact = &server.get("/api/v1/jobs/job/checkpoints")["items"][0];
    assert_eq!(
        (&artifact["state"], &artifact["attempt"], &artifact["validationLoss"]),
        (&json!("artifact"), &json!(1), &json!(loss)),
        "{artifact}"
    );
    let summary = text(&phases["items"][2], "summary").to_owned();
    assert!(summary.contains(&format!("{loss:.3}")), "{loss} {summary}");
    assert_eq!(served(&server, &run), spooled(&sandbox, "job"));
    server.end();
}

#[test]
fn a_checkpoint_knows_its_attempt_its_place_and_whether_it_was_verified() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 256_000);
    let list = "/api/v1/jobs/job/checkpoints";
    let attempt = || {
        let mut run = Background::start(&sandbox, &["run", "--no-ui", &file]);
        run.worker("pretrain").unwrap();
        run.wait_for("pretrain: checkpoint of step").unwrap();
        run.signal(Signal::INT);
        assert_eq!(run.end(), Some(130));
    };
    attempt();
    let server = Server::start(&sandbox);
    server.wait(list, "the first attempt's", |list| {
        list["items"].as_array().is_some_and(|items| !items.is_empty())
    });
    server.end();
    attempt();
    let server = Server::start(&sandbox);
    server.wait("/api/v1/jobs/job", "a stop", |job| job["state"] == "stopped");
    let listed = server.wait(list, "both attempts", |list| {
        let items = list["items"].as_array().unwrap();
        items.iter().any(|item| item["attempt"] == 2) && items.iter().any(|item| item["attempt"] == 1 && item["verified"] == true)
    });
    for item in listed["items"].as_array().unwrap() {
        assert!(item["attempt"].is_u64(), "{item}");
        let path = Path::new(text(item, "path"));
        assert!(path.is_absolute(), "{item}");
        assert_eq!(path.is_dir(), item["state"] == "committed", "{item}");
    }
    let events = server.get("/api/v1/jobs/job/events?kind=CheckpointCommitted");
    let message = text(&events["items"][0], "message").to_owned();
    assert!(message.contains(" in runs/pretrain/"), "{message}");
    let phase = &server.get("/api/v1/jobs/job/phases")["items"][2];
    assert!(text(phase, "startedAt") < text(&events["items"][0], "time"), "{phase}");
    server.end();
}

#[test]
fn questions_are_answered_while_jobs_wait_and_run_none_of_them() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 1_280);
    let ran = sandbox.run(&["--quiet", "run", "--no-ui", &file]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let entry = sandbox.write(".fathom/queue/00000000000000001-later.yaml", &manifest("later", 1_280));
    for arguments in [&["health", "job"][..], &["logs", "job"], &["matrix", "moe.load", "job"]] {
        let ran = sandbox.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
    }
    assert!(
        entry.exists() && !sandbox.path(".fathom/jobs/later").exists(),
        "the job that waits was run"
    );

    // A server that a command has for itself is not what `fathom ui` hands out.
    let mut own = sandbox
        .command(&["ui", "--no-open", "--until-eof", "--no-queue", "--port", "0", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(own.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let own_link: Value = serde_json::from_str(&line).unwrap();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        drop(own.stdin.take());
        own.wait().unwrap()
    });
    let server = Server::start(&sandbox);
    assert!(!text(&own_link, "url").starts_with(&format!("{}/", server.base)) || !text(&own_link, "url").contains(&server.secret));
    assert!(ending.join().unwrap().success());
    server.wait("/api/v1/jobs/later", "its run", |job| job["state"] == "succeeded");
    assert!(!entry.exists());
    server.end();
}
