//! Text to token ids, with the ids that the `tokenizers` crate yields and several times its speed.
//!
//! What limits the crate is that it builds, for every piece, an owned string with an offset table, and a hash map entry keyed by an
//! owned string. Here a piece is a slice found by a state machine (`pretokenize`), looked up in a direct-mapped cache whose
//! entries are one cache line, and merged without allocation when it is not there. Special tokens are never recognised in text: a
//! document that spells one is encoded as what it is, text.
//!
//! A `tokenizer.json` whose pre-tokenizer is not ours (adopted ones) is executed by the crate itself.

use super::merge::{Merges, Scratch};
use super::pretokenize::{classes, definition, piece_end};
use super::unicode::Class;
use super::vocabulary::{TOKENIZER_FILE, TokenizerJson, Vocabulary, byte_characters};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An encoder. Clones share the tables and have caches of their own: one clone per thread.
#[derive(Clone)]
pub struct Encoder {
    vocabulary: Arc<Vocabulary>,
    method: Method,
}

#[derive(Clone)]
enum Method {
    Fast(Box<Fast>),
    Crate(Arc<tokenizers::Tokenizer>),
}

impl Encoder {
    /// Opens the `tokenizer.json` in `directory`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Data`] if it is not a byte-level BPE tokenizer.
    pub fn open(directory: &Path) -> Result<Self> {
        Self::from_file(&directory.join(TOKENIZER_FILE))
    }

    /// Opens a `tokenizer.json` by its path.
    ///
    /// # Errors
    /// As [`Encoder::open`].
    pub fn from_file(path: &Path) -> Result<Self> {
        let json = TokenizerJson::read(path)?;
        let vocabulary = Arc::new(Vocabulary::new(&json, path)?);
        let method = if is_ours(&json) {
            Method::Fast(Box::new(Fast::new(&json, path)?))
        } else {
            Method::Crate(Arc::new(open_with_crate(path)?))
        };
        Ok(Self { vocabulary, method })
    }

    /// The tokens and what they stand for.
    #[must_use]
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        &self.vocabulary
    }

    /// Whether this tokenizer is encoded by the fast path (its pre-tokenizer is ours) and not by the `tokenizers` crate.
    #[must_use]
    pub fn is_fast(&self) -> bool {
        matches!(self.method, Method::Fast(_))
    }

    /// Appends the tokens of `text` to `tokens`. Adds no special tokens and recognises none.
    ///
    /// # Errors
    /// [`Error::Data`] if an adopted tokenizer's own rules fail on the text.
    pub fn encode(&mut self, text: &str, tokens: &mut Vec<u32>) -> Result<()> {
        match &mut self.method {
            Method::Fast(fast) => {
                fast.encode(text, tokens);
                Ok(())
            }
            Method::Crate(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).map_err(|error| Error::Data {
                    place: TOKENIZER_FILE.into(),
                    problem: format!("it cannot encode a text ({error})"),
                    cure: "use another tokenizer".into(),
                })?;
                tokens.extend_from_slice(encoding.get_ids());
                Ok(())
            }
        }
    }
}

/// Whether the fast path implements this tokenizer: our pre-tokenizer, no normalisation, and no ordinary words added to the
/// vocabulary (they would be cut out of the text first).
fn is_ours(json: &TokenizerJson) -> bool {
    let normalises = json.normalizer.as_ref().is_some_and(|value| !value.is_null());
    !normalises && json.pre_tokenizer.as_ref() == Some(&definition()) && json.added_tokens.iter().all(|added| added.special)
}

/// The same file in the `tokenizers` crate, with special tokens in text taken as text.
pub(crate) fn open_with_crate(path: &Path) -> Result<tokenizers::Tokenizer> {
    let mut tokenizer =
        tokenizers::Tokenizer::from_file(path).map_err(|error| TokenizerJson::error(path, format!("it cannot be opened ({error})")))?;
    tokenizer.set_encode_special_tokens(true);
    Ok(tokenizer)
}

/// Pieces up to this many bytes are cached.
const CACHED_BYTES: usize = 31;
/// Pieces up to this many tokens are cached.
const CACHED_TOKENS: usize = 7;
/// Slots of a cache, 64 bytes each: 2 MiB per thread, about a core's second-level cache.
const SLOTS: usize = 1 << 15;

/// One cache line: a piece, zero-padded with its length in the last byte, and its tokens.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Slot {
    key: [u64; 4],
    tokens: [u32; CACHED_TOKENS],
    count: u32,
}

const VACANT: Slot = Slot {
    key: [0; 4],
    tokens: [0; CACHED_TOKENS],
    count: 0,
};

struct Tables {
    merges: Merges,
    /// Token of each single byte.
    bytes: [u32; 256],
    /// Whole pieces that are tokens, for vocabularies that look them up before merging (`ignore_merges`).
    whole: Option<HashMap<Box<[u8]>, u32>>,
    classes: &'static [Class],
}

struct Fast {
    tables: Arc<Tables>,
    cache: Vec<Slot>,
    scratch: Scratch,
}

impl Clone for Fast {
    fn clone(&self) -> Self {
        Self::with_tables(Arc::clone(&self.tables))
    }
}

impl Fast {
    fn new(json: &TokenizerJson, path: &Path) -> Result<Self> {
        let mut bytes = [0; 256];
        let characters = byte_characters();
        for (token, character) in bytes.iter_mut().zip(&characters) {
            let known = json.model.vocab.get(character.encode_utf8(&mut [0; 4]) as &str);
            *token = *known.ok_or_else(|| TokenizerJson::error(path, format!("it has no token for the byte written `{character}`")))?;
        }
        let whole = json.model.ignore_merges.then(|| {
            let values: HashMap<char, u8> = characters.into_iter().zip(0..=255).collect();
            let spelled = json.model.vocab.iter().filter_map(|(text, &id)| {
                let bytes: Option<Vec<u8>> = text.chars().map(|character| values.get(&character).copied()).collect();
                Some((bytes?.into_boxed_slice(), id))
            });
            spelled.collect()
        });
        Ok(Self::with_tables(Arc::new(Tables {
            merges: Merges::new(&json.merges(path)?),
            bytes,
            whole,
            classes: classes(),
        })))
    }

    fn with_tables(tables: Arc<Tables>) -> Self {
        Self {
            tables,
            cache: vec![VACANT; SLOTS],
            scratch: Scratch::default(),
        }
    }

    fn encode(&mut self, text: &str, tokens: &mut Vec<u32>) {
        tokens.reserve(text.len() / 4);
        let tables = Arc::clone(&self.tables);
        let mut start = 0;
        while start < text.len() {
            let end = piece_end(text, tables.classes, start);
            self.encode_piece(&tables, text.as_bytes(), start, end, tokens);
            start = end;
        }
        self.scratch.shrink();
    }

    #[inline]
    fn encode_piece(&mut self, tables: &Tables, text: &[u8], start: usize, end: usize, tokens: &mut Vec<u32>) {
        if end - start > CACHED_BYTES {
            self.merge(tables, &text[start..end]);
            tokens.extend_from_slice(&self.scratch.tokens);
            return;
        }
        let key = key(text, start, end);
        let at = hash(key) as usize % SLOTS;
        let slot = &self.cache[at];
        if slot.key == key {
            let count = slot.count as usize;
            tokens.extend_from_slice(&slot.tokens[..count]);
            return;
        }
        self.merge(tables, &text[start..end]);
        let merged = &self.scratch.tokens;
        tokens.extend_from_slice(merged);
        if merged.len() <= CACHED_TOKENS {
            let slot = &mut self.cache[at];
            slot.key = key;
            slot.tokens[..merged.len()].copy_from_slice(merged);
            slot.count = merged.len() as u32;
        }
    }

    /// Leaves the tokens of `piece` in the scratch.
    fn merge(&mut self, tables: &Tables, piece: &[u8]) {
        self.scratch.tokens.clear();
        if let Some(&token) = tables.whole.as_ref().and_then(|whole| whole.get(piece)) {
            self.scratch.tokens.push(token);
            return;
        }
        self.scratch.tokens.extend(piece.iter().map(|&byte| tables.bytes[byte as usize]));
        tables.merges.apply(&mut self.scratch);
    }
}

/// The piece `text[start..end]` of at most [`CACHED_BYTES`] bytes, zero-padded, with its length in the last byte (so that no key is
/// that of a vacant slot).
#[inline]
fn key(text: &[u8], start: usize, end: usize) -> [u64; 4] {
    let length = end - start;
    let mut words = [0; 4];
    if let Some(window) = text.get(start..start + 32) {
        for (index, (word, eight)) in words.iter_mut().zip(window.as_chunks::<8>().0).enumerate() {
            let kept = length.saturating_sub(8 * index).min(8);
            let mask = if kept == 8 { u64::MAX } else { (1 << (8 * kept)) - 1 };
            *word = u64::from_le_bytes(*eight) & mask;
        }
    } else {
        let mut padded = [0; 32];
        padded[..length].copy_from_slice(&text[start..end]);
        for (word, eight) in words.iter_mut().zip(padded.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*eight);
        }
    }
    words[3] |= (length as u64) << 56;
    words
}

/// Folded 128-bit products of the key's words with odd constants.
#[inline]
fn hash(key: [u64; 4]) -> u64 {
    let fold = |left: u64, right: u64| {
        let product = u128::from(left) * u128::from(right);
        product as u64 ^ (product >> 64) as u64
    };
    let low = fold(key[0] ^ 0x9E37_79B9_7F4A_7C15, key[1] ^ 0xA076_1D64_78BD_642F);
    let high = fold(key[2] ^ 0xE703_7ED1_A0B4_28DB, key[3] ^ 0x8EBC_6AF0_9C88_C6E3);
    fold(low ^ 0x5899_65CC_7537_4CC3, high ^ 0x1D8E_4E27_C47D_124F)
}

/// Speeds measured by [`bench_encode`].
#[derive(Clone, Copy, Debug)]
pub struct EncodeSpeed {
    /// Bytes of text per pass.
    pub bytes: u64,
    /// Tokens per pass.
    pub tokens: u64,
    /// One pass with an empty cache.
    pub cold: Duration,
    /// The fastest of the further passes.
    pub warm: Duration,
    /// One pass of the `tokenizers` crate with the same file, its cache filled by a pass before.
    pub tokenizers: Duration,
    /// Texts whose ids differ from the crate's: 0, or there is a defect.
    pub mismatches: u64,
}

/// Times the encoding of `texts` on this thread, beside the `tokenizers` crate with the same `tokenizer.json`.
///
/// # Errors
/// As [`Encoder::open`] and [`Encoder::encode`].
pub fn bench_encode(directory: &Path, texts: &[String], passes: usize) -> Result<EncodeSpeed> {
    let mut encoder = Encoder::open(directory)?;
    let reference = Encoder {
        vocabulary: Arc::clone(encoder.vocabulary()),
        method: Method::Crate(Arc::new(open_with_crate(&directory.join(TOKENIZER_FILE))?)),
    };
    let mut tokens = Vec::new();
    let mut pass = |encoder: &mut Encoder| -> Result<(Duration, u64)> {
        let start = Instant::now();
        let mut count = 0;
        for text in texts {
            tokens.clear();
            encoder.encode(text, &mut tokens)?;
            count += tokens.len() as u64;
        }
        Ok((start.elapsed(), count))
    };
    let (cold, count) = pass(&mut encoder)?;
    let mut warm = cold;
    for _ in 1..passes.max(2) {
        warm = warm.min(pass(&mut encoder)?.0);
    }
    let mut reference = reference;
    let mut slow = pass(&mut reference)?.0;
    slow = slow.min(pass(&mut reference)?.0);
    let mut mismatches = 0;
    for text in texts {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        encoder.encode(text, &mut ours)?;
        reference.encode(text, &mut theirs)?;
        mismatches += u64::from(ours != theirs);
    }
    Ok(EncodeSpeed {
        bytes: texts.iter().map(|text| text.len() as u64).sum(),
        tokens: count,
        cold,
        warm,
        tokenizers: slow,
        mismatches,
    })
}
