//! A trainer in a checkpoint: the model in the Hugging Face layout (`config.json`, `model.safetensors`, tokenizer), the optimizer's
//! moments and the position in the data beside it, the averaged parameters as a model of its own in `ema/`. Resuming from one continues the
//! same trajectory bit for bit.

use super::{Trainer, parts};
use crate::checkpoint::safetensors::{DEFAULT_SHARD_BYTES, Reader, TensorSpec};
use crate::checkpoint::store::{Checkpoint, Staging, Store};
use crate::error::{Error, Result};
use crate::hf::Source;
use crate::model::layout::{Layout, Role, Tensor, TensorId};
use crate::model::{Model, Recipe, Storage};
use fathom_kernels::Kernels;
use fathom_kernels::formats::Activation;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Values converted at a time when a tensor is written.
const BLOCK: usize = 64 << 10;
/// Stem of the optimizer's file.
const OPTIMIZER: &str = "optimizer";
/// Directory of the averaged parameters in a checkpoint and in the artifact: a complete model directory, if the phase keeps an average.
pub const EMA: &str = "ema";

/// Where a run is, beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Position {
    /// Cache key of the phase: a checkpoint of another phase is refused.
    pub key: String,
    /// Optimizer steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Sequences consumed: the place in the data order.
    pub sequences: u64,
}

/// Files of a model that do not change while it trains.
pub struct StaticFiles {
    /// Name and content: `config.json`, `tokenizer.json` and the like.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Commits a checkpoint of a trainer.
///
/// # Errors
/// [`Error::Io`] naming the path.
pub fn save<K: Kernels, A: Storage>(
    store: &mut Store,
    trainer: &mut Trainer<K, A>,
    position: &Position,
    files: &StaticFiles,
) -> Result<Checkpoint> {
    // A struct of strings and integers always has a JSON form.
    let state = serde_json::to_value(position).expect("a position is JSON");
    trainer.catch_up();
    let trainer = &*trainer;
    let model = &trainer.model;
    store.commit(position.step, position.tokens, state, |staging| {
        let master = |id: TensorId| &model.weights[id];
        write_model(staging, model, files, &master)?;
        if let Some(ema) = trainer.average() {
            let averaged = |id: TensorId| if trainable(model.layout.tensor(id)) { &ema[id] } else { master(id) };
            staging.write_directory(EMA, |staging| write_model(staging, model, files, &averaged))?;
        }
        let (first, second) = (
            |id: TensorId| &trainer.first_moments[id],
            |id: TensorId| &trainer.second_moments[id],
        );
        write(
            staging,
            OPTIMIZER,
            model,
            trainable,
            &[("exp_avg.", &first), ("exp_avg_sq.", &second)],
        )
    })
}

/// Writes a directory in the Hugging Face layout.
fn write_model<'a, K: Kernels, A: Storage>(
    staging: &mut Staging,
    model: &Model<K, A>,
    files: &StaticFiles,
    buffer: Buffers<'a, K, f32>,
) -> Result<()> {
    for (name, content) in &files.files {
        staging.write_file(name, content)?;
    }
    write(staging, "model", model, |_| true, &[("", buffer)])
}

/// Restores a trainer from a checkpoint of the phase `key`.
///
/// # Errors
/// [`Error::Data`] if the checkpoint is of another phase or model, or if only one of the two has averages.
pub fn load<K: Kernels, A: Storage>(trainer: &mut Trainer<K, A>, checkpoint: &Checkpoint, key: &str) -> Result<Position> {
    let mismatch = |problem: String| Error::Data {
        place: checkpoint.path.display().to_string(),
        problem,
        cure: "remove it, or give the phase another directory".into(),
    };
    let position: Position = serde_json::from_value(checkpoint.manifest.state.clone())
        .map_err(|error| mismatch(format!("its state is not readable: {error}")))?;
    if position.key != key {
        return Err(mismatch(format!("it belongs to the phase with key {}, not {key}", position.key)));
    }
    let averages = format!("{EMA}/");
    match (
        trainer.average().is_some(),
        checkpoint.manifest.files.keys().any(|name| name.starts_with(&averages)),
    ) {
        (true, false) => {
            return Err(mismatch(
                "it holds no averages of the parameters, and `ema` cannot begin in the middle".into(),
            ));
        }
        (false, true) => {
            return Err(mismatch(
                "it holds averages of the parameters, and without `ema` they would be lost".into(),
            ));
        }
        (true, true) | (false, false) => {}
    }
    load_weights(&mut trainer.model, &Reader::open(&checkpoint.path)?)?;
    let optimizer = Reader::open_stem(&checkpoint.path, OPTIMIZER)?;
    let Model { kernels, layout, .. } = &trainer.model;
    for (prefix, moments) in [
        ("exp_avg.", &mut trainer.first_moments),
        ("exp_avg_sq.", &mut trainer.second_moments),
    ] {
        parts::upload(kernels, layout, moments, trainable, |part, values| {
            optimizer.read_into(&format!("{prefix}{}", part.name), values)
        })?;
    }
    if let Some((Model { kernels, layout, .. }, averages)) = trainer.average_mut() {
        let reader = Reader::open(&checkpoint.path.join(EMA))?;
        parts::upload(kernels, layout, averages, trainable, |part, values| {
            reader.read_into(&part.name, values)
        })?;
    }
    trainer.refresh();
    Ok(position)
}

/// Reads a model's weights; tensors that the model lacks, or that the file lacks, are errors.
///
/// # Errors
/// [`Error::Data`] naming the tensors.
pub fn load_weights<K: Kernels, A: Storage>(model: &mut Model<K, A>, reader: &Reader) -> Result<()> {
    let Model {
        kernels, layout, weights, ..
    } = model;
    let expected = layout.tensors.iter().flat_map(|tensor| &tensor.parts);
    reader.expect(expected.map(|part| (part.name.as_str(), part.shape.as_slice())))?;
    parts::upload(
        kernels,
        layout,
        weights.masters_mut(),
        |_| true,
        |part, values| reader.read_into(&part.name, values),
    )
}

/// Reads the model of a directory in the Hugging Face layout, whatever type it is stored in, to be run in FP32.
///
/// # Errors
/// Those of [`Source::open`] and [`Source::read_rows`].
pub fn load_model<K: Kernels>(kernels: K, directory: &Path, length: usize) -> Result<Model<K>> {
    let source = Source::open(directory)?;
    let mut model = Model::new(kernels, source.config.architecture.clone(), length, Recipe::F32);
    let Model {
        kernels, layout, weights, ..
    } = &mut model;
    parts::upload(
        kernels,
        layout,
        weights.masters_mut(),
        |_| true,
        |part, values| source.read_rows(part, 0, values),
    )?;
    Ok(model)
}

fn trainable(tensor: &Tensor) -> bool {
    tensor.role != Role::RoutingBias
}

/// The buffer of each tensor.
type Buffers<'a, K, T> = &'a dyn Fn(TensorId) -> &'a <K as Kernels>::Buffer<T>;

/// Writes lists of buffers as one file (or its shards), each part under a prefix. One tensor is on the host at a time.
fn write<K: Kernels, A: Storage, T: Activation>(
    staging: &mut Staging,
    stem: &str,
    model: &Model<K, A>,
    select: fn(&Tensor) -> bool,
    lists: &[(&str, Buffers<'_, K, T>)],
) -> Result<()> {
    let mut specs = Vec::new();
    let mut sources = Vec::new();
    for &(prefix, buffer) in lists {
        for (id, tensor) in selected(&model.layout, select) {
            for part in &tensor.parts {
                specs.push(TensorSpec::new(format!("{prefix}{}", part.name), T::DATA_TYPE, &part.shape));
                sources.push((buffer(id), id, part));
            }
        }
    }
    let mut sources = sources.into_iter();
    let mut host: Vec<T> = Vec::new();
    staging.write_tensors(stem, &specs, DEFAULT_SHARD_BYTES, |_, sink| {
        let (buffer, id, part) = sources.next().expect("one source per tensor");
        if part.offset == 0 {
            host.resize(model.layout.tensor(id).len, T::default());
            model.kernels.download(&mut host, buffer, 0);
        }
        let values = &host[part.offset..part.offset + part.len()];
        for block in values.chunks(BLOCK) {
            sink.write(&block.iter().map(|value| value.to_f32()).collect::<Vec<f32>>())?;
        }
        Ok(())
    })
}

fn selected(layout: &Layout, select: fn(&Tensor) -> bool) -> impl Iterator<Item = (TensorId, &Tensor)> {
    layout
        .ids()
        .map(|id| (id, layout.tensor(id)))
        .filter(move |(_, tensor)| select(tensor))
}
