//! The proxy ladder and DeepSeek-V3, and how a manifest's model becomes an [`Architecture`].

use super::Architecture;
use crate::manifest::{Model, Preset};
use serde_json::{Map, Value};

impl Preset {
    /// Every preset, from small to large.
    pub const ALL: [Self; 6] = [Self::Unit, Self::Nano, Self::Small, Self::Proxy1b, Self::V2Lite, Self::V3];

    /// Name in a manifest.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Nano => "nano",
            Self::Small => "small",
            Self::Proxy1b => "proxy-1b",
            Self::V2Lite => "v2-lite",
            Self::V3 => "v3",
        }
    }

    /// Tokens per row that the preset is meant to be pre-trained on `[T]`.
    #[must_use]
    pub const fn sequence_length(self) -> u32 {
        match self {
            Self::Unit => 64,
            Self::Nano => 256,
            Self::Small => 1024,
            Self::Proxy1b | Self::V2Lite | Self::V3 => 4096,
        }
    }

    /// The architecture, as it is before context extension (no `rope_scaling`). `max_position_embeddings` leaves the small proxies
    /// four times their usual sequence length.
    #[must_use]
    pub fn architecture(self) -> Architecture {
        // width, layers, dense | heads, no-PE, RoPE, value dims, query and key-value ranks | widths, experts | groups | vocabulary, length
        let (shape, attention, experts, groups, vocab_size, max_position_embeddings) = match self {
            Self::Unit => ([64, 3, 1], [2, 16, 8, 16, 24, 16], [128, 32, 8, 1, 4], [4, 2], 256, 256),
            Self::Nano => ([256, 4, 1], [4, 32, 16, 32, 96, 64], [512, 128, 16, 1, 4], [4, 2], 4096, 1024),
            Self::Small => ([512, 8, 1], [8, 64, 32, 64, 256, 128], [1408, 256, 32, 1, 4], [4, 2], 32_768, 4096),
            Self::Proxy1b => (
                [1024, 12, 1],
                [8, 128, 64, 128, 512, 512],
                [2816, 512, 64, 1, 8],
                [8, 4],
                129_280,
                4096,
            ),
            Self::V2Lite => (
                [2048, 27, 1],
                [16, 128, 64, 128, 768, 512],
                [10_944, 1408, 64, 2, 6],
                [1, 1],
                129_280,
                4096,
            ),
            Self::V3 => (
                [7168, 61, 3],
                [128, 128, 64, 128, 1536, 512],
                [18_432, 2048, 256, 1, 8],
                [8, 4],
                129_280,
                4096,
            ),
        };
        let [hidden_size, num_hidden_layers, first_k_dense_replace] = shape;
        let [heads, nope, rope, value, query_rank, kv_rank] = attention;
        let [dense_width, expert_width, routed, shared, chosen] = experts;
        let [n_group, topk_group] = groups;
        Architecture {
            vocab_size,
            hidden_size,
            intermediate_size: dense_width,
            moe_intermediate_size: expert_width,
            num_hidden_layers,
            num_attention_heads: heads,
            n_shared_experts: shared,
            n_routed_experts: routed,
            num_experts_per_tok: chosen,
            n_group,
            topk_group,
            first_k_dense_replace,
            q_lora_rank: Some(query_rank),
            kv_lora_rank: kv_rank,
            qk_nope_head_dim: nope,
            qk_rope_head_dim: rope,
            v_head_dim: value,
            num_nextn_predict_layers: 1,
            routed_scaling_factor: 2.5,
            norm_topk_prob: true,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            rope_scaling: None,
            max_position_embeddings,
            initializer_range: default_initializer_range(hidden_size),
        }
    }
}

/// Standard deviation of initial weights for a width, to three decimals: the paper's 0.006 at width 7168, growing with the inverse root
/// of the width so that activations keep their scale, and never above the customary 0.02.
#[must_use]
pub fn default_initializer_range(hidden_size: u32) -> f64 {
    let scaled = 0.006 * (7168.0 / f64::from(hidden_size.max(1))).sqrt();
    (scaled.min(0.02) * 1000.0).round() / 1000.0
}

/// Why a manifest's model is no architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// Neither a preset nor any field is given.
    Empty,
    /// Fields that have no default are missing; there is no preset to take them from.
    Missing(Vec<String>),
    /// A field has the wrong type.
    Unreadable(String),
}

impl Model {
    /// The architecture: the preset's fields, replaced by those of `architecture`; without a preset, sizes have no default.
    ///
    /// # Errors
    /// [`ModelError`] if fields are missing or have the wrong type. Whether the result can exist is [`Architecture::check`]'s.
    pub fn resolve(&self) -> Result<Architecture, ModelError> {
        let Self { preset, architecture } = self;
        let mut fields = match preset {
            Some(preset) => fields_of(&preset.architecture()),
            None if architecture.is_empty() => return Err(ModelError::Empty),
            None => {
                let mut fields = fields_of(&Preset::V3.architecture());
                fields.retain(|name, _| CONSTANTS.contains(&name.as_str()));
                fields
            }
        };
        // The initial scale follows the width that results, unless it is given.
        fields.remove("initializer_range");
        fields.extend(architecture.0.clone());
        if let (None, Some(width)) = (fields.get("initializer_range"), fields.get("hidden_size").and_then(Value::as_u64)) {
            let width = u32::try_from(width).unwrap_or(u32::MAX);
            fields.insert("initializer_range".into(), default_initializer_range(width).into());
        }
        let missing: Vec<String> = fields_of(&Preset::V3.architecture())
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| !fields.contains_key(name) && name != "initializer_range")
            .collect();
        if !missing.is_empty() {
            return Err(ModelError::Missing(missing));
        }
        serde_json::from_value(Value::Object(fields)).map_err(|error| ModelError::Unreadable(error.to_string()))
    }
}

/// Fields with the same value in every model of the family; the others are sizes and have no default.
const CONSTANTS: [&str; 6] = [
    "max_position_embeddings",
    "norm_topk_prob",
    "rms_norm_eps",
    "rope_scaling",
    "rope_theta",
    "routed_scaling_factor",
];

fn fields_of(architecture: &Architecture) -> Map<String, Value> {
    match serde_json::to_value(architecture) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => unreachable!("a struct of numbers serialises to an object"),
    }
}
