//! A small trainer and something to learn.

use fathom_kernels::{Cpu, Kernels};
use fathom_spec::manifest::{Optimizer, Precision, Preset};
use fathom_worker::model::layout::Layout;
use fathom_worker::model::{BatchDims, Model, Recipe, Storage, Weights};
use fathom_worker::train::{StepSettings, Trainer, init};

pub const SETTINGS: StepSettings = StepSettings {
    learning_rate: 3e-3,
    mtp_weight: 0.3,
    balance_weight: 1e-2,
    bias_update_speed: 1e-3,
    bias_centered: false,
};
/// Two micro-batches of two sequences, of a length that is no multiple of anything.
pub const MICRO: BatchDims = BatchDims { sequences: 2, length: 37 };
pub const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Fp8];

pub fn trainer<A: Storage>(cpu: Cpu, recipe: Recipe) -> Trainer<Cpu, A> {
    let mut model = Model::new(cpu, Preset::Unit.architecture(), MICRO.length, recipe);
    init::initialise(&mut model, 7);
    Trainer::new(model, Optimizer::default(), MICRO)
}

/// Tokens with something to learn: each follows from the one before, mostly.
pub fn rows(step: u64, vocabulary: u32) -> Vec<u32> {
    let mut state = step as u32 + 1;
    let mut token = 0;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        token = if state >> 30 == 0 { state >> 8 } else { token * 5 + 3 } % vocabulary;
        token
    };
    (0..2 * MICRO.sequences * (MICRO.length + 1)).map(|_| next()).collect()
}

/// The bits of all values, in order.
pub fn bits<K: Kernels>(k: &K, layout: &Layout, weights: &Weights<K>) -> Vec<u32> {
    let mut bits = Vec::new();
    for id in layout.ids() {
        let mut values = vec![0.0_f32; k.len(&weights[id])];
        k.download(&mut values, &weights[id], 0);
        bits.extend(values.into_iter().map(f32::to_bits));
    }
    bits
}
