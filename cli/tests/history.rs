//! The history of a local directory: what the server has is what the workers' spools hold, whatever dies meanwhile.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;

use common::Sandbox;
use common::job::{Background, Random, manifest, prepare, run_directory, send};
use fathom_spec::record::{Body, Record};
use fathom_worker::report::resolve;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of a sandbox's local directory.
struct Server {
    child: Child,
    base: String,
    secret: String,
}

impl Server {
    fn start(sandbox: &Sandbox) -> Self {
        let mut child = sandbox
            .command(&["ui", "--no-open", "--port", "0", "-o", "json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let link: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        let (base, secret) = link["url"].as_str().unwrap().split_once("/?secret=").unwrap();
        Self {
            child,
            base: base.to_owned(),
            secret: secret.to_owned(),
        }
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("Authorization", format!("Bearer {}", self.secret));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (
            response.status().as_u16(),
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.request("GET", path, &[], "");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.request("POST", path, &[("Content-Type", "application/yaml")], body)
    }

    fn wait(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let (status, body) = self.request("GET", path, &[], "");
            if status == 200 && holds(&body) {
                return body;
            }
            assert!(Instant::now() < end, "waited in vain for {what}: {status} {body}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self) {
        send(self.child.id().cast_signed(), Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The loss by step, as the spool has it.
fn spooled(sandbox: &Sandbox, job: &str) -> BTreeMap<u64, f64> {
    let records: Vec<Record> = resolve(&run_directory(sandbox, job, "pretrain").join("spool")).unwrap();
    let batches = records.into_iter().filter_map(|record| match record.body {
        Body::Metrics(batch) => Some(batch),
        Body::Event(_) | Body::Progress(_) => None,
    });
    batches.map(|batch| (batch.step, batch.scalars["loss.main"])).collect()
}

/// Name of the run that pre-trains.
fn pretrain(server: &Server, job: &str) -> String {
    let phases = server.get(&format!("/api/v1/jobs/{job}/phases"));
    let phase = phases["items"]
        .as_array()
        .unwrap()
        .iter()
        .find(|phase| phase["name"] == "pretrain")
        .unwrap();
    phase["run"].as_str().unwrap().to_owned()
}

/// The loss by step, as the server has it; each bucket holds one point.
fn served(server: &Server, run: &str) -> BTreeMap<u64, f64> {
    let window = server.get(&format!("/api/v1/runs/{run}/series?metric=loss.main&points=4000"));
    assert_eq!(window["bucketSteps"], 1);
    let series = &window["series"][0];
    let column = |name: &str| series[name].as_array().unwrap().clone();
    assert!(column("n").iter().all(|count| count == 1), "{:?}", column("n"));
    let steps = column("step").into_iter().map(|step| step.as_u64().unwrap());
    steps.zip(column("last").into_iter().map(|value| value.as_f64().unwrap())).collect()
}

fn settled(server: &Server, job: &str, state: &str) -> String {
    server.wait(&format!("/api/v1/jobs/{job}"), state, |job| job["state"] == state);
    let run = pretrain(server, job);
    server.wait(
        &format!("/api/v1/jobs/{job}/events?kind=PhaseCompleted"),
        "the last record",
        |events| events["items"].as_array().unwrap().iter().any(|event| event["run"] == run.as_str()),
    );
    run
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
    let text = manifest("by-rest", 76_800);
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
