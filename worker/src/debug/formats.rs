//! Quantisation and products of quantised matrices, written out for comparison with other implementations.

use super::{data_error, parse, read};
use crate::error::{Error, Result};
use fathom_kernels::formats::{Along, Grouping, NonFinite, Operand, QuantizeDims, Scaling, Source, Statistics};
use fathom_kernels::{Cpu, Reference, Write};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A matrix in FP32.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

/// A quantised matrix.
struct Quantized {
    codes: Vec<u8>,
    scales: Vec<f32>,
    grouping: Grouping,
    statistics: Statistics,
}

/// The tensors of a file by name: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Quantises `x` of a file in every way there is. Writes `NAME.codes`, as `x`, and `NAME.scales`, one per group, for `NAME` of `tile_1x128`,
/// `tile_128x1` and `block_128x128`, and the same with scales that are powers of two as `NAME_pow2`. Returns statistics by name.
///
/// # Errors
/// If a file cannot be read or written, or `x` is not a finite FP32 matrix.
pub fn quantize(input: &Path, output: &Path) -> Result<Value> {
    let file = read(input)?;
    let x = matrix(&parse(&file)?, "x", input)?;
    let (mut tensors, mut report) = (Tensors::new(), serde_json::Map::new());
    tensors.insert("x".into(), (Dtype::F32, vec![x.rows, x.columns], bytes(&x.values)));
    for (grouping, name) in [
        (Grouping::Row, "tile_1x128"),
        (Grouping::Column, "tile_128x1"),
        (Grouping::Block, "block_128x128"),
    ] {
        for (scaling, suffix) in [(Scaling::Plain, ""), (Scaling::PowerOfTwo, "_pow2")] {
            let Quantized {
                codes, scales, statistics, ..
            } = quantized(&x, grouping, scaling).map_err(|error| not_finite(input, "x", error))?;
            let (rows, columns) = grouping.scales(x.rows, x.columns);
            let name = format!("{name}{suffix}");
            tensors.insert(format!("{name}.codes"), (Dtype::U8, vec![x.rows, x.columns], codes));
            tensors.insert(format!("{name}.scales"), (Dtype::F32, vec![rows, columns], bytes(&scales)));
            let summary = json!({
                "amax": statistics.amax, "headroom": statistics.headroom(), "saturated": statistics.saturated, "underflowed": statistics.underflowed,
            });
            report.insert(name, summary);
        }
    }
    save(output, &tensors)?;
    Ok(json!({"rows": x.rows, "columns": x.columns, "quantized": report}))
}

/// Multiplies `a` `[M, K]` by the transpose of `b` `[N, K]` as a linear layer of the recipe does in its forward pass: `a` in tiles of 1 x 128, `b` in
/// blocks of 128 x 128, partial sums promoted to FP32 with their scales after every 128 terms. Writes `y` `[M, N]`, FP32.
///
/// # Errors
/// As [`quantize`]; also if the matrices have different numbers of columns.
pub fn gemm(input: &Path, output: &Path, scaling: Scaling) -> Result<Value> {
    let file = read(input)?;
    let tensors = parse(&file)?;
    let (a, b) = (matrix(&tensors, "a", input)?, matrix(&tensors, "b", input)?);
    if a.columns != b.columns {
        let problem = format!("`a` has {} columns, `b` has {}", a.columns, b.columns);
        return Err(data_error(input, problem, "both have K columns: `a` is [M, K], `b` is [N, K]"));
    }
    let operand = |matrix: &Matrix, name, grouping| quantized(matrix, grouping, scaling).map_err(|error| not_finite(input, name, error));
    let (left, right) = (operand(&a, "a", Grouping::Row)?, operand(&b, "b", Grouping::Block)?);
    let mut y = vec![0.0; a.rows * b.rows];
    Reference::PAIRS.quantized_product(&mut y, left.operand(&a), right.operand(&b), Write::Overwrite);
    let mut written = Tensors::new();
    written.insert("y".into(), (Dtype::F32, vec![a.rows, b.rows], bytes(&y)));
    save(output, &written)?;
    Ok(json!({"m": a.rows, "n": b.rows, "k": a.columns}))
}

impl Quantized {
    fn operand(&self, matrix: &Matrix) -> Operand<'_> {
        Operand {
            codes: &self.codes,
            scales: &self.scales,
            rows: matrix.rows,
            columns: matrix.columns,
            grouping: self.grouping,
            along: Along::Columns,
        }
    }
}

fn quantized(x: &Matrix, grouping: Grouping, scaling: Scaling) -> Result<Quantized, NonFinite> {
    let dims = QuantizeDims {
        rows: x.rows,
        columns: x.columns,
        grouping,
        scaling,
        transposed: false,
    };
    let (group_rows, group_columns) = dims.scales();
    let mut codes = vec![0; x.values.len()];
    let mut scales = vec![0.0; group_rows * group_columns];
    let statistics = Cpu::new(0)
        .quantize_source(&mut codes, &mut scales, Source::F32(&x.values), dims)
        .finite()?;
    Ok(Quantized {
        codes,
        scales,
        grouping,
        statistics,
    })
}

fn matrix(tensors: &SafeTensors<'_>, name: &str, path: &Path) -> Result<Matrix> {
    let tensor = tensors
        .tensor(name)
        .map_err(|_| data_error(path, format!("has no tensor `{name}`"), "store the matrix under this name"))?;
    let &[rows, columns] = tensor.shape() else {
        let problem = format!("`{name}` has {} dimensions", tensor.shape().len());
        return Err(data_error(path, problem, "a matrix has 2: reshape it"));
    };
    if tensor.dtype() != Dtype::F32 {
        let problem = format!("`{name}` is of type {:?}", tensor.dtype());
        return Err(data_error(path, problem, "store it as F32"));
    }
    let (quads, _) = tensor.data().as_chunks::<4>();
    Ok(Matrix {
        rows,
        columns,
        values: quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect(),
    })
}

fn not_finite(path: &Path, name: &str, error: NonFinite) -> Error {
    data_error(path, format!("`{name}`: {error}"), "quantise finite numbers only")
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn save(path: &Path, tensors: &Tensors) -> Result<()> {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        // The shape was made together with the data.
        let view = TensorView::new(*dtype, shape.clone(), data).expect("shape and data agree");
        (name, view)
    });
    let bytes = safetensors::serialize(views, None).map_err(|error| data_error(path, error.to_string(), "report this as a bug"))?;
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}
