//! What is wrong with a manifest, and where.

use std::fmt;

/// One thing that is wrong, or suspicious, with its place and its cure.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// Line, from 1; 0 if the place is not known.
    pub line: u64,
    /// Column, from 1, in characters; 0 if the place is not known.
    pub column: u64,
    /// Path of the field (`spec.phases[2].pretrain.tokens`); empty for the document.
    pub path: String,
    /// What is wrong, as a sentence without a full stop.
    pub message: String,
    /// What was expected instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// Whether the manifest is refused for it.
    pub severity: Severity,
}

/// Whether a problem refuses the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The manifest is refused.
    Error,
    /// The manifest is accepted; the result may surprise.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Problem {
    /// `3:5: error: spec.sed: unknown field; expected one of ...; did you mean `seed`?`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            column,
            path,
            message,
            expected,
            suggestion,
            severity,
        } = self;
        if *line > 0 {
            write!(formatter, "{line}:{column}: ")?;
        }
        write!(formatter, "{severity}: ")?;
        if !path.is_empty() {
            write!(formatter, "{path}: ")?;
        }
        formatter.write_str(message)?;
        if let Some(expected) = expected {
            write!(formatter, "; expected {expected}")?;
        }
        if let Some(suggestion) = suggestion {
            write!(formatter, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

/// The candidate that `word` probably stands for: the nearest by edit distance, within a third of the word, or one that differs only in
/// case and separators.
#[must_use]
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.chars().count() > 64 {
        return None;
    }
    let folded = fold(word);
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&folded, &fold(candidate));
            (distance, candidate)
        })
        .filter(|&(distance, candidate)| distance <= 1.max(candidate.chars().count() / 3).min(3) && distance < candidate.chars().count())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Lower case without `-` and `_`: `vocab_size` and `vocabSize` are the same word.
fn fold(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}
