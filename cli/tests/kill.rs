//! `kill -9` of the worker at random moments changes nothing about the result.

mod common;

use common::Sandbox;
use common::job::{Background, Random, prepare, reported_steps, result, send};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const KILLS: u32 = 20;
const TOKENS: u32 = 76_800;
const STEPS: u64 = 600;

#[test]
fn twenty_kills_leave_the_same_weights_and_every_step_once() {
    let undisturbed = Sandbox::new();
    let file = prepare(&undisturbed, "job", TOKENS);
    let start = Instant::now();
    let ran = undisturbed.run(&["run", &file]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // Delays of this length on average leave a third of the run for after the last kill.
    let longest = start.elapsed() / 15;

    let disturbed = Sandbox::new();
    let file = prepare(&disturbed, "job", TOKENS);
    let mut run = Background::start(&disturbed, &["run", &file]);
    let mut random = Random(20);
    for kill in 0..KILLS {
        let Some(worker) = run.worker("pretrain") else {
            panic!("the run ended after {kill} kills: {:?}", run.seen);
        };
        std::thread::sleep(Duration::from_micros(random.below(longest.as_micros() as u64)));
        send(worker, Signal::KILL);
    }
    assert_eq!(run.end(), Some(0));

    assert_eq!(reported_steps(&disturbed, "job", "pretrain"), (1..=STEPS).collect::<Vec<u64>>());
    assert_eq!(result(&disturbed, "job"), result(&undisturbed, "job"));
}
