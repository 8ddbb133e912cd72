//! One training step on given weights and tokens, with everything written out, or logits alone: how the core is compared with other
//! implementations.

mod formats;
mod logits;

pub use formats::{gemm, quantize};
pub use logits::logits;

use crate::error::{Error, Result};
use crate::model::layout::{Role, Tensor};
use crate::model::{BatchDims, Model, Recipe, Storage};
use crate::train::{StepReport, StepSettings, Trainer, parts};
use fathom_kernels::Kernels;
use fathom_kernels::formats::Bf16;
use fathom_spec::architecture::Architecture;
use fathom_spec::manifest::{Optimizer, Precision};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Arguments of [`step`].
#[derive(Clone, Debug)]
pub struct StepArguments {
    /// Directory with `config.json` and `model.safetensors`.
    pub model: PathBuf,
    /// File with `tokens` `[B, T + 1]`, int32.
    pub tokens: PathBuf,
    /// File to write `hidden`, `logits`, `mtp_logits` and `grad.*` to.
    pub output: PathBuf,
    /// File with the MTP modules as layers `num_hidden_layers` and up.
    pub mtp: Option<PathBuf>,
    /// Weight of the MTP loss.
    pub mtp_weight: f64,
    /// Factor of the balance loss.
    pub balance_alpha: f64,
    /// Arithmetic.
    pub precision: Precision,
}

/// Runs the step and returns the losses as JSON.
///
/// # Errors
/// If a file cannot be read or written, or does not fit the architecture.
pub fn step<K: Kernels>(kernels: K, arguments: &StepArguments) -> Result<serde_json::Value> {
    match arguments.precision {
        Precision::F32 => step_in::<K, f32>(kernels, arguments),
        Precision::Bf16 | Precision::Fp8 => step_in::<K, Bf16>(kernels, arguments),
    }
}

fn step_in<K: Kernels, A: Storage>(kernels: K, arguments: &StepArguments) -> Result<serde_json::Value> {
    let mut architecture = crate::config::read(&arguments.model)?;
    let mut files = vec![read(&arguments.model.join("model.safetensors"))?];
    architecture.num_nextn_predict_layers = 0;
    if let Some(mtp) = &arguments.mtp {
        let file = read(mtp)?;
        architecture.num_nextn_predict_layers = mtp_modules(&parse(&file)?, architecture.num_hidden_layers);
        files.push(file);
    }
    let (rows, dims) = tokens(&arguments.tokens, &architecture)?;
    let mut trainer = load::<K, A>(kernels, architecture, &files, dims, arguments.precision)?;
    let settings = StepSettings {
        learning_rate: 0.0,
        mtp_weight: arguments.mtp_weight,
        balance_weight: arguments.balance_alpha,
        bias_update_speed: 0.0,
        bias_centered: false,
    };
    let report = trainer.accumulate(&rows, settings, &|| false).expect("never interrupted");
    write(&arguments.output, &trainer, dims)?;
    Ok(losses(&report, settings))
}

fn losses(report: &StepReport, settings: StepSettings) -> serde_json::Value {
    let depth = report.mtp_losses.len();
    let mtp_loss = (depth > 0).then(|| report.mtp_losses.iter().sum::<f64>() / depth as f64);
    serde_json::json!({
        "main_loss": report.main_loss,
        "mtp_loss": mtp_loss,
        "balance_loss_sum": report.balance_loss,
        "total_loss": report.total_loss,
        "mtp_weight": settings.mtp_weight,
        "balance_alpha": settings.balance_weight,
        "grad_norm": report.gradient_norm,
        "expert_counts": report.expert_counts,
    })
}

/// A safetensors file in memory.
struct File {
    path: PathBuf,
    bytes: Vec<u8>,
}

fn read(path: &Path) -> Result<File> {
    Ok(File {
        path: path.to_path_buf(),
        bytes: std::fs::read(path).map_err(Error::io("read", path))?,
    })
}

fn data_error(path: &Path, problem: impl Into<String>, cure: &str) -> Error {
    Error::Data {
        place: path.display().to_string(),
        problem: problem.into(),
        cure: cure.into(),
    }
}

fn parse(file: &File) -> Result<SafeTensors<'_>> {
    SafeTensors::deserialize(&file.bytes)
        .map_err(|error| data_error(&file.path, format!("not a safetensors file: {error}"), "write it again"))
}

/// MTP modules in a file: the layers from `first` on.
fn mtp_modules(file: &SafeTensors<'_>, first: u32) -> u32 {
    let layer = |name: &str| name.strip_prefix("model.layers.")?.split('.').next()?.parse::<u32>().ok();
    file.names()
        .into_iter()
        .filter_map(layer)
        .map(|layer| (layer + 1).saturating_sub(first))
        .max()
        .unwrap_or(0)
}

fn tokens(path: &Path, architecture: &Architecture) -> Result<(Vec<u32>, BatchDims)> {
    let file = read(path)?;
    let parsed = parse(&file)?;
    let tokens = parsed
        .tensor("tokens")
        .map_err(|_| data_error(path, "no tensor `tokens`", "add `tokens` [B, T + 1] int32"))?;
    let (&[sequences, columns], Dtype::I32) = (tokens.shape(), tokens.dtype()) else {
        return Err(data_error(
            path,
            format!("`tokens` is {:?} {:?}", tokens.dtype(), tokens.shape()),
            "give [B, T + 1] int32",
        ));
    };
    if sequences == 0 || columns < architecture.num_nextn_predict_layers as usize + 2 {
        return Err(data_error(
            path,
            format!("`tokens` is [{sequences}, {columns}]"),
            "give at least one row of D + 2 tokens",
        ));
    }
    let rows: Vec<u32> = tokens
        .data()
        .chunks_exact(4)
        .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
        .collect();
    if let Some(token) = rows.iter().find(|&&token| token >= architecture.vocab_size) {
        let problem = format!(
            "token {} is outside the vocabulary of {}",
            token.cast_signed(),
            architecture.vocab_size
        );
        return Err(data_error(path, problem, "use tokens of this model"));
    }
    Ok((
        rows,
        BatchDims {
            sequences,
            length: columns - 1,
        },
    ))
}

fn load<K: Kernels, A: Storage>(
    kernels: K,
    architecture: Architecture,
    files: &[File],
    dims: BatchDims,
    precision: Precision,
) -> Result<Trainer<K, A>> {
    let parsed = files.iter().map(parse).collect::<Result<Vec<_>>>()?;
    let mut model = Model::new(kernels, architecture, dims.length, Recipe { precision, ..Recipe::F32 });
    let Model {
        kernels, layout, weights, ..
    } = &mut model;
    parts::upload(
        kernels,
        layout,
        weights.masters_mut(),
        |_| true,
        |part, values| {
            let found = parsed
                .iter()
                .zip(files)
                .find_map(|(tensors, file)| Some((tensors.tensor(&part.name).ok()?, file)));
            let (view, file) = found.ok_or_else(|| {
                data_error(
                    &files[0].path,
                    format!("no tensor `{}`", part.name),
                    "give the weights of this config.json",
                )
            })?;
            if view.dtype() != Dtype::F32 || view.shape() != part.shape {
                let problem = format!(
                    "`{}` is {:?} {:?}, expected F32 {:?}",
                    part.name,
                    view.dtype(),
                    view.shape(),
                    part.shape
                );
                return Err(data_error(&file.path, problem, "give the weights of this config.json in FP32"));
            }
            for (value, four) in values.iter_mut().zip(view.data().chunks_exact(4)) {
                *value = f32::from_le_bytes([four[0], four[1], four[2], four[3]]);
            }
            Ok(())
        },
    )?;
    let optimizer = Optimizer {
        beta1: 0.9,
        beta2: 0.95,
        epsilon: 1e-8,
        weight_decay: 0.0,
        clip_norm: 1.0,
    };
    Ok(Trainer::new(model, optimizer, dims))
}

fn write<K: Kernels, A: Storage>(path: &Path, trainer: &Trainer<K, A>, dims: BatchDims) -> Result<()> {
    let (model, acts) = (&trainer.model, trainer.activations());
    let (width, vocabulary) = (model.architecture.hidden_size as usize, model.architecture.vocab_size as usize);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    let mut add = |name: String, shape: Vec<usize>, values: Vec<f32>| tensors.insert(name, (shape, values));
    let logits = |hidden: &K::Buffer<A>, rows: usize| {
        let mut buffer = model.kernels.zeros(rows * vocabulary);
        model.logits(&mut buffer, hidden, rows);
        let mut values = vec![0.0; rows * vocabulary];
        model.kernels.download(&mut values, &buffer, 0);
        values
    };
    let BatchDims { sequences, length } = dims;
    let mut hidden = vec![A::default(); dims.rows() * width];
    model.kernels.download(&mut hidden, &acts.hidden, 0);
    let hidden = hidden.into_iter().map(A::to_f32).collect();
    add("hidden".into(), vec![sequences, length, width], hidden);
    add(
        "logits".into(),
        vec![sequences, length, vocabulary],
        logits(&acts.hidden, dims.rows()),
    );
    for index in 0..model.layout.mtp.len() {
        let length = length - index - 1;
        let name = if index == 0 {
            "mtp_logits".into()
        } else {
            format!("mtp_logits.{}", index + 1)
        };
        add(
            name,
            vec![sequences, length, vocabulary],
            logits(acts.mtp_hidden(index), sequences * length),
        );
    }
    let trainable = |tensor: &Tensor| tensor.role != Role::RoutingBias;
    parts::download(&model.kernels, &model.layout, &model.gradients, trainable, |part, values| {
        add(format!("grad.{}", part.name), part.shape.clone(), values.to_vec());
        Ok::<_, Error>(())
    })?;
    let views = tensors.iter().map(|(name, (shape, values))| {
        // The shape was made together with the values.
        let view = TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).expect("shape and data agree");
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).map_err(|error| data_error(path, error.to_string(), "report this as a bug"))?;
    std::fs::write(path, bytes).map_err(Error::io("write", path))
}
