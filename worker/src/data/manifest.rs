//! `corpus.json`: what the files of a corpus hold.

use super::staging::Recipe;
use super::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// Its name.
const MANIFEST: &str = "corpus.json";

/// The validation rows of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRows {
    /// Name of the source in the corpus's statistics.
    pub name: String,
    /// Rows.
    pub rows: usize,
}

/// Writes it. `validation` are the validation rows of each source, in their order; they are recorded where there are several sources.
pub(super) fn write(
    corpus: &Path,
    recipe: &Recipe,
    vocabulary: &Vocabulary,
    row_tokens: u32,
    train_rows: usize,
    validation: &[SourceRows],
    statistics: &Value,
) -> Result<()> {
    let fim = vocabulary.fim();
    let mut manifest = json!({
        "version": 1,
        "dtype": recipe.token_type.name(),
        "sequence_length": row_tokens - 1,
        "row_tokens": row_tokens,
        "train_rows": train_rows,
        "validation_rows": sum(validation),
        "vocabulary_tokens": vocabulary.size(),
        "begin_token": vocabulary.begin(),
        "end_token": vocabulary.end(),
        "pad_token": vocabulary.pad(),
        "fim_begin_token": fim.map(|fim| fim.begin),
        "fim_hole_token": fim.map(|fim| fim.hole),
        "fim_end_token": fim.map(|fim| fim.end),
        "statistics": statistics,
    });
    if validation.len() > 1 {
        manifest["validation_sources"] = json!(validation);
    }
    let path = corpus.join(MANIFEST);
    let text = serde_json::to_string_pretty(&manifest).expect("a JSON value is serialisable") + "\n";
    std::fs::write(&path, text).map_err(Error::io("write", &path))
}

/// The part of it that is read.
#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    validation_sources: Vec<SourceRows>,
}

/// The validation rows of each source of a corpus that has `rows` of them in all, in their order; empty if the corpus does not tell sources
/// apart.
///
/// # Errors
/// [`Error::Io`], [`Error::Data`] if the file is damaged.
pub fn validation_sources(corpus: &Path, rows: usize) -> Result<Vec<SourceRows>> {
    let path = corpus.join(MANIFEST);
    let damaged = |problem: String| Error::Data {
        place: path.display().to_string(),
        problem,
        cure: "the corpus is damaged: make it again".into(),
    };
    let text = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let sources = manifest.validation_sources;
    if !sources.is_empty() && sum(&sources) != rows {
        return Err(damaged(format!(
            "its sources have {} validation rows, but there are {rows}",
            sum(&sources)
        )));
    }
    Ok(sources)
}

/// Rows of all sources. Saturating, as the numbers may come from a damaged file.
fn sum(sources: &[SourceRows]) -> usize {
    sources.iter().fold(0, |sum, source| sum.saturating_add(source.rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_and_checked() {
        let directory = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(directory.path().join(MANIFEST), text).unwrap();
            validation_sources(directory.path(), 7).map_err(|error| error.to_string())
        };
        assert_eq!(read(r#"{"version": 1, "validation_rows": 7}"#), Ok(vec![]), "of an older version");
        let source = |name: &str, rows| SourceRows { name: name.into(), rows };
        let text = r#"{"validation_sources": [{"name": "b", "rows": 7}, {"name": "a", "rows": 0}]}"#;
        assert_eq!(read(text), Ok(vec![source("b", 7), source("a", 0)]));
        for (text, part) in [
            (r#"{"validation_sources": [{"name": "a", "rows": 6}]}"#, "have 6 validation rows"),
            (r#"{"validation_sources": [{"name": "a", "rows": -1}]}"#, "-1"),
            ("{", "EOF"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(part) && error.contains("corpus.json"), "{error}");
        }
    }
}
