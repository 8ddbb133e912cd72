//! What training reads of its inputs beside the rows: whether they fit the model, and the files that its checkpoints carry.

use crate::data::shard::Rows;
use crate::data::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::train::checkpoint::StaticFiles;
use fathom_spec::architecture::Architecture;
use std::fs;
use std::path::Path;

/// Files of a tokenizer artifact that a model directory carries.
const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// Whether the corpus can train this model.
pub fn check(corpus: &Path, rows: &Rows, vocabulary: &Vocabulary, architecture: &Architecture) -> Result<()> {
    let data = |problem: String, cure: &str| {
        Err(Error::Data {
            place: corpus.display().to_string(),
            problem,
            cure: cure.into(),
        })
    };
    if rows.is_empty() {
        return data(
            "there is not one full row of tokens".into(),
            "give the corpus phase more text, or a shorter sequenceLength",
        );
    }
    if vocabulary.size() > architecture.vocab_size {
        let problem = format!(
            "its tokenizer has {} tokens, the model {}",
            vocabulary.size(),
            architecture.vocab_size
        );
        return data(problem, "use a tokenizer with at most as many tokens as the model's vocab_size");
    }
    let length = rows.row_tokens() - 1;
    if length > architecture.max_position_embeddings as usize {
        let problem = format!(
            "rows of {length} tokens, but the model's max_position_embeddings is {}",
            architecture.max_position_embeddings
        );
        return data(problem, "use a shorter sequenceLength");
    }
    if length <= architecture.num_nextn_predict_layers as usize {
        let problem = format!("rows of {length} tokens for MTP depth {}", architecture.num_nextn_predict_layers);
        return data(problem, "use a longer sequenceLength");
    }
    Ok(())
}

/// `config.json` and the tokenizer's files.
pub fn static_files(architecture: &Architecture, tokenizer: &Path, vocabulary: &Vocabulary) -> Result<StaticFiles> {
    let config = architecture.to_config_json(vocabulary.begin(), vocabulary.end(), "float32");
    // A JSON value always has a textual form.
    let mut files = vec![(
        "config.json".to_owned(),
        serde_json::to_vec_pretty(&config).expect("a JSON value serialises"),
    )];
    for name in TOKENIZER_FILES {
        let path = tokenizer.join(name);
        if path.exists() {
            files.push((name.to_owned(), fs::read(&path).map_err(Error::io("read", &path))?));
        }
    }
    Ok(StaticFiles { files })
}
