//! The corpus phase: text to packed rows.
//!
//! Two passes. The first streams documents through parallel workers (hash, signature, tokens) and, in input order, drops duplicates and
//! stages the tokens of the others in a file. The second (`rewrite`) packs: it needs only the documents' lengths, decides the rows, and
//! copies the tokens into their final order. A training row mixes sources; a validation row does not.
//!
//! Memory is a few batches of text, plus, per kept document, about 36 bytes for exact duplicates, about 100 for near ones (at a threshold of
//! 0.8) and 16 for its place; packing takes about 70 per document, after the former are freed.

use super::encode::Encoder;
use super::input;
use super::manifest::{self, SourceRows};
use super::minhash::NearIndex;
use super::packing::{Packed, Span, pack};
use super::rewrite::{Rewrite, Split, TextWriter, compressed_bytes};
use super::staging::{Recipe, Staged};
use super::stream::{Document, Documents, ReadStatistics};
use crate::context::PhaseContext;
use crate::error::{Error, Result};
use fathom_spec::manifest::Corpus;
use fathom_spec::record::{EventKind, Progress};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// A batch ends when it holds this much text or this many documents.
const BATCH_BYTES: usize = 4 << 20;
const BATCH_DOCUMENTS: usize = 8192;
/// Batches that may wait between two stages.
const QUEUED_BATCHES: usize = 2;
/// Directory for temporary files, inside the output; removed at the end and before a start.
const STAGING_DIRECTORY: &str = ".staging";
/// Longest row. Beyond it, best-fit tables would grow without use.
const MAX_SEQUENCE_LENGTH: u32 = 1 << 24;

/// Runs the phase: writes `train.bin/.idx`, `validation.bin/.idx` (source after source, in the order of `input`), `validation.txt` (the text of
/// the validation rows, byte for byte, in the order of the rows) and `corpus.json` into `out`, and returns the statistics.
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
    let train = pack(&staged.train.documents, row_tokens);
    if train.len() == 0 {
        return Err(Error::Data {
            place: "the corpus".into(),
            problem: format!("its {} training tokens do not fill one row of {row_tokens}", staged.train.tokens),
            cure: "add text to `input`, or reduce `sequenceLength`".into(),
        });
    }
    let job = Rewrite {
        token_type: recipe.token_type,
        out,
        ctx,
    };
    job.write("train", &staged.train, std::slice::from_ref(&train), None)?;
    let validation: Vec<Packed> = staged.held_out().map(|documents| pack(documents, row_tokens)).collect();
    let text_path = out.join("validation.txt");
    let mut text = TextWriter::create(&text_path, vocabulary)?;
    job.write("validation", &staged.validation, &validation, Some(&mut text))?;
    let text_bytes = text.finish()?;
    staging.remove()?;
    let compressed = compressed_bytes(&text_path, ctx)?;
    let statistics = statistics(config, &staged, &train, &validation, (text_bytes, compressed));
    warn(&staged, ctx);
    if config.validation_fraction > 0.0 {
        warn_of_unvalidated(&staged, &validation, row_tokens, ctx);
    }
    let sources = input::names(&config.input).into_iter().zip(&validation);
    let sources: Vec<SourceRows> = sources.map(|(name, packed)| SourceRows { name, rows: packed.len() }).collect();
    manifest::write(out, &recipe, vocabulary, row_tokens, train.len(), &sources, &statistics)?;
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

/// What one source contributed.
#[derive(Clone, Default)]
struct SourceCount {
    documents: u64,
    bytes: u64,
    duplicates: u64,
    train_tokens: u64,
    validation_tokens: u64,
    /// Documents of the validation split.
    held_out: usize,
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

impl StagedCorpus {
    /// The documents of the validation split, source by source: they were staged in that order.
    fn held_out(&self) -> impl Iterator<Item = &[Span]> {
        let mut rest = self.validation.documents.as_slice();
        self.sources.iter().map(move |source| {
            let (documents, others) = rest.split_at(source.held_out);
            rest = others;
            documents
        })
    }
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
            split.flush()?;
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
                source.held_out += 1;
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

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn statistics(config: &Corpus, staged: &StagedCorpus, train: &Packed, validation: &[Packed], text: (u64, u64)) -> Value {
    let mut sources = serde_json::Map::new();
    for (name, count) in input::names(&config.input).into_iter().zip(&staged.sources) {
        let SourceCount {
            documents,
            bytes,
            duplicates,
            train_tokens,
            validation_tokens,
            held_out: _,
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
    let validation_rows: usize = validation.iter().map(Packed::len).sum();
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
        "validation_rows": validation_rows,
        "validation_tokens": validation_rows as u64 * row_tokens,
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
        "validation_dropped_tokens": validation.iter().map(|packed| packed.dropped_tokens).sum::<u64>(),
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

/// Says which part of the held-out text is not validated on, as it fills no row.
fn warn_of_unvalidated(staged: &StagedCorpus, validation: &[Packed], row_tokens: u32, ctx: &dyn PhaseContext) {
    let without = validation.iter().filter(|packed| packed.len() == 0).count();
    let message = if without == validation.len() {
        format!(
            "the {} held-out tokens do not fill one row of {row_tokens}: there is nothing to validate on",
            staged.validation.tokens
        )
    } else if without > 0 {
        format!(
            "the held-out tokens of {without} of {} sources do not fill one row of {row_tokens}: these sources are not validated on",
            validation.len()
        )
    } else {
        return;
    };
    ctx.event(EventKind::DataWarning, None, message);
}
