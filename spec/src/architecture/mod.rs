//! The architecture of a DeepSeek-V3 model: the fields of its `config.json`, under their names there.

mod check;
mod config_json;
mod preset;

pub use check::Finding;
pub use config_json::ConfigError;
pub use preset::{ModelError, default_initializer_range};

use serde::{Deserialize, Serialize};

/// The shape of a DeepSeek-V3 model. Field names and meanings are those of the released `config.json`; symbols in brackets are the
/// paper's (arXiv 2412.19437, section 2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Architecture {
    /// Vocabulary size `[V]`.
    pub vocab_size: u32,
    /// Width of the residual stream `[d]`.
    pub hidden_size: u32,
    /// Width of the dense feed-forward layers `[f]`.
    pub intermediate_size: u32,
    /// Width of one expert `[f_e]`.
    pub moe_intermediate_size: u32,
    /// Number of transformer layers `[L]`, MTP modules not counted.
    pub num_hidden_layers: u32,
    /// Number of attention heads `[n_h]`.
    pub num_attention_heads: u32,
    /// Shared experts per MoE layer `[N_s]`; they are one feed-forward network of width `N_s * f_e`.
    pub n_shared_experts: u32,
    /// Routed experts per MoE layer `[N_r]`.
    pub n_routed_experts: u32,
    /// Routed experts that a token is sent to `[K]`.
    pub num_experts_per_tok: u32,
    /// Groups (nodes, in training) that the routed experts are split into `[G]`.
    pub n_group: u32,
    /// Groups that a token may be routed to `[M_g]`.
    pub topk_group: u32,
    /// Leading layers with a dense feed-forward network `[L_d]`.
    pub first_k_dense_replace: u32,
    /// Rank of the query latent `[c_q]`; null for none (queries are projected directly, as in V2-Lite).
    pub q_lora_rank: Option<u32>,
    /// Rank of the key-value latent `[c_kv]`.
    pub kv_lora_rank: u32,
    /// Head dimension without positional encoding `[d_n]`.
    pub qk_nope_head_dim: u32,
    /// Head dimension of the decoupled RoPE part `[d_r]`; even.
    pub qk_rope_head_dim: u32,
    /// Head dimension of values `[d_v]`.
    pub v_head_dim: u32,
    /// Multi-token-prediction modules `[D]`.
    pub num_nextn_predict_layers: u32,
    /// Factor on the routed experts' normalised weights.
    pub routed_scaling_factor: f64,
    /// Whether the selected experts' weights are normalised to sum to one (before the scaling factor).
    pub norm_topk_prob: bool,
    /// Epsilon of every RMSNorm. Other implementations fix 1e-6 in the two latent norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// YaRN scaling; null before context extension.
    pub rope_scaling: Option<RopeScaling>,
    /// Longest sequence, in tokens.
    pub max_position_embeddings: u32,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

/// YaRN parameters, under their names in `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RopeScaling {
    /// Extension factor `[s]`.
    pub factor: f64,
    /// Rotations above which a frequency is left alone.
    pub beta_fast: f64,
    /// Rotations below which a frequency is fully interpolated.
    pub beta_slow: f64,
    /// Factor in the attention temperature of cos and sin.
    pub mscale: f64,
    /// Factor in the attention temperature of the softmax scale.
    pub mscale_all_dim: f64,
    /// Sequence length of pre-training, in tokens.
    pub original_max_position_embeddings: u32,
}
