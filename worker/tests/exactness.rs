//! What must not change a bit: recomputation, the number of threads. And what each precision changes, against the FP32 oracle.

#![allow(clippy::unwrap_used)]

mod common;

use common::training::{PRECISIONS, SETTINGS, bits, rows, trainer};
use fathom_kernels::cpu::simd::Isa;
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Cpu, Kernels};
use fathom_spec::manifest::Precision;
use fathom_worker::model::layout::Role;
use fathom_worker::model::{Model, Recipe, Storage, TensorClass};
use fathom_worker::train::StepReport;
use std::collections::BTreeMap;

const STEPS: u64 = 3;
/// Steps of the committed loss curves, and their file: instruction set, precision, step, loss.
const CURVE_STEPS: u64 = 30;
const CURVES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/loss-curves.txt");
/// Relative difference that another instruction set may make after so many steps.
const CURVES_TOLERANCE: f64 = 5e-3;

/// Reports of some steps, and the bits of all parameters after them.
fn run<A: Storage>(threads: usize, recipe: Recipe) -> (Vec<StepReport>, Vec<u32>) {
    let mut trainer = trainer::<A>(Cpu::new(threads), recipe);
    let vocabulary = trainer.model.architecture.vocab_size;
    let reports = (1..=STEPS)
        .map(|step| trainer.step(step, &rows(step, vocabulary), SETTINGS, &|| false).unwrap())
        .collect();
    let bits = bits(&trainer.model.kernels, &trainer.model.layout, trainer.model.weights.masters());
    (reports, bits)
}

fn run_in(precision: Precision, threads: usize, recompute: bool) -> (Vec<StepReport>, Vec<u32>) {
    let recipe = Recipe {
        precision,
        recompute,
        ..Recipe::F32
    };
    match precision {
        Precision::F32 => run::<f32>(threads, recipe),
        Precision::Bf16 | Precision::Fp8 => run::<Bf16>(threads, recipe),
    }
}

#[test]
fn recomputation_and_threads_change_no_bit() {
    for precision in PRECISIONS {
        let (reports, weights) = run_in(precision, 2, false);
        for (threads, recompute) in [(2, true), (1, false), (3, true)] {
            let (others, other_weights) = run_in(precision, threads, recompute);
            let place = format!("{precision:?}, {threads} threads, recompute: {recompute}");
            for (step, (report, other)) in (1..).zip(reports.iter().zip(&others)) {
                assert_eq!(
                    report.total_loss.to_bits(),
                    other.total_loss.to_bits(),
                    "loss of step {step}, {place}"
                );
                assert_eq!(
                    report.gradient_norm.to_bits(),
                    other.gradient_norm.to_bits(),
                    "gradient of step {step}, {place}"
                );
            }
            assert!(weights == other_weights, "weights, {place}");
        }
    }
}

/// The first step from the same weights: BF16 has 8 bits, E4M3 has 4, and both are averaged over sums.
#[test]
fn narrow_precisions_are_near_the_oracle() {
    let (oracle, _) = run_in(Precision::F32, 2, false);
    for (precision, loss, gradient) in [(Precision::Bf16, 2e-3, 2e-2), (Precision::Fp8, 2e-2, 1e-1)] {
        let (reports, _) = run_in(precision, 2, false);
        for (report, oracle) in reports.iter().zip(&oracle) {
            for (name, value, expected, allowed) in [
                ("main", report.main_loss, oracle.main_loss, loss),
                ("mtp", report.mtp_losses[0], oracle.mtp_losses[0], loss),
                ("gradient", report.gradient_norm, oracle.gradient_norm, gradient),
            ] {
                let error = (value / expected - 1.0).abs();
                assert!(
                    error <= allowed && error > 0.0,
                    "{precision:?}: {name} {value}, not {expected}: {error:e}"
                );
            }
        }
    }
}

/// Gradients of one global batch, tensor by tensor: the distance from the oracle's relative to its norm. BF16 rounds each activation by 2^-9 of itself, E4M3
/// each operand by 2^-4 at most; tokens whose experts change weigh in the gradients of experts, which see few, and of gates.
#[test]
fn gradients_of_narrow_precisions_are_near_the_oracles() {
    let (oracle, names) = gradients::<f32>(Recipe::F32);
    for (precision, allowed) in [(Precision::Bf16, 0.08), (Precision::Fp8, 0.2)] {
        let recipe = Recipe {
            precision,
            recompute: true,
            ..Recipe::F32
        };
        let (narrow, _) = gradients::<Bf16>(recipe);
        for ((narrow, oracle), name) in narrow.iter().zip(&oracle).zip(&names) {
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
            let pairs = || narrow.iter().zip(oracle).map(|(&a, &b)| (f64::from(a), f64::from(b)));
            let distance = norm(&mut pairs().map(|(a, b)| a - b)) / norm(&mut pairs().map(|(_, b)| b));
            let allowed = if name.contains(".mlp.") { 2.0 * allowed } else { allowed };
            assert!(distance > 0.0 && distance < allowed, "{precision:?}, {name}: {distance}");
        }
    }
}

/// Gradients of the first batch, of every tensor that is trained, and their names.
fn gradients<A: Storage>(recipe: Recipe) -> (Vec<Vec<f32>>, Vec<String>) {
    let mut trainer = trainer::<A>(Cpu::new(2), recipe);
    let rows = rows(1, trainer.model.architecture.vocab_size);
    trainer.accumulate(&rows, SETTINGS, &|| false).unwrap();
    let Model {
        kernels,
        layout,
        gradients,
        ..
    } = &trainer.model;
    let trained = layout.ids().filter(|&id| layout.tensor(id).role != Role::RoutingBias);
    trained
        .map(|id| {
            let tensor = layout.tensor(id);
            let mut values = vec![0.0_f32; tensor.len];
            kernels.download(&mut values, &gradients[id], 0);
            (values, format!("{tensor:?}"))
        })
        .unzip()
}

/// Every class is seen in the layers that have such a tensor, in `fp8` only; the load of the experts does not depend on it.
#[test]
fn quantisation_is_counted_by_class() {
    let (reports, _) = run_in(Precision::Fp8, 2, true);
    let layers = reports[0].numerics.len();
    assert_eq!(layers, 4, "three layers and an MTP module");
    for (index, report) in reports.iter().enumerate() {
        for (layer, classes) in report.numerics.iter().enumerate() {
            assert_eq!(classes.len(), TensorClass::ALL.len());
            for (class, statistics) in TensorClass::ALL.into_iter().zip(classes) {
                assert!(statistics.elements > 0, "step {index}, layer {layer}, {class:?}");
                assert_eq!(statistics.non_finite, 0, "step {index}, layer {layer}, {class:?}");
                assert!(statistics.amax > 0.0, "step {index}, layer {layer}, {class:?}");
            }
        }
    }
    let (reports, _) = run_in(Precision::Bf16, 2, false);
    assert!(
        reports
            .iter()
            .flat_map(|report| report.numerics.iter().flatten())
            .all(|seen| seen.elements == 0)
    );
}

/// The losses of a short run in each precision are those of the committed file: to the last bit for every instruction set of this machine that the file has, near
/// those of AVX2 for others, where sums have another order. A change of the arithmetic that is meant comes with a new file (`FATHOM_BLESS=1` writes what this
/// machine can), and its difference is the reviewer's to judge.
#[test]
fn loss_curves_are_the_committed_ones() {
    let committed = std::fs::read_to_string(CURVES).unwrap();
    let mut curves = BTreeMap::new();
    for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::PORTABLE) {
        for precision in PRECISIONS {
            let recipe = Recipe {
                precision,
                recompute: precision.recomputes(),
                ..Recipe::F32
            };
            let losses = match precision {
                Precision::F32 => losses::<f32>(isa, recipe),
                Precision::Bf16 | Precision::Fp8 => losses::<Bf16>(isa, recipe),
            };
            curves.insert((isa.name().to_owned(), format!("{precision:?}")), losses);
        }
    }
    if std::env::var_os("FATHOM_BLESS").is_some() {
        // What other machines have made no longer holds if what both can make has changed.
        let still = curves
            .iter()
            .all(|(key, losses)| parse(&committed).get(key).is_none_or(|old| old == losses));
        let mut all = if still { parse(&committed) } else { BTreeMap::new() };
        all.extend(curves.clone());
        std::fs::write(CURVES, print(&all)).unwrap();
    }
    let committed = parse(&std::fs::read_to_string(CURVES).unwrap());
    for ((isa, precision), losses) in &curves {
        let own = committed.get(&(isa.clone(), precision.clone()));
        let expected = own.or_else(|| committed.get(&("avx2".into(), precision.clone()))).unwrap();
        assert_eq!(losses.len(), expected.len());
        for (step, (loss, expected)) in (1..).zip(losses.iter().zip(expected)) {
            let near = (loss / expected - 1.0).abs() < CURVES_TOLERANCE;
            assert!(
                loss == expected || (near && own.is_none()),
                "{isa} {precision}, step {step}: {loss}, but the committed curve has {expected}"
            );
        }
    }
}

/// Losses by instruction set and precision.
type Curves = BTreeMap<(String, String), Vec<f64>>;

fn parse(text: &str) -> Curves {
    let mut curves = Curves::new();
    for line in text.lines() {
        let [isa, precision, _step, loss] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
        curves
            .entry((isa.into(), precision.into()))
            .or_default()
            .push(loss.parse().unwrap());
    }
    curves
}

/// The shortest text that stands for exactly these numbers.
fn print(curves: &Curves) -> String {
    let lines = curves.iter().flat_map(|((isa, precision), losses)| {
        let numbered = (1..).zip(losses);
        numbered.map(move |(step, loss)| format!("{isa} {precision} {step} {loss:?}\n"))
    });
    lines.collect()
}

fn losses<A: Storage>(isa: Isa, recipe: Recipe) -> Vec<f64> {
    let mut trainer = trainer::<A>(Cpu::with_isa(2, isa), recipe);
    let vocabulary = trainer.model.architecture.vocab_size;
    let loss = |step| trainer.step(step, &rows(step, vocabulary), SETTINGS, &|| false).unwrap().total_loss;
    (1..=CURVE_STEPS).map(loss).collect()
}

/// A value that is not finite stops the step, although E4M3 would code infinity as a number.
#[test]
fn what_is_not_finite_changes_nothing() {
    for precision in [Precision::Bf16, Precision::Fp8] {
        let recipe = Recipe {
            precision,
            recompute: true,
            ..Recipe::F32
        };
        let mut trainer = trainer::<Bf16>(Cpu::new(2), recipe);
        let id = trainer
            .model
            .layout
            .ids()
            .find(|&id| trainer.model.layout.tensor(id).role == Role::Gain)
            .unwrap();
        let len = trainer.model.layout.tensor(id).len;
        let mut broken = vec![1.0; len];
        broken[3] = f32::INFINITY;
        let Model { kernels, weights, .. } = &mut trainer.model;
        kernels.upload(&mut weights.masters_mut()[id], 0, &broken);
        trainer.refresh();
        let report = trainer
            .step(1, &rows(1, trainer.model.architecture.vocab_size), SETTINGS, &|| false)
            .unwrap();
        assert!(
            report.finite_quantities().iter().any(|(_, value)| !value.is_finite()),
            "{precision:?}"
        );
        let Model { kernels, weights, .. } = &trainer.model;
        let mut after = vec![0.0; len];
        kernels.download(&mut after, &weights[id], 0);
        assert_eq!(after, broken, "{precision:?}: nothing is updated");
    }
}
