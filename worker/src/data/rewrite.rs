//! The second pass of the corpus phase: staged tokens to rows, and their text.

use super::packing::{Packed, Span};
use super::random::{Purpose, Stream};
use super::shard::{ShardWriter, TokenType};
use super::vocabulary::Vocabulary;
use crate::context::PhaseContext;
use crate::error::{Error, Result};
use fathom_spec::record::Progress;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Level at which `zstd` compresses the held-out text, for comparison.
const ZSTD_LEVEL: i32 = 19;

/// The staged tokens of one split, document after document.
pub(super) struct Split {
    path: PathBuf,
    file: BufWriter<File>,
    /// Where each document's tokens are.
    pub(super) documents: Vec<Span>,
    /// Tokens of all documents.
    pub(super) tokens: u64,
}

impl Split {
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            documents: Vec::new(),
            tokens: 0,
        })
    }

    pub(super) fn push(&mut self, stored: &[u8], tokens: u32) -> Result<()> {
        self.file.write_all(stored).map_err(Error::io("write", &self.path))?;
        self.documents.push(Span {
            start: self.tokens,
            tokens,
        });
        self.tokens += u64::from(tokens);
        Ok(())
    }

    /// Makes what was pushed readable.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io("write", &self.path))
    }
}

/// The second pass over a split.
pub(super) struct Rewrite<'a> {
    pub(super) token_type: TokenType,
    pub(super) out: &'a Path,
    pub(super) ctx: &'a dyn PhaseContext,
}

impl Rewrite<'_> {
    /// Writes the rows of a split, group after group, those of a group in an order that the seed decides.
    pub(super) fn write(&self, name: &str, split: &Split, groups: &[Packed], mut text: Option<&mut TextWriter>) -> Result<()> {
        let total: usize = groups.iter().map(Packed::len).sum();
        let mut writer = ShardWriter::create(&self.out.join(name), self.token_type)?;
        let mut stored = Vec::new();
        let mut tokens = Vec::new();
        let rows = groups
            .iter()
            .flat_map(|packed| self.order(packed).into_iter().map(move |row| packed.row(row as usize)));
        for (done, row) in (0_u64..).zip(rows) {
            for span in row {
                stored.resize(span.tokens as usize * self.token_type.bytes(), 0);
                let offset = span.start * self.token_type.bytes() as u64;
                let file = split.file.get_ref();
                file.read_exact_at(&mut stored, offset).map_err(Error::io("read", &split.path))?;
                writer.fragment(&stored)?;
                if let Some(text) = text.as_deref_mut() {
                    tokens.resize(span.tokens as usize, 0);
                    self.token_type.load(&stored, &mut tokens);
                    text.write(&tokens)?;
                }
            }
            writer.end_document();
            if done % 1024 == 0 {
                self.report(done, total as u64)?;
            }
        }
        self.report(total as u64, total as u64)?;
        writer.finish()
    }

    fn order(&self, packed: &Packed) -> Vec<u32> {
        let mut order: Vec<u32> = (0..packed.len() as u32).collect();
        order.sort_by_cached_key(|&row| (Stream::new(self.ctx.seed(), Purpose::RowOrder, u128::from(row)).next(), row));
        order
    }

    fn report(&self, done: u64, rows: u64) -> Result<()> {
        if self.ctx.stop_requested() {
            return Err(Error::Stopped);
        }
        self.ctx.progress(Progress {
            stage: "packing".into(),
            done,
            total: Some(rows),
            unit: "rows".into(),
        });
        Ok(())
    }
}

/// Writes the text that tokens stand for.
pub(super) struct TextWriter<'a> {
    path: PathBuf,
    file: BufWriter<File>,
    vocabulary: &'a Arc<Vocabulary>,
    bytes: u64,
}

impl<'a> TextWriter<'a> {
    pub(super) fn create(path: &Path, vocabulary: &'a Arc<Vocabulary>) -> Result<Self> {
        let file = File::create(path).map_err(Error::io("create", path))?;
        Ok(Self {
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            vocabulary,
            bytes: 0,
        })
    }

    fn write(&mut self, tokens: &[u32]) -> Result<()> {
        for &token in tokens {
            let text = self.vocabulary.text(token);
            self.bytes += text.len() as u64;
            self.file.write_all(text).map_err(Error::io("write", &self.path))?;
        }
        Ok(())
    }

    /// Bytes of text.
    pub(super) fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        Ok(self.bytes)
    }
}

/// Size of a file after `zstd -19`, streamed.
pub(super) fn compressed_bytes(path: &Path, ctx: &dyn PhaseContext) -> Result<u64> {
    let mut file = File::open(path).map_err(Error::io("open", path))?;
    let total = file.metadata().map_err(Error::io("read", path))?.len();
    let mut encoder = zstd::stream::write::Encoder::new(Counter(0), ZSTD_LEVEL).map_err(Error::io("compress", path))?;
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    loop {
        let read = file.read(&mut buffer).map_err(Error::io("read", path))?;
        if read == 0 {
            break;
        }
        encoder.write_all(&buffer[..read]).map_err(Error::io("compress", path))?;
        done += read as u64;
        if ctx.stop_requested() {
            return Err(Error::Stopped);
        }
        ctx.progress(Progress {
            stage: "compressing".into(),
            done,
            total: Some(total),
            unit: "bytes".into(),
        });
    }
    let Counter(bytes) = encoder.finish().map_err(Error::io("compress", path))?;
    Ok(bytes)
}

/// A sink that counts.
struct Counter(u64);

impl Write for Counter {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
