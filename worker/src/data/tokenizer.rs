//! The tokenizer phase: trains a byte-level BPE tokenizer, or adopts one.

use super::encode::Encoder;
use super::input::{self, Compression, Format, SourceFile};
use super::pretokenize::{classes, definition, piece_end};
use super::random::{Purpose, Stream, document_hash};
use super::stream::{Document, Documents, ReadStatistics};
use super::vocabulary::{SPECIAL_TOKENS, TOKENIZER_FILE, TokenizerJson, Vocabulary, byte_characters};
use crate::context::PhaseContext;
use crate::error::{Error, Result};
use fathom_spec::manifest::{Input, Tokenizer};
use fathom_spec::record::{EventKind, Progress};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::{AddedToken, Trainer};

/// Share of documents that are held back from training, to measure fertility on.
const HELD_BACK: f64 = 0.02;
/// Held-back text of one source at most; it is kept in memory.
const HELD_BACK_BYTES: usize = 4 << 20;
/// Pairs are counted in 32 bits; above this much text they might overflow.
const MAX_SAMPLE_BYTES: u64 = 4 << 30;
/// Pairs that occur less often are not merged.
const MIN_FREQUENCY: u64 = 2;
/// Bytes between two reports of progress.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Runs the phase: writes `tokenizer.json` and `tokenizer_config.json` into `out` and returns the statistics.
///
/// # Errors
/// [`Error::Config`] for an impossible vocabulary size, [`Error::Data`] and [`Error::Io`] for unusable input, [`Error::Stopped`].
pub fn run(config: &Tokenizer, out: &Path, ctx: &dyn PhaseContext) -> Result<Value> {
    std::fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let sample = Sample::new(config, ctx);
    match &config.file {
        Some(file) => adopt(config, &input::expand_path(file)?, out)?,
        None => train(config, &sample, out, ctx)?,
    }
    let mut encoder = Encoder::open(out)?;
    let vocabulary = Arc::clone(encoder.vocabulary());
    if config.file.is_some() {
        // Nothing is trained: the input, if any, is only read for the held-back sample.
        sample.documents(config)?.for_each(drop);
        sample.check()?;
    }
    write_json(&out.join("tokenizer_config.json"), &tokenizer_config(&vocabulary))?;
    sample.statistics(config, &mut encoder, ctx)
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value is serialisable");
    text.push('\n');
    std::fs::write(path, text).map_err(Error::io("write", path))
}

/// What `transformers` reads beside `tokenizer.json`.
fn tokenizer_config(vocabulary: &Vocabulary) -> Value {
    let name = |token: u32| String::from_utf8_lossy(vocabulary.spelling(token)).into_owned();
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": name(vocabulary.begin()),
        "eos_token": name(vocabulary.end()),
        "pad_token": name(vocabulary.pad().unwrap_or(vocabulary.end())),
        "clean_up_tokenization_spaces": false,
    })
}

fn adopt(config: &Tokenizer, file: &Path, out: &Path) -> Result<()> {
    let json = TokenizerJson::read(file)?;
    let size = Vocabulary::new(&json, file)?.size();
    json.merges(file)?;
    if let Some(wanted) = config.vocab_size.filter(|&wanted| wanted != size) {
        return Err(Error::Config {
            problem: format!("tokenizer.vocabSize is {wanted}, and {} has {size} tokens", file.display()),
            cure: format!("leave vocabSize out, or set it to {size}"),
        });
    }
    let target = out.join(TOKENIZER_FILE);
    std::fs::copy(file, &target).map_err(Error::io("write", &target))?;
    Ok(())
}

fn train(config: &Tokenizer, sample: &Sample, out: &Path, ctx: &dyn PhaseContext) -> Result<()> {
    let smallest = SPECIAL_TOKENS.len() as u32 + 256;
    let wanted = config.vocab_size.unwrap_or(0);
    if wanted < smallest {
        return Err(Error::Config {
            problem: format!("tokenizer.vocabSize is {wanted}"),
            cure: format!(
                "set it to at least {smallest} ({} special tokens and 256 bytes)",
                SPECIAL_TOKENS.len()
            ),
        });
    }
    if config.sample_bytes.0 > MAX_SAMPLE_BYTES {
        return Err(Error::Config {
            problem: format!("tokenizer.sampleBytes is {}", config.sample_bytes.0),
            cure: format!("set it to at most {MAX_SAMPLE_BYTES}; more text hardly changes a vocabulary"),
        });
    }
    let special: Vec<AddedToken> = SPECIAL_TOKENS.iter().map(|&name| AddedToken::from(name, true)).collect();
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(wanted as usize)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(special.clone())
        .initial_alphabet(byte_characters().into_iter().collect())
        .build();
    let pool = super::corpus::thread_pool(ctx.threads())?;
    let mut model = BPE::default();
    let documents = sample.documents(config)?;
    let trained = pool.install(|| {
        trainer.feed(documents, |text| Ok(words(text)))?;
        sample.report("merging", None);
        trainer.train(&mut model)
    });
    sample.check()?;
    trained.map_err(|error| defect(out, &error))?;
    let size = model.get_vocab().len();
    if size < wanted as usize {
        let message = format!("the text yields {size} tokens, not {wanted}: no other pair of tokens occurs twice in the sample");
        ctx.event(EventKind::DataWarning, None, message);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    let part = |value: Value| serde_json::to_string(&value).expect("a JSON value is serialisable");
    let pre_tokenizer: tokenizers::PreTokenizerWrapper =
        serde_json::from_str(&part(definition())).expect("the definition is a valid pre-tokenizer, as tests show");
    let decoder: tokenizers::DecoderWrapper =
        serde_json::from_value(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}))
            .expect("a valid decoder, as tests show");
    let begin = SPECIAL_TOKENS[0];
    let template: tokenizers::PostProcessorWrapper = serde_json::from_value(json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [
            {"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": begin, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {begin: {"id": begin, "ids": [0], "tokens": [begin]}},
    }))
    .expect("a valid post-processor, as tests show");
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.with_decoder(Some(decoder));
    tokenizer.with_post_processor(Some(template));
    tokenizer.add_special_tokens(special).map_err(|error| defect(out, &error))?;
    let path = out.join(TOKENIZER_FILE);
    let text = tokenizer.to_string(true).map_err(|error| defect(out, &error))?;
    std::fs::write(&path, text + "\n").map_err(Error::io("write", &path))
}

fn defect(out: &Path, error: &tokenizers::Error) -> Error {
    Error::Data {
        place: out.join(TOKENIZER_FILE).display().to_string(),
        problem: format!("the tokenizer cannot be trained ({error})"),
        cure: "train on other text".into(),
    }
}

/// The pieces of a text in the byte-level alphabet: what merges are learned from.
fn words(text: &str) -> Vec<String> {
    let alphabet = byte_characters();
    let mut words = Vec::with_capacity(text.len() / 4);
    let mut start = 0;
    while start < text.len() {
        let end = piece_end(text, classes(), start);
        words.push(text.as_bytes()[start..end].iter().map(|&byte| alphabet[byte as usize]).collect());
        start = end;
    }
    words
}

/// The sample in the making: what was read, what was held back, and whether reading failed.
struct Sample<'a> {
    ctx: &'a dyn PhaseContext,
    limit: u64,
    state: Mutex<State>,
    consumed: Mutex<(Arc<AtomicU64>, u64)>,
}

#[derive(Default)]
struct State {
    error: Option<Error>,
    documents: u64,
    bytes_read: u64,
    sampled_documents: u64,
    sampled_bytes: u64,
    invalid_utf8_documents: u64,
    held_back: Vec<Vec<String>>,
    held_back_bytes: Vec<usize>,
    read: ReadStatistics,
}

impl<'a> Sample<'a> {
    fn new(config: &Tokenizer, ctx: &'a dyn PhaseContext) -> Self {
        Self {
            ctx,
            limit: config.sample_bytes.0,
            state: Mutex::new(State {
                held_back: vec![Vec::new(); config.input.len()],
                held_back_bytes: vec![0; config.input.len()],
                ..State::default()
            }),
            consumed: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The error that ended reading, if one did.
    fn check(&self) -> Result<()> {
        self.lock().error.take().map_or(Ok(()), Err)
    }

    fn report(&self, stage: &str, done: Option<u64>) {
        let (consumed, total) = &*self.consumed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let done = done.unwrap_or_else(|| consumed.load(Ordering::Relaxed)).min(*total);
        self.ctx.progress(Progress {
            stage: stage.into(),
            done,
            total: Some(*total),
            unit: "bytes".into(),
        });
    }

    /// The documents to train on. Held-back ones are set aside, the others thinned by hash to the sample's size.
    fn documents(&self, config: &Tokenizer) -> Result<SampledDocuments<'_>> {
        let files = if config.input.is_empty() {
            Vec::new()
        } else {
            input::expand(&config.input)?
        };
        let text_bytes = self.text_bytes(&files, &config.input)?;
        let rate = if text_bytes == 0 {
            1.0
        } else {
            (self.limit as f64 / text_bytes as f64).min(1.0)
        };
        let total = files.iter().map(|file| file.bytes).sum();
        let documents = Documents::new(files, &config.input);
        *self.consumed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = (documents.consumed(), total);
        Ok(SampledDocuments {
            sample: self,
            documents,
            rate,
            reported: 0,
        })
    }

    /// How much text the files hold: their length, or, where that tells nothing (compressed files), what reading them yields.
    fn text_bytes(&self, files: &[SourceFile], inputs: &[Input]) -> Result<u64> {
        let is_plain = |file: &&SourceFile| matches!(file.format, Format::Text | Format::JsonLines(Compression::Plain));
        let mut bytes: Vec<u64> = vec![0; inputs.len()];
        for file in files.iter().filter(is_plain) {
            bytes[file.source] += file.bytes;
        }
        let packed = files.iter().filter(|file| !is_plain(file)).cloned().collect();
        for (count, document) in Documents::new(packed, inputs).enumerate() {
            let document = document?;
            bytes[document.source] += document.text.len() as u64;
            if count % 1024 == 0 && self.ctx.stop_requested() {
                return Err(Error::Stopped);
            }
        }
        let limits = inputs.iter().map(|input| input.max_bytes.map_or(u64::MAX, |bytes| bytes.0));
        Ok(bytes.iter().zip(limits).map(|(&bytes, limit)| bytes.min(limit)).sum())
    }

    fn statistics(&self, config: &Tokenizer, encoder: &mut Encoder, ctx: &dyn PhaseContext) -> Result<Value> {
        let state = self.lock();
        if config.file.is_none() && state.sampled_documents == 0 {
            ctx.event(
                EventKind::DataWarning,
                None,
                "there is no text to train a tokenizer on: every byte is a token of its own".into(),
            );
        }
        if state.invalid_utf8_documents > 0 {
            let message = format!(
                "{} documents had bytes that are no UTF-8; they were replaced",
                state.invalid_utf8_documents
            );
            ctx.event(EventKind::DataWarning, None, message);
        }
        let mut sources = serde_json::Map::new();
        let (mut all_bytes, mut all_tokens) = (0, 0);
        let mut tokens = Vec::new();
        for (name, texts) in input::names(&config.input).into_iter().zip(&state.held_back) {
            let (mut bytes, mut count) = (0, 0);
            for text in texts {
                tokens.clear();
                encoder.encode(text, &mut tokens)?;
                bytes += text.len() as u64;
                count += tokens.len() as u64;
            }
            (all_bytes, all_tokens) = (all_bytes + bytes, all_tokens + count);
            let fertility = json!({"held_back_bytes": bytes, "held_back_tokens": count, "bytes_per_token": ratio(bytes, count)});
            sources.insert(name, fertility);
        }
        Ok(json!({
            "vocabulary_tokens": encoder.vocabulary().size(),
            "adopted": config.file.is_some(),
            "fast_encoder": encoder.is_fast(),
            "documents": state.documents,
            "bytes_read": state.bytes_read,
            "sampled_documents": state.sampled_documents,
            "sampled_bytes": state.sampled_bytes,
            "invalid_utf8_documents": state.invalid_utf8_documents,
            "empty_documents": state.read.empty,
            "divided_documents": state.read.divided,
            "skipped_lines": state.read.oversized_lines,
            "bytes_per_token": ratio(all_bytes, all_tokens),
            "sources": sources,
        }))
    }
}

/// `None` (null) where there is nothing to measure.
fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

struct SampledDocuments<'a> {
    sample: &'a Sample<'a>,
    documents: Documents,
    rate: f64,
    reported: u64,
}

impl SampledDocuments<'_> {
    /// Counts a document; whether it is trained on.
    fn admit(&mut self, document: &Document) -> bool {
        let bytes = document.text.len();
        let draw = Stream::new(self.sample.ctx.seed(), Purpose::Sample, document_hash(&document.text)).unit();
        let mut state = self.sample.lock();
        state.documents += 1;
        state.bytes_read += bytes as u64;
        state.invalid_utf8_documents += u64::from(document.repaired);
        state.read = self.documents.statistics();
        if draw >= 1.0 - HELD_BACK {
            let held = &mut state.held_back_bytes[document.source];
            if *held + bytes <= HELD_BACK_BYTES {
                *held += bytes;
                state.held_back[document.source].push(document.text.clone());
            }
            return false;
        }
        if draw >= self.rate || state.sampled_bytes + bytes as u64 > self.sample.limit {
            return false;
        }
        state.sampled_documents += 1;
        state.sampled_bytes += bytes as u64;
        true
    }

    fn report(&mut self) {
        let read = self.sample.lock().bytes_read;
        if read - self.reported >= PROGRESS_BYTES {
            self.reported = read;
            self.sample.report("sampling", None);
        }
    }
}

impl Iterator for SampledDocuments<'_> {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let error = match self.documents.next()? {
                Ok(_) if self.sample.ctx.stop_requested() => Error::Stopped,
                Ok(document) => {
                    self.report();
                    if self.admit(&document) {
                        return Some(document.text);
                    }
                    continue;
                }
                Err(error) => error,
            };
            self.sample.lock().error = Some(error);
            return None;
        }
    }
}
