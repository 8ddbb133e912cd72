//! `config.json` in both spellings, and which architectures are refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::architecture::{Architecture, RopeScaling};
use fathom_spec::manifest::Preset;
use proptest::prelude::*;
use serde_json::{Value, json};

const TINY: &str = include_str!("fixtures/v3-tiny.config.json");
const TINY_YARN: &str = include_str!("fixtures/v3-tiny-yarn.config.json");

fn yarn(original_max_position_embeddings: u32) -> RopeScaling {
    RopeScaling {
        factor: 40.0,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: 1.0,
        mscale_all_dim: 1.0,
        original_max_position_embeddings,
    }
}

fn tiny() -> Architecture {
    Architecture {
        vocab_size: 128,
        hidden_size: 64,
        intermediate_size: 96,
        moe_intermediate_size: 32,
        num_hidden_layers: 3,
        num_attention_heads: 4,
        n_shared_experts: 1,
        n_routed_experts: 8,
        num_experts_per_tok: 2,
        n_group: 4,
        topk_group: 2,
        first_k_dense_replace: 1,
        q_lora_rank: Some(24),
        kv_lora_rank: 16,
        qk_nope_head_dim: 16,
        qk_rope_head_dim: 8,
        v_head_dim: 16,
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

#[test]
fn transformers_5_spelling() {
    assert_eq!(Architecture::from_config_json(TINY), Ok(tiny()));
    let extended = Architecture {
        rope_scaling: Some(yarn(64)),
        max_position_embeddings: 2560,
        ..tiny()
    };
    assert_eq!(Architecture::from_config_json(TINY_YARN), Ok(extended));
}

#[test]
fn released_spelling() {
    let extended = Architecture {
        rope_scaling: Some(yarn(4096)),
        max_position_embeddings: 163_840,
        ..Preset::V3.architecture()
    };
    let config = extended.to_config_json(0, 1, "bfloat16");
    for (field, expected) in [
        ("architectures", json!(["DeepseekV3ForCausalLM"])),
        ("model_type", json!("deepseek_v3")),
        ("num_key_value_heads", json!(128)),
        ("scoring_func", json!("sigmoid")),
        ("topk_method", json!("noaux_tc")),
        ("moe_layer_freq", json!(1)),
        ("hidden_act", json!("silu")),
        ("attention_bias", json!(false)),
        ("tie_word_embeddings", json!(false)),
        ("bos_token_id", json!(0)),
        ("eos_token_id", json!(1)),
        ("torch_dtype", json!("bfloat16")),
        ("rope_theta", json!(10_000.0)),
    ] {
        assert_eq!(config[field], expected, "{field}");
    }
    assert_eq!(config["rope_scaling"]["type"], "yarn");
    assert_eq!(config["rope_scaling"]["original_max_position_embeddings"], 4096);
    let before = Preset::V3.architecture().to_config_json(0, 1, "bfloat16");
    assert!(before.get("rope_scaling").is_none(), "absent before extension");
}

#[test]
fn a_model_without_query_latent() {
    let mut config = tiny().to_config_json(0, 1, "float32");
    for none in [Value::Null, json!(0)] {
        config["q_lora_rank"] = none;
        assert_eq!(Architecture::from_config_value(&config).map(|a| a.q_lora_rank), Ok(None));
    }
    config.as_object_mut().unwrap().remove("q_lora_rank");
    let error = Architecture::from_config_value(&config).unwrap_err().to_string();
    assert_eq!(
        error,
        "config.json `q_lora_rank`: is missing; write null for a model without query latent"
    );
}

#[test]
fn unsupported_and_impossible_settings() {
    let table = [
        (
            "model_type",
            json!("deepseek_v2"),
            "config.json `model_type`: \"deepseek_v2\" is not supported; expected \"deepseek_v3\"",
        ),
        (
            "attention_bias",
            json!(true),
            "config.json `attention_bias`: true is not supported; expected false",
        ),
        (
            "rope_interleave",
            json!(false),
            "config.json `rope_interleave`: false is not supported; expected true",
        ),
        (
            "topk_method",
            json!("greedy"),
            "config.json `topk_method`: \"greedy\" is not supported; expected \"noaux_tc\"",
        ),
        (
            "scoring_func",
            json!("softmax"),
            "config.json `scoring_func`: \"softmax\" is not supported; expected \"sigmoid\"",
        ),
        (
            "tie_word_embeddings",
            json!(true),
            "config.json `tie_word_embeddings`: true is not supported; expected false",
        ),
        (
            "moe_layer_freq",
            json!(2),
            "config.json `moe_layer_freq`: 2 is not supported; expected 1",
        ),
        (
            "hidden_act",
            json!("gelu"),
            "config.json `hidden_act`: \"gelu\" is not supported; expected \"silu\"",
        ),
        (
            "num_key_value_heads",
            json!(2),
            "config.json `num_key_value_heads`: 2 is not supported; expected 4",
        ),
        (
            "vocab_size",
            json!(-1),
            "config.json `vocab_size`: must be a whole number from 0 to 4294967295, not -1",
        ),
        (
            "hidden_size",
            json!("64"),
            "config.json `hidden_size`: must be a whole number from 0 to 4294967295, not \"64\"",
        ),
        (
            "rope_scaling",
            json!({"type": "linear", "factor": 2}),
            "config.json `rope_scaling`: the type `linear` is not supported; expected `yarn` or `default`",
        ),
        (
            "rope_scaling",
            json!({"type": "yarn", "original_max_position_embeddings": 64}),
            "config.json `rope_scaling`: `factor` must be a number",
        ),
        ("rope_scaling", json!(3), "config.json `rope_scaling`: must be an object or null"),
        (
            "qk_rope_head_dim",
            json!(7),
            "config.json `qk_rope_head_dim`: must be even, because positions rotate pairs of elements; 7 is odd",
        ),
        (
            "n_group",
            json!(3),
            "config.json `n_group`: 8 routed experts do not divide into 3 groups; use 2 or 4",
        ),
        (
            "n_group",
            json!(8),
            "config.json `n_group`: each group needs at least 2 experts, because a group is scored by its 2 best ones; use at most 4 groups",
        ),
        (
            "topk_group",
            json!(5),
            "config.json `topk_group`: cannot keep 5 of 4 groups; lower topk_group or raise n_group",
        ),
        (
            "num_experts_per_tok",
            json!(5),
            "config.json `num_experts_per_tok`: cannot choose 5 of the 4 experts in 2 of 4 groups; choose at most 4",
        ),
        (
            "first_k_dense_replace",
            json!(4),
            "config.json `first_k_dense_replace`: cannot make 4 of 3 layers dense; use at most 3",
        ),
        (
            "initializer_range",
            json!(0),
            "config.json `initializer_range`: must be above 0 and at most 10, not 0",
        ),
        (
            "hidden_size",
            json!(0),
            "config.json `hidden_size`: must be from 1 to 131072, not 0",
        ),
    ];
    for (field, value, expected) in table {
        let mut config = tiny().to_config_json(0, 1, "float32");
        config[field] = value;
        let error = Architecture::from_config_value(&config).unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn every_reason_at_once() {
    let error = Architecture::from_config_json(r#"{"model_type": "llama", "hidden_size": true}"#).unwrap_err();
    assert!(error.findings.len() > 10, "{error}");
    for text in ["", "[]", "null", "{", "\u{0}"] {
        assert!(Architecture::from_config_json(text).is_err(), "{text:?}");
    }
    let large = format!("{{\"x\": \"{}\"}}", "y".repeat(2 << 20));
    let error = Architecture::from_config_json(&large).unwrap_err();
    assert!(error.to_string().contains("the limit is 1048576"), "{error}");
}

#[test]
fn presets_are_possible_and_as_advised() {
    for preset in Preset::ALL {
        let architecture = preset.architecture();
        assert_eq!((architecture.check(), architecture.advice()), (vec![], vec![]), "{}", preset.name());
    }
    let ranges = Preset::ALL.map(|preset| preset.architecture().initializer_range);
    assert_eq!(ranges, [0.02, 0.02, 0.02, 0.016, 0.011, 0.006]);
}

proptest! {
    /// What is written is read back equal, for odd head sizes and expert counts as well.
    #[test]
    fn config_json_round_trip(
        sizes in prop::collection::vec(1u32..5000, 8),
        groups in 1u32..9, per_group in 2u32..9, kept in 1u32..9, query in prop::option::of(1u32..3000),
        theta in 1.0f64..1e7, scaled in any::<bool>(), layers in 1u32..100,
    ) {
        let kept = kept.min(groups);
        let architecture = Architecture {
            vocab_size: sizes[0],
            hidden_size: sizes[1],
            intermediate_size: sizes[2],
            moe_intermediate_size: sizes[3],
            num_hidden_layers: layers,
            num_attention_heads: 1 + sizes[4] % 200,
            n_routed_experts: groups * per_group,
            num_experts_per_tok: 1 + sizes[5] % (kept * per_group),
            n_group: groups,
            topk_group: kept,
            first_k_dense_replace: sizes[6] % (layers + 1),
            q_lora_rank: query,
            kv_lora_rank: sizes[7],
            qk_rope_head_dim: 2 * (1 + sizes[0] % 100),
            rope_theta: theta,
            rope_scaling: scaled.then(|| yarn(sizes[1])),
            ..tiny()
        };
        let text = architecture.to_config_json(3, 4, "float32").to_string();
        prop_assert_eq!(Architecture::from_config_json(&text), Ok(architecture));
    }

    #[test]
    fn any_text_is_refused_or_read(text in "\\PC{0,200}") {
        let _ = Architecture::from_config_json(&text);
    }
}
