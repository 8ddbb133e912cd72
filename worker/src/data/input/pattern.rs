//! Glob patterns with a home directory and environment variables.

use crate::error::{Error, Result};
use globset::{GlobBuilder, GlobMatcher};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Deepest nesting of defaults in `${A:-${B:-...}}`.
const MAX_NESTING: u32 = 8;

/// A pattern: a directory or file that exists as written, and a glob below it.
pub(super) struct Pattern {
    base: PathBuf,
    matcher: Option<GlobMatcher>,
    /// Whether the glob names hidden files.
    hidden: bool,
}

impl Pattern {
    pub(super) fn parse(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let expanded = expand_variables(text, text, environment, MAX_NESTING)?;
        let parts: Vec<&str> = expanded.split('/').collect();
        let fixed = parts.iter().take_while(|part| !part.contains(['*', '?', '[', '{'])).count();
        if fixed == parts.len() {
            return Ok(Self {
                base: expanded.into(),
                matcher: None,
                hidden: false,
            });
        }
        let base = match parts[..fixed].join("/") {
            base if base.is_empty() && expanded.starts_with('/') => "/".into(),
            base if base.is_empty() => ".".into(),
            base => base,
        };
        let below = parts[fixed..].join("/");
        let glob = GlobBuilder::new(&below)
            .literal_separator(true)
            .build()
            .map_err(|error| Error::Config {
                problem: format!("the pattern `{text}` is malformed ({})", error.kind()),
                cure: "correct it; `[` and `{` are written `\\[` and `\\{` where they are meant literally".into(),
            })?;
        Ok(Self {
            base: base.into(),
            hidden: parts[fixed..].iter().any(|part| part.starts_with('.')),
            matcher: Some(glob.compile_matcher()),
        })
    }

    /// The part without wildcards.
    pub(super) fn base(&self) -> &Path {
        &self.base
    }

    pub(super) fn matches(&self, path: &Path) -> bool {
        match (&self.matcher, path.strip_prefix(&self.base)) {
            (_, Err(_)) => false,
            (None, Ok(_)) => true,
            (Some(matcher), Ok(below)) => matcher.is_match(below),
        }
    }

    /// Every matching file with its path below the base; of a base that is a file, itself with its name. Symbolic links are
    /// followed, loops are not.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, String)>> {
        if !self.base.exists() {
            return Ok(Vec::new());
        }
        if self.base.is_file() {
            let name = self.base.file_name().map(|name| name.to_string_lossy().into_owned());
            return Ok(vec![(self.base.clone(), name.unwrap_or_default())]);
        }
        let mut files = Vec::new();
        let walk = WalkDir::new(&self.base).follow_links(true).sort_by_file_name();
        let visible = walk
            .into_iter()
            .filter_entry(|entry| entry.depth() == 0 || self.hidden || !entry.file_name().to_string_lossy().starts_with('.'));
        for entry in visible {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) if error.loop_ancestor().is_some() => continue,
                Err(error) => {
                    let path = error.path().unwrap_or(&self.base).to_path_buf();
                    // A link to nothing is no file.
                    if path.is_symlink() {
                        continue;
                    }
                    return Err(Error::io("list", &path)(error.into()));
                }
            };
            let below = entry.path().strip_prefix(&self.base).unwrap_or(entry.path());
            let matches = self.matcher.as_ref().is_none_or(|matcher| matcher.is_match(below));
            if entry.file_type().is_file() && matches {
                let relative = below.to_string_lossy().into_owned();
                files.push((entry.into_path(), relative));
            }
        }
        Ok(files)
    }
}

/// A path, with no wildcards in it.
pub(super) fn expand_path(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf> {
    expand_variables(text, text, environment, MAX_NESTING).map(PathBuf::from)
}

/// `~` at the start, `${NAME}` and `${NAME:-default}`.
fn expand_variables(text: &str, whole: &str, environment: &dyn Fn(&str) -> Option<String>, nesting: u32) -> Result<String> {
    let malformed = |problem: &str| Error::Config {
        problem: format!("the path `{whole}` {problem}"),
        cure: "write `${NAME}` or `${NAME:-default}`".into(),
    };
    if nesting == 0 {
        return Err(malformed("nests variables too deeply"));
    }
    let mut expanded = String::new();
    let mut rest = text;
    if text == "~" || text.starts_with("~/") {
        expanded = environment("HOME").ok_or_else(|| Error::Config {
            problem: format!("the path `{whole}` needs the home directory, and the variable HOME is not set"),
            cure: "set HOME, or write the path in full".into(),
        })?;
        rest = &text[1..];
    }
    while let Some(start) = rest.find("${") {
        expanded.push_str(&rest[..start]);
        let body = &rest[start + 2..];
        let end = closing_brace(body).ok_or_else(|| malformed("has a `${` without its `}`"))?;
        let (name, default) = match body[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&body[..end], None),
        };
        if name.is_empty() || !name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()) {
            return Err(malformed("has a malformed variable name"));
        }
        match (environment(name).filter(|value| !value.is_empty()), default) {
            (Some(value), _) => expanded.push_str(&value),
            (None, Some(default)) => expanded.push_str(&expand_variables(default, whole, environment, nesting - 1)?),
            (None, None) => {
                return Err(Error::Config {
                    problem: format!("the path `{whole}` needs the environment variable {name}, which is not set"),
                    cure: format!("set {name}, or write `${{{name}:-default}}`"),
                });
            }
        }
        rest = &body[end + 1..];
    }
    expanded.push_str(rest);
    Ok(expanded)
}

/// Index of the brace that closes a `${`, inner ones skipped.
fn closing_brace(body: &str) -> Option<usize> {
    let mut open = 0;
    for (index, byte) in body.bytes().enumerate() {
        match byte {
            b'}' if open == 0 => return Some(index),
            b'}' => open -= 1,
            b'{' => open += 1,
            _ => {}
        }
    }
    None
}
