//! Commands that ask a server: on a directory that a real job left, with a server of their own, with one that runs, and with one that has
//! tokens and PostgreSQL.
#![allow(clippy::unwrap_used)] // A helper that fails fails its test.

mod common;
#[path = "../../store/tests/common/mod.rs"]
mod postgres;

use common::job::{Background, manifest, prepare, run_directory, send};
use common::{Ran, Sandbox};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

/// What a job's worker printed, hostile bytes included.
const PRINTED: &str = "reading shards\nwarning: a shard is short\n\u{1b}[2J\u{9b}31mhidden\u{202e}\nerror: disk full\n  because: quota\n";

/// Runs a job to its end, without a server.
fn ran(sandbox: &Sandbox, name: &str, tokens: u32) {
    let file = prepare(sandbox, name, tokens);
    let run = sandbox.run(&["--quiet", "run", "--no-ui", &file]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// Makes the worker of a finished job have printed something.
fn print(sandbox: &Sandbox, job: &str) {
    let log = run_directory(sandbox, job, "pretrain").join("worker-1.log");
    let mut log = std::fs::OpenOptions::new().append(true).create(true).open(log).unwrap();
    log.write_all(PRINTED.as_bytes()).unwrap();
}

fn ok(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran.stdout
}

fn parsed(ran: Ran) -> Value {
    let text = ok(ran);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A server process that prints where it is.
struct Server {
    child: Child,
    /// What it printed.
    line: String,
}

impl Server {
    fn start(sandbox: &Sandbox, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = sandbox.command(arguments);
        command
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, line }
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

fn request(method: &str, url: &str, token: &str, body: &str) -> (u16, Value) {
    let agent = ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = ureq::http::Request::builder()
        .method(method)
        .uri(url)
        .header("Authorization", format!("Bearer {token}"));
    let request = request.header("Content-Type", "application/json").body(body.to_owned()).unwrap();
    let mut response = agent.run(request).unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    (
        response.status().as_u16(),
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// A command that asks the server at `address`.
fn asking(sandbox: &Sandbox, address: &str, token: &str, arguments: &[&str]) -> Ran {
    let mut command = sandbox.command(arguments);
    command.env("FATHOM_SERVER", address).env("FATHOM_TOKEN", token);
    command.output().unwrap().into()
}

#[test]
fn a_finished_job_is_asked_about_without_a_server() {
    let sandbox = Sandbox::new();
    ran(&sandbox, "job", 1280);
    print(&sandbox, "job");

    let health = parsed(sandbox.run(&["health", "-o", "json"]));
    assert_eq!((&health["verdict"], &health["step"]), (&json!("healthy"), &json!(10)));
    let tiles: Vec<&str> = health["tiles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tile| tile["id"].as_str().unwrap())
        .collect();
    assert_eq!(tiles, ["loss", "gradient", "throughput", "balance", "numerics", "infrastructure"]);
    let text = ok(sandbox.run(&["health", "job", "--check"]));
    assert!(
        text.starts_with("job: healthy since ") && text.matches("\n  Rule: ").count() == 6,
        "{text}"
    );

    let matrix = parsed(sandbox.run(&["matrix", "moe.load", "--step", "3", "-o", "json"]));
    assert_eq!(
        (&matrix["step"], &matrix["exact"], &matrix["rowMajor"]),
        (&json!(3), &json!(true), &json!(true))
    );
    let rows: Vec<Vec<f64>> = serde_json::from_value(matrix["values"].clone()).unwrap();
    assert_eq!(
        (json!(rows.len()), json!(rows[0].len())),
        (matrix["rows"].clone(), matrix["columns"].clone())
    );
    // Every layer routes each of the 128 tokens to 4 experts; that of the extra prediction lacks the last token of each of 4 sequences.
    let routed: Vec<f64> = rows.iter().map(|row| row.iter().sum()).collect();
    assert_eq!(routed, [512.0, 512.0, 496.0]);
    let csv = ok(sandbox.run(&["matrix", "moe.load", "job", "--step", "3", "-o", "csv"]));
    let cells = |line: &str| line.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect::<Vec<f64>>();
    assert_eq!(csv.lines().skip(1).map(cells).collect::<Vec<_>>(), rows);
    let map = ok(sandbox.run(&["matrix", "moe.load"]));
    assert!(
        map.contains("step 10\n") && map.contains("\nlayer 0  ") && map.contains("layer x expert"),
        "{map}"
    );
    let missing = sandbox.run(&["matrix", "moe.lode"]);
    assert_eq!(missing.code, Some(5));
    assert!(missing.stderr.contains("moe.bias, moe.load"), "{}", missing.stderr);
    assert_eq!(sandbox.run(&["matrix", "moe.load", "--phase", "corpus"]).code, Some(5));

    assert_eq!(sandbox.run(&["health", "other"]).code, Some(5));
    assert_eq!(sandbox.run(&["top"]).code, Some(2));
    let none = Sandbox::new();
    assert_eq!(none.run(&["health"]).code, Some(5));
    assert!(!none.path(".fathom").exists(), "a question leaves nothing behind");
}

#[test]
fn logs_are_chosen_ordered_and_harmless() {
    let sandbox = Sandbox::new();
    ran(&sandbox, "job", 1280);
    print(&sandbox, "job");
    let all = ok(sandbox.run(&["logs"]));
    let lines: Vec<&str> = all.lines().collect();
    assert_eq!(lines.len(), 5, "{all}");
    for (line, end) in lines.iter().zip([
        " pretrain/1 info  reading shards",
        " pretrain/1 warn  warning: a shard is short",
        " pretrain/1 info  \\x1b[2J\\x9b31mhidden\\u{202e}",
        " pretrain/1 error error: disk full",
        " pretrain/1 info    because: quota",
    ]) {
        assert!(line.ends_with(end), "{line:?} {end:?}");
    }
    let objects = ok(sandbox.run(&["logs", "job", "-o", "jsonl"]));
    assert!(!objects.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{objects:?}");
    let objects: Vec<Value> = objects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects[2]["text"], "\u{1b}[2J\u{9b}31mhidden\u{202e}");
    assert_eq!(parsed(sandbox.run(&["logs", "-o", "json"])), Value::from(objects.clone()));

    let texts = |arguments: &[&str]| -> Vec<String> {
        let objects = ok(sandbox.run(&[&["logs", "-o", "jsonl"], arguments].concat()));
        let text = |line: &str| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned();
        objects.lines().map(text).collect()
    };
    assert_eq!(texts(&["--grep", "DISK"]), ["error: disk full"]);
    assert_eq!(texts(&["--level", "warn"]), ["warning: a shard is short"]);
    assert_eq!(texts(&["-n", "2"]), ["error: disk full", "  because: quota"]);
    assert_eq!(texts(&["-n", "0"]), Vec::<String>::new());
    assert_eq!(texts(&["--first-error"]).len(), 5);
    assert_eq!(texts(&["--first-error", "-n", "1"])[3..], ["error: disk full"]);
    assert_eq!(texts(&["--since", &objects[3]["id"].to_string()]), ["  because: quota"]);
    assert_eq!(texts(&["--phase", "pretrain", "--attempt", "1"]).len(), 5);
    assert_eq!(texts(&["--phase", "tokenizer"]).len(), 0);
    assert_eq!(texts(&["--attempt", "2"]).len(), 0);
    assert_eq!(sandbox.run(&["logs", "--phase", "none"]).code, Some(5));
    assert_eq!(sandbox.run(&["logs", "-f", "-o", "json"]).code, Some(2));
    // The job has ended: nothing more to follow.
    let followed = sandbox.run(&["logs", "-f"]);
    assert_eq!((followed.code, followed.stdout), (Some(0), all));
}

#[test]
fn two_jobs_are_compared() {
    let sandbox = Sandbox::new();
    ran(&sandbox, "short", 1280);
    ran(&sandbox, "long", 2560);
    assert_eq!(sandbox.run(&["health"]).code, Some(2), "two jobs, none named");
    let comparison = parsed(sandbox.run(&["compare", "short", "long", "-o", "json"]));
    let run = |index: usize| comparison["runs"][index]["id"].as_str().unwrap();
    assert!(
        run(0).starts_with("short.pretrain.") && run(1).starts_with("long.pretrain."),
        "{comparison}"
    );
    let tokens = comparison["manifest"]
        .as_array()
        .unwrap()
        .iter()
        .find(|field| field["path"].as_str().unwrap().ends_with("tokens"));
    assert_eq!(tokens.unwrap()["values"], json!([1280, 2560]), "{comparison}");
    let loss = comparison["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .find(|metric| metric["name"] == "loss.main")
        .unwrap();
    assert!(loss["last"][0].is_f64() && loss["best"][1].is_f64(), "{loss}");
    assert_eq!(parsed(sandbox.run(&["compare", run(0), "long", "-o", "json"])), comparison);
    let text = ok(sandbox.run(&["compare", "short", "long"]));
    assert!(
        text.contains("A  short.pretrain.") && text.contains("loss.main ") && text.contains("%)"),
        "{text}"
    );
    assert_eq!(sandbox.run(&["compare", "short", "none"]).code, Some(5));
}

#[test]
fn following_ends_with_the_result_and_check_tells_the_unhealthy() {
    let sandbox = Sandbox::new();
    prepare(&sandbox, "job", 256_000);
    let text = manifest("job", 256_000).replace("maxRestarts: 1000", "maxRestarts: 0");
    sandbox.write("job.yaml", &text);
    let mut run = Background::start(&sandbox, &["run", "--no-ui", "job.yaml"]);
    let worker = run.worker("pretrain").unwrap();
    let follow = sandbox
        .command(&["logs", "job", "-f"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_secs(2));
    send(worker, Signal::KILL);
    assert_eq!(run.end(), Some(1));
    let followed = Ran::from(follow.wait_with_output().unwrap());
    assert_eq!(followed.code, Some(1), "{followed:?}");
    assert!(followed.stderr.contains("job `job` has failed"), "{}", followed.stderr);
    let check = sandbox.run(&["health", "--check"]);
    assert_eq!(check.code, Some(10), "{check:?}");
    assert!(check.stdout.starts_with("job: failing"), "{}", check.stdout);
    assert_eq!(sandbox.run(&["health"]).code, Some(0));
}

#[test]
fn a_named_server_is_asked_with_a_token() {
    let sandbox = Sandbox::new();
    ran(&sandbox, "job", 1280);
    let server = Server::start(&sandbox, &["ui", "--no-open", "--port", "0", "-o", "json"], &[]);
    let link: Value = serde_json::from_str(&server.line).unwrap();
    let (address, secret) = link["url"].as_str().unwrap().split_once("/?secret=").unwrap();
    let elsewhere = Sandbox::new();
    let health = parsed(asking(&elsewhere, address, secret, &["health", "-o", "json"]));
    let (status, mut rest) = request("GET", &format!("{address}/api/v1/jobs/job/health"), secret, "");
    assert_eq!(status, 200);
    // The only members that the clock changes.
    rest["evaluatedAt"] = health["evaluatedAt"].clone();
    for tile in ["value", "detail", "sparkline", "text"] {
        rest["tiles"][5][tile] = health["tiles"][5][tile].clone();
    }
    assert_eq!(health, rest);
    // The directory's own server is asked, not a second one.
    assert_eq!(parsed(sandbox.run(&["matrix", "moe.load", "-o", "json"]))["step"], 10);

    let code = |address: &str, token: &str| asking(&elsewhere, address, token, &["health"]).code;
    assert_eq!(code(address, "wrong"), Some(4));
    assert_eq!(code(address, ""), Some(4));
    assert_eq!(code("127.0.0.1:7316", secret), Some(2));
    assert_eq!(code(link["url"].as_str().unwrap(), secret), Some(2));
    server.end();
    assert_eq!(code(address, secret), Some(8));
}

/// What the spool says here is what the server says elsewhere.
#[test]
fn metrics_and_status_are_the_same_from_a_server() {
    let sandbox = Sandbox::new();
    ran(&sandbox, "job", 1280);
    let server = Server::start(&sandbox, &["ui", "--no-open", "--port", "0", "-o", "json"], &[]);
    let link: Value = serde_json::from_str(&server.line).unwrap();
    let (address, secret) = link["url"].as_str().unwrap().split_once("/?secret=").unwrap();
    let elsewhere = Sandbox::new();
    let remote = |arguments: &[&str]| asking(&elsewhere, address, secret, arguments);
    let exports: [&[&str]; 5] = [
        &["metrics", "export"],
        &["metrics", "export", "--format", "json", "job"],
        &["metrics", "export", "--matrix", "moe.load"],
        &["metrics", "get", "loss.main", "--from", "3", "--to", "7"],
        &["metrics", "ls", "--phase", "pretrain"],
    ];
    for arguments in exports {
        let local = ok(sandbox.run(arguments));
        assert!(local.lines().count() > 5, "{local}");
        assert_eq!(ok(remote(arguments)), local, "{arguments:?}");
    }
    let unknown = remote(&["metrics", "get", "loss.mian"]);
    assert_eq!(unknown.code, Some(5), "{unknown:?}");
    assert!(unknown.stderr.contains("loss.main"), "{}", unknown.stderr);
    assert_eq!(
        remote(&["metrics", "get", "moe.load"]).code,
        Some(2),
        "a matrix is no series of numbers"
    );

    let (here, there) = (
        parsed(sandbox.run(&["status", "-o", "json"])),
        parsed(remote(&["status", "-o", "json"])),
    );
    let (status, rest) = request("GET", &format!("{address}/api/v1/jobs/job"), secret, "");
    assert_eq!((status, &there["phases"]), (200, &rest["phases"]));
    assert_eq!((&here["name"], &here["state"]), (&there["name"], &there["state"]));
    for (here, there) in here["phases"].as_array().unwrap().iter().zip(there["phases"].as_array().unwrap()) {
        for member in ["name", "kind", "state", "key", "attempt"] {
            assert_eq!(here[member], there[member], "{member}: {here} {there}");
        }
    }
    assert!(ok(remote(&["status", "-w"])).starts_with("job: succeeded\n"));
    assert_eq!(remote(&["status", "none"]).code, Some(5));
    server.end();
}

#[test]
fn server_mode_takes_in_history_behind_tokens() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(&["server", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let database = postgres::database();
    let database = [("DATABASE_URL", database.as_str())];
    let with_database = |arguments: &[&str]| Ran::from(sandbox.command(arguments).envs(database).output().unwrap());
    let broken = sandbox
        .command(&["server", "--listen", "127.0.0.1:0"])
        .envs(database)
        .env("FATHOM_SEED", "abc")
        .output();
    assert_eq!(Ran::from(broken.unwrap()).code, Some(2));

    let made = parsed(with_database(&[
        "server",
        "token",
        "create",
        "worker",
        "--scope",
        "metrics:write",
        "--days",
        "1",
        "-o",
        "json",
    ]));
    assert_eq!(made["scopes"], json!(["metrics:write"]));
    let writer = made["token"].as_str().unwrap();
    let reader = ok(with_database(&[
        "server",
        "token",
        "create",
        "reader",
        "--scope",
        "runs:read,jobs:write",
    ]));
    let reader = reader.trim();
    assert!(reader.starts_with("fat_") && reader.lines().count() == 1, "{reader}");
    assert_eq!(
        with_database(&["server", "token", "create", "reader", "--scope", "admin"]).code,
        Some(6),
        "the name is taken"
    );
    assert_eq!(with_database(&["server", "token", "create", "x", "--scope", "root"]).code, Some(2));
    assert_eq!(with_database(&["server", "token", "create", " ", "--scope", "admin"]).code, Some(1));

    let server = Server::start(&sandbox, &["server", "--listen", "127.0.0.1:0"], &database);
    let address = server.line.trim().to_owned();
    let status =
        json!({"uid": "u", "state": "running", "labels": {}, "manifest": "m", "effective": "e", "phases": [], "runs": [], "artifacts": []});
    let put = |token: &str| request("PUT", &format!("{address}/api/v1/jobs/far/status"), token, &status.to_string()).0;
    assert_eq!((put(writer), put(reader), put("fat_wrong")), (200, 403, 401));
    let (code, problem) = request("POST", &format!("{address}/api/v1/jobs/far:pause"), reader, "");
    assert_eq!(code, 503, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("does not run jobs"), "{problem}");

    let ask = |token: &str, arguments: &[&str]| asking(&sandbox, &address, token, arguments);
    assert!(ok(ask(reader, &["health"])).starts_with("far: "));
    assert_eq!(ask(reader, &["matrix", "moe.load", "far"]).code, Some(5));
    assert_eq!(ask(writer, &["health", "far"]).code, Some(4), "a scope is missing");
    assert_eq!(ask("fat_0000", &["health", "far"]).code, Some(4));
    server.end();
    assert_eq!(ask(reader, &["health", "far"]).code, Some(8));
}
