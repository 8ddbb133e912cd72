//! `fathom bench history`: the history over REST, as its clients meet it: a server process of its own, requests over loopback.

use crate::client::Client;
use crate::failure::{Exit, Failure, Result};
use crate::output;
use fathom_spec::record::{Body, Matrix, MetricBatch, Record};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Scalars of a step, as a large run reports them.
const SCALARS: usize = 300;
/// Matrices of a step: V3's MoE layers and experts.
const MATRICES: usize = 4;
const ROWS: usize = 58;
const COLUMNS: usize = 256;
/// Writers at a time.
const WRITERS: usize = 8;
/// Steps in a request of a writer.
const STEPS: usize = 100;
/// Readers of live events at a time.
const READERS: usize = 1_000;
const JOB: &str = "bench";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time in which the server folds what it was sent.
const SETTLE: Duration = Duration::from_secs(3);

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds of ingest
    #[arg(long, default_value_t = 10, value_name = "S")]
    seconds: u64,
    /// Points of the long series
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    points: u64,
}

/// Measures and prints one JSON line per figure. `DATABASE_URL` chooses the database; without it the embedded one is measured.
pub fn run(args: &Args) -> Result {
    let mut server = Server::start()?;
    let client = server.client.clone();
    announce(&client)?;
    let database = if std::env::var_os("DATABASE_URL").is_some() {
        "server"
    } else {
        "embedded"
    };
    let show = |mut line: Value| {
        line["database"] = json!(database);
        output::stdout(&line.to_string())
    };
    show(ingest(&server, args.seconds)?)?;
    show(one_step(&client)?)?;
    show(read(&client, args.points)?)?;
    show(scrub(&client)?)?;
    show(live(&server)?)?;
    server.stop();
    Ok(())
}

/// A server process with an empty history.
struct Server {
    child: Child,
    client: Client,
    address: String,
    secret: String,
    directory: std::path::PathBuf,
}

impl Server {
    fn start() -> Result<Self> {
        let failed = |error: &dyn std::error::Error| Failure::new(Exit::Failed, "cannot start a server").caused_by(error);
        let directory = std::env::temp_dir().join(format!("fathom-bench-{}", std::process::id()));
        let executable = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut child = Command::new(executable)
            .arg("--dir")
            .arg(&directory)
            .args(["ui", "--no-open", "--until-eof", "--port", "0", "--output", "json"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed(&error))?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).map_err(|error| failed(&error))?;
        }
        let link: Value = serde_json::from_str(&line).map_err(|error| failed(&error))?;
        let (address, secret) = link["url"].as_str().and_then(|url| url.split_once("/?secret=")).unwrap_or_default();
        Ok(Self {
            client: Client::new(address, secret),
            address: address.trim_start_matches("http://").to_owned(),
            secret: secret.to_owned(),
            child,
            directory,
        })
    }

    /// Asks for `path` on a connection of its own, whose answer is still to be read.
    fn ask(&self, path: &str, accept: &str) -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect(&self.address)?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n",
            self.address, self.secret
        );
        stream.write_all(request.as_bytes())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Bytes of the database, as the server's own metrics have it.
    fn database_bytes(&self) -> Option<u64> {
        let mut text = String::new();
        self.ask("/metrics", "*/*").ok()?.read_to_string(&mut text).ok()?;
        let line = text.lines().find(|line| line.starts_with("fathom_database_size_bytes "))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Resident memory in bytes.
    fn memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        line.split_whitespace()
            .nth(1)?
            .parse::<u64>()
            .ok()
            .map(|kilobytes| kilobytes * 1024)
    }

    fn stop(&mut self) {
        self.child.stdin = None;
        // The directory is temporary whether it ended well or not.
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.stop();
    }
}

fn run_name(index: usize) -> String {
    format!("{JOB}.pretrain.{index:012}")
}

/// Makes the job and a run for each purpose known.
fn announce(client: &Client) -> Result {
    let runs: Vec<Value> = (0..WRITERS + 2)
        .map(|index| json!({"name": run_name(index), "phase": "pretrain", "kind": "pretrain", "key": format!("{index:064}"), "state": "running"}))
        .collect();
    let body = json!({
        "uid": "bench", "state": "running", "labels": {}, "manifest": "bench", "effective": "bench", "phases": [], "runs": runs, "artifacts": [],
    });
    client.put(&format!("/api/v1/jobs/{JOB}/status"), &body)?;
    Ok(())
}

/// Values with the noise of a real curve: their low bits do not compress.
fn noise(index: u64) -> f64 {
    let mut x = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 29;
    (x >> 11) as f64 / (1u64 << 53) as f64
}

fn curve(step: u64, series: u64) -> f64 {
    8.0 / (1.0 + step as f64 / 500.0).sqrt() + 0.05 * noise(step * 1_009 + series)
}

fn record(run: &str, sequence: u64, step: u64, scalars: usize, matrices: usize) -> Record {
    let matrix = |index: u64| Matrix {
        rows: ROWS,
        columns: COLUMNS,
        values: (0..ROWS * COLUMNS)
            .map(|at| (noise(step * 7 + index + at as u64 * 13) * 4096.0).floor() as f32)
            .collect(),
    };
    Record {
        writer: format!("{run}/1/0"),
        sequence,
        time: 1.7e9 + sequence as f64,
        body: Body::Metrics(MetricBatch {
            step,
            tokens: step * 4096,
            scalars: (0..scalars)
                .map(|series| (format!("series.{series:03}"), curve(step, series as u64)))
                .collect(),
            matrices: (0..matrices)
                .map(|index| (format!("matrix.{index}"), matrix(index as u64)))
                .collect::<BTreeMap<_, _>>(),
        }),
    }
}

fn body(run: &str, records: &[Record]) -> Vec<u8> {
    json!({"writer": format!("{run}/1/0"), "records": records}).to_string().into_bytes()
}

fn send(client: &Client, run: &str, body: &[u8]) -> Result {
    client.post(&format!("/api/v1/runs/{run}/metrics:batch"), body)?;
    Ok(())
}

/// Points per second that eight writers get through, and how long a request takes.
fn ingest(server: &Server, seconds: u64) -> Result<Value> {
    let client = &server.client;
    let before = server.database_bytes();
    let start = Instant::now();
    let end = start + Duration::from_secs(seconds);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = client.clone();
            std::thread::spawn(move || -> Result<(u64, Vec<f64>)> {
                let run = run_name(writer);
                let (mut step, mut times) = (0u64, Vec::new());
                while Instant::now() < end {
                    let records: Vec<Record> = (0..STEPS as u64)
                        .map(|at| record(&run, step + at, step + at + 1, SCALARS, 0))
                        .collect();
                    step += STEPS as u64;
                    let body = body(&run, &records);
                    let began = Instant::now();
                    send(&client, &run, &body)?;
                    times.push(began.elapsed().as_secs_f64());
                }
                Ok((step * SCALARS as u64, times))
            })
        })
        .collect();
    let (mut points, mut times) = (0, Vec::new());
    for writer in writers {
        let (own, acked) = writer.join().map_err(|_| Failure::new(Exit::Failed, "a writer panicked"))??;
        points += own;
        times.extend(acked);
    }
    let elapsed = start.elapsed().as_secs_f64();
    // What is folded in the background is on disk as well.
    std::thread::sleep(SETTLE);
    let grown = before
        .zip(server.database_bytes())
        .map(|(before, after)| after.saturating_sub(before));
    Ok(json!({
        "bench": "ingest", "writers": WRITERS, "points_per_request": SCALARS * STEPS, "points": points,
        "bytes_per_point": grown.map(|bytes| bytes as f64 / points as f64),
        "points_per_second": (points as f64 / elapsed).round(), "ack_p50_ms": quantile(&mut times, 0.5) * 1e3, "ack_p99_ms": quantile(&mut times, 0.99) * 1e3,
    }))
}

/// How long one step of a large run takes to be durable.
fn one_step(client: &Client) -> Result<Value> {
    let run = run_name(WRITERS);
    let mut times = Vec::new();
    let mut bytes = 0;
    for step in 1..=200 {
        let body = body(&run, &[record(&run, step - 1, step, SCALARS, MATRICES)]);
        bytes = zstd::bulk::compress(&body, 1).map_or(0, |compressed| compressed.len());
        let began = Instant::now();
        send(client, &run, &body)?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(json!({
        "bench": "step", "scalars": SCALARS, "matrices": MATRICES, "rows": ROWS, "columns": COLUMNS, "wire_bytes": bytes,
        "ack_p50_ms": quantile(&mut times, 0.5) * 1e3, "ack_p99_ms": quantile(&mut times, 0.99) * 1e3,
    }))
}

/// How long a long series takes to be read in 1,000 buckets, whole and in parts.
fn read(client: &Client, points: u64) -> Result<Value> {
    let run = run_name(WRITERS + 1);
    let mut step = 0;
    while step < points {
        let many = 20_000.min(points - step);
        let records: Vec<Record> = (0..many).map(|at| record(&run, step + at, step + at + 1, 1, 0)).collect();
        for part in records.chunks(10_000) {
            send(client, &run, &body(&run, part))?;
        }
        step += many;
    }
    // What is folded in the background is not part of the measurement.
    std::thread::sleep(SETTLE);
    let mut times = Vec::new();
    let mut bytes = 0;
    for turn in 0..200u64 {
        let (from, to) = if turn % 2 == 0 {
            (0, points)
        } else {
            (turn * points / 400, turn * points / 400 + points / 3)
        };
        let path = format!("/api/v1/runs/{run}/series?metric=series.000&from={from}&to={to}&points=1000");
        let began = Instant::now();
        let answer = client.get(&path)?;
        times.push(began.elapsed().as_secs_f64());
        bytes = answer.to_string().len();
    }
    Ok(json!({
        "bench": "read", "points": points, "buckets": 1000, "answer_bytes": bytes,
        "p50_ms": quantile(&mut times, 0.5) * 1e3, "p99_ms": quantile(&mut times, 0.99) * 1e3,
    }))
}

/// How long the matrix of a step takes.
fn scrub(client: &Client) -> Result<Value> {
    let run = run_name(WRITERS);
    let mut times = Vec::new();
    for step in 1..=200 {
        let began = Instant::now();
        client.get(&format!("/api/v1/runs/{run}/matrices/matrix.0?step={step}"))?;
        times.push(began.elapsed().as_secs_f64());
    }
    Ok(
        json!({"bench": "matrix", "rows": ROWS, "columns": COLUMNS, "p50_ms": quantile(&mut times, 0.5) * 1e3, "p99_ms": quantile(&mut times, 0.99) * 1e3}),
    )
}

/// Memory of the server with many readers of live events, and how many of them it answered.
fn live(server: &Server) -> Result<Value> {
    let failed = |error: &std::io::Error| Failure::new(Exit::Failed, "cannot read live events").caused_by(error);
    let before = server.memory();
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let stream = server.ask(&format!("/api/v1/runs/{}/events", run_name(0)), "text/event-stream");
        readers.push(stream.map_err(|error| failed(&error))?);
        // Below the server's limit of requests per second.
        std::thread::sleep(Duration::from_millis(6));
    }
    let end = Instant::now() + Duration::from_secs(5);
    let drain = std::thread::spawn(move || drain(readers, end));
    let run = run_name(0);
    let mut step = 1 << 30;
    while Instant::now() < end {
        step += 1;
        send(&server.client, &run, &body(&run, &[record(&run, step, step, SCALARS, 0)]))?;
        std::thread::sleep(Duration::from_millis(250));
    }
    let memory = server.memory();
    let answered = drain
        .join()
        .map_err(|_| Failure::new(Exit::Failed, "a reader panicked"))?
        .map_err(|error| failed(&error))?;
    Ok(json!({"bench": "live", "readers": READERS, "answered": answered, "memory_before_bytes": before, "memory_bytes": memory}))
}

/// Reads all streams as their data comes; returns how many had a message.
fn drain(mut readers: Vec<TcpStream>, end: Instant) -> std::io::Result<usize> {
    let mut answered = vec![false; readers.len()];
    let mut buffer = vec![0; 64 << 10];
    for reader in &readers {
        reader.set_nonblocking(true)?;
    }
    while Instant::now() < end {
        for (reader, answered) in readers.iter_mut().zip(&mut answered) {
            match reader.read(&mut buffer) {
                Ok(read) => *answered |= buffer[..read].windows(6).any(|window| window == b"data: "),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(answered.into_iter().filter(|answered| *answered).count())
}

/// The value that a share of the sorted values does not exceed.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len().max(1)) - 1;
    values.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values() {
        let mut values = [3.0, 1.0, 2.0];
        assert_eq!(
            (quantile(&mut values, 0.5), quantile(&mut values, 0.99), quantile(&mut values, 0.0)),
            (2.0, 3.0, 1.0)
        );
        assert!(quantile(&mut [], 0.5).is_nan());
    }
}
