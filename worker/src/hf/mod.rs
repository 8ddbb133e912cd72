//! Models in the Hugging Face layout of DeepSeek-V3, in both directions.
//!
//! A directory holds `config.json`, `model.safetensors` (or its shards and `model.safetensors.index.json`) and the tokenizer's files. The
//! tensors have the names of [`Layout`]; MTP module k is layer `num_hidden_layers + k` (from 0) and repeats the main model's embedding and
//! head there, because the released model does. Types by [`Format`]:
//!
//! | tensors | f32 | bf16 | fp8 |
//! |---|---|---|---|
//! | matrices of attention, feed-forward networks and experts, those of MTP modules too | F32 | BF16 | `F8_E4M3`, and F32 scales |
//! | embedding, head, norms, gate, `eh_proj`, the copies in MTP modules | F32 | BF16 | BF16 |
//! | `e_score_correction_bias` | F32 | F32 | F32 |
//!
//! `X.weight` `[out, in]` in `F8_E4M3` has `X.weight_scale_inv` `[ceil(out / 128), ceil(in / 128)]`: in spite of its name it multiplies.
//! The scale of a block of 128 x 128 is its largest magnitude / 448, or 1 if all of it is zero; what is missing of a block at the edge
//! counts as zero.
//!
//! # What survives a round trip
//!
//! Import makes FP32 of everything, which is exact for F32, BF16 and F16. A code times its scale is rounded to FP32. So
//!
//! - an export to f32, imported, has every bit of the original; one to bf16 has the original rounded to BF16;
//! - an export to fp8, imported and exported to fp8 again, has the same bytes: the largest code of a block is 448 and `s = fl(a / 448)`
//!   implies `fl(fl(448 s) / 448) = s`, so the scale comes back, and with it every code (`tests/hf/export.rs` tries it). The exception is
//!   a block whose magnitudes are all below 2^-136: its codes are zeros, and the scale of zeros is 1;
//! - FP8 of another origin keeps its codes in blocks whose scale is the largest magnitude / 448. With other scales (powers of two, as in
//!   DeepSeek-V3.1, or blocks that do not fill the range) the values are imported as they are and a new export to fp8 rounds them anew.

mod export;
mod import;
mod source;

pub use export::{Format, export};
pub use import::{Imported, import};
pub use source::Source;

use crate::checkpoint::durable;
use crate::error::{Error, Result};
use crate::model::layout::{Layout, Part};
use fathom_spec::architecture::Architecture;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// Stem of the files with the weights that are imported and exported. Other lists of weights in a checkpoint have other stems.
pub const MODEL: &str = "model";

/// Elements read at a time, unless 128 rows have more: 16 MiB in FP32.
const STRIP: usize = 4 << 20;

/// Rows and columns of a part; a vector has columns of one element.
fn matrix(part: &Part) -> (usize, usize) {
    (part.shape[0], part.shape[1..].iter().product())
}

/// The rows of a part in strips of bounded size that begin at multiples of 128, so that no block is cut.
fn strips(part: &Part) -> impl Iterator<Item = Range<usize>> + use<> {
    use fathom_kernels::formats::GROUP;
    let (rows, columns) = matrix(part);
    let height = (STRIP / columns.max(1) / GROUP * GROUP).max(GROUP);
    (0..rows).step_by(height).map(move |row| row..(row + height).min(rows))
}

/// Name of the scales of a weight.
fn scale_name(weight: &str) -> String {
    format!("{weight}_scale_inv")
}

/// The tensors that MTP modules repeat, each with the part of the main model that it is a copy of.
fn copies<'a>(layout: &'a Layout, architecture: &Architecture) -> Vec<(String, &'a Part)> {
    let modules = (architecture.num_hidden_layers..).take(layout.mtp.len());
    let of = |id| &layout.tensor(id).parts[0];
    modules
        .flat_map(|layer| {
            [
                (format!("model.layers.{layer}.embed_tokens.weight"), of(layout.embedding)),
                (format!("model.layers.{layer}.shared_head.head.weight"), of(layout.head)),
            ]
        })
        .collect()
}

/// Copies the files of the tokenizer.
fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let path = entry.map_err(Error::io("list", from))?.path();
        let Some(name) = path.file_name().filter(|name| name.as_encoded_bytes().starts_with(b"tokenizer")) else {
            continue;
        };
        if path.is_file() {
            fs::copy(&path, to.join(name)).map_err(Error::io("copy", &path))?;
        }
    }
    Ok(())
}

/// Makes a directory under a name that nobody reads; `write` fills it and gives it the name `to`. An error leaves nothing behind, a crash
/// only what the next attempt removes.
fn aside<T>(to: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let staging = durable::sibling(to, durable::STAGING_PREFIX);
    if staging.exists() {
        fs::remove_dir_all(&staging).map_err(Error::io("remove the leftover", &staging))?;
    }
    fs::create_dir_all(&staging).map_err(Error::io("create the directory", &staging))?;
    write(&staging).inspect_err(|_| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_dir_all(&staging);
    })
}
