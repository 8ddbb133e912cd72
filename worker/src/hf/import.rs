//! A model of another origin made an artifact, in the trainer's own types.

use super::export::{Copies, Format, write_weights};
use super::{Source, aside, copy_tokenizer};
use crate::artifact::{self, Description};
use crate::checkpoint::durable;
use crate::checkpoint::safetensors::{DEFAULT_SHARD_BYTES, WrittenFile};
use crate::error::Result;
use fathom_spec::artifact::ArtifactKind;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Name of the phase in the manifest of an imported model.
const PHASE: &str = "import";

/// What was imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Trainable parameters, MTP modules included.
    pub parameters: usize,
    /// MTP modules of `config.json` that had no weights and that the artifact does not have.
    pub missing_mtp: u32,
}

/// Makes the artifact `to`, a checkpoint, of the model in the directory `from`: FP32 weights, `config.json` in the released model's
/// spelling, the tokenizer's files. It has no trainer's state. Its key is the hash of its weights and `config.json`, so that the same model
/// has the same key whatever it was stored in. An older artifact at `to` is replaced.
///
/// # Errors
/// Those of [`Source::open`] and [`Source::check_copies`]; [`crate::error::Error::Io`] naming the path.
pub fn import(from: &Path, to: &Path) -> Result<Imported> {
    let source = Source::open(from)?;
    source.check_copies()?;
    let config = &source.config;
    let json = config
        .architecture
        .to_config_json(config.begin, config.end, Format::F32.torch_dtype());
    let json = format!("{json:#}\n");
    let parameters = source.layout.parameters();
    aside(to, |staging| {
        let written = write_weights(&source, staging, Format::F32, Copies::LeftOut, DEFAULT_SHARD_BYTES)?;
        durable::write_file(&staging.join("config.json"), json.as_bytes())?;
        copy_tokenizer(from, staging)?;
        let description = Description {
            kind: ArtifactKind::Checkpoint,
            phase: PHASE.into(),
            key: key(&json, &written),
            lineage: BTreeMap::new(),
            step: None,
            statistics: json!({ "parameters": parameters }),
        };
        artifact::commit(staging, to, description)
    })?;
    Ok(Imported {
        parameters,
        missing_mtp: source.missing_mtp,
    })
}

fn key(config: &str, written: &[WrittenFile]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(config.as_bytes());
    for file in written {
        hasher.update(file.digest.blake3.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}
