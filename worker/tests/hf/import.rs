//! Models that other programs wrote.

use super::*;
use fathom_kernels::Cpu;
use fathom_kernels::formats::e4m3;
use fathom_worker::debug;
use fathom_worker::hf::{self, Format, Imported};

/// Absolute error allowed in a logit.
const LOGIT: f32 = 1e-5;

fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

/// Largest difference of a logit of the model in `directory` from those of transformers.
fn largest_error(case: &str, directory: &Path, output: &Path) -> f32 {
    let io = golden(case).join("io.safetensors");
    debug::logits(Cpu::new(2), directory, &io, output).unwrap();
    let (ours, theirs) = (tensors_of(output), tensors_of(&io));
    let (_, shape, ours) = &ours["logits"];
    let (_, expected_shape, theirs) = &theirs["logits"];
    assert_eq!(shape, expected_shape);
    let differences = floats(ours).into_iter().zip(floats(theirs)).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

/// The golden model with its MTP module and the copies that a released model has.
fn whole(case: &str, directory: &Path) -> Tensors {
    std::fs::create_dir_all(directory).unwrap();
    let mut all = tensors_of(&golden(case).join("model.safetensors"));
    all.extend(tensors_of(&golden(case).join("mtp.safetensors")));
    all.insert(
        "model.layers.3.embed_tokens.weight".into(),
        all["model.embed_tokens.weight"].clone(),
    );
    all.insert("model.layers.3.shared_head.head.weight".into(), all["lm_head.weight"].clone());
    std::fs::copy(golden(case).join("config.json"), directory.join("config.json")).unwrap();
    write_tensors(&directory.join("model.safetensors"), &all);
    all
}

#[test]
fn a_model_of_transformers_has_the_same_logits() {
    for case in ["v3-tiny", "v3-tiny-yarn"] {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        whole(case, &path("whole"));
        let cases = [(golden(case), "main", 1), (path("whole"), "all", 0)];
        for (from, name, missing_mtp) in cases {
            let imported = hf::import(&from, &path(name)).unwrap();
            assert_eq!(imported.missing_mtp, missing_mtp, "{case}: {name}");
            let config = read_json(&path(name), "config.json");
            assert_eq!(config["num_nextn_predict_layers"], json!(1 - missing_mtp));
            assert_eq!(config["rope_theta"], json!(10_000.0));
            assert_eq!(config["rope_scaling"].is_object(), case == "v3-tiny-yarn");
            for unexpected in ["rope_parameters", "dtype"] {
                assert!(config.get(unexpected).is_none(), "{unexpected}");
            }
            for directory in [&from, &path(name)] {
                let error = largest_error(case, directory, &path("out.safetensors"));
                assert!(error <= LOGIT, "{case}: a logit of {} is off by {error}", directory.display());
            }
        }
    }
}

#[test]
fn both_spellings_of_config_json_are_the_same_model() {
    let root = tempfile::tempdir().unwrap();
    let path = |name: &str| root.path().join(name);
    let tensors = whole("v3-tiny-yarn", &path("new"));
    hf::export(&path("new"), &path("original"), Format::F32, u64::MAX).unwrap();
    assert!(read_json(&path("new"), "config.json").get("rope_parameters").is_some());
    assert!(read_json(&path("original"), "config.json").get("rope_parameters").is_none());
    assert!(super::tensors(&path("original")) == tensors, "the same names, types and values");
    let keys = ["new", "original"].map(|name| {
        hf::import(&path(name), &path(&format!("{name}-imported"))).unwrap();
        read_json(&path(&format!("{name}-imported")), "artifact.json")["key"].clone()
    });
    assert_eq!(keys[0], keys[1]);
}

#[test]
fn tokens_that_begin_and_end_a_document_are_kept_in_every_form() {
    let (root, model, _) = files();
    for (index, (begin, end, expected)) in [
        (json!(7), json!(8), (7, 8)),
        (json!(7), json!([9, 8]), (7, 9)),
        (Value::Null, Value::Null, (0, 1)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut config = architecture().to_config_json(3, 4, "float32");
        (config["bos_token_id"], config["eos_token_id"]) = (begin, end);
        write_json(&model, &config);
        let to = root.path().join(format!("imported-{index}"));
        hf::import(&model, &to).unwrap();
        let written = read_json(&to, "config.json");
        assert_eq!(
            (&written["bos_token_id"], &written["eos_token_id"]),
            (&json!(expected.0), &json!(expected.1))
        );
    }
}

#[test]
fn copies_may_be_left_out_and_types_may_differ_from_tensor_to_tensor() {
    let (root, model, exported) = files();
    hf::export(&model, &exported, Format::F32, u64::MAX).unwrap();
    let mut changed = tensors(&exported);
    changed.remove("model.layers.2.embed_tokens.weight").unwrap();
    let half = |value: u16| value.to_le_bytes();
    // 1.5 in F16 and in BF16.
    let norm: Vec<u8> = (0..136).flat_map(|_| half(0x3e00)).collect();
    let head: Vec<u8> = (0..40 * 136).flat_map(|_| half(0x3fc0)).collect();
    changed.insert("model.norm.weight".into(), (Dtype::F16, vec![136], norm));
    for name in ["lm_head.weight", "model.layers.2.shared_head.head.weight"] {
        changed.insert(name.into(), (Dtype::BF16, vec![40, 136], head.clone()));
    }
    write_tensors(&exported.join("model.safetensors"), &changed);
    let to = root.path().join("imported");
    hf::import(&exported, &to).unwrap();
    let imported = tensors(&to);
    for name in ["model.norm.weight", "lm_head.weight"] {
        assert!(floats(&imported[name].2).iter().all(|&value| value == 1.5), "{name}");
    }
    assert_eq!(imported["model.embed_tokens.weight"], changed["model.embed_tokens.weight"]);
}

/// The scale multiplies, whatever its name says, and need not be what this program would have chosen.
#[test]
fn scales_of_other_programs_multiply() {
    let (root, model, exported) = files();
    hf::export(&model, &exported, Format::Fp8, u64::MAX).unwrap();
    let mut changed = tensors(&exported);
    let name = "model.layers.1.mlp.experts.2.up_proj.weight";
    // [130, 136]: four blocks, one scale a block, powers of two.
    let scales = [0.5_f32, 4.0, 0.25, 2.0];
    let bytes = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    changed.insert(format!("{name}_scale_inv"), (Dtype::F32, vec![2, 2], bytes));
    write_tensors(&exported.join("model.safetensors"), &changed);
    let mut config = read_json(&exported, "config.json");
    config["quantization_config"]["scale_fmt"] = json!("ue8m0");
    write_json(&exported, &config);
    let to = root.path().join("imported");
    let Imported { parameters, .. } = hf::import(&exported, &to).unwrap();
    assert_eq!(parameters, Layout::new(&architecture()).parameters());
    let codes = &changed[name].2;
    let found = floats(&tensors(&to)[name].2);
    for (row, column, scale) in [(0, 0, 0.5), (127, 127, 0.5), (0, 128, 4.0), (128, 127, 0.25), (129, 135, 2.0)] {
        let index = row * 136 + column;
        assert_eq!(found[index], e4m3::decode(codes[index]) * scale, "row {row}, column {column}");
    }
}
