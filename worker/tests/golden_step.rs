//! The training core against transformers + torch: losses, states, logits, every gradient and the expert counts of one step.

#![allow(clippy::unwrap_used)]

use fathom_kernels::{Cpu, Kernels, Reference};
use fathom_spec::manifest::Precision;
use fathom_worker::debug::{StepArguments, step};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

/// Relative error allowed in a loss.
const LOSS: f64 = 1e-6;
/// Absolute error allowed in a logit or output state.
const LOGIT: f64 = 1e-5;
/// Relative L2 error allowed in a gradient.
const GRADIENT: f64 = 1e-5;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    view.data()
        .chunks_exact(4)
        .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
        .collect()
}

fn check<K: Kernels>(case: &str, kernels: K) {
    let directory = golden(case);
    let output = tempfile::tempdir().unwrap();
    let output = output.path().join("out.safetensors");
    let losses = step(
        kernels,
        &StepArguments {
            model: directory.clone(),
            tokens: directory.join("io.safetensors"),
            output: output.clone(),
            mtp: Some(directory.join("mtp.safetensors")),
            mtp_weight: 0.3,
            balance_alpha: 0.01,
            precision: Precision::F32,
        },
    )
    .unwrap();
    check_losses(&directory, &losses);

    let (ours, io, grads) = (
        std::fs::read(output).unwrap(),
        std::fs::read(directory.join("io.safetensors")).unwrap(),
        std::fs::read(directory.join("grads.safetensors")).unwrap(),
    );
    let [ours, io, grads] = [&ours, &io, &grads].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    for name in ["hidden", "logits", "mtp_logits"] {
        assert_eq!(ours.tensor(name).unwrap().shape(), io.tensor(name).unwrap().shape(), "{name}");
        let worst = floats(&ours, name)
            .iter()
            .zip(floats(&io, name))
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        assert!(worst <= LOGIT, "{case}: {name} is off by {worst}");
    }
    let mut compared = 0;
    for name in grads.names() {
        let (got, expected) = (floats(&ours, &format!("grad.{name}")), floats(&grads, name));
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let error = norm(&mut got.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied()).max(1e-12);
        assert!(error <= GRADIENT, "{case}: the gradient of {name} is off by {error} (relative L2)");
        compared += 1;
    }
    let written = ours.names().into_iter().filter(|name| name.starts_with("grad.")).count();
    assert_eq!((compared, written), (130, 130), "every parameter has a gradient in both");
}

fn check_losses(directory: &Path, losses: &serde_json::Value) {
    let expected: serde_json::Value = serde_json::from_slice(&std::fs::read(directory.join("expected.json")).unwrap()).unwrap();
    for key in ["main_loss", "mtp_loss", "balance_loss_sum", "total_loss", "grad_norm"] {
        let (got, expected) = (losses[key].as_f64().unwrap(), expected[key].as_f64().unwrap());
        assert!((got / expected - 1.0).abs() <= LOSS, "{key}: {got} instead of {expected}");
    }
    assert_eq!(losses["expert_counts"], expected["expert_counts"]);
}

#[test]
fn plain_rope_reference() {
    check("v3-tiny", Reference::PAIRS);
}

#[test]
fn yarn_reference() {
    check("v3-tiny-yarn", Reference::PAIRS);
}

#[test]
fn plain_rope_cpu() {
    check("v3-tiny", Cpu::new(2));
}

#[test]
fn yarn_cpu() {
    check("v3-tiny-yarn", Cpu::new(2));
}
