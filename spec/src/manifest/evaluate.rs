//! Phases that use a model: evaluation and serving.

use super::Input;
use serde::{Deserialize, Serialize};

/// Score a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Evaluate {
    /// What is measured.
    #[schemars(length(min = 1, max = 1000))]
    pub tasks: Vec<Task>,
}

/// One measurement: a name and exactly one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Task {
    /// Name of the task in reports, unique in the phase.
    #[schemars(length(min = 1, max = 100))]
    pub name: String,
    /// Compression of text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_byte: Option<BitsPerByte>,
    /// Likelihood of the right choice among several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiple_choice: Option<MultipleChoice>,
    /// Generated answers against references.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generated_answer: Option<GeneratedAnswer>,
    /// Retrieval of a sentence from long contexts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needle: Option<Needle>,
}

/// Bits per UTF-8 byte of text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BitsPerByte {
    /// Text to score.
    #[schemars(length(min = 1, max = 1000))]
    pub input: Vec<Input>,
}

/// Questions with choices, scored by likelihood per byte of each choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MultipleChoice {
    /// Glob patterns of JSON Lines files.
    #[schemars(length(min = 1, max = 10_000))]
    pub paths: Vec<String>,
    /// Field that holds the question.
    #[serde(default = "question_field")]
    pub question_field: String,
    /// Field that holds the list of choices.
    #[serde(default = "choices_field")]
    pub choices_field: String,
    /// Field that holds the index of the right choice, from 0.
    #[serde(default = "answer_field")]
    pub answer_field: String,
    /// Solved examples before each question.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub shots: u32,
}

fn question_field() -> String {
    "question".into()
}

fn choices_field() -> String {
    "choices".into()
}

fn answer_field() -> String {
    "answer".into()
}

/// Questions whose answers are generated greedily and compared with a reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GeneratedAnswer {
    /// Glob patterns of JSON Lines files.
    #[schemars(length(min = 1, max = 10_000))]
    pub paths: Vec<String>,
    /// Field that holds the question.
    #[serde(default = "question_field")]
    pub question_field: String,
    /// Field that holds the reference answer.
    #[serde(default = "answer_field")]
    pub answer_field: String,
    /// Longest answer, in tokens.
    #[serde(default = "max_tokens")]
    #[schemars(range(min = 1, max = 16_777_216))]
    pub max_tokens: u32,
    /// Solved examples before each question.
    #[serde(default)]
    #[schemars(range(max = 100))]
    pub shots: u32,
}

fn max_tokens() -> u32 {
    1024
}

/// A sentence hidden at several depths of contexts of several lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Needle {
    /// Context lengths, in tokens.
    #[schemars(length(min = 1, max = 100))]
    pub lengths: Vec<u32>,
    /// Depths of the sentence, evenly spaced from the start to the end.
    #[serde(default = "depths")]
    #[schemars(range(min = 1, max = 1000))]
    pub depths: u32,
}

fn depths() -> u32 {
    11
}

/// Answer requests with a model, over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Serve {
    /// Port of the server; 0 for any free one.
    pub port: u16,
    /// Longest context, in tokens; the model's `max_position_embeddings` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_sequence_length: Option<u32>,
    /// Requests that are decoded together.
    #[schemars(range(min = 1, max = 65_536))]
    pub max_batch: u32,
    /// Draft a token with the MTP module and verify it in the next pass (paper, section 5.4.3).
    pub speculative: bool,
    /// Replicas of heavily loaded experts (paper, section 3.4).
    pub redundant_experts: u32,
}

impl Default for Serve {
    fn default() -> Self {
        Self {
            port: 8080,
            max_sequence_length: None,
            max_batch: 32,
            speculative: true,
            redundant_experts: 0,
        }
    }
}
