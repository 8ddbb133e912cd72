//! The corpus phase: text to packed rows.
//!
//! Two passes. The first streams documents through parallel workers (hash, signature, tokens) and, in input order, drops duplicates and
//! stages the tokens of the others in a file. The second packs: it needs only the documents' lengths, decides the rows, and
//! copies the tokens into their final order. Memory is a few batches of text, plus, per kept document, about 36 bytes for exact
//! duplicates, about 100 for near ones (at a threshold of 0.8) and 16 for its place; packing takes about 70 per document, after the former
//! are freed.

use super::encode::Encoder;
use super::input;
use super::minhash::NearIndex;
use super::packing::{Packed, Span, pack};
use super::random::{Purpose, Stream};
use super::shard::ShardWriter;
use super::staging::{Recipe, Staged};
use super::stream::{Document, Documents, ReadStatistics};
use super::vocabulary::Vocabulary;
use crate::context::PhaseContext;
use crate::error::{Error, Result};
use fathom_spec::manifest::Corpus;
use fathom_spec::record::{EventKind, Progress};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// A batch ends when it holds this much text or this many documents.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_DOCUMENTS: usize = 8192;
/// Batches that may wait between two stages.
const QUEUED_BATCHES: usize = 2;
/// Directory for temporary files, inside the output; removed at the end and before a start.
const STAGING_DIRECTORY: &str = ".staging";
/// Level at which `zstd` compresses the held-out text, for comparison.
const ZSTD_LEVEL: i32 = 19;
/// Longest row. Beyond it, best-fit tables would grow without use.
const MAX_SEQUENCE_LENGTH: u32 = 1 << 24;

/// Runs the phase: writes `train.bin/.idx`, `validation.bin/.idx`, `validation.txt` (the text of the validation rows, byte for byte, in the
/// order of the rows) and `corpus.json` into `out`, and returns the statistics.
///
/// # Errors
/// [`Error::Config`] for impossible settings, [`Error::Data`] for unusable input or too little of it, [`Error::Io`], disk full
/// included, [`Error::Stopped`].
pub fn run(config: &Corpus, tokenizer_dir: &Path, out: &Path, ctx: &dyn PhaseContext) -> Result<Value> {
    if config.sequence_length == 0 || config.sequence_length > MAX_SEQUENCE_LENGTH {
        return Err(Error::Config {
            problem: format!("corpus.sequenceLength is {}", config.sequence_length),
            cure: format!("set it to a number from 1 to {MAX_SEQUENCE_LENGTH}"),
        });
    }
    let staging = Staging::create(out)?;
    let mut encoder = Encoder::open(tokenizer_dir)?;
    let recipe = Recipe::new(config, ctx.seed(), &mut encoder, tokenizer_dir)?;
    let staged = stage_all(config, &recipe, &encoder, &staging, ctx)?;
    let row_tokens = config.sequence_length + 1;
    let vocabulary = encoder.vocabulary();
    let job = Rewrite {
        recipe: &recipe,
        row_tokens,
        out,
        ctx,
    };
    let train = job.write("train", &staged.train, None)?;
    if train.len() == 0 {
        return Err(Error::Data {
            place: "the corpus".into(),
            problem: format!("its {} training tokens do not fill one row of {row_tokens}", staged.train.tokens),
            cure: "add text to `input`, or reduce `sequenceLength`".into(),
        });
    }
    let text_path = out.join("validation.txt");
    let mut text = TextWriter::create(&text_path, vocabulary)?;
    let validation = job.write("validation", &staged.validation, Some(&mut text))?;
    let text_bytes = text.finish()?;
    if validation.len() == 0 && config.validation_fraction > 0.0 {
        let message = format!(
            "the {} held-out tokens do not fill one row of {row_tokens}: there is nothing to validate on",
            staged.validation.tokens
        );
        ctx.event(EventKind::DataWarning, None, message);
    }
    staging.remove()?;
    let compressed = compressed_bytes(&text_path, ctx)?;
    let statistics = statistics(config, &staged, &train, &validation, (text_bytes, compressed));
    warn(&staged, ctx);
    write_manifest(
        &out.join("corpus.json"),
        &recipe,
        vocabulary,
        row_tokens,
        (&train, &validation),
        &statistics,
    )?;
    Ok(statistics)
}

/// A pool of `threads` threads.
pub(crate) fn thread_pool(threads: usize) -> Result<rayon::ThreadPool> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
    pool.map_err(|error| Error::Config {
        problem: format!("{threads} threads cannot be started ({error})"),
        cure: "use fewer threads, or raise the limit of processes".into(),
    })
}

/// The directory of temporary files.
struct Staging {
    path: PathBuf,
}

impl Staging {
    /// Creates it, empty: what an earlier attempt left is removed.
    fn create(out: &Path) -> Result<Self> {
        let path = out.join(STAGING_DIRECTORY);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(Error::io("remove", &path))?;
        }
        std::fs::create_dir_all(&path).map_err(Error::io("create", &path))?;
        Ok(Self { path })
    }

    fn remove(self) -> Result<()> {
        std::fs::remove_dir_all(&self.path).map_err(Error::io("remove", &self.path))
    }
}

/// The tokens of one split, document after document.
struct Split {
    path: PathBuf,
    file: BufWriter<File>,
    documents: Vec<Span>,
    tokens: u64,
}

impl Split {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        Ok(Self {
            path,
            file: BufWriter::with_capacity(1 << 20, file),
            documents: Vec::new(),
            tokens: 0,
        })
    }

    fn push(&mut self, stored: &[u8], tokens: u32) -> Result<()> {
        self.file.write_all(stored).map_err(Error::io("write", &self.path))?;
        self.documents.push(Span {
            start: self.tokens,
            tokens,
        });
        self.tokens += u64::from(tokens);
        Ok(())
    }
}

/// What one source contributed.
#[derive(Clone, Default)]
struct SourceCount {
    documents: u64,
    bytes: u64,
    duplicates: u64,
    train_tokens: u64,
    validation_tokens: u64,
}

/// The first pass's result.
struct StagedCorpus {
    train: Split,
    validation: Split,
    sources: Vec<SourceCount>,
    exact_duplicates: u64,
    near_duplicates: u64,
    invalid_utf8_documents: u64,
    train_copies: u64,
    fim_copies: u64,
    mergers: u64,
    split_mergers: u64,
    read: ReadStatistics,
}

/// Reads, stages and stores all documents: a thread that reads, the pool that computes, a thread that decides and writes.
fn stage_all(config: &Corpus, recipe: &Recipe, encoder: &Encoder, staging: &Staging, ctx: &dyn PhaseContext) -> Result<StagedCorpus> {
    let files = input::expand(&config.input)?;
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    let documents = Documents::new(files, &config.input);
    let consumed = documents.consumed();
    let pool = thread_pool(ctx.threads())?;
    // One encoder per thread of the pool: a lock is never waited for.
    let encoders: Vec<Mutex<Encoder>> = (0..ctx.threads().max(1)).map(|_| Mutex::new(encoder.clone())).collect();
    let store = Store::create(config, staging)?;
    std::thread::scope(|scope| {
        let (batches, incoming) = sync_channel(QUEUED_BATCHES);
        let (finished, outgoing) = sync_channel(QUEUED_BATCHES);
        let reader = scope.spawn(move || read_batches(documents, &batches));
        let writer = scope.spawn(move || store.receive(&outgoing));
        let computed = (|| {
            for batch in incoming {
                if ctx.stop_requested() {
                    return Err(Error::Stopped);
                }
                let batch: Vec<Document> = batch?;
                let staged = pool.install(|| {
                    let one = |document: Document| {
                        let encoder = &encoders[rayon::current_thread_index().unwrap_or(0)];
                        recipe.stage(&mut encoder.lock().unwrap_or_else(PoisonError::into_inner), &document)
                    };
                    batch.into_par_iter().map(one).collect::<Result<Vec<Staged>>>()
                })?;
                // The writer hangs up only after an error of its own, which is returned below.
                if finished.send(staged).is_err() {
                    break;
                }
                ctx.progress(Progress {
                    stage: "tokenising".into(),
                    done: consumed.load(Ordering::Relaxed).min(total),
                    total: Some(total),
                    unit: "bytes".into(),
                });
            }
            Ok(())
        })();
        drop(finished);
        let stored = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        computed?;
        let mut stored = stored?;
        stored.read = read;
        Ok(stored)
    })
}

/// Sends documents in batches until the end, the first error, or the receiver's hanging up.
fn read_batches(mut documents: Documents, batches: &SyncSender<Result<Vec<Document>>>) -> ReadStatistics {
    let mut batch = Vec::new();
    let mut bytes = 0;
    loop {
        let document = documents.next();
        let is_end = document.is_none();
        match document {
            Some(Ok(document)) => {
                bytes += document.text.len();
                batch.push(document);
            }
            Some(Err(error)) => {
                // A receiver that has hung up has an error of its own.
                let _ = batches.send(Err(error));
                break;
            }
            None => {}
        }
        if (is_end && !batch.is_empty()) || bytes >= BATCH_BYTES || batch.len() >= BATCH_DOCUMENTS {
            bytes = 0;
            if batches.send(Ok(std::mem::take(&mut batch))).is_err() {
                break;
            }
        }
        if is_end {
            break;
        }
    }
    documents.statistics()
}

/// The sequential part of the first pass: duplicates are decided in input order.
struct Store {
    corpus: StagedCorpus,
    seen: Option<HashSet<u128>>,
    near: Option<NearIndex>,
}

impl Store {
    fn create(config: &Corpus, staging: &Staging) -> Result<Self> {
        let near = config.deduplicate.near_threshold;
        let near = near
            .map(|threshold| NearIndex::create(&staging.path.join("signatures"), threshold))
            .transpose()?;
        Ok(Self {
            corpus: StagedCorpus {
                train: Split::create(staging.path.join("train.tokens"))?,
                validation: Split::create(staging.path.join("validation.tokens"))?,
                sources: vec![SourceCount::default(); config.input.len()],
                exact_duplicates: 0,
                near_duplicates: 0,
                invalid_utf8_documents: 0,
                train_copies: 0,
                fim_copies: 0,
                mergers: 0,
                split_mergers: 0,
                read: ReadStatistics::default(),
            },
            seen: config.deduplicate.exact.then(HashSet::new),
            near,
        })
    }

    fn receive(mut self, batches: &Receiver<Vec<Staged>>) -> Result<StagedCorpus> {
        for batch in batches {
            for document in &batch {
                self.push(document)?;
            }
        }
        let mut corpus = self.corpus;
        for split in [&mut corpus.train, &mut corpus.validation] {
            split.file.flush().map_err(Error::io("write", &split.path))?;
        }
        Ok(corpus)
    }

    fn push(&mut self, document: &Staged) -> Result<()> {
        let corpus = &mut self.corpus;
        let source = &mut corpus.sources[document.source];
        source.documents += 1;
        source.bytes += document.bytes;
        corpus.invalid_utf8_documents += u64::from(document.repaired);
        if self.seen.as_mut().is_some_and(|seen| !seen.insert(document.hash)) {
            corpus.exact_duplicates += 1;
            source.duplicates += 1;
            return Ok(());
        }
        if let (Some(near), Some(signature)) = (&mut self.near, &document.signature)
            && near.is_duplicate(signature)?
        {
            corpus.near_duplicates += 1;
            source.duplicates += 1;
            return Ok(());
        }
        for copy in &document.copies {
            if document.held_out {
                corpus.validation.push(&copy.stored, copy.tokens)?;
                source.validation_tokens += u64::from(copy.tokens);
                continue;
            }
            corpus.train.push(&copy.stored, copy.tokens)?;
            source.train_tokens += u64::from(copy.tokens);
            corpus.train_copies += 1;
            corpus.fim_copies += u64::from(copy.fim);
            corpus.mergers += copy.mergers;
            corpus.split_mergers += copy.split;
        }
        Ok(())
    }
}

/// The second pass over one split.
struct Rewrite<'a> {
    recipe: &'a Recipe,
    row_tokens: u32,
    out: &'a Path,
    ctx: &'a dyn PhaseContext,
}

impl Rewrite<'_> {
    /// Packs a split and writes its rows in an order that the seed decides.
    fn write(&self, name: &str, split: &Split, mut text: Option<&mut TextWriter>) -> Result<Packed> {
        let packed = pack(&split.documents, self.row_tokens);
        let mut order: Vec<u32> = (0..packed.len() as u32).collect();
        order.sort_by_cached_key(|&row| (Stream::new(self.ctx.seed(), Purpose::RowOrder, u128::from(row)).next(), row));
        let token_type = self.recipe.token_type;
        let mut writer = ShardWriter::create(&self.out.join(name), token_type)?;
        let mut stored = Vec::new();
        let mut tokens = Vec::new();
        for (done, &row) in (0_u64..).zip(&order) {
            for span in packed.row(row as usize) {
                stored.resize(span.tokens as usize * token_type.bytes(), 0);
                let offset = span.start * token_type.bytes() as u64;
                let file = split.file.get_ref();
                file.read_exact_at(&mut stored, offset).map_err(Error::io("read", &split.path))?;
                writer.fragment(&stored)?;
                if let Some(text) = text.as_deref_mut() {
                    tokens.resize(span.tokens as usize, 0);
                    token_type.load(&stored, &mut tokens);
                    text.write(&tokens)?;
                }
            }
            writer.end_document();
            if done % 1024 == 0 {
                self.report(done, order.len() as u64)?;
            }
        }
        self.report(order.len() as u64, order.len() as u64)?;
        writer.finish()?;
        Ok(packed)
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
struct TextWriter<'a> {
    path: PathBuf,
    file: BufWriter<File>,
    vocabulary: &'a Arc<Vocabulary>,
    bytes: u64,
}

impl<'a> TextWriter<'a> {
    fn create(path: &Path, vocabulary: &'a Arc<Vocabulary>) -> Result<Self> {
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

    fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(Error::io("write", &self.path))?;
        Ok(self.bytes)
    }
}

/// Size of a file after `zstd -19`, streamed.
fn compressed_bytes(path: &Path, ctx: &dyn PhaseContext) -> Result<u64> {
    use std::io::Read;
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

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn statistics(config: &Corpus, staged: &StagedCorpus, train: &Packed, validation: &Packed, text: (u64, u64)) -> Value {
    let mut sources = serde_json::Map::new();
    for (name, count) in input::names(&config.input).into_iter().zip(&staged.sources) {
        let SourceCount {
            documents,
            bytes,
            duplicates,
            train_tokens,
            validation_tokens,
        } = *count;
        let entry = json!({
            "documents": documents,
            "text_bytes": bytes,
            "duplicates": duplicates,
            "train_tokens": train_tokens,
            "validation_tokens": validation_tokens,
            "train_share": share(train_tokens, staged.train.tokens),
        });
        sources.insert(name, entry);
    }
    let total = |field: fn(&SourceCount) -> u64| staged.sources.iter().map(field).sum::<u64>();
    let row_tokens = u64::from(config.sequence_length) + 1;
    let (text_bytes, compressed_bytes) = text;
    json!({
        "documents": total(|source| source.documents),
        "text_bytes": total(|source| source.bytes),
        "empty_documents": staged.read.empty,
        "divided_documents": staged.read.divided,
        "skipped_lines": staged.read.oversized_lines,
        "invalid_utf8_documents": staged.invalid_utf8_documents,
        "exact_duplicates": staged.exact_duplicates,
        "near_duplicates": staged.near_duplicates,
        "train_documents": staged.train.documents.len(),
        "train_rows": train.len(),
        "train_tokens": train.len() as u64 * row_tokens,
        "validation_documents": staged.validation.documents.len(),
        "validation_rows": validation.len(),
        "validation_tokens": validation.len() as u64 * row_tokens,
        "validation_text_bytes": text_bytes,
        "validation_zstd_19_bytes": compressed_bytes,
        "validation_zstd_19_bits_per_byte": (text_bytes > 0).then(|| compressed_bytes as f64 * 8.0 / text_bytes as f64),
        "fim_documents": staged.fim_copies,
        "fim_share": share(staged.fim_copies, staged.train_copies),
        "punctuation_tokens": staged.mergers,
        "punctuation_tokens_split": staged.split_mergers,
        "packing_efficiency": train.efficiency,
        "documents_split": train.split_documents,
        "documents_longer_than_row": staged.train.documents.iter().filter(|span| u64::from(span.tokens) > row_tokens).count(),
        "dropped_tokens": train.dropped_tokens,
        "validation_dropped_tokens": validation.dropped_tokens,
        "sources": sources,
    })
}

fn warn(staged: &StagedCorpus, ctx: &dyn PhaseContext) {
    for (count, what) in [
        (
            staged.invalid_utf8_documents,
            "documents had bytes that are no UTF-8; they were replaced",
        ),
        (staged.read.empty, "documents were empty; they were left out"),
        (
            staged.read.oversized_lines,
            "JSON lines were longer than 32 MiB; they were left out",
        ),
        (staged.read.divided, "documents were longer than 4 MiB; each was cut into several"),
    ] {
        if count > 0 {
            ctx.event(EventKind::DataWarning, None, format!("{count} {what}"));
        }
    }
}

fn write_manifest(
    path: &Path,
    recipe: &Recipe,
    vocabulary: &Vocabulary,
    row_tokens: u32,
    (train, validation): (&Packed, &Packed),
    statistics: &Value,
) -> Result<()> {
    let fim = vocabulary.fim();
    let manifest = json!({
        "version": 1,
        "dtype": recipe.token_type.name(),
        "sequence_length": row_tokens - 1,
        "row_tokens": row_tokens,
        "train_rows": train.len(),
        "validation_rows": validation.len(),
        "vocabulary_tokens": vocabulary.size(),
        "begin_token": vocabulary.begin(),
        "end_token": vocabulary.end(),
        "pad_token": vocabulary.pad(),
        "fim_begin_token": fim.map(|fim| fim.begin),
        "fim_hole_token": fim.map(|fim| fim.hole),
        "fim_end_token": fim.map(|fim| fim.end),
        "statistics": statistics,
    });
    let text = serde_json::to_string_pretty(&manifest).expect("a JSON value is serialisable") + "\n";
    std::fs::write(path, text).map_err(Error::io("write", path))
}
