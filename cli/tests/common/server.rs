//! A server of a sandbox's local directory, and what it and the spool say of a run.
#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part of this module, and a helper that fails fails its test.

use super::Sandbox;
use super::job::{run_directory, send};
use fathom_spec::record::{Body, Record};
use fathom_worker::report::resolve;
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of a sandbox's local directory.
pub struct Server {
    child: Child,
    /// Its address.
    pub base: String,
    /// What opens it.
    pub secret: String,
}

impl Server {
    pub fn start(sandbox: &Sandbox) -> Self {
        Self::start_with(sandbox, &[])
    }

    /// Starts it with environment variables.
    pub fn start_with(sandbox: &Sandbox, variables: &[(&str, &str)]) -> Self {
        let mut child = sandbox
            .command(&["ui", "--no-open", "--port", "0", "-o", "json"])
            .envs(variables.iter().copied())
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

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
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

    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.request("GET", path, &[], "");
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub fn post(&self, path: &str, body: &str) -> (u16, Value) {
        self.request("POST", path, &[("Content-Type", "application/yaml")], body)
    }

    pub fn wait(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
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

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id().cast_signed(), signal);
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn end(mut self) {
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
pub fn spooled(sandbox: &Sandbox, job: &str) -> BTreeMap<u64, f64> {
    let records: Vec<Record> = resolve(&run_directory(sandbox, job, "pretrain").join("spool")).unwrap();
    let batches = records.into_iter().filter_map(|record| match record.body {
        Body::Metrics(batch) => Some(batch),
        Body::Event(_) | Body::Progress(_) => None,
    });
    batches.map(|batch| (batch.step, batch.scalars["loss.main"])).collect()
}

/// Name of the run that pre-trains.
pub fn pretrain(server: &Server, job: &str) -> String {
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
pub fn served(server: &Server, run: &str) -> BTreeMap<u64, f64> {
    let window = server.get(&format!("/api/v1/runs/{run}/series?metric=loss.main&points=4000"));
    assert_eq!(window["bucketSteps"], 1);
    let series = &window["series"][0];
    let column = |name: &str| series[name].as_array().unwrap().clone();
    assert!(column("n").iter().all(|count| count == 1), "{:?}", column("n"));
    let steps = column("step").into_iter().map(|step| step.as_u64().unwrap());
    steps.zip(column("last").into_iter().map(|value| value.as_f64().unwrap())).collect()
}

pub fn settled(server: &Server, job: &str, state: &str) -> String {
    server.wait(&format!("/api/v1/jobs/{job}"), state, |job| job["state"] == state);
    let run = pretrain(server, job);
    server.wait(
        &format!("/api/v1/jobs/{job}/events?kind=PhaseCompleted"),
        "the last record",
        |events| events["items"].as_array().unwrap().iter().any(|event| event["run"] == run.as_str()),
    );
    run
}

/// Asks for everything that the API's document offers to readers of a job and its runs. Event streams do not end and are left out.
pub fn visit(server: &Server, job: &str) {
    let text = std::fs::read_to_string(super::repository().join("api/openapi.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let runs: Vec<String> = server.get(&format!("/api/v1/jobs/{job}/runs"))["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| run["id"].as_str().unwrap().to_owned())
        .collect();
    let trained = pretrain(server, job);
    let mut visited = 0;
    let read = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, methods)| methods.get("get").is_some());
    for (path, _) in read.filter(|(path, _)| !path.contains("{id}") && (!path.ends_with("events") || path.contains("{job}"))) {
        let query = match path.as_str() {
            "/api/v1/compare" => format!("?run={trained}&run={trained}"),
            path if path.ends_with("/series") => "?metric=loss.main".to_owned(),
            path if path.ends_with("/rows") => "?reduce=max".to_owned(),
            _ => String::new(),
        };
        // Only training has matrices and a loss.
        let wanted = if path.contains("{run}/matrices") || path.ends_with("/series") {
            std::slice::from_ref(&trained)
        } else if path.contains("{run}") {
            &runs[..]
        } else {
            &runs[..1]
        };
        for run in wanted {
            let address = path.replace("{job}", job).replace("{run}", run).replace("{name}", "moe.load");
            assert!(!address.contains('{'), "{address}: this test does not know what belongs there");
            server.get(&format!("{address}{query}"));
            visited += 1;
        }
    }
    assert!(visited > 20, "{visited}");
    let page = server.get(&format!("/jobs/{job}"));
    assert!(page.as_str().is_some_and(|page| page.contains("<html")), "{page}");
}
