//! What happens to one document on its way into a corpus: a pure function of its text, the seed and the configuration.

use super::encode::Encoder;
use super::minhash::{self, Signature};
use super::random::{Purpose, Stream, document_hash};
use super::shard::TokenType;
use super::stream::Document;
use super::unicode::{CLASSES, Class};
use super::vocabulary::{FimTokens, TOKENIZER_FILE, Vocabulary};
use crate::error::{Error, Result};
use fathom_spec::manifest::Corpus;
use std::collections::HashMap;
use std::path::Path;

/// The decisions that are the same for all documents.
pub(crate) struct Recipe {
    seed: u64,
    begin: u32,
    end: u32,
    fim_rate: f64,
    fim: Option<FimTokens>,
    validation_fraction: f64,
    near: bool,
    weights: Vec<f64>,
    punctuation_split: f64,
    /// The parts of each token that merges punctuation with line breaks.
    parts: HashMap<u32, Box<[u32]>>,
    pub(crate) token_type: TokenType,
}

/// A document, ready to be stored.
pub(crate) struct Staged {
    pub(crate) source: usize,
    pub(crate) bytes: u64,
    pub(crate) repaired: bool,
    pub(crate) hash: u128,
    pub(crate) signature: Option<Box<Signature>>,
    pub(crate) held_out: bool,
    /// Each use of the document; none if its weight left it out.
    pub(crate) copies: Vec<Copy>,
}

/// One use of a document.
#[derive(Default)]
pub(crate) struct Copy {
    /// Its tokens in their stored form, begin and end included.
    pub(crate) stored: Vec<u8>,
    pub(crate) tokens: u32,
    pub(crate) fim: bool,
    /// Tokens that merge punctuation with line breaks, split ones included.
    pub(crate) mergers: u64,
    /// Those of them that were split.
    pub(crate) split: u64,
}

impl Recipe {
    /// # Errors
    /// [`Error::Config`] if the tokenizer lacks what the configuration needs or a number is out of range.
    pub(crate) fn new(config: &Corpus, seed: u64, encoder: &mut Encoder, tokenizer: &Path) -> Result<Self> {
        let vocabulary = std::sync::Arc::clone(encoder.vocabulary());
        for (name, share) in [
            ("fim.rate", config.fim.rate),
            ("validationFraction", config.validation_fraction),
            ("punctuationSplit", config.punctuation_split),
            ("deduplicate.nearThreshold", config.deduplicate.near_threshold.unwrap_or(1.0)),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::Config {
                    problem: format!("corpus.{name} is {share}, and a share lies between 0 and 1"),
                    cure: "correct it".into(),
                });
            }
        }
        let weights: Vec<f64> = config.input.iter().map(|input| input.weight).collect();
        if let Some(weight) = weights.iter().find(|weight| !(0.0..=MAX_WEIGHT).contains(*weight)) {
            return Err(Error::Config {
                problem: format!("an input of the corpus has the weight {weight}; weights lie between 0 and {MAX_WEIGHT}"),
                cure: "correct it".into(),
            });
        }
        if config.fim.rate > 0.0 && vocabulary.fim().is_none() {
            return Err(Error::Config {
                problem: format!(
                    "corpus.fim.rate is {}, and {} has no fill-in-the-middle tokens",
                    config.fim.rate,
                    tokenizer.join(TOKENIZER_FILE).display()
                ),
                cure: "set fim.rate to 0, or use a tokenizer that has them".into(),
            });
        }
        Ok(Self {
            seed,
            begin: vocabulary.begin(),
            end: vocabulary.end(),
            fim_rate: config.fim.rate,
            fim: vocabulary.fim(),
            validation_fraction: config.validation_fraction,
            near: config.deduplicate.near_threshold.is_some(),
            weights,
            punctuation_split: config.punctuation_split,
            parts: parts_of_mergers(encoder, &vocabulary)?,
            token_type: TokenType::for_vocabulary(vocabulary.size()),
        })
    }

    pub(crate) fn stage(&self, encoder: &mut Encoder, document: &Document) -> Result<Staged> {
        let hash = document_hash(&document.text);
        let held_out = Stream::new(self.seed, Purpose::Validation, hash).unit() < self.validation_fraction;
        let mut plain = Vec::new();
        encoder.encode(&document.text, &mut plain)?;
        let signature = self.near.then(|| Box::new(minhash::signature(&plain)));
        let mut repetition = Stream::new(self.seed, Purpose::Repetition, hash);
        let weight = self.weights[document.source];
        let mut uses = weight.trunc() as u32 + u32::from(repetition.unit() < weight.fract());
        if held_out {
            uses = uses.min(1);
        }
        let copies = (0..uses).map(|copy| self.copy(encoder, &document.text, &plain, hash, held_out, copy));
        Ok(Staged {
            source: document.source,
            bytes: document.text.len() as u64,
            repaired: document.repaired,
            hash,
            signature,
            held_out,
            copies: copies.collect::<Result<_>>()?,
        })
    }

    /// One use of a document. Held-out documents are stored as they are.
    fn copy(&self, encoder: &mut Encoder, text: &str, plain: &[u32], hash: u128, held_out: bool, number: u32) -> Result<Copy> {
        let item = hash ^ u128::from(number);
        let mut draws = Stream::new(self.seed, Purpose::FillInTheMiddle, item);
        let mut copy = Copy::default();
        let mut tokens = Vec::with_capacity(plain.len() + 8);
        tokens.push(self.begin);
        match self.fim {
            Some(fim) if !held_out && draws.unit() < self.fim_rate => {
                copy.fim = true;
                let mut cuts = [0, 1].map(|_| text.floor_char_boundary(draws.below(text.len() as u64 + 1) as usize));
                cuts.sort_unstable();
                let [first, second] = cuts;
                tokens.push(fim.begin);
                encoder.encode(&text[..first], &mut tokens)?;
                tokens.push(fim.hole);
                encoder.encode(&text[second..], &mut tokens)?;
                tokens.push(fim.end);
                encoder.encode(&text[first..second], &mut tokens)?;
            }
            _ => tokens.extend_from_slice(plain),
        }
        tokens.push(self.end);
        if !held_out {
            tokens = self.split_mergers(tokens, item, &mut copy);
        }
        copy.tokens = u32::try_from(tokens.len()).expect("documents have at most 4 MiB");
        self.token_type.store(&tokens, &mut copy.stored);
        Ok(copy)
    }

    fn split_mergers(&self, tokens: Vec<u32>, item: u128, copy: &mut Copy) -> Vec<u32> {
        copy.mergers = tokens.iter().filter(|token| self.parts.contains_key(token)).count() as u64;
        if self.punctuation_split == 0.0 || copy.mergers == 0 {
            return tokens;
        }
        let mut draws = Stream::new(self.seed, Purpose::PunctuationSplit, item);
        let mut split = Vec::with_capacity(tokens.len() + copy.mergers as usize);
        for token in tokens {
            match self.parts.get(&token) {
                Some(parts) if draws.unit() < self.punctuation_split => {
                    copy.split += 1;
                    split.extend_from_slice(parts);
                }
                _ => split.push(token),
            }
        }
        split
    }
}

/// Largest weight of an input: the paper repeats nothing more than a few times, and a typing error should not fill the disk.
const MAX_WEIGHT: f64 = 100.0;

/// Every token of punctuation with line breaks after it, and the tokens of the two apart (paper, section 4.1: prompts that end
/// without a line break would otherwise meet a token boundary that training never showed).
fn parts_of_mergers(encoder: &mut Encoder, vocabulary: &Vocabulary) -> Result<HashMap<u32, Box<[u32]>>> {
    let mut parts = HashMap::new();
    for token in 0..vocabulary.size() {
        let Ok(text) = std::str::from_utf8(vocabulary.text(token)) else {
            continue;
        };
        let Some(at) = text.find(['\r', '\n']) else { continue };
        let (marks, breaks) = text.split_at(at);
        let is_merger = breaks.chars().all(|character| matches!(character, '\r' | '\n'))
            && marks
                .chars()
                .next_back()
                .is_some_and(|last| matches!(CLASSES[last as usize], Class::AsciiPunctuation | Class::Punctuation));
        if is_merger {
            let mut tokens = Vec::new();
            encoder.encode(marks, &mut tokens)?;
            encoder.encode(breaks, &mut tokens)?;
            parts.insert(token, tokens.into_boxed_slice());
        }
    }
    Ok(parts)
}
