//! SafeTensors files: round trips, agreement with the reference implementation, and refusal of everything malformed.

#![allow(clippy::unwrap_used, reason = "test helpers outside #[test] functions")]

use fathom_worker::checkpoint::safetensors::{Dtype, Reader, TensorSpec, save};
use fathom_worker::error::Error;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::{Path, PathBuf};

/// Distinct values, NaN payloads and subnormals among them: bits must survive, not numbers.
fn values(seed: u32, count: usize) -> Vec<f32> {
    (0..count as u32)
        .map(|index| f32::from_bits((seed ^ index).wrapping_mul(0x9e37_79b9).rotate_left(7)))
        .collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn read(reader: &Reader, name: &str) -> Vec<f32> {
    let mut out = vec![0.0; elements(reader.shape(name).unwrap())];
    reader.read_into(name, &mut out).unwrap();
    out
}

fn specs(shapes: &[Vec<usize>]) -> Vec<TensorSpec> {
    shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| TensorSpec::f32(format!("layer.{index}"), shape))
        .collect()
}

fn write(directory: &Path, tensors: &[TensorSpec], shard_bytes: u64) -> Vec<String> {
    let mut index = 0;
    let written = save(directory, "model", tensors, shard_bytes, |spec, sink| {
        assert_eq!(spec, &tensors[index], "in list order");
        let values = values(index as u32, elements(&spec.shape));
        index += 1;
        // In uneven pieces, an empty one among them.
        sink.write(&[])?;
        values.chunks(7).try_for_each(|piece| sink.write(piece))
    })
    .unwrap();
    for file in &written {
        let bytes = fs::read(directory.join(&file.name)).unwrap();
        assert_eq!(file.digest.bytes, bytes.len() as u64);
        assert_eq!(file.digest.blake3, blake3::hash(&bytes).to_hex().to_string());
    }
    written.into_iter().map(|file| file.name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_is_written_is_read_by_us_and_by_the_reference(
        shapes in prop::collection::vec(prop::collection::vec(0usize..9, 0..4), 0..8), shard_bytes in 0u64..3000,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let tensors = specs(&shapes);
        let names = write(directory.path(), &tensors, shard_bytes);
        let files: Vec<_> = names.iter().filter(|name| name.ends_with(".safetensors")).collect();
        prop_assert_eq!(files.len() > 1, names.len() > files.len(), "an index exactly if there are several files");
        let mut found = 0;
        for file in &files {
            let bytes = fs::read(directory.path().join(file)).unwrap();
            let reference = SafeTensors::deserialize(&bytes).unwrap();
            let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
            prop_assert_eq!(metadata["format"].as_str(), "pt", "transformers demands it");
            prop_assert!(files.len() == 1 || reference.len() <= 1 || bytes.len() as u64 <= shard_bytes + 4000);
            for (name, view) in reference.tensors() {
                let index: usize = name.strip_prefix("layer.").unwrap().parse().unwrap();
                prop_assert_eq!(view.shape(), &tensors[index].shape[..]);
                let expected: Vec<u8> = values(index as u32, elements(view.shape())).iter().flat_map(|value| value.to_le_bytes()).collect();
                prop_assert_eq!(view.data(), &expected[..]);
                found += 1;
            }
        }
        prop_assert_eq!(found, tensors.len());
        let reader = Reader::open(directory.path()).unwrap();
        reader.expect(tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))).unwrap();
        for (index, tensor) in tensors.iter().enumerate() {
            prop_assert_eq!(bits(&read(&reader, &tensor.name)), bits(&values(index as u32, elements(&tensor.shape))));
        }
    }

    #[test]
    fn no_header_makes_the_reader_panic(json in "[\\[\\]{}\":,0-9a-zF_]{0,80}", length in any::<Option<u64>>(), data in 0usize..16) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let mut bytes = length.unwrap_or(json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        fs::write(&path, bytes).unwrap();
        let _ = Reader::open(&path);
    }
}

#[test]
fn large_tensors_pass_through_the_block_buffer_unchanged_and_parts_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = [
        TensorSpec::f32("small", &[3]),
        TensorSpec::f32("large", &[1_500_001]),
        TensorSpec::f32("last", &[2, 2]),
    ];
    let mut seed = 0;
    save(directory.path(), "model", &tensors, u64::MAX, |spec, sink| {
        seed += 1;
        sink.write(&values(seed, elements(&spec.shape)))
    })
    .unwrap();
    let reader = Reader::open(directory.path()).unwrap();
    let large = values(2, 1_500_001);
    assert!(bits(&read(&reader, "large")) == bits(&large));
    assert_eq!(bits(&read(&reader, "last")), bits(&values(3, 4)));
    let mut part = [0.0; 5];
    reader.read_part("large", 1_234_567, &mut part).unwrap();
    assert_eq!(bits(&part), bits(&large[1_234_567..1_234_572]));
    let past = reader.read_part("large", 1_499_999, &mut part).unwrap_err().to_string();
    assert!(past.contains("5 from 1499999 on do not exist"), "{past}");
}

#[test]
fn half_precision_is_widened_exactly() {
    // (F16 bits, value) from the standard's definition: +-0, smallest subnormal, largest subnormal, smallest normal, 1, 65504, infinities.
    let f16: [(u16, f32); 9] = [
        (0x0000, 0.0),
        (0x8000, -0.0),
        (0x0001, 2f32.powi(-24)),
        (0x83ff, -1023.0 * 2f32.powi(-24)),
        (0x0400, 2f32.powi(-14)),
        (0x3c00, 1.0),
        (0x7bff, 65504.0),
        (0x7c00, f32::INFINITY),
        (0xfc00, f32::NEG_INFINITY),
    ];
    let f16_bytes: Vec<u8> = f16
        .iter()
        .flat_map(|(bits, _)| bits.to_le_bytes())
        .chain(0x7e01u16.to_le_bytes())
        .collect();
    // More than one conversion block, with an odd remainder.
    let bf16: Vec<u16> = (0..40_001u32).map(|index| (index * 3) as u16).collect();
    let bf16_bytes: Vec<u8> = bf16.iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let i32_bytes: Vec<u8> = [7i32, -1].iter().flat_map(|value| value.to_le_bytes()).collect();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("half.safetensors");
    let views = [
        ("f16", TensorView::new(Dtype::F16, vec![10], &f16_bytes).unwrap()),
        ("bf16", TensorView::new(Dtype::BF16, vec![40_001], &bf16_bytes).unwrap()),
        ("ids", TensorView::new(Dtype::I32, vec![1, 2], &i32_bytes).unwrap()),
    ];
    safetensors::serialize_to_file(views, None, &path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let widened = read(&reader, "f16");
    assert_eq!(bits(&widened[..9]), f16.map(|(_, value)| value.to_bits()));
    assert!(widened[9].is_nan());
    assert_eq!(
        bits(&read(&reader, "bf16")),
        bf16.iter().map(|&half| u32::from(half) << 16).collect::<Vec<_>>()
    );
    assert_eq!(
        (reader.dtype("bf16").unwrap(), reader.shape("ids").unwrap()),
        (Dtype::BF16, &[1, 2][..])
    );
    let mut ids = [0; 2];
    reader.read_i32_into("ids", &mut ids).unwrap();
    assert_eq!(ids, [7, -1]);
    let error = reader.read_into("ids", &mut [0.0; 2]).unwrap_err().to_string();
    assert!(error.contains("`ids` is I32; expected F32, BF16 or F16"), "{error}");
}

#[test]
fn a_wrong_name_or_shape_is_said_with_the_likely_one() {
    let directory = tempfile::tempdir().unwrap();
    let tensors = [
        TensorSpec::f32("model.layers.0.self_attn.q_a_proj.weight", &[2, 3]),
        TensorSpec::f32("model.norm.weight", &[4]),
        TensorSpec::f32("stray", &[1]),
    ];
    write(directory.path(), &tensors, u64::MAX);
    let reader = Reader::open(directory.path()).unwrap();
    let error = reader
        .read_into("model.layers.0.self_attn.q_a_pro.weight", &mut [])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("did you mean `model.layers.0.self_attn.q_a_proj.weight`?"),
        "{error}"
    );
    let error = reader.read_into("model.norm.weight", &mut [0.0; 5]).unwrap_err().to_string();
    assert!(error.contains("`model.norm.weight` has 4 elements instead of 5"), "{error}");
    let expected: [(&str, &[usize]); 2] = [("model.layers.0.self_attn.q_a_proj.weigth", &[2, 3]), ("model.norm.weight", &[5])];
    let error = reader.expect(expected).unwrap_err().to_string();
    for part in [
        "model.safetensors",
        "1 tensor missing: `model.layers.0.self_attn.q_a_proj.weigth` (did you mean `model.layers.0.self_attn.q_a_proj.weight`?)",
        "2 tensors unexpected: `model.layers.0.self_attn.q_a_proj.weight`, `stray`",
        "1 tensor of the wrong shape: `model.norm.weight` is [4] instead of [5]",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
    let many: Vec<String> = (0..20).map(|index| format!("absent.{index:02}")).collect();
    let error = reader
        .expect(many.iter().map(|name| (name.as_str(), &[1][..])))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("20 tensors missing: `absent.00`") && error.contains("`absent.07` and 12 more"),
        "{error}"
    );
}

#[test]
fn malformed_files_are_refused_by_name() {
    let tensor = |offsets: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{offsets}}}"#);
    let two = |first: &str, second: &str| format!(r#"{{"a":{},"b":{}}}"#, tensor(first), tensor(second));
    let cases: [(String, usize, &str); 13] = [
        (
            format!(r#"{{"a":{}}}"#, tensor("[0,8]")),
            4,
            "tensor `a` ends at byte 8 of the data, which has 4 bytes",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[0,8]")),
            9,
            "1 bytes after the last tensor belong to no tensor",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[0,4]")),
            4,
            "tensor `a`: data offsets [0, 4] do not match shape [2] of F32, 8 bytes",
        ),
        (
            format!(r#"{{"a":{}}}"#, tensor("[8,0]")),
            8,
            "tensor `a`: data offsets [8, 0] do not match",
        ),
        (two("[0,8]", "[4,12]"), 12, "tensors `a` and `b` overlap"),
        (two("[0,8]", "[0,8]"), 8, "tensors `a` and `b` overlap"),
        (two("[0,8]", "[12,20]"), 20, "4 bytes between a and tensor `b` belong to no tensor"),
        (
            format!(r#"{{"a":{0},"a":{0}}}"#, tensor("[0,8]")),
            8,
            "tensor `a` is declared twice",
        ),
        (
            r#"{"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}}"#.into(),
            8,
            "tensor `a`: unknown dtype `F33`",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#.into(),
            0,
            "tensor `a`: shape",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}"#.into(),
            8,
            "tensor `a`: invalid value",
        ),
        (
            r#"{"a":{"dtype":"F32","shape":[2]}}"#.into(),
            8,
            "tensor `a`: missing field `data_offsets`",
        ),
        ("not json".into(), 0, "the header is wrong"),
    ];
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    for (json, data, expected) in cases {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path).unwrap_err();
        assert!(matches!(error, Error::Data { .. }));
        let text = error.to_string();
        assert!(
            text.contains(expected) && text.contains("model.safetensors"),
            "{expected:?} in {text}"
        );
    }
    for (bytes, expected) in [
        (&b"1234"[..], "has 4 bytes, less than a header"),
        (&[255; 64][..], "header is said to have"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn every_truncation_of_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &specs(&[vec![2, 3], vec![4]]), u64::MAX);
    let path = directory.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(Reader::open(&path).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn an_index_that_disagrees_with_its_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &specs(&[vec![2], vec![3]]), 8);
    let names = |reader: Reader| reader.names().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(names(Reader::open_stem(directory.path(), "model").unwrap()), ["layer.0", "layer.1"]);
    let absent = Reader::open_stem(directory.path(), "optimizer").unwrap_err().to_string();
    assert!(absent.contains("optimizer.safetensors"), "{absent}");
    let index = directory.path().join("model.safetensors.index.json");
    let good = fs::read_to_string(&index).unwrap();
    let json: serde_json::Value = serde_json::from_str(&good).unwrap();
    assert_eq!(json["metadata"]["total_size"], 20);
    assert_eq!(json["weight_map"]["layer.1"], "model-00002-of-00002.safetensors");
    for (from, to, expected) in [
        ("\"layer.1\"", "\"layer.9\"", "tensor `layer.9` of the index is not in it"),
        ("model-00002-of", "../model-00002-of", "outside the directory"),
        ("model-00002-of", "model-00003-of", "model-00003-of-00002.safetensors"),
        ("\"weight_map\"", "\"weightmap\"", "the index is wrong"),
    ] {
        fs::write(&index, good.replace(from, to)).unwrap();
        let error = Reader::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected:?} in {error}");
    }
}

#[test]
fn lists_that_cannot_be_written_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let attempt = |tensors: &[TensorSpec], count: usize| {
        let error = save(directory.path(), "model", tensors, u64::MAX, |_, sink| {
            sink.write(&vec![0.0; count])
        })
        .unwrap_err();
        assert!(matches!(error, Error::Config { .. }));
        error.to_string()
    };
    let a = TensorSpec::f32("a", &[2]);
    assert!(attempt(std::slice::from_ref(&a), 1).contains("`a` of shape [2] received fewer values"));
    assert!(attempt(std::slice::from_ref(&a), 3).contains("`a` of shape [2] received more values"));
    assert!(attempt(&[a.clone(), a.clone()], 2).contains("`a` of shape [2] is listed twice"));
    assert!(attempt(&[TensorSpec::f32("__metadata__", &[2])], 2).contains("has a name that the format reserves"));
    let of = |dtype| [TensorSpec { dtype, ..a.clone() }];
    assert!(attempt(&of(Dtype::F16), 2).contains("only F32, BF16 and F8_E4M3 can"));
    assert!(attempt(&of(Dtype::F8_E4M3), 2).contains("holds codes, not values"));
    let codes = save(directory.path(), "model", &of(Dtype::BF16), u64::MAX, |_, sink| {
        sink.write_codes(&[0; 4])
    });
    assert!(codes.unwrap_err().to_string().contains("holds values, not codes"));
    assert!(attempt(&[TensorSpec::f32("b", &[usize::MAX, 2])], 2).contains("is too large"));
}

#[test]
fn a_full_disk_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("model.safetensors");
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let error = save(directory.path(), "model", &specs(&[vec![5]]), u64::MAX, |_, sink| {
        sink.write(&[1.0; 5])
    })
    .unwrap_err();
    let Error::Io {
        action,
        path: named,
        source,
    } = error
    else {
        panic!("{error}")
    };
    assert_eq!((action, named, source.kind()), ("write", path, std::io::ErrorKind::StorageFull));
}
