//! Seeded faults, the whole way: a worker's spool, the shipper, the ingest, the verdict over REST and what the commands say. Numbers that
//! are none break no answer, no table and no file on that way.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;

use common::Sandbox;
use common::job::manifest;
use common::server::{Server, visit};
use fathom_spec::parse_manifest;
use fathom_spec::plan::run_name;
use fathom_spec::record::{EventKind, Matrix, MetricBatch};
use fathom_spec::state::{JobStatus, PhaseState};
use fathom_worker::report::{Options, Reporter};
use serde_json::{Value, json};
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const LAYERS: usize = 2;
const EXPERTS: usize = 8;
/// Steps without a fault before the first one with it.
const CLEAN: u64 = 400;

fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// A job whose worker is this test.
struct Seeded {
    name: String,
    reporter: Reporter,
    clock: Arc<Mutex<f64>>,
    seconds: f64,
    step: u64,
}

impl Seeded {
    /// A job that trains since `age` seconds, a step in `seconds`.
    fn new(sandbox: &Sandbox, name: &str, seconds: f64, age: f64) -> Self {
        let text = manifest(name, 1 << 20);
        let mut status = JobStatus::new(&parse_manifest(&text).unwrap());
        let phase = status.phases.iter_mut().find(|phase| phase.name == "pretrain").unwrap();
        phase.state = PhaseState::Pending.start(KEY.into(), now() - age).unwrap();
        let folder = format!(".fathom/jobs/{name}");
        let spool = sandbox.path(&format!("{folder}/runs/pretrain/{}/spool", &KEY[..12]));
        std::fs::create_dir_all(&spool).unwrap();
        sandbox.write(&format!("{folder}/manifest.yaml"), &text);
        sandbox.write(&format!("{folder}/status.json"), &serde_json::to_string(&status).unwrap());
        let clock = Arc::new(Mutex::new(now() - age));
        let shown = Arc::clone(&clock);
        let options = Options {
            clock: Arc::new(move || *shown.lock().unwrap()),
            ..Options::default()
        };
        let reporter = Reporter::open(&spool, &run_name(name, "pretrain", KEY), 1, 0, 0, options).unwrap();
        Self {
            name: name.to_owned(),
            reporter,
            clock,
            seconds,
            step: 0,
        }
    }

    fn run(&self) -> String {
        run_name(&self.name, "pretrain", KEY)
    }

    /// Reports steps up to `last`, each as `change` leaves it.
    fn feed(&mut self, last: u64, mut change: impl FnMut(&mut MetricBatch)) {
        while self.step < last {
            self.step += 1;
            *self.clock.lock().unwrap() += self.seconds;
            let wave = (self.step % 5) as f64 - 2.0;
            let scalars = [
                ("loss.main", 3.0 + 0.0625 * wave),
                ("gradient_norm", 0.5 + 0.0625 * wave),
                ("tokens_per_second", 4096.0),
                ("step_seconds", self.seconds),
            ];
            let mut batch = MetricBatch {
                step: self.step,
                tokens: 4096 * self.step,
                scalars: scalars.map(|(name, value)| (name.to_owned(), value)).into(),
                matrices: [("moe.load".to_owned(), load())].into(),
            };
            change(&mut batch);
            self.reporter.metrics(batch);
        }
        self.reporter.flush(Duration::from_secs(30)).unwrap();
    }

    /// The health as soon as all steps are known.
    fn health(&self, server: &Server) -> Value {
        let path = format!("/api/v1/jobs/{}/health", self.name);
        server.wait(&path, "every step", |health| health["step"] == self.step)
    }

    /// Steps without a fault, judged before the first with one comes: detectors work as they do beside a run.
    fn settle(&mut self, server: &Server, steps: u64) {
        self.feed(steps, |_| {});
        let health = self.health(server);
        assert_eq!(health["reasons"], json!([]), "{health}");
    }
}

fn load() -> Matrix {
    Matrix {
        rows: LAYERS,
        columns: EXPERTS,
        values: (0..LAYERS * EXPERTS).map(|place| 1000.0 + 10.0 * (place % 3) as f32).collect(),
    }
}

/// What the first reason and the next action must be.
#[track_caller]
fn check(sandbox: &Sandbox, job: &Seeded, health: &Value, verdict: &str, reason: &Value, action: (&str, &str)) {
    assert_eq!(health["verdict"], verdict, "{health}");
    let first = health["reasons"]
        .as_array()
        .unwrap()
        .iter()
        .find(|found| found["code"] == reason["code"]);
    let first = first.unwrap_or_else(|| panic!("{health}"));
    for (member, value) in reason.as_object().unwrap() {
        assert_eq!(&first[member], value, "{member}: {health}");
    }
    assert_eq!(health["nextAction"]["kind"], action.0, "{health}");
    assert!(health["nextAction"]["text"].as_str().unwrap().contains(action.1), "{health}");
    // The command says the same, and its exit code tells scripts.
    let told = sandbox.run(&["health", &job.name, "--check"]);
    let unhealthy = matches!(verdict, "failing" | "stalled");
    assert_eq!(told.code, Some(if unhealthy { 10 } else { 0 }), "{told:?}");
    assert!(told.stdout.starts_with(&format!("{}: {verdict}", job.name)), "{}", told.stdout);
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in [&first["text"], &health["nextAction"]["text"]] {
        assert!(
            words(&told.stdout).contains(&words(text.as_str().unwrap())),
            "{text} {}",
            told.stdout
        );
    }
}

#[test]
fn a_number_that_is_none_is_seen_at_its_step_and_breaks_nothing() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path(".fathom")).unwrap();
    let server = Server::start(&sandbox);
    let mut job = Seeded::new(&sandbox, "nan", 1.0, CLEAN as f64 + 10.0);
    job.settle(&server, CLEAN);
    job.reporter
        .event(EventKind::CheckpointCommitted, Some(CLEAN - 100), "checkpoint of a clean step");
    let at = CLEAN + 1;
    job.feed(at, |batch| {
        batch.scalars.insert("loss.main".into(), f64::NAN);
        batch.scalars.insert("gradient_norm".into(), f64::INFINITY);
        batch.scalars.insert("validation.loss".into(), f64::NEG_INFINITY);
        batch.scalars.insert("tokens_per_second".into(), f64::NAN);
        batch.matrices.get_mut("moe.load").unwrap().values[3] = f32::NAN;
    });
    // No step after it was reported: it is flagged within one.
    let health = job.health(&server);
    let reason = json!({"code": "nonFinite", "severity": "failing", "page": "curves"});
    check(&sandbox, &job, &health, "failing", &reason, ("rollback", "checkpoint of step 300"));
    assert_eq!(health["reasons"][0]["since"]["step"], at, "{health}");
    assert!(health["nextAction"]["href"].as_str().unwrap().ends_with("/checkpoints"), "{health}");

    visit(&server, "nan");
    let run = job.run();
    let query = |metric: &str| server.get(&format!("/api/v1/runs/{run}/series?metric={metric}&points=4000"))["series"][0].clone();
    for (metric, text) in [
        ("loss.main", "NaN"),
        ("gradient_norm", "Infinity"),
        ("validation.loss", "-Infinity"),
    ] {
        let series = query(metric);
        assert_eq!(series["last"].as_array().unwrap().last().unwrap(), text, "{metric}");
        assert_eq!(series["nonFinite"].as_array().unwrap().last().unwrap(), 1, "{metric}");
    }
    // In wide buckets the finite values beside it are still there.
    let wide = server.get(&format!("/api/v1/runs/{run}/series?metric=loss.main&points=1"));
    assert_eq!(
        (&wide["series"][0]["n"][0], &wide["series"][0]["min"][0]),
        (&json!(at), &json!(2.875)),
        "{wide}"
    );
    let matrix = server.get(&format!("/api/v1/runs/{run}/matrices/moe.load?step={at}"));
    let values = json!({"rows": matrix["rows"], "columns": matrix["columns"], "values": matrix["values"]});
    let values = serde_json::from_value::<Matrix>(values).unwrap().values;
    assert_eq!((&matrix["exact"], values.len()), (&json!(true), LAYERS * EXPERTS));
    assert!(values[3].is_nan() && values[4] == load().values[4], "{values:?}");

    let mut other = Seeded::new(&sandbox, "clean", 1.0, 60.0);
    other.settle(&server, 20);
    let runs = format!("run={run}&run={}", other.run());
    let comparison = server.get(&format!("/api/v1/compare?{runs}"));
    let loss = comparison["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .find(|metric| metric["name"] == "loss.main")
        .unwrap();
    assert_eq!((&loss["last"][0], &loss["best"][0]), (&json!("NaN"), &json!(2.875)), "{loss}");

    let ok = |arguments: &[&str]| {
        let ran = sandbox.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    let csv = ok(&["metrics", "export", "nan"]);
    let mut lines = csv.lines();
    let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
    let cells: Vec<&str> = lines.next_back().unwrap().split(',').collect();
    for (name, text) in [
        ("loss.main", "NaN"),
        ("gradient_norm", "Infinity"),
        ("validation.loss", "-Infinity"),
    ] {
        let place = columns
            .iter()
            .position(|column| *column == name)
            .unwrap_or_else(|| panic!("{columns:?}"));
        assert_eq!(cells[place], text, "{name}");
    }
    let rows: Vec<Value> = serde_json::from_str(&ok(&["metrics", "export", "nan", "--format", "json"])).unwrap();
    assert_eq!((rows.len() as u64, &rows.last().unwrap()["loss.main"]), (at, &json!("NaN")));
    ok(&["metrics", "export", "nan", "--format", "parquet", "--out", "nan.parquet"]);
    assert!(std::fs::read(sandbox.path("nan.parquet")).unwrap().starts_with(b"PAR1"));
    assert!(ok(&["metrics", "get", "loss.main", "nan"]).contains("NaN"));
    assert!(ok(&["matrix", "moe.load", "nan", "--step", &at.to_string(), "-o", "csv"]).contains("NaN"));
    ok(&["matrix", "moe.load", "nan"]);
    assert!(ok(&["compare", "nan", "clean"]).contains("NaN"));
    server.end();
}

#[test]
fn a_spike_is_seen_within_five_steps() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path(".fathom")).unwrap();
    let server = Server::start(&sandbox);
    let mut job = Seeded::new(&sandbox, "spike", 1.0, CLEAN as f64 + 10.0);
    job.settle(&server, CLEAN);
    job.feed(CLEAN + 5, |batch| {
        batch.scalars.insert("loss.main".into(), 6.0);
    });
    let health = job.health(&server);
    let reason = json!({"code": "lossSpike", "severity": "failing", "page": "curves", "metric": "loss.main"});
    check(&sandbox, &job, &health, "failing", &reason, ("rollback", "lower learningRate.peak"));
    assert_eq!(health["reasons"][0]["since"]["step"], CLEAN + 1, "{health}");
    server.end();
}

#[test]
fn a_dead_expert_is_named_with_its_layer() {
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path(".fathom")).unwrap();
    let server = Server::start(&sandbox);
    let mut job = Seeded::new(&sandbox, "dead", 1.0, 1000.0);
    job.settle(&server, CLEAN);
    let mut starve = |batch: &mut MetricBatch| batch.matrices.get_mut("moe.load").unwrap().values[EXPERTS + 5] = 0.0;
    job.feed(CLEAN + 499, &mut starve);
    let health = job.health(&server);
    assert_eq!(health["verdict"], "healthy", "a step too early: {health}");
    job.feed(CLEAN + 500, &mut starve);
    let health = job.health(&server);
    let reason = json!({"code": "expertDead", "severity": "failing", "page": "experts", "layer": 1, "expert": 5});
    check(&sandbox, &job, &health, "failing", &reason, ("open", "MoE layer 1"));
    let href = health["nextAction"]["href"].as_str().unwrap();
    assert!(href.contains("/experts?") && href.contains("layer=1&expert=5"), "{href}");
    server.end();
}

#[test]
fn a_stall_is_seen_after_three_step_times() {
    const SECONDS: f64 = 60.0;
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path(".fathom")).unwrap();
    let server = Server::start(&sandbox);
    // Only a job that runs can stall: this test holds the lock of its runner.
    let lock = File::create(sandbox.path(".fathom/lock")).unwrap();
    lock.try_lock().unwrap();
    for (name, silence, verdict, severity, action) in [
        ("early", 2.5, "healthy", None, ("none", "")),
        ("slow", 3.1, "watch", Some("watch"), ("wait", "")),
        ("hung", 10.5, "stalled", Some("stalled"), ("open", "logs")),
    ] {
        let note = json!({"pid": std::process::id(), "since": now(), "job": name, "command": "fathom run"});
        std::fs::write(sandbox.path(".fathom/lock"), note.to_string()).unwrap();
        let steps = 100;
        let mut job = Seeded::new(&sandbox, name, SECONDS, SECONDS * (steps as f64 + silence));
        job.feed(steps, |_| {});
        server.wait(&format!("/api/v1/jobs/{name}"), "running", |job| job["state"] == "running");
        let health = job.health(&server);
        match severity {
            None => assert_eq!((&health["verdict"], &health["reasons"]), (&json!(verdict), &json!([])), "{health}"),
            Some(severity) => {
                let reason = json!({"code": "noProgress", "severity": severity, "page": "logs"});
                // Its text counts the seconds, so the command is compared with a fresh answer.
                assert_eq!(health["verdict"], verdict, "{health}");
                let found = &health["reasons"][0];
                for member in ["code", "severity", "page"] {
                    assert_eq!(found[member], reason[member], "{health}");
                }
                assert_eq!(found["since"]["step"], steps, "{health}");
                assert!(found["text"].as_str().unwrap().starts_with("No step for "), "{health}");
                assert_eq!(health["nextAction"]["kind"], action.0, "{health}");
                assert!(health["nextAction"]["text"].as_str().unwrap().contains(action.1), "{health}");
                let told = sandbox.run(&["health", name, "--check"]);
                assert_eq!(told.code, Some(if verdict == "stalled" { 10 } else { 0 }), "{told:?}");
                assert!(
                    told.stdout.starts_with(&format!("{name}: {verdict}")) && told.stdout.contains("No step for "),
                    "{told:?}"
                );
            }
        }
        visit(&server, name);
    }
    server.end();
}
