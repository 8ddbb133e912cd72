//! The moving average of the parameters: what it is, that it changes nothing of what is trained, and that checkpoints keep it.

#![allow(clippy::unwrap_used)]

mod common;

use common::training::{MICRO, PRECISIONS, SETTINGS, bits, rows, trainer};
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Cpu, Kernels};
use fathom_spec::manifest::{Precision, Preset};
use fathom_spec::memory::{CpuTraining, cpu_memory};
use fathom_worker::checkpoint::store::{Checkpoint, Store};
use fathom_worker::model::layout::Role;
use fathom_worker::model::{Model, Recipe, Storage};
use fathom_worker::train::checkpoint::{self, EMA, Position, StaticFiles};
use fathom_worker::train::{StepReport, Trainer};

const STEPS: u64 = 6;
const DECAY: f64 = 0.7;
const KEY: &str = "key";

fn recipe(precision: Precision) -> Recipe {
    Recipe {
        precision,
        recompute: precision.recomputes(),
        ..Recipe::F32
    }
}

fn step<A: Storage>(trainer: &mut Trainer<Cpu, A>, step: u64) -> StepReport {
    let rows = rows(step, trainer.model.architecture.vocab_size);
    trainer.step(step, &rows, SETTINGS, &|| false).unwrap()
}

fn master_bits<A: Storage>(trainer: &Trainer<Cpu, A>) -> Vec<u32> {
    let Model {
        kernels, layout, weights, ..
    } = &trainer.model;
    bits(kernels, layout, weights.masters())
}

fn average_bits<A: Storage>(trainer: &mut Trainer<Cpu, A>) -> Vec<u32> {
    trainer.catch_up();
    bits(&trainer.model.kernels, &trainer.model.layout, trainer.average().unwrap())
}

/// The trainable parameters, in the order of the averages.
fn parameters<A: Storage>(trainer: &Trainer<Cpu, A>) -> Vec<f32> {
    let Model {
        kernels, layout, weights, ..
    } = &trainer.model;
    let mut all = Vec::new();
    for id in layout.trainable() {
        let mut values = vec![0.0; layout.tensor(id).len];
        kernels.download(&mut values, &weights[id], 0);
        all.extend(values);
    }
    all
}

#[test]
fn an_average_is_the_weighted_mean_of_the_parameters_after_each_step() {
    let mut averaged = trainer::<f32>(Cpu::new(2), Recipe::F32).with_ema(DECAY);
    let (mut sums, mut weight) = (vec![0.0; averaged.model.layout.parameters()], 0.0);
    for number in 1..=STEPS {
        step(&mut averaged, number);
        weight = DECAY * weight + 1.0;
        for (sum, value) in sums.iter_mut().zip(parameters(&averaged)) {
            *sum = DECAY * *sum + f64::from(value);
        }
    }
    let average = average_bits(&mut averaged);
    assert_eq!(average.len(), sums.len(), "every trainable parameter, and nothing else");
    let (mut far, mut changed) = (0, 0);
    for ((bits, sum), last) in average.into_iter().zip(sums).zip(parameters(&averaged)) {
        let (value, expected) = (f64::from(f32::from_bits(bits)), sum / weight);
        // Each step rounds a few times, relative to values that may be larger than the mean.
        far += usize::from((value - expected).abs() > 1e-6 * expected.abs() + 1e-8);
        changed += usize::from(bits != last.to_bits());
    }
    assert_eq!(far, 0, "values that are not the mean");
    assert!(changed > 0, "the average is not the last step");
}

/// Without a past, the average is what was trained last: it is never a step behind where it is read.
#[test]
fn a_decay_of_zero_gives_the_last_parameters() {
    let mut averaged = trainer::<f32>(Cpu::new(2), Recipe::F32).with_ema(0.0);
    for number in 1..=3 {
        step(&mut averaged, number);
        let last: Vec<u32> = parameters(&averaged).into_iter().map(f32::to_bits).collect();
        assert!(average_bits(&mut averaged) == last, "step {number}");
    }
}

#[test]
fn an_average_beside_the_next_step_is_the_synchronous_one() {
    for precision in PRECISIONS {
        match precision {
            Precision::F32 => beside::<f32>(precision),
            Precision::Bf16 | Precision::Fp8 => beside::<Bf16>(precision),
        }
    }
}

fn beside<A: Storage>(precision: Precision) {
    let mut synchronous = trainer::<A>(Cpu::new(2), recipe(precision)).with_ema(DECAY);
    for number in 1..=STEPS {
        step(&mut synchronous, number);
        synchronous.catch_up();
    }
    let expected = average_bits(&mut synchronous);
    for threads in 1..=3 {
        let mut asynchronous = trainer::<A>(Cpu::new(threads), recipe(precision)).with_ema(DECAY);
        for number in 1..=STEPS {
            step(&mut asynchronous, number);
        }
        assert!(average_bits(&mut asynchronous) == expected, "{precision:?}, {threads} threads");
    }
}

#[test]
fn keeping_and_evaluating_an_average_changes_nothing_else() {
    for precision in PRECISIONS {
        match precision {
            Precision::F32 => changes_nothing::<f32>(precision),
            Precision::Bf16 | Precision::Fp8 => changes_nothing::<Bf16>(precision),
        }
    }
}

fn changes_nothing<A: Storage>(precision: Precision) {
    let mut plain = trainer::<A>(Cpu::new(2), recipe(precision));
    let mut averaged = trainer::<A>(Cpu::new(2), recipe(precision)).with_ema(DECAY);
    assert!(plain.average().is_none() && plain.with_average(|_| ()).is_none());
    let mut rows = rows(99, plain.model.architecture.vocab_size);
    rows.truncate(MICRO.sequences * (MICRO.length + 1));
    for number in 1..=STEPS {
        let reports = (step(&mut plain, number), step(&mut averaged, number));
        assert_eq!(
            reports.0, reports.1,
            "{precision:?}, step {number}: losses, loads, what quantisation saw"
        );
        let current = (plain.evaluate(&rows), averaged.evaluate(&rows));
        assert_eq!(current.0, current.1, "{precision:?}, step {number}");
        let losses = averaged.with_average(|trainer| trainer.evaluate(&rows)).unwrap();
        assert_eq!(
            losses == current.0,
            number == 1,
            "{precision:?}, step {number}: the first average is the first step"
        );
        assert_eq!(
            losses,
            evaluate_as_weights::<A>(&mut averaged, precision, &rows),
            "{precision:?}, step {number}"
        );
    }
    assert!(master_bits(&plain) == master_bits(&averaged), "{precision:?}");
}

/// The losses of a trainer whose weights are the averages of another and whose routing biases are its current ones.
fn evaluate_as_weights<A: Storage>(of: &mut Trainer<Cpu, A>, precision: Precision, rows: &[u32]) -> Vec<f32> {
    let mut other = trainer::<A>(Cpu::new(2), recipe(precision));
    of.catch_up();
    for id in of.model.layout.ids() {
        let tensor = of.model.layout.tensor(id);
        let mut values = vec![0.0; tensor.len];
        let from = if tensor.role == Role::RoutingBias {
            &of.model.weights[id]
        } else {
            &of.average().unwrap()[id]
        };
        of.model.kernels.download(&mut values, from, 0);
        other.model.kernels.upload(&mut other.model.weights[id], 0, &values);
    }
    other.refresh();
    other.evaluate(rows)
}

#[test]
fn the_planned_memory_is_that_of_the_buffers() {
    let averaged = trainer::<f32>(Cpu::new(1), Recipe::F32).with_ema(DECAY);
    let (layout, average) = (&averaged.model.layout, averaged.average().unwrap());
    let elements: usize = layout.ids().map(|id| averaged.model.kernels.len(&average[id])).sum();
    let planned = |ema| {
        cpu_memory(
            &Preset::Unit.architecture(),
            Precision::F32,
            CpuTraining {
                ema,
                ..CpuTraining::new(MICRO.length as u32, MICRO.sequences as u32)
            },
        )
    };
    assert_eq!(planned(true).average, 4 * elements as u64);
    assert_eq!(planned(true).total() - planned(false).total(), 4 * elements as u64);
}

/// A checkpoint after some steps.
fn saved(directory: &tempfile::TempDir, trainer: &mut Trainer<Cpu>, step: u64) -> Checkpoint {
    let position = Position {
        key: KEY.into(),
        step,
        ..Position::default()
    };
    let config = trainer.model.architecture.to_config_json(0, 1, "float32");
    let files = StaticFiles {
        files: vec![("config.json".into(), serde_json::to_vec(&config).unwrap())],
    };
    checkpoint::save(&mut Store::open(directory.path()).unwrap(), trainer, &position, &files).unwrap()
}

#[test]
fn a_checkpoint_restores_the_average_and_holds_it_as_a_model() {
    let directory = tempfile::tempdir().unwrap();
    let mut straight = trainer::<f32>(Cpu::new(2), Recipe::F32).with_ema(DECAY);
    (1..=3).for_each(|number| drop(step(&mut straight, number)));
    let at = saved(&directory, &mut straight, 3);

    let model = checkpoint::load_model(Cpu::new(1), &at.path.join(EMA), MICRO.length).unwrap();
    for id in model.layout.ids() {
        let expected = match model.layout.tensor(id).role {
            Role::RoutingBias => &straight.model.weights[id],
            Role::Matrix | Role::Gain => &straight.average().unwrap()[id],
        };
        assert!(model.weights[id] == *expected, "{}", model.layout.tensor(id).parts[0].name);
    }

    let mut resumed = trainer::<f32>(Cpu::new(2), Recipe::F32).with_ema(DECAY);
    checkpoint::load(&mut resumed, &at, KEY).unwrap();
    for number in 4..=STEPS {
        step(&mut straight, number);
        step(&mut resumed, number);
    }
    assert!(master_bits(&resumed) == master_bits(&straight));
    assert!(average_bits(&mut resumed) == average_bits(&mut straight));
}

#[test]
fn checkpoints_with_and_without_an_average_are_not_mixed_up() {
    let (with, without) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (mut plain, mut averaged) = (
        trainer::<f32>(Cpu::new(1), Recipe::F32),
        trainer::<f32>(Cpu::new(1), Recipe::F32).with_ema(DECAY),
    );
    let (with, without) = (saved(&with, &mut averaged, 0), saved(&without, &mut plain, 0));
    assert!(!without.path.join(EMA).exists());
    for (trainer, checkpoint, problem) in [
        (&mut averaged, &without, "`ema` cannot begin in the middle"),
        (&mut plain, &with, "without `ema` they would be lost"),
    ] {
        let error = checkpoint::load(trainer, checkpoint, KEY).unwrap_err().to_string();
        assert!(error.contains(problem) && error.contains("step-0000000000"), "{error}");
    }
}
