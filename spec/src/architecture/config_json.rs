//! [`Architecture`] from and to `config.json` of Hugging Face's `transformers`.
//!
//! Written in the spelling of the released model, which every serving engine reads; read in that spelling and in the one of
//! transformers 5 (`rope_parameters`, `dtype`).

use super::{Architecture, Finding, RopeScaling};
use serde_json::{Map, Value, json};
use std::fmt;

/// Why a `config.json` does not describe a model that can be trained: every reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What is wrong, by field.
    pub findings: Vec<Finding>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Finding { field, message }) in self.findings.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            if field.is_empty() {
                write!(formatter, "{separator}config.json {message}")?;
            } else {
                write!(formatter, "{separator}config.json `{field}`: {message}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Largest `config.json` that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;

impl Architecture {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] lists everything that is missing, unsupported or impossible ([`Architecture::check`] included).
    pub fn from_config_json(text: &str) -> Result<Self, ConfigError> {
        let error = |message: String| ConfigError {
            findings: vec![Finding { field: "", message }],
        };
        if text.len() > MAX_BYTES {
            return Err(error(format!("has {} bytes; the limit is {MAX_BYTES}", text.len())));
        }
        let value: Value = serde_json::from_str(text).map_err(|source| error(format!("is not JSON: {source}")))?;
        Self::from_config_value(&value)
    }

    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// As [`Architecture::from_config_json`].
    pub fn from_config_value(value: &Value) -> Result<Self, ConfigError> {
        let Some(fields) = value.as_object() else {
            return Err(ConfigError {
                findings: vec![Finding {
                    field: "",
                    message: "must be a JSON object".into(),
                }],
            });
        };
        let mut reader = Reader {
            fields,
            findings: Vec::new(),
        };
        let architecture = reader.architecture();
        reader.refuse_unsupported(&architecture);
        let mut findings = reader.findings;
        if findings.is_empty() {
            findings = architecture.check();
        }
        if findings.is_empty() {
            Ok(architecture)
        } else {
            Err(ConfigError { findings })
        }
    }

    /// The `config.json` of this architecture, in the released model's spelling. `dtype` is the type of the stored weights, as torch
    /// names it (`float32`, `bfloat16`).
    #[must_use]
    pub fn to_config_json(&self, bos_token_id: u32, eos_token_id: u32, dtype: &str) -> Value {
        let Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            moe_intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            n_shared_experts,
            n_routed_experts,
            num_experts_per_tok,
            n_group,
            topk_group,
            first_k_dense_replace,
            q_lora_rank,
            kv_lora_rank,
            qk_nope_head_dim,
            qk_rope_head_dim,
            v_head_dim,
            num_nextn_predict_layers,
            routed_scaling_factor,
            norm_topk_prob,
            rms_norm_eps,
            rope_theta,
            rope_scaling,
            max_position_embeddings,
            initializer_range,
        } = self;
        let mut config = json!({
            "architectures": ["DeepseekV3ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": bos_token_id,
            "eos_token_id": eos_token_id,
            "first_k_dense_replace": first_k_dense_replace,
            "hidden_act": "silu",
            "hidden_size": hidden_size,
            "initializer_range": initializer_range,
            "intermediate_size": intermediate_size,
            "kv_lora_rank": kv_lora_rank,
            "max_position_embeddings": max_position_embeddings,
            "model_type": "deepseek_v3",
            "moe_intermediate_size": moe_intermediate_size,
            "moe_layer_freq": 1,
            "n_group": n_group,
            "n_routed_experts": n_routed_experts,
            "n_shared_experts": n_shared_experts,
            "norm_topk_prob": norm_topk_prob,
            "num_attention_heads": num_attention_heads,
            "num_experts_per_tok": num_experts_per_tok,
            "num_hidden_layers": num_hidden_layers,
            "num_key_value_heads": num_attention_heads,
            "num_nextn_predict_layers": num_nextn_predict_layers,
            "q_lora_rank": q_lora_rank,
            "qk_nope_head_dim": qk_nope_head_dim,
            "qk_rope_head_dim": qk_rope_head_dim,
            "rms_norm_eps": rms_norm_eps,
            "rope_theta": rope_theta,
            "routed_scaling_factor": routed_scaling_factor,
            "scoring_func": "sigmoid",
            "tie_word_embeddings": false,
            "topk_group": topk_group,
            "topk_method": "noaux_tc",
            "torch_dtype": dtype,
            "use_cache": true,
            "v_head_dim": v_head_dim,
            "vocab_size": vocab_size,
        });
        if let Some(scaling) = rope_scaling {
            let RopeScaling {
                factor,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                original_max_position_embeddings,
            } = scaling;
            config["rope_scaling"] = json!({
                "type": "yarn",
                "factor": factor,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "mscale": mscale,
                "mscale_all_dim": mscale_all_dim,
                "original_max_position_embeddings": original_max_position_embeddings,
            });
        }
        config
    }
}

/// Reads fields and collects what is wrong with them.
struct Reader<'a> {
    fields: &'a Map<String, Value>,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn finding(&mut self, field: &'static str, message: impl Into<String>) {
        self.findings.push(Finding {
            field,
            message: message.into(),
        });
    }

    fn architecture(&mut self) -> Architecture {
        let (rope_theta, rope_scaling) = self.rope();
        Architecture {
            vocab_size: self.size("vocab_size", None),
            hidden_size: self.size("hidden_size", None),
            intermediate_size: self.size("intermediate_size", None),
            moe_intermediate_size: self.size("moe_intermediate_size", None),
            num_hidden_layers: self.size("num_hidden_layers", None),
            num_attention_heads: self.size("num_attention_heads", None),
            n_shared_experts: self.size("n_shared_experts", None),
            n_routed_experts: self.size("n_routed_experts", None),
            num_experts_per_tok: self.size("num_experts_per_tok", None),
            n_group: self.size("n_group", Some(1)),
            topk_group: self.size("topk_group", Some(1)),
            first_k_dense_replace: self.size("first_k_dense_replace", None),
            q_lora_rank: self.query_rank(),
            kv_lora_rank: self.size("kv_lora_rank", None),
            qk_nope_head_dim: self.size("qk_nope_head_dim", None),
            qk_rope_head_dim: self.size("qk_rope_head_dim", None),
            v_head_dim: self.size("v_head_dim", None),
            num_nextn_predict_layers: self.size("num_nextn_predict_layers", Some(0)),
            routed_scaling_factor: self.number("routed_scaling_factor", 2.5),
            norm_topk_prob: self.flag("norm_topk_prob", true),
            rms_norm_eps: self.number("rms_norm_eps", 1e-6),
            rope_theta,
            rope_scaling,
            max_position_embeddings: self.size("max_position_embeddings", Some(4096)),
            initializer_range: self.number("initializer_range", 0.02),
        }
    }

    fn size(&mut self, field: &'static str, default: Option<u32>) -> u32 {
        match (self.fields.get(field), default) {
            (None | Some(Value::Null), Some(default)) => default,
            (None, None) => {
                self.finding(field, "is missing");
                0
            }
            (Some(value), _) => value.as_u64().and_then(|value| u32::try_from(value).ok()).unwrap_or_else(|| {
                self.finding(field, format!("must be a whole number from 0 to {}, not {value}", u32::MAX));
                0
            }),
        }
    }

    /// `q_lora_rank`: null and 0 mean none; an absent field is an error, because readers disagree on its default.
    fn query_rank(&mut self) -> Option<u32> {
        match self.fields.get("q_lora_rank") {
            Some(Value::Null) => None,
            None => {
                self.finding("q_lora_rank", "is missing; write null for a model without query latent");
                None
            }
            Some(_) => Some(self.size("q_lora_rank", None)).filter(|&rank| rank != 0),
        }
    }

    fn number(&mut self, field: &'static str, default: f64) -> f64 {
        match self.fields.get(field) {
            None | Some(Value::Null) => default,
            Some(value) => value.as_f64().unwrap_or_else(|| {
                self.finding(field, format!("must be a number, not {value}"));
                default
            }),
        }
    }

    fn flag(&mut self, field: &'static str, default: bool) -> bool {
        match self.fields.get(field) {
            None | Some(Value::Null) => default,
            Some(value) => value.as_bool().unwrap_or_else(|| {
                self.finding(field, format!("must be true or false, not {value}"));
                default
            }),
        }
    }

    /// Base and scaling of the rotary frequencies, in either spelling.
    fn rope(&mut self) -> (f64, Option<RopeScaling>) {
        const DEFAULT_THETA: f64 = 10_000.0;
        let (field, table) = match (self.fields.get("rope_parameters"), self.fields.get("rope_scaling")) {
            (Some(Value::Object(table)), _) => ("rope_parameters", table),
            (_, Some(Value::Object(table))) => ("rope_scaling", table),
            (None | Some(Value::Null), None | Some(Value::Null)) => return (self.number("rope_theta", DEFAULT_THETA), None),
            (Some(_), _) => {
                self.finding("rope_parameters", "must be an object or null");
                return (DEFAULT_THETA, None);
            }
            (_, Some(_)) => {
                self.finding("rope_scaling", "must be an object or null");
                return (DEFAULT_THETA, None);
            }
        };
        let theta = match table.get("rope_theta").map(Value::as_f64) {
            Some(Some(theta)) => theta,
            Some(None) => {
                self.finding(field, "`rope_theta` must be a number");
                DEFAULT_THETA
            }
            None => self.number("rope_theta", DEFAULT_THETA),
        };
        let kind = table.get("rope_type").or_else(|| table.get("type")).and_then(Value::as_str);
        match kind {
            Some("default") => (theta, None),
            Some("yarn") => (theta, self.yarn(field, table)),
            _ => {
                let kind = kind.unwrap_or("missing");
                self.finding(field, format!("the type `{kind}` is not supported; expected `yarn` or `default`"));
                (theta, None)
            }
        }
    }

    fn yarn(&mut self, field: &'static str, table: &Map<String, Value>) -> Option<RopeScaling> {
        let before = self.findings.len();
        let mut number = |name: &str, default: Option<f64>| match (table.get(name), default) {
            (None | Some(Value::Null), Some(default)) => default,
            (value, _) => value.and_then(Value::as_f64).unwrap_or_else(|| {
                self.finding(field, format!("`{name}` must be a number"));
                f64::NAN
            }),
        };
        let factor = number("factor", None);
        let beta_fast = number("beta_fast", Some(32.0));
        let beta_slow = number("beta_slow", Some(1.0));
        let mscale = number("mscale", Some(1.0));
        let mscale_all_dim = number("mscale_all_dim", Some(0.0));
        let original = table.get("original_max_position_embeddings").and_then(Value::as_u64);
        let Some(original) = original.and_then(|length| u32::try_from(length).ok()) else {
            self.finding(field, "`original_max_position_embeddings` must be a whole number");
            return None;
        };
        (self.findings.len() == before).then_some(RopeScaling {
            factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            original_max_position_embeddings: original,
        })
    }

    /// Settings of other models of the family that this trainer does not have. An absent field has the supported value, except
    /// `model_type`, which must be there.
    fn refuse_unsupported(&mut self, architecture: &Architecture) {
        let heads = architecture.num_attention_heads;
        let head_dim = u64::from(architecture.qk_nope_head_dim) + u64::from(architecture.qk_rope_head_dim);
        let supported = [
            ("model_type", json!("deepseek_v3")),
            ("attention_bias", json!(false)),
            ("attention_dropout", json!(0.0)),
            ("hidden_act", json!("silu")),
            ("moe_layer_freq", json!(1)),
            ("num_key_value_heads", json!(heads)),
            ("qk_head_dim", json!(head_dim)),
            ("rope_interleave", json!(true)),
            ("scoring_func", json!("sigmoid")),
            ("tie_word_embeddings", json!(false)),
            ("topk_method", json!("noaux_tc")),
        ];
        for (field, expected) in supported {
            match self.fields.get(field) {
                None if field == "model_type" => self.finding(field, format!("is missing; expected {expected}")),
                None | Some(Value::Null) => {}
                Some(value) if equal(value, &expected) => {}
                Some(value) => self.finding(field, format!("{value} is not supported; expected {expected}")),
            }
        }
    }
}

/// Equality of JSON values where `0` equals `0.0`.
fn equal(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left == right,
        _ => left == right,
    }
}
