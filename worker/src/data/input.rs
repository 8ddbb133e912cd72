//! Which files an input means: patterns to files, in an order that depends on nothing but their names.

mod pattern;

use crate::error::{Error, Result};
use fathom_spec::manifest::Input;
use pattern::Pattern;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file without a known extension is binary, and left out, if a zero byte is among its first bytes.
const SNIFFED_BYTES: usize = 8 << 10;

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One UTF-8 document.
    Text,
    /// One JSON object per line, compressed or not.
    JsonLines(Compression),
    /// A column of a Parquet file.
    Parquet,
}

/// Compression of JSON Lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    Plain,
    /// Zstandard.
    Zstd,
    /// Gzip.
    Gzip,
}

impl Format {
    /// The format that a file name's extension announces.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().to_ascii_lowercase())
            .unwrap_or_default();
        if name.ends_with(".jsonl") {
            Self::JsonLines(Compression::Plain)
        } else if name.ends_with(".jsonl.zst") {
            Self::JsonLines(Compression::Zstd)
        } else if name.ends_with(".jsonl.gz") {
            Self::JsonLines(Compression::Gzip)
        } else if name.ends_with(".parquet") {
            Self::Parquet
        } else {
            Self::Text
        }
    }
}

/// A file of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its path below the fixed part of the pattern that matched it: the same on every machine.
    pub relative: String,
    /// Index of its input.
    pub source: usize,
    /// How documents lie in it.
    pub format: Format,
    /// Its length on disk.
    pub bytes: u64,
}

/// The files of `inputs`, input by input, each sorted by path. With `max_bytes`, an input's files are in the order of the hashes of
/// their relative paths, and end where the limit is reached. Hidden and binary files are left out.
///
/// # Errors
/// [`Error::Config`] for a malformed pattern or an unset variable, [`Error::Data`] for a pattern without a matching file,
/// [`Error::Io`] for a directory or file that cannot be read.
pub fn expand(inputs: &[Input]) -> Result<Vec<SourceFile>> {
    expand_in(inputs, &|name| std::env::var(name).ok())
}

/// [`expand`] with the environment as an argument.
fn expand_in(inputs: &[Input], environment: &dyn Fn(&str) -> Option<String>) -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for (source, input) in inputs.iter().enumerate() {
        let exclude = input
            .exclude
            .iter()
            .map(|text| Pattern::parse(text, environment))
            .collect::<Result<Vec<_>>>()?;
        // Of a file that several patterns match, the first pattern's relative path counts.
        let mut found: BTreeMap<PathBuf, SourceFile> = BTreeMap::new();
        for text in &input.paths {
            let pattern = Pattern::parse(text, environment)?;
            let mut matched = false;
            for (path, relative) in pattern.files()? {
                if exclude.iter().any(|pattern| pattern.matches(&path)) {
                    continue;
                }
                matched = true;
                if let Entry::Vacant(entry) = found.entry(path) {
                    let path = entry.key().clone();
                    let bytes = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
                    let format = Format::of(&path);
                    entry.insert(SourceFile {
                        path,
                        relative,
                        source,
                        format,
                        bytes,
                    });
                }
            }
            if !matched {
                return Err(no_match(text, &pattern));
            }
        }
        let mut chosen: Vec<SourceFile> = found.into_values().collect();
        if input.max_bytes.is_some() {
            chosen.sort_by_cached_key(|file| (*blake3::hash(file.relative.as_bytes()).as_bytes(), file.path.clone()));
        }
        let limit = input.max_bytes.map_or(u64::MAX, |bytes| bytes.0);
        let before = files.len();
        let mut taken = 0;
        for file in chosen {
            if taken >= limit {
                break;
            }
            if file.format == Format::Text && is_binary(&file.path)? {
                continue;
            }
            taken += file.bytes;
            files.push(file);
        }
        if files.len() == before {
            return Err(Error::Data {
                place: format!("input `{}`", name(input)),
                problem: "it has no text file".into(),
                cure: "name files of text in `paths`; files with zero bytes are binary and left out".into(),
            });
        }
    }
    Ok(files)
}

/// A single path with the same home directory and variables as in patterns.
///
/// # Errors
/// [`Error::Config`] for an unset variable.
pub fn expand_path(text: &str) -> Result<PathBuf> {
    pattern::expand_path(text, &|name| std::env::var(name).ok())
}

/// The names of inputs in statistics, made different by numbers where they are not.
#[must_use]
pub fn names(inputs: &[Input]) -> Vec<String> {
    let mut names: Vec<String> = Vec::with_capacity(inputs.len());
    for input in inputs {
        let base = name(input);
        let mut unique = base.to_owned();
        let mut number = 1;
        while names.contains(&unique) {
            number += 1;
            unique = format!("{base} ({number})");
        }
        names.push(unique);
    }
    names
}

fn name(input: &Input) -> &str {
    input
        .name
        .as_deref()
        .or(input.paths.first().map(String::as_str))
        .unwrap_or("unnamed")
}

fn no_match(text: &str, pattern: &Pattern) -> Error {
    let base = pattern.base();
    let cure = if base.exists() {
        "correct the pattern (`**` crosses directories, `*` does not; hidden files need a pattern with a leading dot)".to_owned()
    } else {
        format!("`{}` does not exist: create it, or correct the path", base.display())
    };
    Error::Data {
        place: format!("pattern `{text}`"),
        problem: "it matches no file".into(),
        cure,
    }
}

fn is_binary(path: &Path) -> Result<bool> {
    let file = std::fs::File::open(path).map_err(Error::io("open", path))?;
    let mut start = Vec::with_capacity(SNIFFED_BYTES);
    file.take(SNIFFED_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(Error::io("read", path))?;
    Ok(start.contains(&0))
}

/// A digest (64 hexadecimal digits) of the content of all files of `inputs` and their order: what a cache key needs to know about
/// them. It reads everything once, at about the speed of the disk (BLAKE3 hashes some gigabytes per second and core), file by file
/// in parallel.
///
/// # Errors
/// As [`expand`].
pub fn fingerprint(inputs: &[Input]) -> Result<String> {
    let files = expand(inputs)?;
    let digests = files
        .par_iter()
        .map(|file| {
            let reader = std::fs::File::open(&file.path).map_err(Error::io("open", &file.path))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(reader).map_err(Error::io("read", &file.path))?;
            Ok(hasher.finalize())
        })
        .collect::<Result<Vec<blake3::Hash>>>()?;
    let mut hasher = blake3::Hasher::new();
    for (file, digest) in files.iter().zip(digests) {
        hasher.update(&(file.source as u64).to_le_bytes());
        hasher.update(&(file.relative.len() as u64).to_le_bytes());
        hasher.update(file.relative.as_bytes());
        hasher.update(digest.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fathom_spec::quantity::Bytes;

    fn input(paths: &[String]) -> Input {
        Input {
            name: None,
            paths: paths.to_vec(),
            exclude: vec![],
            text_field: "text".into(),
            weight: 1.0,
            max_bytes: None,
        }
    }

    fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        directory
    }

    fn relative(files: &[SourceFile]) -> Vec<&str> {
        files.iter().map(|file| file.relative.as_str()).collect()
    }

    #[test]
    fn patterns_select_sorted_text_files() {
        let tree = tree(&[
            ("b/two.md", b"2"),
            ("a/one.md", b"1"),
            ("a/deep/er/three.md", b"3"),
            ("a/code.rs", b"fn"),
            ("a/.hidden.md", b"no"),
            ("a/.git/x.md", b"no"),
            ("a/binary.md", b"\x7fELF\0"),
            ("target/skip.md", b"no"),
        ]);
        let root = tree.path().display().to_string();
        let mut all = input(&[format!("{root}/**/*.{{md,rs}}")]);
        all.exclude = vec![format!("{root}/target/**")];
        assert_eq!(
            relative(&expand(&[all]).unwrap()),
            ["a/code.rs", "a/deep/er/three.md", "a/one.md", "b/two.md"]
        );
        let directory = input(&[format!("{root}/b")]);
        assert_eq!(relative(&expand(&[directory]).unwrap()), ["two.md"]);
        let shallow = input(&[format!("{root}/a/*.md"), format!("{root}/a/one.md")]);
        assert_eq!(relative(&expand(&[shallow]).unwrap()), ["one.md"]);
    }

    #[test]
    fn variables_and_home_are_expanded() {
        let tree = tree(&[("docs/one.md", b"1")]);
        let root = tree.path().display().to_string();
        let environment = |name: &str| match name {
            "HOME" | "DATA" => Some(root.clone()),
            _ => None,
        };
        for path in [
            "~/docs/*.md",
            "${DATA}/docs/*.md",
            "${NONE:-~/docs}/one.md",
            "${NONE:-${DATA}}/docs/*",
        ] {
            let files = expand_in(&[input(&[path.into()])], &environment).unwrap();
            assert_eq!(relative(&files), ["one.md"], "{path}");
        }
        let error = expand_in(&[input(&["${NONE}/x".into()])], &environment).unwrap_err().to_string();
        assert!(error.contains("NONE") && error.contains("${NONE:-"), "{error}");
    }

    #[test]
    fn a_pattern_that_matches_nothing_is_named_with_its_cure() {
        let tree = tree(&[("one.md", b"1"), ("only.bin", b"\0")]);
        let root = tree.path().display().to_string();
        for (path, part) in [
            (format!("{root}/*.txt"), "correct the pattern"),
            (format!("{root}/none/*.txt"), "does not exist"),
            (format!("{root}/[z"), "[z"),
            (format!("{root}/only.bin"), "no text file"),
        ] {
            let error = expand(&[input(std::slice::from_ref(&path))]).unwrap_err().to_string();
            assert!(error.contains(part), "{path}: {error}");
        }
    }

    #[test]
    fn max_bytes_chooses_files_by_hash_whatever_the_directory() {
        let files: Vec<(String, Vec<u8>)> = (0..50).map(|index| (format!("{index:02}.md"), vec![b'x'; 10])).collect();
        let listed: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (name.as_str(), text.as_slice())).collect();
        let choose = || {
            let tree = tree(&listed);
            let mut input = input(&[format!("{}/*.md", tree.path().display())]);
            input.max_bytes = Some(Bytes(95));
            let files = expand(&[input]).unwrap();
            files.iter().map(|file| file.relative.clone()).collect::<Vec<_>>()
        };
        let chosen = choose();
        assert_eq!(chosen.len(), 10);
        assert_ne!(chosen, relative_first(10));
        assert_eq!(chosen, choose());
    }

    fn relative_first(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("{index:02}.md")).collect()
    }

    #[test]
    fn names_are_unique() {
        let unnamed = || input(&["a/*".into()]);
        let named = Input {
            name: Some("a/* (2)".into()),
            ..unnamed()
        };
        assert_eq!(names(&[unnamed(), named, unnamed()]), ["a/*", "a/* (2)", "a/* (3)"]);
    }

    #[test]
    fn the_fingerprint_follows_content_and_names() {
        let digest = |files: &[(&str, &[u8])]| {
            let tree = tree(files);
            fingerprint(&[input(&[format!("{}/*.md", tree.path().display())])]).unwrap()
        };
        let base = digest(&[("a.md", b"one"), ("b.md", b"two")]);
        assert_eq!(base, digest(&[("b.md", b"two"), ("a.md", b"one"), ("c.txt", b"ignored")]));
        assert_ne!(base, digest(&[("a.md", b"one"), ("b.md", b"twO")]));
        assert_ne!(base, digest(&[("a.md", b"one"), ("c.md", b"two")]));
        assert_eq!(base.len(), 64);
    }
}
