//! Memory of the trainer in one CPU process: the sum of the buffers that it allocates.

use crate::architecture::Architecture;
use crate::manifest::Precision;
use crate::size::{attention_parameters, expert_parameters, parameters};

/// Values that share a scale.
const GROUP: f64 = 128.0;
/// Logits that are in memory at a time, about: the head works through the rows in chunks.
const LOGITS: f64 = (2 << 20) as f64;
/// Fewest rows of such a chunk.
const LOGIT_ROWS: f64 = 128.0;
/// The program itself, its threads and their packed panels.
const PROCESS: u64 = 24 << 20;

/// What the trainer of one CPU process holds beside the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTraining {
    /// Tokens of a row.
    pub sequence_length: u32,
    /// Rows of a micro-batch.
    pub micro_batch: u32,
    /// Micro-batches of a step in this process.
    pub micro_batches: u32,
    /// Whether a moving average of the parameters is kept.
    pub ema: bool,
}

impl CpuTraining {
    /// With one micro-batch and no average.
    #[must_use]
    pub const fn new(sequence_length: u32, micro_batch: u32) -> Self {
        Self {
            sequence_length,
            micro_batch,
            micro_batches: 1,
            ema: false,
        }
    }
}

/// Peak memory of the trainer on one CPU process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CpuMemory {
    /// Master weights, MTP included, and what products read of them.
    pub weights: u64,
    /// Gradients, and those of micro-batches that wait to be added: `log2` of their number.
    pub gradients: u64,
    /// First and second moments of AdamW.
    pub moments: u64,
    /// Moving average of the parameters, if there is one. Its evaluation needs no more: it takes the place of the weights.
    pub average: u64,
    /// Activations of one micro-batch that wait for the backward pass.
    pub activations: u64,
    /// Values that live within one layer's pass.
    pub scratch: u64,
    /// Logits of a chunk of rows.
    pub logits: u64,
    /// Everything that does not depend on the model.
    pub process: u64,
}

impl CpuMemory {
    /// The sum; saturating, as the largest architectures exceed 64 bits.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let Self {
            weights,
            gradients,
            moments,
            average,
            activations,
            scratch,
            logits,
            process,
        } = *self;
        weights
            .saturating_add(gradients)
            .saturating_add(moments)
            .saturating_add(average)
            .saturating_add(activations)
            .saturating_add(scratch)
            .saturating_add(logits)
            .saturating_add(process)
    }
}

/// The memory of the trainer.
///
/// Per parameter: a master and the gradients in FP32, two moments in the type of activations, the average in FP32, and in `bf16` and `fp8` the operand of
/// products (2 bytes, or 1 with a scale per 128 x 128). Per token and layer: what [`super::activation_bytes_per_token`] lists, but that `fp8` dispatches rows again in the
/// backward pass; `f32` and `bf16` keep norms, up-projections and SwiGLU outputs, `fp8` recomputes them.
#[must_use]
pub fn cpu_memory(a: &Architecture, precision: Precision, training: CpuTraining) -> CpuMemory {
    let CpuTraining {
        sequence_length,
        micro_batch,
        micro_batches,
        ema,
    } = training;
    let waiting = micro_batches.max(1).ilog2();
    let counts = parameters(a);
    let trained = (counts.total + counts.mtp) as f64;
    let value = precision.activation_bytes();
    let sizes = Sizes::new(a, precision);
    let (dense_layers, modules) = (f64::from(a.first_k_dense_replace), f64::from(a.num_nextn_predict_layers));
    let moe_layers = f64::from(a.num_hidden_layers) - dense_layers;
    let (dense, moe) = (sizes.kept(Layer::Dense), sizes.kept(Layer::Moe));
    // Input, output and their gradients; tokens, targets, losses; in each module also its two inputs, their concatenation and its gradient.
    let model = value * 4.0 * sizes.width + 16.0;
    let module = value * 10.0 * sizes.width + 24.0;
    let tokens = f64::from(sequence_length) * f64::from(micro_batch);
    let kinds = [(dense_layers > 0.0, Layer::Dense), (moe_layers > 0.0, Layer::Moe)];
    let main = sizes.pass(&kinds);
    let vocabulary = f64::from(a.vocab_size);
    let chunk = (LOGITS / vocabulary).max(LOGIT_ROWS).min(tokens);
    CpuMemory {
        weights: (trained * 4.0 + operand_bytes(a, precision, trained)) as u64,
        gradients: (trained * 4.0 * f64::from(1 + waiting)) as u64,
        moments: (trained * 2.0 * value) as u64,
        average: if ema { (trained * 4.0) as u64 } else { 0 },
        activations: (tokens * (dense_layers * dense + moe_layers * moe + model + modules * (moe + module))) as u64,
        scratch: (tokens * (main + modules * sizes.pass(&[(true, Layer::Moe)]))) as u64,
        logits: (chunk * vocabulary * (4.0 + if precision == Precision::F32 { 0.0 } else { 2.0 })) as u64,
        process: PROCESS,
    }
}

/// Bytes of what products read beside the masters.
fn operand_bytes(a: &Architecture, precision: Precision, trained: f64) -> f64 {
    match precision {
        Precision::F32 => 0.0,
        Precision::Bf16 => 2.0 * trained,
        Precision::Fp8 => {
            let (layers, dense) = (f64::from(a.num_hidden_layers), f64::from(a.first_k_dense_replace));
            let (modules, width) = (f64::from(a.num_nextn_predict_layers), f64::from(a.hidden_size));
            let experts = f64::from(a.n_routed_experts) + f64::from(a.n_shared_experts);
            let linear = (layers + modules) * attention_parameters(a) as f64
                + dense * 3.0 * width * f64::from(a.intermediate_size)
                + (layers - dense + modules) * experts * expert_parameters(a) as f64;
            let half = 2.0 * f64::from(a.vocab_size) * width + modules * 2.0 * width * width;
            linear * (1.0 + 4.0 / (GROUP * GROUP)) + 2.0 * half
        }
    }
}

/// Kinds of layers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Dense,
    Moe,
}

/// Widths of a layer's tensors, in elements per token.
struct Sizes {
    fp8: bool,
    /// Bytes of an activation.
    value: f64,
    width: f64,
    heads: f64,
    q_rank: f64,
    kv_a: f64,
    kv_rank: f64,
    q: f64,
    kv_up: f64,
    o: f64,
    ffn: f64,
    expert: f64,
    shared: f64,
    experts: f64,
    top_k: f64,
}

impl Sizes {
    fn new(a: &Architecture, precision: Precision) -> Self {
        let heads = f64::from(a.num_attention_heads);
        let (nope, rope, v) = (
            f64::from(a.qk_nope_head_dim),
            f64::from(a.qk_rope_head_dim),
            f64::from(a.v_head_dim),
        );
        Self {
            fp8: precision == Precision::Fp8,
            value: precision.activation_bytes(),
            width: f64::from(a.hidden_size),
            heads,
            q_rank: f64::from(a.q_lora_rank.unwrap_or(0)),
            kv_a: f64::from(a.kv_lora_rank) + rope,
            kv_rank: f64::from(a.kv_lora_rank),
            q: heads * (nope + rope),
            kv_up: heads * (nope + v),
            o: heads * v,
            ffn: f64::from(a.intermediate_size),
            expert: f64::from(a.moe_intermediate_size),
            shared: f64::from(a.n_shared_experts) * f64::from(a.moe_intermediate_size),
            experts: f64::from(a.n_routed_experts),
            top_k: f64::from(a.num_experts_per_tok),
        }
    }

    /// Widths of the SwiGLU networks of a layer, by the number of rows that each has per token.
    fn networks(&self, layer: Layer) -> [(f64, f64); 2] {
        match layer {
            Layer::Dense => [(1.0, self.ffn), (0.0, 0.0)],
            Layer::Moe => [(self.top_k, self.expert), (1.0, self.shared)],
        }
    }

    /// Normalised inputs, up-projections and the norms' statistics.
    fn derived(&self) -> f64 {
        self.value * (2.0 * self.width + self.q_rank + self.kv_rank + self.q + self.kv_up) + 16.0
    }

    /// Bytes per token that one layer keeps for the backward pass.
    fn kept(&self, layer: Layer) -> f64 {
        let Self { fp8, value, .. } = *self;
        // Latents, residual stream after attention and after the layer, softmax denominators.
        let attention = value * (self.q_rank + self.kv_a + 2.0 * self.width) + 4.0 * self.heads;
        let o = self.o * if fp8 { 1.5 + 4.0 / GROUP } else { value };
        let derived = if fp8 { 0.0 } else { self.derived() };
        let network = |(rows, width): (f64, f64)| {
            let per_value = if fp8 { 2.0 * (1.0 + 4.0 / GROUP) } else { 3.0 * value };
            rows * width * per_value
        };
        let routing = match layer {
            Layer::Dense => 0.0,
            // Scores; indices, weights and the permutation in both directions.
            Layer::Moe => 4.0 * self.experts + 16.0 * self.top_k,
        };
        attention + o + derived + self.networks(layer).map(network).iter().sum::<f64>() + routing
    }

    /// Bytes per token that live within one layer's pass, for the kinds of layers that there are.
    fn pass(&self, kinds: &[(bool, Layer)]) -> f64 {
        let Self { fp8, value, .. } = *self;
        // Codes with both kinds of scales.
        let quantized = |width: f64| if fp8 { width * (1.0 + 8.0 / GROUP) } else { 0.0 };
        let latents = 2.0 * self.q_rank + self.kv_rank + self.kv_a;
        let attention = value * (self.o + self.q + self.kv_up + latents + if fp8 { self.o } else { 0.0 })
            + quantized(2.0 * self.width + 2.0 * self.q_rank + self.kv_rank + self.kv_a + self.o + self.q + self.kv_up)
            + if fp8 { self.derived() } else { 0.0 };
        let network = |(rows, width): (f64, f64)| {
            let gradients = value * 3.0 * width;
            let recomputed = if fp8 { value * 3.0 * width } else { 0.0 };
            rows * (gradients + recomputed + quantized(3.0 * width))
        };
        let networks = |layer| self.networks(layer).map(network).iter().sum::<f64>();
        let ffn: f64 = kinds.iter().filter(|(there, _)| *there).map(|&(_, layer)| networks(layer)).sum();
        let moe = kinds.contains(&(true, Layer::Moe));
        let routing = if moe {
            let rows = self.top_k * self.width;
            rows * value * if fp8 { 1.0 } else { 2.0 } + quantized(2.0 * rows) + 4.0 * (self.experts + self.top_k)
        } else {
            0.0
        };
        attention + ffn + routing + quantized(2.0 * self.width) + value * self.width
    }
}
