//! Artifacts: what a phase leaves. Immutable, content-addressed by the phase's cache key, described by `artifact.json`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// File name of an artifact's manifest. It is written last: an artifact without it does not exist.
pub const ARTIFACT_MANIFEST: &str = "artifact.json";

/// What an artifact holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// `tokenizer.json` and its statistics.
    Tokenizer,
    /// Packed token shards: `train.bin/.idx`, `validation.bin/.idx`, `corpus.json`.
    Corpus,
    /// A model in the Hugging Face DeepSeek-V3 layout, with the trainer's state beside it.
    Checkpoint,
    /// Scores of an evaluation.
    Report,
}

/// The manifest of an artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ArtifactManifest {
    /// Format version, 1.
    pub version: u32,
    /// What the artifact holds.
    pub kind: ArtifactKind,
    /// Name of the phase that made it.
    pub phase: String,
    /// Cache key of the phase (64 hexadecimal digits).
    pub key: String,
    /// Every file but this one, by path relative to the artifact.
    pub files: BTreeMap<String, FileDigest>,
    /// Cache keys of the artifacts that it was made from.
    pub lineage: BTreeMap<ArtifactKind, String>,
    /// Optimizer steps taken, for a checkpoint.
    pub step: Option<u64>,
    /// Statistics of the phase, shown in reports.
    pub statistics: serde_json::Value,
}

/// Size and BLAKE3 digest of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileDigest {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 digest (64 hexadecimal digits).
    pub blake3: String,
}
