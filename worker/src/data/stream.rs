//! Files to documents, one at a time and in order.

mod lines;
mod parquet;

use super::input::{Compression, Format, SourceFile};
use crate::error::{Error, Result};
use fathom_spec::manifest::Input;
use lines::JsonLines;
use parquet::ParquetColumn;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longer documents are cut, at a line break where there is one, and their parts are documents of their own. It bounds memory, and
/// is a thousand rows of the paper's sequence length.
pub const MAX_DOCUMENT_BYTES: usize = 4 << 20;

/// A document of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Index of its input.
    pub source: usize,
    /// Its text, never empty.
    pub text: String,
    /// Whether bytes that were no UTF-8 were replaced by U+FFFD.
    pub repaired: bool,
}

/// What was met while reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStatistics {
    /// Documents without text (empty files, empty or null fields).
    pub empty: u64,
    /// Documents above [`MAX_DOCUMENT_BYTES`], which were cut.
    pub divided: u64,
    /// JSON lines above 32 MiB, which were skipped.
    pub oversized_lines: u64,
}

/// The documents of files, in the order of the files. Ends after the first error.
pub struct Documents {
    files: std::vec::IntoIter<SourceFile>,
    options: Vec<Options>,
    current: Option<(usize, Reader)>,
    pending: VecDeque<Document>,
    statistics: ReadStatistics,
    /// Bytes of files consumed so far, shared with whoever shows progress.
    consumed: Arc<AtomicU64>,
    failed: bool,
}

struct Options {
    text_field: String,
    /// Text that may still be read.
    remaining: u64,
}

enum Reader {
    Text {
        file: BufReader<Counted>,
        path: SourceFile,
        rest: Vec<u8>,
        first: bool,
    },
    JsonLines(Box<JsonLines>),
    Parquet(Box<ParquetColumn>),
}

impl Documents {
    /// The documents of `files`, which are those of `inputs`.
    #[must_use]
    pub fn new(files: Vec<SourceFile>, inputs: &[Input]) -> Self {
        Self {
            files: files.into_iter(),
            options: inputs
                .iter()
                .map(|input| Options {
                    text_field: input.text_field.clone(),
                    remaining: input.max_bytes.map_or(u64::MAX, |bytes| bytes.0),
                })
                .collect(),
            current: None,
            pending: VecDeque::new(),
            statistics: ReadStatistics::default(),
            consumed: Arc::default(),
            failed: false,
        }
    }

    /// What was met so far.
    #[must_use]
    pub fn statistics(&self) -> ReadStatistics {
        self.statistics
    }

    /// A counter of the bytes on disk that were consumed.
    #[must_use]
    pub fn consumed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    fn open(&self, file: SourceFile) -> Result<(usize, Reader)> {
        let source = file.source;
        let field = &self.options[source].text_field;
        let open = || -> Result<Counted> {
            let inner = File::open(&file.path).map_err(Error::io("open", &file.path))?;
            Ok(Counted {
                inner,
                consumed: Arc::clone(&self.consumed),
            })
        };
        let reader = match file.format {
            Format::Text => Reader::Text {
                file: BufReader::with_capacity(1 << 16, open()?),
                path: file,
                rest: Vec::new(),
                first: true,
            },
            Format::JsonLines(compression) => {
                let raw = open()?;
                let reader: Box<dyn Read + Send> = match compression {
                    Compression::Plain => Box::new(raw),
                    Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(raw)),
                    Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(raw).map_err(Error::io("open", &file.path))?),
                };
                Reader::JsonLines(Box::new(JsonLines::new(
                    reader,
                    &file.path,
                    field,
                    compression != Compression::Plain,
                )))
            }
            Format::Parquet => Reader::Parquet(Box::new(ParquetColumn::open(&file, field, Arc::clone(&self.consumed))?)),
        };
        Ok((source, reader))
    }

    /// Reads on until a document is pending; false at the end of the files.
    fn advance(&mut self) -> Result<bool> {
        while self.pending.is_empty() {
            let Some((source, reader)) = &mut self.current else {
                let Some(file) = self.files.next() else { return Ok(false) };
                if self.options[file.source].remaining > 0 {
                    self.current = Some(self.open(file)?);
                }
                continue;
            };
            let source = *source;
            let text = match reader {
                Reader::Text { file, path, rest, first } => next_part(file, path, rest, first, &mut self.statistics)?,
                Reader::JsonLines(lines) => lines.next(&mut self.statistics)?,
                Reader::Parquet(column) => column.next()?,
            };
            match text {
                None => self.current = None,
                Some(text) if text.is_empty() => self.statistics.empty += 1,
                Some(text) => self.push(source, text),
            }
        }
        Ok(true)
    }

    /// Makes documents of a text. A source's `max_bytes` ends after the document that reaches it.
    fn push(&mut self, source: usize, text: Vec<u8>) {
        self.statistics.divided += u64::from(text.len() > MAX_DOCUMENT_BYTES);
        let remaining = &mut self.options[source].remaining;
        let mut rest = text;
        while !rest.is_empty() && *remaining > 0 {
            let after = rest.split_off(cut(&rest));
            *remaining = remaining.saturating_sub(rest.len() as u64);
            let (text, repaired) = match String::from_utf8(rest) {
                Ok(text) => (text, false),
                Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), true),
            };
            self.pending.push_back(Document { source, text, repaired });
            rest = after;
        }
        if *remaining == 0 {
            self.current = None;
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Document>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.advance() {
            Ok(true) => self.pending.pop_front().map(Ok),
            Ok(false) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// The next part of a text file: all of it, or as much as a document may hold. A byte order mark is no text.
fn next_part(
    file: &mut BufReader<Counted>,
    path: &SourceFile,
    rest: &mut Vec<u8>,
    first: &mut bool,
    statistics: &mut ReadStatistics,
) -> Result<Option<Vec<u8>>> {
    let wanted = (MAX_DOCUMENT_BYTES + 1).saturating_sub(rest.len()) as u64;
    let mut text = std::mem::take(rest);
    file.by_ref()
        .take(wanted)
        .read_to_end(&mut text)
        .map_err(Error::io("read", &path.path))?;
    if std::mem::take(first) {
        if text.starts_with(b"\xEF\xBB\xBF") {
            text.drain(..3);
        }
        statistics.divided += u64::from(text.len() > MAX_DOCUMENT_BYTES);
    } else if text.is_empty() {
        return Ok(None);
    }
    *rest = text.split_off(cut(&text));
    Ok(Some(text))
}

/// Length of the first document of a text: the whole text if it is short enough, else up to the last line break in the second half
/// of what a document may hold, else up to a character's end.
fn cut(text: &[u8]) -> usize {
    if text.len() <= MAX_DOCUMENT_BYTES {
        return text.len();
    }
    let window = &text[..MAX_DOCUMENT_BYTES];
    let half = MAX_DOCUMENT_BYTES / 2;
    if let Some(at) = window[half..].iter().rposition(|&byte| byte == b'\n') {
        return half + at + 1;
    }
    // A character has at most three continuation bytes; more of them are no UTF-8 anyway.
    let tail = (0..4).find(|&back| text[MAX_DOCUMENT_BYTES - back] & 0xC0 != 0x80);
    MAX_DOCUMENT_BYTES - tail.unwrap_or(0)
}

/// A file that counts the bytes read from it.
pub(super) struct Counted {
    inner: File,
    consumed: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.consumed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
