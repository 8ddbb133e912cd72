//! `fathom pod`: phase after phase from orders, as the operator gives them, ends in the bits that `fathom run` ends in.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use common::Sandbox;
use common::job::{manifest, prepare};
use fathom_spec::order::{Order, Outcome, Owner};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::Child;

const TOKENS: u32 = 6_400;

/// The manifest of the job, for two ranks.
fn two_ranks(sandbox: &Sandbox) -> Value {
    let file = prepare(sandbox, "job", TOKENS);
    let text = manifest("job", TOKENS)
        .replace("sequences: 4, microBatch: 2", "sequences: 4, microBatch: 1")
        .replace("\n  phases:", "\n  parallelism: {data: 2}\n  phases:");
    sandbox.write(&file, &text);
    serde_saphyr::from_str(&text).unwrap()
}

fn order(manifest: &Value, index: usize, inputs: &BTreeMap<String, String>) -> Order {
    let owner = Owner {
        namespace: "research".into(),
        uid: "0a1b2c3d-4e5f-6789-abcd-ef0123456789".into(),
    };
    Order::new("job", owner, &manifest["spec"], index, inputs)
}

/// Starts the pods of an attempt.
fn start(sandbox: &Sandbox, order: &Order, attempt: u32, ranks: usize) -> Vec<Child> {
    let file = format!("order-{}.json", order.phase);
    sandbox.write(&file, &serde_json::to_string(order).unwrap());
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let start = |rank: usize| {
        let attempt = attempt.to_string();
        let mut command = sandbox.command(&[
            "pod",
            "--order",
            &file,
            "--storage",
            "store",
            "--attempt",
            &attempt,
            "--outcome",
            "outcome.json",
        ]);
        if ranks > 1 {
            command.args([
                "--rank",
                &rank.to_string(),
                "--ranks",
                &ranks.to_string(),
                "--rendezvous",
                &format!("127.0.0.1:{port}"),
            ]);
        }
        command.stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    (0..ranks).map(start).collect()
}

/// Waits for them and returns what rank 0 says.
fn finish(sandbox: &Sandbox, pods: Vec<Child>) -> Outcome {
    for pod in pods {
        let output = pod.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{errors}");
    }
    let text = std::fs::read_to_string(sandbox.path("outcome.json")).unwrap();
    std::fs::remove_file(sandbox.path("outcome.json")).unwrap();
    Outcome::parse(&text).unwrap()
}

/// Files and digests of the artifacts of a kind, by key.
fn artifacts(sandbox: &Sandbox, root: &str, kind: &str) -> BTreeMap<String, Value> {
    let directory = sandbox.path(&format!("{root}/artifacts/{kind}"));
    let artifacts = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    artifacts
        .map(|artifact| {
            let manifest = std::fs::read(artifact.path().join("artifact.json")).unwrap();
            let manifest: Value = serde_json::from_slice(&manifest).unwrap();
            (artifact.file_name().into_string().unwrap(), manifest["files"].clone())
        })
        .collect()
}

#[test]
fn orders_end_in_the_bits_of_a_local_run() {
    let sandbox = Sandbox::new();
    let manifest = two_ranks(&sandbox);
    let ran = sandbox.run(&["run", "job.yaml"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    let mut inputs = BTreeMap::new();
    for (index, (phase, ranks)) in [("tokenizer", 1), ("corpus", 1), ("pretrain", 2)].into_iter().enumerate() {
        let order = order(&manifest, index, &inputs);
        assert_eq!(order.phase, phase);
        let made = finish(&sandbox, start(&sandbox, &order, 1, ranks));
        assert!(!made.cached);
        // The artifact is found by whoever asks again.
        let found = finish(&sandbox, start(&sandbox, &order, 2, ranks));
        assert_eq!((found.cached, &found.key, &found.input), (true, &made.key, &made.input));
        inputs.extend(made.input.map(|input| (phase.to_owned(), input)));
    }
    for kind in ["tokenizer", "corpus", "checkpoint"] {
        assert_eq!(artifacts(&sandbox, "store", kind), artifacts(&sandbox, ".fathom", kind), "{kind}");
    }
}

/// The pods are killed in the middle; the next attempt goes on from the checkpoint.
#[test]
fn a_killed_attempt_is_gone_on_with() {
    let sandbox = Sandbox::new();
    let manifest = two_ranks(&sandbox);
    let mut inputs = BTreeMap::new();
    for (index, phase) in ["tokenizer", "corpus"].into_iter().enumerate() {
        let made = finish(&sandbox, start(&sandbox, &order(&manifest, index, &inputs), 1, 1));
        inputs.insert(phase.to_owned(), made.input.unwrap());
    }
    let order = order(&manifest, 2, &inputs);
    let mut pods = start(&sandbox, &order, 1, 2);
    let checkpoints = sandbox.path("store/jobs/job/runs/pretrain");
    common::job::wait_until("a checkpoint", || {
        let Ok(mut runs) = std::fs::read_dir(&checkpoints) else {
            return false;
        };
        let Some(Ok(run)) = runs.next() else { return false };
        std::fs::read_dir(run.path().join("work/.checkpoints")).is_ok_and(|mut found| found.next().is_some())
    });
    pods[1].kill().unwrap();
    assert_eq!(
        pods.remove(0).wait().unwrap().code(),
        Some(76),
        "rank 0 notices that it lost the other one"
    );
    pods[0].wait().unwrap();
    finish(&sandbox, start(&sandbox, &order, 2, 2));

    let ran = sandbox.run(&["run", "job.yaml"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(
        artifacts(&sandbox, "store", "checkpoint"),
        artifacts(&sandbox, ".fathom", "checkpoint")
    );
}

#[test]
fn what_cannot_be_executed_is_said_with_its_exit_code() {
    let sandbox = Sandbox::new();
    let manifest = two_ranks(&sandbox);
    let correct = order(&manifest, 0, &BTreeMap::new());
    let mut newer = correct.clone();
    newer.version += 1;
    let mut lost = correct.clone();
    lost.phase = "sft".into();
    let mut elsewhere = correct.clone();
    elsewhere.manifest["spec"]["phases"][0]["tokenizer"]["input"][0]["paths"][0] = "nowhere/*.txt".into();
    // A corpus needs the digest of what the tokenizer read.
    let early = order(&manifest, 1, &BTreeMap::new());
    for (order, code, words) in [
        (newer, 64, "order version 2"),
        (lost, 64, "no phase `sft`"),
        (elsewhere, 65, "volumes"),
        (early, 64, "a digest that the order lacks"),
    ] {
        let pod = start(&sandbox, &order, 1, 1).remove(0);
        let output = pod.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
    assert!(!sandbox.path("outcome.json").exists());
}
