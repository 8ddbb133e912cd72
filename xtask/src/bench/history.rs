//! `cargo xtask bench history`: the history over REST in both databases, its cost in the trainer, and `MLflow` and Trackio beside it.

use super::positive;
use crate::database::{self, Durability, Server};
use crate::error::Error;
use crate::foreign;
use crate::process::{self, Context};
use serde_json::Value;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the server is halted, and released, at a time.
const TURN: Duration = Duration::from_secs(4);
/// How long the run is watched.
const LONGEST: Duration = Duration::from_secs(900);

/// What to measure.
#[derive(Debug, PartialEq)]
struct Options {
    seconds: String,
    trainer: bool,
    compare: bool,
}

pub(super) fn run(context: &Context, arguments: &[String]) -> Result<(), Error> {
    let options = parse(arguments)?;
    process::run(&mut context.cargo(&["build", "--release", "--locked", "-p", "fathom"]))?;
    let bench = || {
        let mut command = context.command(context.fathom("release"), &["bench", "history", "--seconds", &options.seconds]);
        command.env_remove("DATABASE_URL");
        command
    };
    process::run(&mut bench())?;
    match database::missing() {
        Some(cure) => println!("server database: not measured: {cure}"),
        None => {
            let server = Server::start(context, Durability::Full)?;
            process::run(bench().env("DATABASE_URL", server.url()))?;
        }
    }
    if options.trainer {
        trainer(context)?;
    }
    if options.compare {
        let folder = context.root.join("xtask/bench/trackers");
        let python = foreign::environment(context, "trackers", &folder.join("requirements.txt"))?;
        let script = folder.join("measure.py");
        process::run(context.command(python, &[]).arg(script).args(["--seconds", &options.seconds]))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Options, Error> {
    let mut options = Options {
        seconds: "10".into(),
        trainer: false,
        compare: false,
    };
    let mut words = arguments.iter().map(String::as_str);
    while let Some(name) = words.next() {
        match name {
            "--seconds" => {
                let value = words.next().ok_or_else(|| Error::Usage(format!("{name} needs a value")))?;
                options.seconds = positive(name, value)?.to_string();
            }
            "--trainer" => options.trainer = true,
            "--compare" => options.compare = true,
            other => return Err(Error::Usage(format!("unknown option `{other}` of bench history"))),
        }
    }
    Ok(options)
}

/// Step times of the quickstart with the server beside it, which is halted and released in turns: two runs differ more from each other than the
/// server costs. What is reported while it is halted is sent afterwards, so steps beside it bear twice its work.
fn trainer(context: &Context) -> Result<(), Error> {
    let directory = std::env::temp_dir().join(format!("fathom-bench-trainer-{}", std::process::id()));
    let measured = std::fs::create_dir_all(&directory)
        .map_err(|source| Error::File {
            path: directory.clone(),
            source,
        })
        .and_then(|()| steps(context, &directory));
    // It is temporary, whatever has happened.
    let _ = std::fs::remove_dir_all(&directory);
    let [without, beside] = measured?;
    let (counts, means) = ([without.len(), beside.len()], [mean(&without), mean(&beside)]);
    println!(
        "{{\"bench\":\"trainer\",\"steps_without_server\":{},\"steps_beside_server\":{},\"step_ms_without_server\":{:.2},\"step_ms_beside_server\":{:.2},\"cost\":{:.4}}}",
        counts[0],
        counts[1],
        means[0] * 1e3,
        means[1] * 1e3,
        (means[1] / means[0] - 1.0) / 2.0
    );
    Ok(())
}

/// Runs the quickstart. Returns the seconds of the steps that lay whole in a turn without the server, and beside it.
fn steps(context: &Context, directory: &Path) -> Result<[Vec<f64>; 2], Error> {
    let example = context.root.join("examples/quickstart.yaml");
    let fathom = |arguments: &[&str]| {
        let mut command = context.command(context.fathom("release"), arguments);
        command.current_dir(directory).env_remove("DATABASE_URL");
        command
    };
    let mut training = fathom(&["run"]);
    training.arg(&example).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = training.spawn().map_err(|source| process::start_error(&training, source))?;
    let turns = take_turns(&mut child, &directory.join(".fathom"));
    let ended = child.wait().map_err(|source| process::start_error(&training, source))?;
    if !ended.success() {
        return Err(Error::Failed {
            command: process::display(&training),
            status: ended.to_string(),
        });
    }
    let mut reading = fathom(&["metrics", "export", "--phase", "pretrain", "--format", "json"]);
    let rows: Value = serde_json::from_str(&process::output(&mut reading)?).unwrap_or_default();
    let mut times = [Vec::new(), Vec::new()];
    for row in rows.as_array().into_iter().flatten() {
        let (Some(end), Some(seconds)) = (row["time"].as_f64(), row["step_seconds"].as_f64()) else {
            continue;
        };
        let whole = |turn: &&Turn| turn.from <= end - seconds && end <= turn.to;
        if let Some(turn) = turns.iter().find(whole) {
            times[usize::from(turn.beside)].push(seconds);
        }
    }
    if times.iter().any(Vec::is_empty) {
        return Err(Error::Output {
            command: process::display(&reading),
            problem: "has no steps of one of the two kinds: the run was too short".into(),
        });
    }
    Ok(times)
}

/// Some seconds of a run.
struct Turn {
    from: f64,
    to: f64,
    beside: bool,
}

/// Halts and releases the server until the run has ended or is far behind.
fn take_turns(child: &mut Child, directory: &Path) -> Vec<Turn> {
    let mut turns = Vec::new();
    let end = Instant::now() + LONGEST;
    let mut beside = false;
    // The tokenizer and the corpus come first.
    let begun = |runs: &Path| {
        std::fs::read_dir(runs).is_ok_and(|runs| runs.flatten().any(|run| run.file_name().to_string_lossy().starts_with("pretrain")))
    };
    while child.try_wait().is_ok_and(|ended| ended.is_none()) && Instant::now() < end {
        if !begun(&directory.join("jobs/quickstart/runs")) {
            std::thread::sleep(TURN);
            continue;
        }
        let Some(server) = server(directory) else { break };
        let signal = if beside { "-CONT" } else { "-STOP" };
        let signalled = Command::new("kill").arg(signal).arg(server.to_string()).status();
        if !signalled.is_ok_and(|status| status.success()) {
            break;
        }
        let from = now();
        std::thread::sleep(TURN);
        turns.push(Turn { from, to: now(), beside });
        beside = !beside;
    }
    if let Some(server) = server(directory) {
        // One that has ended needs no release.
        let _ = Command::new("kill")
            .arg("-CONT")
            .arg(server.to_string())
            .stderr(Stdio::null())
            .status();
    }
    turns
}

/// Process of the server beside the run.
fn server(directory: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(directory.join("server.json")).ok()?;
    serde_json::from_str::<Value>(&text).ok()?["pid"].as_u64()
}

fn now() -> f64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(f64::NAN, |time| time.as_secs_f64())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parsed = |line: &str| parse(&line.split_whitespace().map(String::from).collect::<Vec<_>>());
        let options = parsed("--seconds 3 --trainer").unwrap();
        assert_eq!((options.seconds.as_str(), options.trainer, options.compare), ("3", true, false));
        for line in ["--seconds", "--seconds 0", "--fast"] {
            assert!(matches!(parsed(line), Err(Error::Usage(_))), "{line}");
        }
    }
}
