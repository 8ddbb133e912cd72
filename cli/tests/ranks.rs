//! Several ranks, each a process: they train the model that one trains, to the bit, however often they are killed.

mod common;

use common::Sandbox;
use common::job::{Background, Random, manifest, prepare, reported_steps, result, send};
use rustix::process::Signal;
use std::time::Duration;

const TOKENS: u32 = 38_400;
const KILLS: usize = 12;

/// The manifest of [`prepare`] for so many ranks, with four micro-batches a step.
fn prepare_ranks(sandbox: &Sandbox, ranks: u32) -> String {
    let file = prepare(sandbox, "job", TOKENS);
    let text = manifest("job", TOKENS)
        .replace("sequences: 4, microBatch: 2", "sequences: 4, microBatch: 1")
        .replace("\n  phases:", &format!("\n  parallelism: {{data: {ranks}}}\n  phases:"));
    assert!(text.contains("microBatch: 1") && text.contains("data: "), "{text}");
    sandbox.write(&file, &text);
    file
}

#[test]
fn one_two_and_four_ranks_end_in_the_same_weights() {
    let results = [1, 2, 4].map(|ranks| {
        let sandbox = Sandbox::new();
        let file = prepare_ranks(&sandbox, ranks);
        let ran = sandbox.run(&["run", &file]);
        assert_eq!(ran.code, Some(0), "{ranks} ranks: {}", ran.stderr);
        result(&sandbox, "job")
    });
    assert!(results.iter().all(|result| *result == results[0]), "{results:?}");
}

/// Any of four ranks is killed; the others notice, end, and all start again from the checkpoint. A cached artifact is that of any number of ranks.
#[test]
fn kills_of_single_ranks_change_nothing() {
    let undisturbed = Sandbox::new();
    let file = prepare_ranks(&undisturbed, 1);
    let ran = undisturbed.run(&["run", &file]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    let disturbed = Sandbox::new();
    let file = prepare_ranks(&disturbed, 4);
    let mut run = Background::start(&disturbed, &["run", &file]);
    let mut random = Random(4);
    for kill in 0..KILLS {
        let line = run.wait_for("worker processes ");
        let line = line.unwrap_or_else(|| panic!("the run ended after {kill} kills: {:?}", run.seen));
        let pids: Vec<i32> = line
            .rsplit("processes ")
            .next()
            .unwrap()
            .split(", ")
            .map(|pid| pid.trim().parse().unwrap())
            .collect();
        assert_eq!(pids.len(), 4, "{line}");
        // Mostly in the middle of training, now and then while the ranks look for each other.
        if kill % 4 < 3 {
            run.wait_for("pretrain: checkpoint of step").unwrap();
        }
        std::thread::sleep(Duration::from_millis(random.below(100)));
        send(pids[random.below(4) as usize], Signal::KILL);
    }
    assert_eq!(run.end(), Some(0));
    assert_eq!(result(&disturbed, "job"), result(&undisturbed, "job"));
    // Rank 0 alone reports, and each step once.
    let steps: Vec<u64> = (1..=u64::from(TOKENS) / 128).collect();
    assert_eq!(reported_steps(&disturbed, "job", "pretrain"), steps);

    let file = prepare_ranks(&disturbed, 2);
    let again = disturbed.run(&["run", &file]);
    assert_eq!(again.code, Some(0), "{}", again.stderr);
    assert!(
        again.stderr.contains("pretrain") && again.stderr.contains("cached"),
        "{}",
        again.stderr
    );
}

#[test]
fn ctrl_c_stops_all_ranks_after_one_checkpoint() {
    let sandbox = Sandbox::new();
    let file = prepare_ranks(&sandbox, 2);
    let mut run = Background::start(&sandbox, &["run", &file]);
    run.wait_for("pretrain: checkpoint of step").unwrap();
    run.signal(Signal::INT);
    assert_eq!(run.end(), Some(130));
    let resumed = sandbox.run(&["run", &file]);
    assert_eq!(resumed.code, Some(0), "{}", resumed.stderr);
}

#[test]
fn a_batch_that_does_not_part_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new();
    let file = prepare(&sandbox, "job", TOKENS);
    let text = manifest("job", TOKENS).replace("\n  phases:", "\n  parallelism: {data: 4}\n  phases:");
    sandbox.write(&file, &text);
    let refused = sandbox.run(&["run", &file]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("a multiple of 8 (microBatch x parallelism.data)"),
        "{}",
        refused.stderr
    );
}
