//! Counting: parameters, floating-point operations and bytes of a model, exactly. The formulas are those of the paper's architecture
//! (arXiv 2412.19437, sections 2 and 4.2); symbols as in [`Architecture`].
//!
//! Every function expects an architecture that [`Architecture::check`] accepts; its bounds keep all counts within 64 bits.

use crate::architecture::Architecture;

/// Parameters of one multi-head latent attention, its latent norms included.
#[must_use]
pub fn attention_parameters(a: &Architecture) -> u64 {
    attention_matrices(a) + latent_norms(a)
}

/// `d c_q + c_q n_h (d_n + d_r) + d (c_kv + d_r) + c_kv n_h (d_n + d_v) + n_h d_v d`; the first two are `d n_h (d_n + d_r)` without a
/// query latent.
fn attention_matrices(a: &Architecture) -> u64 {
    let [d, heads, nope, rope, value, kv] = [
        a.hidden_size,
        a.num_attention_heads,
        a.qk_nope_head_dim,
        a.qk_rope_head_dim,
        a.v_head_dim,
        a.kv_lora_rank,
    ]
    .map(u64::from);
    let query = match a.q_lora_rank.map(u64::from) {
        Some(rank) => d * rank + rank * heads * (nope + rope),
        None => d * heads * (nope + rope),
    };
    query + d * (kv + rope) + kv * heads * (nope + value) + heads * value * d
}

fn latent_norms(a: &Architecture) -> u64 {
    u64::from(a.q_lora_rank.unwrap_or(0)) + u64::from(a.kv_lora_rank)
}

/// Parameters of a dense feed-forward network: `3 d f`.
#[must_use]
pub fn dense_parameters(a: &Architecture) -> u64 {
    3 * u64::from(a.hidden_size) * u64::from(a.intermediate_size)
}

/// Parameters of one expert: `3 d f_e`.
#[must_use]
pub fn expert_parameters(a: &Architecture) -> u64 {
    3 * u64::from(a.hidden_size) * u64::from(a.moe_intermediate_size)
}

/// Parameters of the gate of one MoE layer: `N_r d`. Its routing bias is not a parameter.
#[must_use]
pub fn gate_parameters(a: &Architecture) -> u64 {
    u64::from(a.n_routed_experts) * u64::from(a.hidden_size)
}

/// Parameters of the feed-forward part of an MoE layer: experts and gate.
#[must_use]
pub fn moe_parameters(a: &Architecture) -> u64 {
    moe_with(a, a.n_routed_experts)
}

fn moe_with(a: &Architecture, routed: u32) -> u64 {
    (u64::from(routed) + u64::from(a.n_shared_experts)) * expert_parameters(a) + gate_parameters(a)
}

/// Parameters of the input embedding or of the output head: `V d`.
#[must_use]
pub fn embedding_parameters(a: &Architecture) -> u64 {
    u64::from(a.vocab_size) * u64::from(a.hidden_size)
}

/// MoE layers of the main model.
#[must_use]
pub fn moe_layers(a: &Architecture) -> u64 {
    u64::from(a.num_hidden_layers) - u64::from(a.first_k_dense_replace)
}

/// Values of routing bias: `N_r` per MoE layer of the main model and per MTP module. They are not trained by gradients.
#[must_use]
pub fn routing_biases(a: &Architecture) -> RoutingBiases {
    let per_layer = u64::from(a.n_routed_experts);
    RoutingBiases {
        main: per_layer * moe_layers(a),
        mtp: per_layer * u64::from(a.num_nextn_predict_layers),
    }
}

/// See [`routing_biases`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RoutingBiases {
    /// In the main model.
    pub main: u64,
    /// In the MTP modules.
    pub mtp: u64,
}

/// Trainable parameters of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// The main model.
    pub total: u64,
    /// Those of the main model that one token uses, input embedding and head included.
    pub active: u64,
    /// [`Parameters::active`] without the input embedding, which is looked up and not multiplied.
    pub active_without_embedding: u64,
    /// All MTP modules, without the embedding and head that they share with the main model.
    pub mtp: u64,
    /// Those of the MTP modules that one token uses.
    pub mtp_active: u64,
    /// [`Parameters::mtp_active`] with the shared embedding and head.
    pub mtp_active_with_shared: u64,
    /// Elements of a released checkpoint: every MTP module carries copies of embedding and head. Routing biases not included.
    pub stored: u64,
}

/// Counts the parameters of a model.
#[must_use]
pub fn parameters(a: &Architecture) -> Parameters {
    let total = main_parameters(a, a.n_routed_experts);
    let active = main_parameters(a, a.num_experts_per_tok);
    let modules = u64::from(a.num_nextn_predict_layers);
    let shared = 2 * embedding_parameters(a);
    let mtp = modules * mtp_parameters(a, a.n_routed_experts);
    let mtp_active = modules * mtp_parameters(a, a.num_experts_per_tok);
    Parameters {
        total,
        active,
        active_without_embedding: active - embedding_parameters(a),
        mtp,
        mtp_active,
        mtp_active_with_shared: if modules == 0 { 0 } else { mtp_active + shared },
        stored: total + mtp + modules * shared,
    }
}

/// `2 V d + d + L (MLA + 2 d) + L_d 3 d f + (L - L_d) MoE`, of which each token uses `routed` experts per layer.
fn main_parameters(a: &Architecture, routed: u32) -> u64 {
    let d = u64::from(a.hidden_size);
    2 * embedding_parameters(a)
        + d
        + u64::from(a.num_hidden_layers) * (attention_parameters(a) + 2 * d)
        + u64::from(a.first_k_dense_replace) * dense_parameters(a)
        + moe_layers(a) * moe_with(a, routed)
}

/// One MTP module: `MLA + 2 d + MoE + 2 d^2 + 3 d`.
fn mtp_parameters(a: &Architecture, routed: u32) -> u64 {
    let d = u64::from(a.hidden_size);
    attention_parameters(a) + 2 * d + moe_with(a, routed) + 2 * d * d + 3 * d
}

/// Floating-point operations per trained token; one multiply-add counts as two. Recomputation is not counted, attention is causal: a token
/// attends to `(T + 1) / 2` tokens on average.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Flops {
    /// Linear layers of the main model, forward.
    pub linear: f64,
    /// Attention core of the main model, forward.
    pub attention: f64,
    /// Linear layers of the MTP modules and their passes through the head, forward.
    pub mtp_linear: f64,
    /// Attention core of the MTP modules, forward.
    pub mtp_attention: f64,
}

impl Flops {
    /// Forward pass of the main model.
    #[must_use]
    pub fn forward(&self) -> f64 {
        self.linear + self.attention
    }

    /// Forward and backward pass of the main model: three times the forward pass.
    #[must_use]
    pub fn training(&self) -> f64 {
        3.0 * self.forward()
    }

    /// What the MTP modules add to [`Flops::training`].
    #[must_use]
    pub fn mtp_training(&self) -> f64 {
        3.0 * (self.mtp_linear + self.mtp_attention)
    }

    /// Forward and backward pass, MTP included.
    #[must_use]
    pub fn training_with_mtp(&self) -> f64 {
        self.training() + self.mtp_training()
    }

    /// [`Flops::training`] as if every token attended to the whole row, the usual base of published throughput figures that are not causal.
    #[must_use]
    pub fn training_not_causal(&self, sequence_length: u32) -> f64 {
        let length = f64::from(sequence_length);
        3.0 * (self.linear + self.attention * 2.0 * length / (length + 1.0))
    }
}

/// Counts the operations per token of rows of `sequence_length` tokens.
#[must_use]
pub fn flops_per_token(a: &Architecture, sequence_length: u32) -> Flops {
    let attention = f64::from(a.num_attention_heads)
        * (f64::from(a.qk_nope_head_dim) + f64::from(a.qk_rope_head_dim) + f64::from(a.v_head_dim))
        * (f64::from(sequence_length) + 1.0);
    let modules = f64::from(a.num_nextn_predict_layers);
    Flops {
        linear: 2.0 * matrix_parameters(a) as f64,
        attention: f64::from(a.num_hidden_layers) * attention,
        mtp_linear: 2.0 * modules * mtp_matrix_parameters(a) as f64,
        mtp_attention: modules * attention,
    }
}

/// Weights of the main model that a token is multiplied with: active ones, head and gates included, norms and embedding not.
#[must_use]
pub fn matrix_parameters(a: &Architecture) -> u64 {
    embedding_parameters(a)
        + u64::from(a.num_hidden_layers) * attention_matrices(a)
        + u64::from(a.first_k_dense_replace) * dense_parameters(a)
        + moe_layers(a) * moe_with(a, a.num_experts_per_tok)
}

/// As [`matrix_parameters`] for one MTP module, with its own pass through the head.
#[must_use]
pub fn mtp_matrix_parameters(a: &Architecture) -> u64 {
    let d = u64::from(a.hidden_size);
    attention_matrices(a) + moe_with(a, a.num_experts_per_tok) + 2 * d * d + embedding_parameters(a)
}
