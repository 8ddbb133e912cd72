//! `debug quantize` and `debug gemm` on files: what other implementations are compared with.

#![allow(clippy::unwrap_used)]

use fathom_kernels::formats::Scaling;
use fathom_worker::debug;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::{Path, PathBuf};

/// Values of torch; its README says how they were made.
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../kernels/tests/golden/fp8.safetensors");

fn write(path: &Path, matrices: &[(&str, [usize; 2], &[f32])]) {
    let bytes: Vec<Vec<u8>> = matrices
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = matrices
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
}

fn files() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in.safetensors"), directory.path().join("out.safetensors"));
    (directory, input, output)
}

/// Every tensor of the golden file that is a result of quantisation is among what is written, byte for byte.
#[test]
fn quantized_files_equal_those_of_torch() {
    let (_directory, _, output) = files();
    let report = debug::quantize(Path::new(GOLDEN), &output).unwrap();
    assert_eq!((report["rows"].as_u64(), report["columns"].as_u64()), (Some(130), Some(300)));
    let (golden, written) = (std::fs::read(GOLDEN).unwrap(), std::fs::read(&output).unwrap());
    let (golden, written) = (
        SafeTensors::deserialize(&golden).unwrap(),
        SafeTensors::deserialize(&written).unwrap(),
    );
    let results: Vec<_> = golden
        .names()
        .into_iter()
        .filter(|name| name.ends_with(".codes") || name.ends_with(".scales"))
        .collect();
    assert_eq!(results.len(), 10);
    for name in results {
        let (expected, actual) = (golden.tensor(name).unwrap(), written.tensor(name).unwrap());
        assert!(expected == actual, "{name}");
        let statistics = &report["quantized"][name.split('.').next().unwrap()];
        assert!(statistics["headroom"].as_f64().unwrap() >= 1.0, "{name}: {statistics}");
    }
}

/// Powers of two are codes themselves: the product of such matrices is exact.
#[test]
fn products_of_representable_matrices_are_exact() {
    let (m, n, k) = (3, 130, 257);
    let value = |index: usize| [-2.0, -1.0, 0.5, 1.0, 4.0][index * 7 % 5];
    let (a, b): (Vec<f32>, Vec<f32>) = ((0..m * k).map(value).collect(), (0..n * k).map(|index| value(index + 3)).collect());
    let (_directory, input, output) = files();
    write(&input, &[("a", [m, k], &a), ("b", [n, k], &b)]);
    let report = debug::gemm(&input, &output, Scaling::PowerOfTwo).unwrap();
    assert_eq!(report, serde_json::json!({"m": m, "n": n, "k": k}));
    let bytes = std::fs::read(&output).unwrap();
    let written = SafeTensors::deserialize(&bytes).unwrap();
    let y = written.tensor("y").unwrap();
    assert_eq!(y.shape(), [m, n]);
    for (index, value) in floats(y.data()).into_iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let exact: f32 = (0..k).map(|term| a[row * k + term] * b[column * k + term]).sum();
        assert!((value - exact).abs() < f32::EPSILON, "({row}, {column}): {value}, not {exact}");
    }
}

#[test]
fn what_cannot_be_quantized_is_named() {
    let (_directory, input, output) = files();
    let refusal = |matrices: &[(&str, [usize; 2], &[f32])]| {
        write(&input, matrices);
        let errors = [debug::quantize(&input, &output), debug::gemm(&input, &output, Scaling::Plain)];
        errors.map(|error| error.unwrap_err().to_string())
    };
    let [quantize, gemm] = refusal(&[("y", [1, 1], &[1.0])]);
    assert!(
        quantize.contains("no tensor `x`") && gemm.contains("no tensor `a`"),
        "{quantize}\n{gemm}"
    );
    let wrong = [f32::NAN, 1.0, f32::INFINITY];
    let [quantize, gemm] = refusal(&[("x", [1, 3], &wrong), ("a", [1, 3], &wrong), ("b", [1, 3], &[1.0; 3])]);
    assert!(
        quantize.contains("`x`: 2 of 3 elements") && gemm.contains("`a`: 2 of 3 elements"),
        "{quantize}\n{gemm}"
    );
    let [_, gemm] = refusal(&[("x", [1, 1], &[f32::NAN]), ("a", [2, 3], &[1.0; 6]), ("b", [2, 2], &[1.0; 4])]);
    assert!(gemm.contains("`a` has 3 columns, `b` has 2"), "{gemm}");
    assert!(!output.exists());
}
