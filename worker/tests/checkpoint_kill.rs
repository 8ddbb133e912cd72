//! A real process that trains (a recurrence in place of a model), reports and checkpoints, killed with SIGKILL at 20 random moments.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

use fathom_spec::record::{Body, MetricBatch, Record};
use fathom_worker::checkpoint::safetensors::{Reader, TensorSpec};
use fathom_worker::checkpoint::store::{self, Store};
use fathom_worker::report::{Options, Reporter, Resolved, resolve};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DIRECTORY: &str = "FATHOM_KILL_TEST_DIRECTORY";
const ATTEMPT: &str = "FATHOM_KILL_TEST_ATTEMPT";
const LAST_STEP: &str = "FATHOM_KILL_TEST_LAST_STEP";

/// Steps between checkpoints.
const INTERVAL: u64 = 7;
const KILLS: u32 = 20;
const DEADLINE: Duration = Duration::from_secs(120);

/// The trained state: large enough that a kill hits the middle of writing it.
struct Model {
    step: u64,
    weights: Vec<f32>,
}

impl Model {
    fn new() -> Self {
        Self {
            step: 0,
            weights: (0..60_000u16).map(|index| f32::from(index) / 60_000.0).collect(),
        }
    }

    /// One step of a chaotic recurrence, in which any lost or repeated step shows.
    fn step(&mut self) -> MetricBatch {
        self.step += 1;
        for weight in &mut self.weights {
            *weight = 3.9 * *weight * (1.0 - *weight) + 1e-3;
        }
        let loss = f64::from(self.weights[12_345]);
        MetricBatch {
            step: self.step,
            tokens: 10 * self.step,
            scalars: BTreeMap::from([("loss".into(), loss)]),
            matrices: BTreeMap::new(),
        }
    }
}

fn checkpoints(directory: &Path) -> PathBuf {
    directory.join("checkpoints")
}

fn spool(directory: &Path) -> PathBuf {
    directory.join("spool")
}

/// The killed process: not a test but the body of one, started by [`start`].
#[test]
#[ignore = "run by the test below in processes of its own"]
fn trainer() {
    // Without a directory it was started by `--include-ignored` and has nothing to do.
    let Ok(directory) = std::env::var(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let attempt = std::env::var(ATTEMPT).unwrap().parse().unwrap();
    let last_step: u64 = std::env::var(LAST_STEP).unwrap().parse().unwrap();
    let mut store = Store::open(&checkpoints(&directory)).unwrap();
    let mut model = Model::new();
    let resumed = store
        .newest_valid(|path, corruption| panic!("{}: {corruption}", path.display()))
        .unwrap();
    if let Some(checkpoint) = resumed {
        model.step = checkpoint.manifest.step;
        Reader::open(&checkpoint.path)
            .unwrap()
            .read_into("weights", &mut model.weights)
            .unwrap();
    }
    let reporter = Reporter::open(&spool(&directory), "run", attempt, 0, model.step, Options::default()).unwrap();
    while model.step < last_step {
        reporter.metrics(model.step());
        if model.step.is_multiple_of(INTERVAL) || model.step == last_step {
            reporter.flush(DEADLINE).unwrap();
            let tensors = [TensorSpec::f32("weights", &[model.weights.len()])];
            store
                .commit(model.step, 10 * model.step, json!({ "attempt": attempt }), |staging| {
                    staging.write_tensors("model", &tensors, 100_000_000, |_, sink| sink.write(&model.weights))
                })
                .unwrap();
            store.retain(2).unwrap();
        }
    }
    reporter.close(DEADLINE).unwrap();
}

fn start(directory: &Path, attempt: u32, last_step: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "trainer", "--ignored"])
        .env(DIRECTORY, directory)
        .env(ATTEMPT, attempt.to_string())
        .env(LAST_STEP, last_step.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A number below `bound` that looks random and is the same in every run.
fn random(round: u32, purpose: &str, bound: u64) -> u64 {
    let hash = blake3::hash(format!("{purpose} {round}").as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap()) % bound
}

/// The newest step, where a kill must not have damaged anything.
fn newest_step(directory: &Path) -> u64 {
    let newest = store::newest_valid(&checkpoints(directory), |path, corruption| {
        panic!("{}: {corruption}", path.display())
    })
    .unwrap();
    newest.map_or(0, |checkpoint| checkpoint.manifest.step)
}

/// Newest step by its directory's name alone: the process that writes may be removing others.
fn newest_name(directory: &Path) -> u64 {
    let names = std::fs::read_dir(checkpoints(directory))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).max().unwrap_or(0)
}

fn losses(records: &[Record]) -> Vec<(u64, u64)> {
    records
        .iter()
        .filter_map(|record| match &record.body {
            Body::Metrics(batch) => Some((batch.step, batch.scalars["loss"].to_bits())),
            Body::Event(_) | Body::Progress(_) => None,
        })
        .collect()
}

#[test]
fn twenty_kills_lose_no_step_and_no_bit() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut newest = 0;
    for round in 1..=KILLS {
        let mut child = start(directory, round, u64::MAX);
        // After up to two commits of this process, at an arbitrary moment of the next.
        let commits = random(round, "commits", 3);
        while newest_name(directory) < newest + commits * INTERVAL && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random(round, "delay", 30_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9),
            "it must die of the kill alone"
        );
        let now = newest_step(directory);
        assert!(now >= newest + commits * INTERVAL, "round {round}: {now} after {newest}");
        // What was flushed before the commit of `now` is there, without the help of a later attempt.
        let found: Vec<u64> = losses(&resolve(&spool(directory)).unwrap())
            .into_iter()
            .map(|(step, _)| step)
            .collect();
        assert!(
            found.len() as u64 >= now,
            "round {round}: {} steps before the checkpoint of {now}",
            found.len()
        );
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "round {round}");
        newest = now;
    }
    let last_step = newest + 2 * INTERVAL + 3;
    assert!(start(directory, KILLS + 1, last_step).wait().unwrap().success());

    let mut undisturbed = Model::new();
    let expected: Vec<_> = (0..last_step)
        .map(|_| undisturbed.step())
        .map(|batch| (batch.step, batch.scalars["loss"].to_bits()))
        .collect();
    let mut resolved = Resolved::open(&spool(directory)).unwrap();
    let records: Vec<_> = resolved.by_ref().map(Result::unwrap).collect();
    assert_eq!(losses(&records), expected);
    let checkpoint = store::newest_valid(&checkpoints(directory), |_, _| ()).unwrap().unwrap();
    assert_eq!(checkpoint.manifest.step, last_step);
    let mut weights = vec![0.0; undisturbed.weights.len()];
    Reader::open(&checkpoint.path).unwrap().read_into("weights", &mut weights).unwrap();
    assert!(
        weights
            .iter()
            .zip(&undisturbed.weights)
            .all(|(found, expected)| found.to_bits() == expected.to_bits())
    );
}
