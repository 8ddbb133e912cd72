//! Training goes on, at the same pace, while its server or its database is away, and everything it did is in the history afterwards.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;
#[path = "common/postgres.rs"]
mod postgres;

use common::Sandbox;
use common::job::{Background, prepare, run_directory, wait_until};
use common::server::{Server, served, settled, spooled};
use fathom_spec::record::Body;
use fathom_worker::report::resolve;
use postgres::Postgres;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

/// Tokens of the jobs: 1,200 steps, of which the outage covers hundreds.
const TOKENS: u32 = 153_600;
const STEPS: u64 = 1_200;
/// Steps before the outage, and how many it must last.
const BEFORE: u64 = 200;
const DURING: u64 = 500;

/// Time and seconds of every step, by the worker's own account.
fn steps(sandbox: &Sandbox) -> BTreeMap<u64, (f64, f64)> {
    let records = resolve(&run_directory(sandbox, "job", "pretrain").join("spool")).unwrap_or_default();
    let metrics = records.into_iter().filter_map(|record| match record.body {
        Body::Metrics(batch) => Some((batch.step, (record.time, batch.scalars["step_seconds"]))),
        Body::Event(_) | Body::Progress(_) => None,
    });
    metrics.collect()
}

fn last_step(sandbox: &Sandbox) -> u64 {
    let exists = sandbox.path(".fathom/jobs/job/runs/pretrain").exists();
    if exists {
        steps(sandbox).keys().next_back().copied().unwrap_or(0)
    } else {
        0
    }
}

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// Prints what the outage did to the time of a step; what it must not do is in the assertions of the tests.
fn print_pace(what: &str, sandbox: &Sandbox, (from, to): (f64, f64)) {
    let median = |inside: bool| {
        let all = steps(sandbox);
        let some = all.values().filter(|(time, _)| (from..to).contains(time) == inside);
        let mut seconds: Vec<f64> = some.map(|(_, seconds)| *seconds).collect();
        seconds.sort_by(f64::total_cmp);
        (seconds.len(), seconds.get(seconds.len() / 2).copied().unwrap_or(0.0) * 1e3)
    };
    let ((with, usual), (without, away)) = (median(false), median(true));
    println!("{what}: a step takes {usual:.2} ms beside the server ({with} steps), {away:.2} ms without it ({without} steps), median");
}

/// Waits until the job has made `steps` steps. It looks seldom: reading the spool takes time from training.
fn trained(sandbox: &Sandbox, steps: u64) {
    wait_until("steps", || {
        std::thread::sleep(Duration::from_millis(400));
        last_step(sandbox) >= steps
    });
}

/// Waits until the outage has covered enough steps. Only what training does by itself is looked at.
fn last(sandbox: &Sandbox) {
    trained(sandbox, last_step(sandbox) + DURING);
}

/// Everything is there, each step once.
fn whole(sandbox: &Sandbox, server: &Server) {
    let run = settled(server, "job", "succeeded");
    let spooled = spooled(sandbox, "job");
    assert_eq!(spooled.keys().copied().collect::<Vec<_>>(), (1..=STEPS).collect::<Vec<_>>());
    assert_eq!(served(server, &run), spooled);
    let attempts = server.get(&format!("/api/v1/runs/{run}/attempts"));
    assert_eq!(attempts["items"].as_array().unwrap().len(), 1, "the worker went on: {attempts}");
}

#[test]
fn a_server_that_is_gone_costs_training_nothing() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", TOKENS);
    let server = Server::start(&sandbox);
    let run = Background::start(&sandbox, &["run", &file]);
    trained(&sandbox, BEFORE);
    let from = now();
    server.kill();
    last(&sandbox);
    let to = now();
    let server = Server::start(&sandbox);
    assert_eq!(run.end(), Some(0));
    whole(&sandbox, &server);
    print_pace("server killed", &sandbox, (from, to));
    server.end();
}

#[test]
fn a_server_that_hangs_costs_training_nothing() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", TOKENS);
    let server = Server::start(&sandbox);
    let run = Background::start(&sandbox, &["run", &file]);
    trained(&sandbox, BEFORE);
    let from = now();
    // Its connections stay open and answer nothing.
    server.signal(Signal::STOP);
    last(&sandbox);
    let to = now();
    server.signal(Signal::CONT);
    assert_eq!(run.end(), Some(0));
    whole(&sandbox, &server);
    print_pace("server stopped by SIGSTOP", &sandbox, (from, to));
    server.end();
}

#[test]
fn a_database_that_is_gone_or_hangs_costs_training_nothing() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", TOKENS);
    let mut database = Postgres::start();
    let url = database.url();
    let server = Server::start_with(&sandbox, &[("DATABASE_URL", &url)]);
    let run = Background::start(&sandbox, &["run", &file]);
    trained(&sandbox, BEFORE);
    let from = now();
    database.stop();
    // The server answers, and says what is the matter.
    let (status, problem) = server.request("GET", "/api/v1/jobs/job", &[], "");
    assert_eq!((status, &problem["status"]), (503, &json!(503)), "{problem}");
    assert!(!problem["detail"].to_string().contains("postgres://"), "{problem}");
    let body = json!({"writer": "none/1/0", "records": []}).to_string();
    let json_body = [("Content-Type", "application/json")];
    let (status, problem) = server.request("POST", "/api/v1/runs/none/metrics:batch", &json_body, &body);
    assert_eq!((status, &problem["status"]), (503, &json!(503)), "{problem}");
    assert_eq!(server.request("GET", "/healthz", &[], "").0, 200, "it lives");
    assert_eq!(server.request("GET", "/readyz", &[], "").0, 503, "it is not ready");
    last(&sandbox);
    let to = now();
    database.start_again();
    assert_eq!(run.end(), Some(0));
    whole(&sandbox, &server);
    print_pace("database stopped", &sandbox, (from, to));
    server.end();
    // The same history again, of the same files, into a database that hangs for a while.
    let other = Postgres::start();
    let server = Server::start_with(&sandbox, &[("DATABASE_URL", &other.url())]);
    other.pause(Duration::from_secs(3));
    whole(&sandbox, &server);
    server.end();
}
