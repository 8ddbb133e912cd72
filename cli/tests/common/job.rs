//! A small job on generated text, executed for real.
#![allow(dead_code, clippy::unwrap_used)] // Each test binary uses a part of this module, and a helper that fails fails its test.

use super::Sandbox;
use fathom_spec::record::Body;
use fathom_worker::report::resolve;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

/// Nothing in these tests takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Writes the text and a manifest that trains a model of 0.2M parameters on `tokens` tokens, 128 a step.
pub fn prepare(sandbox: &Sandbox, name: &str, tokens: u32) -> String {
    for document in 0..60 {
        sandbox.write(&format!("text/{document}.txt"), &story(document));
    }
    let file = format!("{name}.yaml");
    sandbox.write(&file, &manifest(name, tokens));
    file
}

/// The manifest of [`prepare`].
pub fn manifest(name: &str, tokens: u32) -> String {
    format!(
        r#"apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {{name: {name}}}
spec:
  seed: 7
  model: {{preset: unit, architecture: {{vocab_size: 384}}}}
  worker: {{threads: 1}}
  restart: {{maxRestarts: 1000}}
  phases:
    - name: tokenizer
      tokenizer: {{vocabSize: 384, input: &text [{{paths: ["text/*.txt"]}}]}}
    - name: corpus
      corpus: {{sequenceLength: 32, validationFraction: 0.1, input: *text}}
    - name: pretrain
      pretrain:
        tokens: {tokens}
        batch: {{sequences: 4, microBatch: 2}}
        checkpoint: {{every: 1280, keep: 2}}
        validation: {{every: 50%, rows: 8}}
"#
    )
}

/// A little text with structure to learn.
pub fn story(seed: u32) -> String {
    let nouns = ["the tensor", "a gradient", "the router", "an expert", "the latent", "a token"];
    let verbs = ["meets", "feeds", "scales", "balances", "ignores", "predicts"];
    let mut random = Random(u64::from(seed));
    let mut text = format!("Story {seed}.\n");
    for _ in 0..12 {
        let mut word = |list: [&'static str; 6]| list[random.below(6) as usize];
        text.push_str(&format!("{} {} {}.\n", word(nouns), word(verbs), word(nouns)));
    }
    text
}

/// Small random numbers that are the same in every run (`SplitMix64`).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// A run in the background, with its standard error.
pub struct Background {
    pub child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
    pub seen: Vec<String>,
}

impl Background {
    /// Starts `fathom -v ARGUMENTS`.
    pub fn start(sandbox: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = sandbox.command(arguments);
        command.arg("-v").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Waits for a line of standard error that contains `text`. `None` if the run ends before.
    pub fn wait_for(&mut self, text: &str) -> Option<String> {
        for line in self.lines.by_ref() {
            let line = line.unwrap();
            self.seen.push(line.clone());
            if line.contains(text) {
                return Some(line);
            }
        }
        None
    }

    /// Waits for the next worker process of a phase.
    pub fn worker(&mut self, phase: &str) -> Option<i32> {
        loop {
            let line = self.wait_for("worker process ")?;
            match line.split_once("worker process ") {
                Some((before, pid)) if before.starts_with(&format!("{phase}: ")) => return Some(pid.trim().parse().unwrap()),
                _ => {}
            }
        }
    }

    /// Waits for the end: the exit code.
    pub fn end(mut self) -> Option<i32> {
        while self.wait_for("\u{0}").is_some() {}
        self.child.wait().unwrap().code()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        send(self.child.id().cast_signed(), signal);
    }
}

/// Signals a process that may have ended already.
pub fn send(pid: i32, signal: rustix::process::Signal) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal);
}

/// Waits until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The directory of the only execution of a phase.
pub fn run_directory(sandbox: &Sandbox, job: &str, phase: &str) -> PathBuf {
    let phase = sandbox.path(&format!(".fathom/jobs/{job}/runs/{phase}"));
    let mut runs: Vec<PathBuf> = std::fs::read_dir(&phase).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(runs.len(), 1, "{runs:?}");
    runs.remove(0)
}

/// The step of every batch of metrics that a phase reported, in order.
pub fn reported_steps(sandbox: &Sandbox, job: &str, phase: &str) -> Vec<u64> {
    let records = resolve(&run_directory(sandbox, job, phase).join("spool")).unwrap();
    let steps = records.iter().filter_map(|record| match &record.body {
        Body::Metrics(batch) => Some(batch.step),
        Body::Event(_) | Body::Progress(_) => None,
    });
    steps.collect()
}

/// What a finished job is judged by: digests of the files of its checkpoint, and every measurement that does not depend on time.
pub fn result(sandbox: &Sandbox, job: &str) -> (BTreeMap<String, String>, Vec<serde_json::Value>) {
    let kind = sandbox.path(".fathom/artifacts/checkpoint");
    let mut artifacts = std::fs::read_dir(kind).unwrap();
    let artifact = artifacts.next().unwrap().unwrap().path();
    assert!(artifacts.next().is_none(), "one checkpoint in this directory");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(artifact.join("artifact.json")).unwrap()).unwrap();
    let files = manifest["files"].as_object().unwrap();
    let digests = ["model.safetensors", "optimizer.safetensors"].map(|name| (name.to_owned(), files[name]["blake3"].to_string()));
    let export = sandbox.run(&["metrics", "export", job, "--format", "json"]);
    assert_eq!(export.code, Some(0), "{}", export.stderr);
    let mut rows: Vec<serde_json::Value> = serde_json::from_str(&export.stdout).unwrap();
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        for timed in ["time", "step_seconds", "tokens_per_second"] {
            row.remove(timed).unwrap_or_else(|| panic!("no column {timed}"));
        }
    }
    (digests.into(), rows)
}
