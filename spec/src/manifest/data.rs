//! Phases that turn text into tokens.

use crate::quantity::Bytes;
use serde::{Deserialize, Serialize};

/// Train a byte-level BPE tokenizer, or adopt an existing one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tokenizer {
    /// Size of the vocabulary, special tokens included; the model's `vocab_size` by default. Not for use with `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 272, max = 1_048_576))]
    pub vocab_size: Option<u32>,
    /// An existing `tokenizer.json` to use as it is; nothing is trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Text to train on. Required unless `file` is given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub input: Vec<Input>,
    /// At most this much text is read for training, taken evenly from the input by document hash.
    pub sample_bytes: Bytes,
}

impl Default for Tokenizer {
    fn default() -> Self {
        Self {
            vocab_size: None,
            file: None,
            input: Vec::new(),
            sample_bytes: Bytes(64 << 20),
        }
    }
}

/// Where text comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// Name of the source in statistics and metrics; the first path by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Glob patterns of files (`docs/**/*.md`). `~` is the home directory; `${NAME}` and `${NAME:-default}` are environment variables.
    /// Formats by extension: `.jsonl`, `.jsonl.zst`, `.jsonl.gz`, `.parquet`; everything else is one UTF-8 document per file.
    #[schemars(length(min = 1, max = 10_000))]
    pub paths: Vec<String>,
    /// Glob patterns of files to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Field (JSON Lines) or column (Parquet) that holds the text.
    #[serde(default = "text_field")]
    pub text_field: String,
    /// How often each document is used per pass over the corpus; a fraction is decided by the document's hash. 1 uses each document
    /// once, 0.5 half of the documents, 2 each one twice.
    #[serde(default = "one")]
    #[schemars(range(min = 0.0, max = 1000.0))]
    pub weight: f64,
    /// Read at most this much text from this source, chosen by path hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Bytes>,
}

fn text_field() -> String {
    "text".into()
}

fn one() -> f64 {
    1.0
}

/// Turn text into packed token rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Corpus {
    /// Tokens per training row `[T]`; a stored row has one more, so that each position has a target.
    #[schemars(range(min = 2, max = 16_777_216))]
    pub sequence_length: u32,
    /// Text to tokenise.
    #[schemars(length(min = 1, max = 1000))]
    pub input: Vec<Input>,
    /// Fill-in-the-middle.
    #[serde(default)]
    pub fim: Fim,
    /// Share of documents held out for validation, chosen by document hash. With several sources validation measures each of them too.
    #[serde(default = "validation_fraction")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub validation_fraction: f64,
    /// Duplicate removal.
    #[serde(default)]
    pub deduplicate: Deduplicate,
    /// Share of the tokens that merge punctuation with a line break which is split at random, against the token boundary bias (paper, section 4.1).
    #[serde(default = "punctuation_split")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub punctuation_split: f64,
}

fn validation_fraction() -> f64 {
    0.01
}

fn punctuation_split() -> f64 {
    0.1
}

/// Fill-in-the-middle in Prefix-Suffix-Middle order, per document, before packing (paper, section 4.1).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Fim {
    /// Share of documents that are rearranged.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub rate: f64,
}

impl Default for Fim {
    fn default() -> Self {
        Self { rate: 0.1 }
    }
}

/// Duplicate removal, exact and near.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Deduplicate {
    /// Drop documents whose text is byte-equal to an earlier one.
    pub exact: bool,
    /// Drop documents whose estimated Jaccard similarity to an earlier one is at least this; null to keep near duplicates.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub near_threshold: Option<f64>,
}

impl Default for Deduplicate {
    fn default() -> Self {
        Self {
            exact: true,
            near_threshold: Some(0.8),
        }
    }
}
