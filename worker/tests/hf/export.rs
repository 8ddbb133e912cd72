//! What an export holds, and what an import makes of it.

use super::*;
use fathom_kernels::formats::{Grouping, Scaling, bf16, e4m3};
use fathom_worker::artifact::{self, Depth};
use fathom_worker::hf::{self, Format, Imported};
use proptest::prelude::*;

const FORMATS: [Format; 3] = [Format::F32, Format::Bf16, Format::Fp8];
const COPIES: [(&str, &str); 2] = [
    ("model.layers.2.embed_tokens.weight", "model.embed_tokens.weight"),
    ("model.layers.2.shared_head.head.weight", "lm_head.weight"),
];

/// Type of a tensor by the rule of the released model (training-core, section 14).
fn expected_dtype(name: &str, format: Format) -> Dtype {
    if format == Format::F32 || name.ends_with("e_score_correction_bias") || name.ends_with("_scale_inv") {
        Dtype::F32
    } else if format == Format::Fp8 && is_linear(name) {
        Dtype::F8_E4M3
    } else {
        Dtype::BF16
    }
}

#[test]
fn names_types_and_shapes_are_those_of_the_released_model() {
    let (root, model, _) = files();
    let original = tensors(&model);
    for format in FORMATS {
        let to = root.path().join(format!("{format:?}"));
        hf::export(&model, &to, format, u64::MAX).unwrap();
        let written = tensors(&to);
        let mut expected: BTreeMap<String, Vec<usize>> =
            original.iter().map(|(name, (_, shape, _))| (name.clone(), shape.clone())).collect();
        expected.extend(COPIES.map(|(name, of)| (name.to_owned(), original[of].1.clone())));
        if format == Format::Fp8 {
            let scales = |(name, (_, shape, _)): (&String, &Stored)| {
                (format!("{name}_scale_inv"), vec![shape[0].div_ceil(128), shape[1].div_ceil(128)])
            };
            expected.extend(original.iter().filter(|(name, _)| is_linear(name)).map(scales));
        }
        let found: BTreeMap<String, Vec<usize>> = written.iter().map(|(name, (_, shape, _))| (name.clone(), shape.clone())).collect();
        assert_eq!(found, expected, "{format:?}");
        for (name, (dtype, _, _)) in &written {
            assert_eq!(*dtype, expected_dtype(name, format), "{name} in {format:?}");
        }
        for (copy, of) in COPIES {
            assert_eq!(written[copy], written[of], "{copy}");
        }
        let names: Vec<_> = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 4, "weights, config.json, two files of the tokenizer: {names:?}");
    }
}

#[test]
fn config_json_has_the_spelling_of_the_released_model() {
    let (root, model, _) = files();
    for (format, dtype) in [(Format::F32, "float32"), (Format::Bf16, "bfloat16"), (Format::Fp8, "bfloat16")] {
        let to = root.path().join(format!("{format:?}"));
        hf::export(&model, &to, format, u64::MAX).unwrap();
        let mut config = read_json(&to, "config.json");
        let quantization = config.as_object_mut().unwrap().remove("quantization_config");
        let expected = (format == Format::Fp8)
            .then(|| json!({"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}));
        assert_eq!(quantization, expected);
        assert_eq!(config, architecture().to_config_json(3, 4, dtype));
    }
}

#[test]
fn what_is_exported_to_f32_or_bf16_comes_back_as_it_was_or_rounded() {
    let (root, model, _) = files();
    let original = tensors(&model);
    for (format, shard_bytes) in [
        (Format::F32, u64::MAX),
        (Format::F32, 50_000),
        (Format::Bf16, u64::MAX),
        (Format::Bf16, 1),
    ] {
        let (exported, back) = (root.path().join("exported"), root.path().join("back"));
        hf::export(&model, &exported, format, shard_bytes).unwrap();
        assert_eq!(exported.join("model.safetensors.index.json").exists(), shard_bytes < u64::MAX);
        let Imported { missing_mtp, .. } = hf::import(&exported, &back).unwrap();
        assert_eq!(missing_mtp, 0);
        let returned = tensors(&back);
        assert_eq!(returned.len(), original.len(), "the copies are left out");
        for (name, (_, shape, bytes)) in &original {
            let (dtype, found_shape, found) = &returned[name];
            let rounded = format == Format::Bf16 && !name.ends_with("e_score_correction_bias");
            let expected = floats(bytes)
                .into_iter()
                .map(|value| if rounded { bf16::round(value) } else { value });
            assert_eq!((*dtype, found_shape), (Dtype::F32, shape), "{name}");
            assert!(bits(&floats(found)) == bits(&expected.collect::<Vec<_>>()), "{name} in {format:?}");
        }
        for directory in [exported, back] {
            std::fs::remove_dir_all(directory).unwrap();
        }
    }
}

#[test]
fn codes_times_scales_come_back_and_a_second_export_has_the_same_bytes() {
    let (root, model, exported) = files();
    hf::export(&model, &exported, Format::Fp8, 30_000).unwrap();
    let (original, coded) = (tensors(&model), tensors(&exported));
    let back = root.path().join("back");
    hf::import(&exported, &back).unwrap();
    let returned = tensors(&back);
    let mut elements = 0;
    for (name, (_, shape, codes)) in coded.iter().filter(|(name, _)| is_linear(name) && !name.ends_with("_scale_inv")) {
        let scales = floats(&coded[&format!("{name}_scale_inv")].2);
        let columns = shape[1].div_ceil(128);
        let (before, after) = (floats(&original[name].2), floats(&returned[name].2));
        for (index, &code) in codes.iter().enumerate() {
            let scale = scales[index / shape[1] / 128 * columns + index % shape[1] / 128];
            let value = e4m3::decode(code) * scale;
            assert_eq!(after[index].to_bits(), value.to_bits(), "{name} at {index}");
            // Half a step: 2^-4 of a normal value, 2^-10 scales below.
            let step = (f64::from(before[index].abs()) / 16.0).max(f64::from(scale) / 1024.0);
            let error = (f64::from(value) - f64::from(before[index])).abs();
            assert!(error <= step * (1.0 + 1e-6), "{name} at {index}: {} became {value}", before[index]);
            elements += 1;
        }
    }
    assert!(elements > 500_000, "{elements}");
    let again = root.path().join("again");
    hf::export(&back, &again, Format::Fp8, 30_000).unwrap();
    let again = tensors(&again);
    assert_eq!(again.keys().collect::<Vec<_>>(), coded.keys().collect::<Vec<_>>());
    for (name, tensor) in &coded {
        assert!(again[name] == *tensor, "{name}");
    }
}

proptest! {
    /// Why the second export has the same bytes: a scale survives the rounding of its largest value, and then so does every code.
    #[test]
    fn a_scale_and_its_codes_survive_dequantisation(amax_bits in 1u32..0x7f00_0000, codes in prop::collection::vec(any::<u8>(), 8)) {
        let scale_of = |amax: f32| Scaling::Plain.scale(amax, Grouping::Block, e4m3::LARGEST);
        let amax = f32::from_bits(amax_bits);
        let scale = scale_of(amax);
        let largest = e4m3::decode(e4m3::encode(amax / scale)) * scale;
        if largest == 0.0 {
            prop_assert!(amax <= 2f32.powi(-136), "{:e} became a block of zeros", amax);
        } else {
            prop_assert_eq!(scale_of(largest).to_bits(), scale.to_bits(), "{:e}", amax);
        }
        for code in codes.into_iter().filter(|code| code & e4m3::NAN_CODE != e4m3::NAN_CODE) {
            prop_assert_eq!(e4m3::encode(e4m3::decode(code) * scale / scale), code, "{:e}", amax);
        }
    }
}

#[test]
fn a_shard_is_no_larger_than_asked_for_unless_one_tensor_is() {
    let (_root, model, to) = files();
    hf::export(&model, &to, Format::Bf16, 40_000).unwrap();
    let files: Vec<_> = std::fs::read_dir(&to)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .collect();
    assert!(files.len() > 10, "{files:?}");
    for file in &files {
        let held = tensors_of(file);
        let bytes: usize = held.values().map(|(_, _, bytes)| bytes.len()).sum();
        assert!(held.len() == 1 || bytes <= 40_000, "{}", file.display());
        let name = file.file_name().unwrap().to_str().unwrap();
        assert!(name.ends_with(&format!("-of-{:05}.safetensors", files.len())), "{name}");
    }
    assert!(tensors(&to).len() > files.len());
}

#[test]
fn an_import_is_an_artifact_whose_key_is_its_content() {
    let (root, model, exported) = files();
    hf::export(&model, &exported, Format::F32, 50_000).unwrap();
    let (one, two) = (root.path().join("one"), root.path().join("two"));
    let imported = hf::import(&exported, &one).unwrap();
    hf::import(&model, &two).unwrap();
    let opened = [&one, &two].map(|path| artifact::open(path, Depth::Digests).unwrap());
    assert_eq!(opened[0].key.len(), 64);
    assert_eq!(opened[0], opened[1], "the same model, stored in another way");
    assert_eq!(imported.parameters, Layout::new(&architecture()).parameters());
    assert_eq!(opened[0].statistics, json!({"parameters": imported.parameters}));
    let names: Vec<_> = opened[0].files.keys().collect();
    assert_eq!(
        names,
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    );
    assert_eq!(read_json(&one, "config.json"), architecture().to_config_json(3, 4, "float32"));
    let rounded = root.path().join("rounded");
    hf::export(&one, &rounded, Format::Bf16, u64::MAX).unwrap();
    let other = root.path().join("other");
    hf::import(&rounded, &other).unwrap();
    assert_ne!(artifact::open(&other, Depth::Digests).unwrap().key, opened[0].key, "other weights");
}

#[test]
fn what_an_interrupted_export_left_is_removed_and_what_exists_is_not_touched() {
    let (root, model, to) = files();
    let leftover = root.path().join(".tmp-to");
    std::fs::create_dir(&leftover).unwrap();
    std::fs::write(leftover.join("model-00001-of-00009.safetensors"), "half").unwrap();
    hf::export(&model, &to, Format::Bf16, u64::MAX).unwrap();
    assert!(!leftover.exists() && !to.join("model-00001-of-00009.safetensors").exists());
    let before = tensors(&to);
    assert!(hf::export(&model, &to, Format::Fp8, u64::MAX).is_err());
    assert!(hf::import(&model, &to).is_err(), "it is not an artifact that could be replaced");
    assert!(tensors(&to) == before && !leftover.exists());
}
