//! A model directory written in a chosen type, for transformers and inference engines.

use super::{MODEL, Source, aside, copies, copy_tokenizer, matrix, scale_name};
use crate::checkpoint::durable;
use crate::checkpoint::safetensors::{Dtype, TensorSpec, WrittenFile, save};
use crate::config::fp8_quantization;
use crate::error::{Error, Result};
use crate::model::layout::{Arithmetic, Part, Role, Tensor};
use fathom_kernels::Cpu;
use fathom_kernels::formats::{Grouping, QuantizeDims, Scaling, Source as Unquantized};
use std::fs;
use std::path::Path;

/// Types of the weights; see the [module](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// FP32, the trainer's own.
    F32,
    /// BF16.
    Bf16,
    /// E4M3 in blocks of 128 x 128 where the released model has it, BF16 elsewhere.
    Fp8,
}

impl Format {
    /// `torch_dtype` of `config.json`.
    pub(super) const fn torch_dtype(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 | Self::Fp8 => "bfloat16",
        }
    }

    /// Type of a tensor.
    fn dtype(self, tensor: &Tensor) -> Dtype {
        match (self, tensor.role, tensor.arithmetic) {
            (Self::F32, _, _) | (_, Role::RoutingBias, _) => Dtype::F32,
            (Self::Fp8, _, Arithmetic::Linear { .. }) => Dtype::F8_E4M3,
            (Self::Bf16 | Self::Fp8, _, _) => Dtype::BF16,
        }
    }
}

/// Writes the model in `from` to a new directory `to`, in files of at most `shard_bytes` (a tensor is never split). It is made aside and
/// renamed when it is whole. Memory holds a few strips of a tensor at a time.
///
/// # Errors
/// Those of [`Source::open`]; [`Error::Io`] naming the path, also if `to` exists.
pub fn export(from: &Path, to: &Path, format: Format, shard_bytes: u64) -> Result<()> {
    let source = Source::open(from)?;
    let config = &source.config;
    let mut json = config.architecture.to_config_json(config.begin, config.end, format.torch_dtype());
    if format == Format::Fp8 {
        json["quantization_config"] = fp8_quantization();
    }
    aside(to, |staging| {
        write_weights(&source, staging, format, Copies::Repeated, shard_bytes)?;
        durable::write_file(&staging.join("config.json"), format!("{json:#}\n").as_bytes())?;
        copy_tokenizer(from, staging)?;
        durable::sync_tree(staging)?;
        fs::rename(staging, to).map_err(Error::io("rename a finished directory to", to))?;
        durable::sync_parent(to)
    })
}

/// Whether MTP modules repeat the embedding and the head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Copies {
    Repeated,
    LeftOut,
}

/// What a tensor of an export is made of.
enum Content<'a> {
    /// The part's values, rounded to the type.
    Values(&'a Part),
    /// The part's codes.
    Codes(&'a Part),
    /// The scales of the codes before.
    Scales,
}

/// Writes the weights of a model.
pub(super) fn write_weights(source: &Source, to: &Path, format: Format, copied: Copies, shard_bytes: u64) -> Result<Vec<WrittenFile>> {
    let (specs, contents): (Vec<_>, Vec<_>) = table(source, format, copied).into_iter().unzip();
    let mut contents = contents.iter();
    let cpu = Cpu::new(0);
    let mut scales: Vec<f32> = Vec::new();
    save(to, MODEL, &specs, shard_bytes, |_, sink| {
        match contents.next().expect("every tensor has a content") {
            Content::Values(part) => source.visit(part, |values| sink.write(values)),
            Content::Codes(part) => {
                scales.clear();
                source.visit(part, |values| {
                    let (codes, strip) = quantize(&cpu, values, matrix(part).1);
                    scales.extend(strip);
                    sink.write_codes(&codes)
                })
            }
            Content::Scales => sink.write(&scales),
        }
    })
}

/// The tensors of an export, in the order of the layout, each before its scales; copies come last.
fn table(source: &Source, format: Format, copied: Copies) -> Vec<(TensorSpec, Content<'_>)> {
    let spec = |name: String, dtype, shape: &[usize]| TensorSpec {
        name,
        dtype,
        shape: shape.to_vec(),
    };
    let mut tensors = Vec::new();
    for tensor in &source.layout.tensors {
        let dtype = format.dtype(tensor);
        for part in &tensor.parts {
            let this = spec(part.name.clone(), dtype, &part.shape);
            if dtype == Dtype::F8_E4M3 {
                let (rows, columns) = matrix(part);
                let (rows, columns) = Grouping::Block.scales(rows, columns);
                tensors.push((this, Content::Codes(part)));
                tensors.push((spec(scale_name(&part.name), Dtype::F32, &[rows, columns]), Content::Scales));
            } else {
                tensors.push((this, Content::Values(part)));
            }
        }
    }
    if copied == Copies::Repeated {
        let dtype = format.dtype(source.layout.tensor(source.layout.embedding));
        let copies = copies(&source.layout, &source.config.architecture);
        tensors.extend(
            copies
                .into_iter()
                .map(|(name, part)| (spec(name, dtype, &part.shape), Content::Values(part))),
        );
    }
    tensors
}

/// Codes and scales of whole rows of blocks.
fn quantize(cpu: &Cpu, values: &[f32], columns: usize) -> (Vec<u8>, Vec<f32>) {
    let dims = QuantizeDims {
        rows: values.len() / columns,
        columns,
        grouping: Grouping::Block,
        scaling: Scaling::Plain,
        transposed: false,
    };
    let (codes, scales) = dims.lengths();
    let (mut codes, mut scales) = (vec![0; codes], vec![0.0; scales]);
    // The source refuses what is not finite, which is all that would have to be looked at here.
    let _ = cpu.quantize_source(&mut codes, &mut scales, Unquantized::F32(values), dims);
    (codes, scales)
}
