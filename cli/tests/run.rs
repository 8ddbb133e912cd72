//! `fathom run` on a small job: every phase, worker and file is real.

mod common;

use common::Sandbox;
use common::job::{Background, manifest, prepare, result, run_directory, wait_until};
use rustix::process::Signal;
use std::fs::File;

#[test]
fn a_job_runs_once_and_an_edit_repeats_only_what_it_touches() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 2560);
    let first = sandbox.run(&["run", &file]);
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    for expected in [
        "validation loss",
        "bits per byte",
        "zstd -19",
        "tokens/s",
        "MaxVio",
        "checkpoint",
        "Try next",
    ] {
        assert!(first.stdout.contains(expected), "no {expected} in {}", first.stdout);
    }

    let again = sandbox.run(&["run", &file, "-o", "json"]);
    let report: serde_json::Value = serde_json::from_str(&again.stdout).unwrap();
    let cached = |report: &serde_json::Value| -> Vec<bool> {
        report["phases"]
            .as_array()
            .unwrap()
            .iter()
            .map(|phase| phase["cached"].as_bool().unwrap())
            .collect()
    };
    assert_eq!(cached(&report), [true, true, true]);

    sandbox.write(&file, &manifest("job", 1280));
    let edited = sandbox.run(&["run", &file, "-o", "json"]);
    assert_eq!(cached(&serde_json::from_str(&edited.stdout).unwrap()), [true, true, false]);

    let status = sandbox.run(&["status"]);
    assert!(status.stdout.starts_with("job: succeeded"), "{}", status.stdout);
    let steps = sandbox.run(&["metrics", "get", "loss.main", "-o", "json"]);
    let points: Vec<serde_json::Value> = serde_json::from_str(&steps.stdout).unwrap();
    let steps: Vec<u64> = points.iter().map(|point| point["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=10).collect::<Vec<u64>>());
}

#[test]
fn a_damaged_artifact_is_moved_aside_and_made_again() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 1280);
    assert_eq!(sandbox.run(&["run", &file]).code, Some(0));
    let corpora = sandbox.path(".fathom/artifacts/corpus");
    let corpus = std::fs::read_dir(&corpora).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(corpus.join("train.bin")).unwrap();
    bytes[10] ^= 1;
    std::fs::write(corpus.join("train.bin"), bytes).unwrap();
    let ran = sandbox.run(&["run", &file, "-o", "json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("train.bin was altered"), "{}", ran.stderr);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["phases"][1]["cached"], false);
    assert_eq!(report["phases"][2]["cached"], true);
    assert!(corpus.with_extension("damaged-1").is_dir());
}

#[test]
fn two_runs_on_one_directory_refuse_each_other() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 256_000);
    let mut first = Background::start(&sandbox, &["run", &file]);
    first.worker("pretrain").unwrap();
    let second = sandbox.run(&["run", &file]);
    assert_eq!(second.code, Some(6), "{}", second.stderr);
    assert!(
        second.stderr.contains(&format!("process {} holds it", first.child.id())),
        "{}",
        second.stderr
    );
    assert_eq!(
        sandbox.run(&["status"]).stdout.lines().next().unwrap().split(" (").next(),
        Some("job: running")
    );
    first.signal(Signal::INT);
    first.signal(Signal::INT);
    assert_eq!(first.end(), Some(130));
}

#[test]
fn a_stopped_run_resumes_to_the_same_result() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 25_600);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 9)] {
        let mut run = Background::start(&sandbox, &["run", &file]);
        run.wait_for("pretrain: checkpoint of step").unwrap();
        run.signal(signal);
        assert_eq!(run.end(), Some(code));
        let status = sandbox.run(&["status"]);
        assert!(status.stdout.starts_with("job: stopped"), "{}", status.stdout);
    }
    let last = sandbox.run(&["run", &file]);
    assert_eq!(last.code, Some(0), "{}", last.stderr);

    let undisturbed = Sandbox::new();
    let file = prepare(&undisturbed, "job", 25_600);
    assert_eq!(undisturbed.run(&["run", &file]).code, Some(0));
    assert_eq!(result(&sandbox, "job"), result(&undisturbed, "job"));
}

/// It is told so before it starts: that cannot be seen from within, and a step without them is a fifth slower.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn a_worker_is_told_to_use_huge_pages() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 2_560_000);
    let mut run = Background::start(&sandbox, &["run", &file]);
    let worker = run.worker("pretrain").unwrap();
    run.wait_for("pretrain: checkpoint of step").unwrap();
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    // glibc parts the tunables where they are.
    let mut variables = environment.split(|&byte| byte == 0 || byte == b':');
    assert!(variables.any(|variable| variable == b"GLIBC_TUNABLES=glibc.malloc.hugetlb=1"));
    run.signal(Signal::INT);
    run.signal(Signal::INT);
    assert_eq!(run.end(), Some(130));
}

#[test]
fn a_worker_whose_runner_was_killed_stops_after_a_checkpoint() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 2_560_000);
    let mut run = Background::start(&sandbox, &["run", &file]);
    run.worker("pretrain").unwrap();
    run.wait_for("pretrain: checkpoint of step").unwrap();
    run.signal(Signal::KILL);
    assert_eq!(run.end(), None);
    let directory = run_directory(&sandbox, "job", "pretrain");
    let lock = File::open(directory.join("worker.lock")).unwrap();
    wait_until("the worker to stop", || lock.try_lock().is_ok());
    let log = std::fs::read_to_string(directory.join("worker-1.log")).unwrap();
    assert!(log.contains("the runner is gone"), "{log}");
    let status = sandbox.run(&["status", "-o", "json"]);
    let view: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(view["state"], "lost");
    assert!(view["phases"][2]["checkpointStep"].as_u64().unwrap() >= 10);
}

#[test]
fn failures_name_the_place_and_the_cure() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", 1280);
    let good = manifest("job", 1280);
    sandbox.write("broken.parquet", "this is no parquet file");
    sandbox.write("tokenizer.json", "{\"version\": \"1.0\"}");
    let adopted = good.replace("input: *text", "input: [{paths: [\"text/*.txt\"]}]").replace(
        "{vocabSize: 384, input: &text [{paths: [\"text/*.txt\"]}]}",
        "{file: tokenizer.json}",
    );
    for (wrong, code, expected) in [
        (good.replace("text/*.txt", "nowhere/*.txt"), 1, "`nowhere` does not exist"),
        (good.replace("text/*.txt", "broken.parquet"), 1, "broken.parquet"),
        (adopted, 1, "tokenizer.json"),
        (
            good.replace("vocab_size: 384", "vocab_size: 384, qk_rope_head_dim: 7"),
            3,
            "qk_rope_head_dim",
        ),
        (good.replace("sequenceLength: 32", "sequenceLength: 100000"), 3, "sequenceLength"),
    ] {
        assert_ne!(wrong, good);
        sandbox.write(&file, &wrong);
        let ran = sandbox.run(&["run", &file]);
        assert_eq!(ran.code, Some(code), "{expected}: {}", ran.stderr);
        assert!(ran.stderr.contains(expected), "{expected}: {}", ran.stderr);
    }
}
