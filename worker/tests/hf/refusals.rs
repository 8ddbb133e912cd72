//! What is not a model of this layout is refused with the file and the tensor, and leaves nothing behind.

use super::*;
use fathom_worker::hf::{self, Format};

const EXPERT: &str = "model.layers.1.mlp.experts.2.up_proj.weight";

/// Imports; returns the error, in which every expected text occurs.
fn refused(from: &Path, to: &Path, expected: &[&str]) {
    let error = hf::import(from, to).unwrap_err().to_string();
    for text in expected {
        assert!(error.contains(text), "no `{text}` in: {error}");
    }
    let left: Vec<_> = std::fs::read_dir(to.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_str().unwrap().contains("to"))
        .collect();
    assert!(left.is_empty(), "{left:?} after: {error}");
}

/// A change of the tensors of a file.
type Change = fn(&mut Tensors);
/// A change of a `config.json`.
type ConfigChange = fn(&mut Value);

#[test]
fn wrong_tensors_are_named_with_their_file() {
    let (root, model, to) = files();
    let table: [(Format, Change, &[&str]); 13] = [
        (Format::F32, |t| drop(t.remove(EXPERT)), &["1 tensor missing", EXPERT]),
        (Format::F32, |t| drop(t.remove("lm_head.weight")), &["missing", "`lm_head.weight`"]),
        (
            Format::F32,
            |t| {
                let tensor = t.remove(EXPERT).unwrap();
                t.insert(EXPERT.replace("up_proj", "uq_proj"), tensor);
            },
            &["missing", "did you mean", "unexpected", "uq_proj"],
        ),
        (
            Format::F32,
            |t| drop(t.insert("model.layers.7.input_layernorm.weight".into(), t["model.norm.weight"].clone())),
            &["1 tensor unexpected", "`model.layers.7.input_layernorm.weight`"],
        ),
        (
            Format::F32,
            |t| t.get_mut(EXPERT).unwrap().1 = vec![136, 130],
            &["of the wrong shape", EXPERT, "[136, 130] instead of [130, 136]"],
        ),
        (
            Format::F32,
            |t| t.get_mut(EXPERT).unwrap().0 = Dtype::I32,
            &["model.safetensors", EXPERT, "is I32", "store it as F32, BF16 or F16"],
        ),
        (
            Format::Fp8,
            |t| t.get_mut(EXPERT).unwrap().0 = Dtype::F8_E5M2,
            &["model.safetensors", EXPERT, "is F8_E5M2"],
        ),
        (
            Format::Fp8,
            |t| drop(t.remove(&format!("{EXPERT}_scale_inv"))),
            &["missing", "up_proj.weight_scale_inv"],
        ),
        (
            Format::Fp8,
            |t| t.get_mut(&format!("{EXPERT}_scale_inv")).unwrap().1 = vec![4, 1],
            &["of the wrong shape", "up_proj.weight_scale_inv", "[4, 1] instead of [2, 2]"],
        ),
        (
            Format::Fp8,
            |t| t.get_mut(&format!("{EXPERT}_scale_inv")).unwrap().0 = Dtype::U32,
            &["up_proj.weight_scale_inv", "is U32"],
        ),
        (
            Format::Fp8,
            |t| t.get_mut(EXPERT).unwrap().2[300] = 0xff,
            &["model.safetensors", EXPERT, "holds NaN"],
        ),
        (
            Format::F32,
            |t| t.get_mut("model.norm.weight").unwrap().2[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes()),
            &["model.safetensors", "`model.norm.weight`", "holds inf"],
        ),
        (
            Format::Bf16,
            |t| t.get_mut("model.layers.2.shared_head.head.weight").unwrap().2[136 * 2 * 5] ^= 1,
            &[
                "model.safetensors",
                "`model.layers.2.shared_head.head.weight` is not a copy of `lm_head.weight`: they differ in row 5",
            ],
        ),
    ];
    for (index, (format, change, expected)) in table.into_iter().enumerate() {
        let from = root.path().join(format!("case-{index}"));
        hf::export(&model, &from, format, u64::MAX).unwrap();
        let mut changed = tensors(&from);
        change(&mut changed);
        write_tensors(&from.join("model.safetensors"), &changed);
        refused(&from, &to, expected);
    }
}

#[test]
fn a_wrong_tensor_among_several_files_is_named_with_its_own() {
    let (root, model, to) = files();
    let from = root.path().join("sharded");
    hf::export(&model, &from, Format::F32, 30_000).unwrap();
    let index = read_json(&from, "model.safetensors.index.json");
    let file = index["weight_map"][EXPERT].as_str().unwrap().to_owned();
    let good = tensors_of(&from.join(&file));
    assert!(!file.contains("-of-00001.") && good.contains_key(EXPERT), "{file}");
    let changes: [(Change, &str); 3] = [
        (|t| t.get_mut(EXPERT).unwrap().0 = Dtype::U32, "is U32"),
        (
            |t| t.get_mut(EXPERT).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes()),
            "holds NaN",
        ),
        (|t| t.get_mut(EXPERT).unwrap().1 = vec![130 * 136], "instead of [130, 136]"),
    ];
    for (change, expected) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        write_tensors(&from.join(&file), &changed);
        refused(&from, &to, &[&file, EXPERT, expected]);
    }
}

#[test]
fn damaged_files_are_refused() {
    let (root, model, to) = files();
    let from = root.path().join("sharded");
    hf::export(&model, &from, Format::Fp8, 30_000).unwrap();
    let index_path = from.join("model.safetensors.index.json");
    let index = std::fs::read_to_string(&index_path).unwrap();
    let shard = from.join(
        read_json(&from, "model.safetensors.index.json")["weight_map"][EXPERT]
            .as_str()
            .unwrap(),
    );
    let name = shard.file_name().unwrap().to_str().unwrap();
    let good = std::fs::read(&shard).unwrap();
    let mut huge_header = good.clone();
    huge_header[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut longer = good.clone();
    longer.push(0);
    for (bytes, expected) in [
        (good[..good.len() - 1].to_vec(), "ends at byte"),
        (longer, "belong to no tensor"),
        (good[..5].to_vec(), "less than a header"),
        (huge_header, "its header is said to have"),
        (Vec::new(), "less than a header"),
    ] {
        std::fs::write(&shard, bytes).unwrap();
        refused(&from, &to, &[name, expected]);
    }
    std::fs::remove_file(&shard).unwrap();
    refused(&from, &to, &["cannot open", name]);
    std::fs::write(&shard, &good).unwrap();
    for (text, expected) in [
        (index.replace(name, "../secret.safetensors"), "outside the directory"),
        (index.replace(name, "/etc/passwd"), "outside the directory"),
        (index.replace("\"weight_map\"", "\"weights\""), "the index is wrong"),
        (index.replace(EXPERT, "model.strange"), "is not in it"),
        (index[..index.len() / 2].to_owned(), "the index is wrong"),
    ] {
        std::fs::write(&index_path, text).unwrap();
        refused(&from, &to, &["index", expected]);
    }
}

#[test]
fn an_unfit_config_json_is_refused() {
    let (root, model, to) = files();
    let from = root.path().join("fp8");
    hf::export(&model, &from, Format::Fp8, u64::MAX).unwrap();
    let good = read_json(&from, "config.json");
    let table: [(ConfigChange, &[&str]); 11] = [
        (|c| c["model_type"] = json!("llama"), &["config.json", "`model_type`"]),
        (
            |c| c["quantization_config"]["quant_method"] = json!("awq"),
            &["config.json", "`quantization_config.quant_method` is \"awq\"", "\"fp8\""],
        ),
        (
            |c| c["quantization_config"]["weight_block_size"] = json!([64, 64]),
            &["`quantization_config.weight_block_size` is [64,64]", "[128,128]"],
        ),
        (
            |c| c["quantization_config"]["weight_block_size"] = Value::Null,
            &["weight_block_size", "null"],
        ),
        (
            |c| c["quantization_config"]["fmt"] = json!("e5m2"),
            &["`quantization_config.fmt` is \"e5m2\""],
        ),
        (
            |c| c["quantization_config"] = json!("fp8"),
            &["`quantization_config` must be an object or null"],
        ),
        (|c| c["bos_token_id"] = json!(-1), &["`bos_token_id` must be a token id, not -1"]),
        (
            |c| c["hidden_size"] = json!(144),
            &["of the wrong shape", "model.embed_tokens.weight", "[40, 144]"],
        ),
        (
            |c| c["n_routed_experts"] = json!(8192),
            &["describes", "matrices of experts", "tensors"],
        ),
        (|c| c["num_nextn_predict_layers"] = json!(2), &["missing", "model.layers.3."]),
        (
            |c| c["filler"] = json!("x".repeat(2 << 20)),
            &["config.json", "the limit is 1048576"],
        ),
    ];
    for (change, expected) in table {
        let mut config = good.clone();
        change(&mut config);
        write_json(&from, &config);
        refused(&from, &to, expected);
    }
    std::fs::write(from.join("config.json"), b"{\"model_type\": \xff}").unwrap();
    refused(&from, &to, &["config.json"]);
    std::fs::remove_file(from.join("config.json")).unwrap();
    refused(&from, &to, &["cannot read", "config.json"]);
}
