//! Bytes: activations per token and layer, memory per rank.

mod cpu;

pub use cpu::{CpuMemory, CpuTraining, cpu_memory};

use crate::architecture::Architecture;
use crate::size::{attention_parameters, expert_parameters, gate_parameters};

/// How activations are kept for the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationPolicy {
    /// The paper's recipe (section 3.3.3): FP8 inputs of linear layers, norms, up-projections and SwiGLU outputs recomputed.
    Fp8 {
        /// Bytes of the scale of each 128 values: 4 for FP32, 1 for a power of two.
        scale_bytes: u32,
        /// Whether the rows that experts received are kept, or dispatched again in the backward pass.
        keep_received: bool,
    },
    /// Everything kept, nothing recomputed.
    Plain {
        /// Bytes of a value: 2 for BF16, 4 for FP32.
        value_bytes: u32,
    },
}

/// Kinds of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// With a dense feed-forward network.
    Dense,
    /// With routed and shared experts.
    Moe,
}

/// Bytes that one layer keeps per token for its backward pass.
#[must_use]
pub fn activation_bytes_per_token(a: &Architecture, layer: Layer, policy: ActivationPolicy) -> f64 {
    let d = f64::from(a.hidden_size);
    let heads = f64::from(a.num_attention_heads);
    let latents = f64::from(a.q_lora_rank.unwrap_or(0)) + f64::from(a.kv_lora_rank);
    let rope = f64::from(a.qk_rope_head_dim);
    let query = heads * (f64::from(a.qk_nope_head_dim) + rope);
    let value = heads * f64::from(a.v_head_dim);
    let routed = f64::from(a.num_experts_per_tok);
    let experts = routed + f64::from(a.n_shared_experts);
    let width = f64::from(a.moe_intermediate_size);
    let dense_width = f64::from(a.intermediate_size);
    // Router scores in FP32, an index and a weight per chosen expert, and one logsumexp per head.
    let scores = 4.0 * f64::from(a.n_routed_experts);
    let logsumexp = 4.0 * heads;
    match policy {
        ActivationPolicy::Fp8 {
            scale_bytes,
            keep_received,
        } => {
            let fp8 = 1.0 + f64::from(scale_bytes) / 128.0;
            // Residual stream before attention and before the feed-forward part, pre-norm latents in BF16; attention output in E5M6.
            let attention = 2.0 * d + 2.0 * (latents + rope) + value * (0.5 + fp8) + logsumexp + 2.0 * d;
            let received = if keep_received { routed * d * fp8 } else { 0.0 };
            match layer {
                Layer::Dense => attention + 2.0 * dense_width * fp8,
                Layer::Moe => attention + received + 2.0 * width * experts * fp8 + scores + 8.0 * routed,
            }
        }
        ActivationPolicy::Plain { value_bytes } => {
            let bytes = f64::from(value_bytes);
            // Residual stream and normalised input twice, latents before and after their norms, queries, keys, values, attention output.
            let attention = bytes * (4.0 * d + (latents + rope) + latents + 2.0 * query + 2.0 * value) + logsumexp;
            match layer {
                Layer::Dense => attention + bytes * 3.0 * dense_width,
                // Rows that experts received and returned; gate, up and their product.
                Layer::Moe => attention + bytes * (2.0 * routed * d + 3.0 * experts * width) + scores,
            }
        }
    }
}

/// How a model is spread over GPUs with DualPipe, expert parallelism and ZeRO-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DualPipe {
    /// Pipeline ranks `[PP]`, even. Each holds two stages, one per direction.
    pub pipeline: u32,
    /// Ranks that share the routed experts `[EP]`.
    pub expert: u32,
    /// Ranks per pipeline rank (`world / PP`), over which ZeRO-1 shards the optimizer.
    pub data: u32,
    /// MoE layers of an interior stage.
    pub layers_per_stage: u32,
    /// Whether the two ranks that hold the same stages share their optimizer state as well.
    pub mirror_sharding: bool,
}

/// Memory of an interior DualPipe rank, in bytes; parameters as counts.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DualPipeMemory {
    /// Parameters that every expert-parallel rank holds: attention, norms, gates, shared experts.
    pub dense_parameters: u64,
    /// Parameters of the routed experts of this rank.
    pub expert_parameters: u64,
    /// Weights in BF16.
    pub weights: f64,
    /// Gradients in FP32.
    pub gradients: f64,
    /// Master weights in FP32 and two moments in BF16, sharded.
    pub optimizer: f64,
    /// Activations: `PP + 1` micro-batches through one stage.
    pub activations: f64,
}

/// Memory of an interior rank for micro-batches of `tokens` tokens.
#[must_use]
pub fn dualpipe_memory(a: &Architecture, layout: DualPipe, tokens: u32, policy: ActivationPolicy) -> DualPipeMemory {
    let DualPipe {
        pipeline,
        expert,
        data,
        layers_per_stage,
        mirror_sharding,
    } = layout;
    let layers = 2 * u64::from(layers_per_stage);
    let per_layer =
        attention_parameters(a) + 2 * u64::from(a.hidden_size) + u64::from(a.n_shared_experts) * expert_parameters(a) + gate_parameters(a);
    let local_experts = u64::from(a.n_routed_experts) / u64::from(expert.max(1));
    let dense_parameters = layers * per_layer;
    let expert_parameters = layers * local_experts * expert_parameters(a);
    let held = (dense_parameters + expert_parameters) as f64;
    let mirror = if mirror_sharding { 2.0 } else { 1.0 };
    let dense_shards = f64::from(data) * mirror;
    let expert_shards = f64::from(data) / f64::from(expert.max(1)) * mirror;
    let stage = f64::from(layers_per_stage) * f64::from(tokens) * activation_bytes_per_token(a, Layer::Moe, policy);
    DualPipeMemory {
        dense_parameters,
        expert_parameters,
        weights: 2.0 * held,
        gradients: 4.0 * held,
        optimizer: 8.0 * (dense_parameters as f64 / dense_shards + expert_parameters as f64 / expert_shards),
        activations: f64::from(pipeline + 1) * stage,
    }
}
