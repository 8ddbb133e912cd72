//! Logits of a model on given tokens: the same question for another implementation.

use super::{data_error, tokens};
use crate::error::{Error, Result};
use crate::model::Batch;
use crate::train::batch;
use crate::train::checkpoint::load_model;
use fathom_kernels::Kernels;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// Runs the model of a directory in the Hugging Face layout, of any type that is imported, in FP32 on `tokens` `[B, T + 1]` of a file. The
/// last token of each row is not looked at, as in a training step. Writes `logits` `[B, T, V]`, FP32, and returns the sizes as JSON.
///
/// # Errors
/// If a file cannot be read or written, or does not fit the model.
pub fn logits<K: Kernels>(kernels: K, directory: &Path, input: &Path, output: &Path) -> Result<Value> {
    let architecture = crate::config::read(directory)?;
    let (rows, dims) = tokens(input, &architecture)?;
    let model = load_model(kernels, directory, dims.length)?;
    let k = &model.kernels;
    let depth = model.layout.mtp.len();
    let (mut acts, mut batch) = (model.activations(dims), Batch::new(k, dims, depth));
    batch::load(k, &mut batch, &rows);
    model.forward(&mut acts, &batch, false);
    let shape = vec![dims.sequences, dims.length, architecture.vocab_size as usize];
    let mut values = vec![0.0_f32; shape.iter().product()];
    let mut buffer = k.zeros(values.len());
    model.logits(&mut buffer, &acts.hidden, dims.rows());
    k.download(&mut values, &buffer, 0);
    // The shape was made together with the values.
    let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(&values)).expect("shape and data agree");
    let bytes =
        safetensors::serialize([("logits", view)], None).map_err(|error| data_error(output, error.to_string(), "report this as a bug"))?;
    std::fs::write(output, bytes).map_err(Error::io("write", output))?;
    Ok(json!({ "logits": shape }))
}
