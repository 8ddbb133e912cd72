//! Models in the Hugging Face layout: what is written, what comes back, and what is refused.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

mod export;
mod import;
mod refusals;

use fathom_spec::architecture::Architecture;
use fathom_worker::checkpoint::safetensors::{TensorSpec, save};
use fathom_worker::model::layout::Layout;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tensor of a file: type, shape, bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);
/// Tensors by name.
type Tensors = BTreeMap<String, Stored>;

/// A model with one MTP module in which matrices have several blocks of 128 x 128, most of them cut by an edge.
fn architecture() -> Architecture {
    Architecture {
        vocab_size: 40,
        hidden_size: 136,
        intermediate_size: 260,
        moe_intermediate_size: 130,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        n_shared_experts: 1,
        n_routed_experts: 4,
        num_experts_per_tok: 2,
        n_group: 2,
        topk_group: 1,
        first_k_dense_replace: 1,
        q_lora_rank: Some(24),
        kv_lora_rank: 132,
        qk_nope_head_dim: 60,
        qk_rope_head_dim: 8,
        v_head_dim: 70,
        num_nextn_predict_layers: 1,
        routed_scaling_factor: 2.5,
        norm_topk_prob: true,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 64,
        initializer_range: 0.02,
    }
}

/// Numbers from a seed, of both signs and of magnitudes from 2^-40 to 1, zeros among them.
fn values(seed: usize, count: usize) -> Vec<f32> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    (0..count)
        .map(|_| match next() % 32 {
            0 => 0.0,
            1 => -0.0,
            2 => (next() as f32 / 2f32.powi(30) - 1.0) * 2f32.powi(-(next() as i32 % 40)),
            _ => next() as f32 / 2f32.powi(30) - 1.0,
        })
        .collect()
}

/// Writes a model of the trainer's own types.
fn write_model(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let layout = Layout::new(&architecture());
    let specs: Vec<TensorSpec> = layout
        .tensors
        .iter()
        .flat_map(|tensor| &tensor.parts)
        .map(|part| TensorSpec::f32(part.name.clone(), &part.shape))
        .collect();
    let mut seed = 0;
    save(directory, "model", &specs, u64::MAX, |spec, sink| {
        seed += 1;
        let mut values = values(seed, spec.shape.iter().product());
        if spec.name == "model.layers.0.mlp.gate_proj.weight" {
            // A block of zeros, and one whose scale would be subnormal.
            for (index, value) in values.iter_mut().enumerate() {
                match (index / 136 / 128, index % 136 / 128) {
                    (0, 0) => *value = 0.0,
                    (1, 0) => *value *= 2f32.powi(-125),
                    _ => {}
                }
            }
        }
        sink.write(&values)
    })
    .unwrap();
    write_json(directory, &architecture().to_config_json(3, 4, "float32"));
    std::fs::write(directory.join("tokenizer.json"), "a tokenizer").unwrap();
    std::fs::write(directory.join("tokenizer_config.json"), "its settings").unwrap();
    std::fs::write(directory.join("optimizer.safetensors"), "not of the model").unwrap();
}

fn write_json(directory: &Path, config: &Value) {
    std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
}

fn read_json(directory: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(directory.join(name)).unwrap()).unwrap()
}

/// All tensors of a directory, read by the reference implementation; in several files exactly those that the index says.
fn tensors(directory: &Path) -> Tensors {
    let index = directory.join("model.safetensors.index.json");
    if !index.exists() {
        return tensors_of(&directory.join("model.safetensors"));
    }
    assert!(!directory.join("model.safetensors").exists());
    let index = read_json(directory, "model.safetensors.index.json");
    let map: BTreeMap<String, String> = serde_json::from_value(index["weight_map"].clone()).unwrap();
    let mut all = Tensors::new();
    let files: std::collections::BTreeSet<&String> = map.values().collect();
    for file in files {
        for (name, tensor) in tensors_of(&directory.join(file)) {
            assert_eq!(map[&name], *file, "{name}");
            all.insert(name, tensor);
        }
    }
    assert_eq!(all.len(), map.len());
    let total: usize = all.values().map(|(_, _, bytes)| bytes.len()).sum();
    assert_eq!(index["metadata"]["total_size"], json!(total));
    all
}

fn tensors_of(file: &Path) -> Tensors {
    let bytes = std::fs::read(file).unwrap();
    let read = SafeTensors::deserialize(&bytes).unwrap();
    let stored = |view: TensorView<'_>| (view.dtype(), view.shape().to_vec(), view.data().to_vec());
    read.tensors().into_iter().map(|(name, view)| (name, stored(view))).collect()
}

fn write_tensors(file: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    std::fs::write(file, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// Whether a tensor is in FP8 in the released model.
fn is_linear(name: &str) -> bool {
    name.contains("_proj") && !name.contains("eh_proj")
}

/// A temporary directory with a model in `model`, and where results may go.
fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let (model, to) = (root.path().join("model"), root.path().join("to"));
    write_model(&model);
    (root, model, to)
}
