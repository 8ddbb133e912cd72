//! The vocabulary of a `tokenizer.json`: what each token stands for, and which tokens are special.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// File name of a tokenizer in its artifact directory.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// Largest `tokenizer.json` that is read; vocabularies of 256,000 tokens need about 35 MB.
const MAX_TOKENIZER_BYTES: u64 = 1 << 28;

/// Largest vocabulary; ids are stored in 32 bits with sign.
const MAX_VOCABULARY: u32 = 1 << 24;

/// The special tokens of a tokenizer that is trained here, in the order of their ids: DeepSeek's spellings, with begin and end of
/// sentence at 0 and 1 as in the released `config.json`.
pub const SPECIAL_TOKENS: [&str; 16] = [
    "<\u{FF5C}begin\u{2581}of\u{2581}sentence\u{FF5C}>",
    "<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>",
    "<\u{FF5C}\u{2581}pad\u{2581}\u{FF5C}>",
    "<\u{FF5C}fim\u{2581}begin\u{FF5C}>",
    "<\u{FF5C}fim\u{2581}hole\u{FF5C}>",
    "<\u{FF5C}fim\u{2581}end\u{FF5C}>",
    "<\u{FF5C}User\u{FF5C}>",
    "<\u{FF5C}Assistant\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}0\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}1\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}2\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}3\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}4\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}5\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}6\u{FF5C}>",
    "<\u{FF5C}place\u{2581}holder\u{2581}no\u{2581}7\u{FF5C}>",
];

/// Spellings of the begin of a document, DeepSeek's first; the others are those of widespread adopted tokenizers.
const BEGIN: [&str; 4] = [SPECIAL_TOKENS[0], "<|begin_of_text|>", "<s>", "<|endoftext|>"];
/// Spellings of the end of a document.
const END: [&str; 4] = [SPECIAL_TOKENS[1], "<|end_of_text|>", "</s>", "<|endoftext|>"];
/// Spellings of padding.
const PAD: [&str; 3] = [SPECIAL_TOKENS[2], "<pad>", "<|pad|>"];
/// Spellings of the fill-in-the-middle marks before prefix, suffix and middle.
const FIM: [[&str; 3]; 3] = [
    [SPECIAL_TOKENS[3], SPECIAL_TOKENS[4], SPECIAL_TOKENS[5]],
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"],
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],
];

/// The tokens that mark the parts of a rearranged document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FimTokens {
    /// Before the prefix (`fim_begin`).
    pub begin: u32,
    /// Before the suffix, where the middle is missing (`fim_hole`).
    pub hole: u32,
    /// Before the middle (`fim_end`).
    pub end: u32,
}

/// The tokens of a `tokenizer.json`.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// The bytes of all tokens, one after the other.
    bytes: Vec<u8>,
    /// Where each token ends in `bytes`.
    ends: Vec<u32>,
    /// Special tokens by spelling.
    special: BTreeMap<String, u32>,
    is_special: Vec<bool>,
    begin: u32,
    end: u32,
    pad: Option<u32>,
    fim: Option<FimTokens>,
}

impl Vocabulary {
    /// Reads the vocabulary of the `tokenizer.json` in `directory`.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Data`] if it is no byte-level BPE tokenizer or has no end-of-document token.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(TOKENIZER_FILE);
        Self::new(&TokenizerJson::read(&path)?, &path)
    }

    pub(crate) fn new(json: &TokenizerJson, path: &Path) -> Result<Self> {
        let largest = json.tokens().map(|(_, id)| id).max().unwrap_or(0);
        if largest >= MAX_VOCABULARY {
            return Err(TokenizerJson::error(
                path,
                format!("token id {largest} is above the limit of {MAX_VOCABULARY}"),
            ));
        }
        let mut texts: Vec<Vec<u8>> = vec![Vec::new(); largest as usize + 1];
        let alphabet = character_bytes();
        for (text, id) in &json.model.vocab {
            let bytes: Option<Vec<u8>> = text.chars().map(|character| alphabet.get(&character).copied()).collect();
            texts[*id as usize] = bytes.unwrap_or_default();
        }
        let mut is_special = vec![false; texts.len()];
        let mut special = BTreeMap::new();
        for added in &json.added_tokens {
            let id = added.id as usize;
            texts[id] = added.content.clone().into_bytes();
            is_special[id] = added.special;
            if added.special {
                special.insert(added.content.clone(), added.id);
            }
        }
        let find = |names: &[&str]| names.iter().find_map(|&name| special.get(name).copied());
        let fim = FIM.iter().find_map(|[begin, hole, end]| {
            Some(FimTokens {
                begin: find(&[begin])?,
                hole: find(&[hole])?,
                end: find(&[end])?,
            })
        });
        let end = find(&END).ok_or_else(|| {
            TokenizerJson::error(
                path,
                format!("it has no special token that ends a document (one of {})", END.join(", ")),
            )
        })?;
        Ok(Self {
            ends: texts
                .iter()
                .scan(0_u32, |end, text| {
                    *end += text.len() as u32;
                    Some(*end)
                })
                .collect(),
            bytes: texts.concat(),
            begin: find(&BEGIN).unwrap_or(end),
            end,
            pad: find(&PAD),
            fim,
            special,
            is_special,
        })
    }

    /// Number of token ids, unused ones below the largest included.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The token that begins every document (the end token, where a tokenizer has no begin token).
    #[must_use]
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// The token that ends every document.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The padding token, if there is one. Rows of a corpus never contain it.
    #[must_use]
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// The marks of fill-in-the-middle, if the tokenizer has them.
    #[must_use]
    pub fn fim(&self) -> Option<FimTokens> {
        self.fim
    }

    /// Special tokens by spelling.
    #[must_use]
    pub fn special(&self) -> &BTreeMap<String, u32> {
        &self.special
    }

    /// Whether `token` is special; false for ids outside the vocabulary.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.is_special.get(token as usize).copied().unwrap_or(false)
    }

    /// The bytes of text that `token` stands for: none for special tokens and ids outside the vocabulary.
    #[must_use]
    pub fn text(&self, token: u32) -> &[u8] {
        if self.is_special(token) { &[] } else { self.spelling(token) }
    }

    /// How a token is spelled: its text, or its name if it is special.
    #[must_use]
    pub fn spelling(&self, token: u32) -> &[u8] {
        let token = token as usize;
        let Some(&end) = self.ends.get(token) else { return &[] };
        let start = if token == 0 { 0 } else { self.ends[token - 1] };
        &self.bytes[start as usize..end as usize]
    }

    /// Bytes of text that each token stands for, 0 for special ones: what bits per byte are counted in.
    #[must_use]
    pub fn token_bytes(&self) -> Vec<u32> {
        (0..self.size()).map(|token| self.text(token).len() as u32).collect()
    }

    /// The text of `tokens`, special ones left out; bytes that are no UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::with_capacity(tokens.len() * 4);
        for &token in tokens {
            bytes.extend_from_slice(self.text(token));
        }
        String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }
}

/// The parts of a `tokenizer.json` that encoding and decoding need.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizerJson {
    pub(crate) added_tokens: Vec<AddedToken>,
    pub(crate) normalizer: Option<serde_json::Value>,
    pub(crate) pre_tokenizer: Option<serde_json::Value>,
    pub(crate) model: Model,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AddedToken {
    pub(crate) id: u32,
    pub(crate) content: String,
    pub(crate) special: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Model {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    pub(crate) ignore_merges: bool,
    pub(crate) vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

/// Older files write a merge as `left right`, newer ones as a pair.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair([String; 2]),
}

impl TokenizerJson {
    /// Reads and checks a `tokenizer.json`.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let length = std::fs::metadata(path).map_err(Error::io("read", path))?.len();
        if length > MAX_TOKENIZER_BYTES {
            return Err(Self::error(
                path,
                format!("it has {length} bytes, above the limit of {MAX_TOKENIZER_BYTES}"),
            ));
        }
        let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
        // The type is looked at first: other model types have other fields, and their absence would be the message.
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| Self::error(path, format!("it is not JSON ({error})")))?;
        let kind = value.pointer("/model/type").and_then(serde_json::Value::as_str);
        if let Some(kind) = kind.filter(|&kind| kind != "BPE") {
            return Err(Self::error(path, format!("its model is {kind}, not BPE")));
        }
        let json: Self = serde_json::from_value(value).map_err(|error| Self::error(path, error.to_string()))?;
        json.check(path)?;
        Ok(json)
    }

    pub(crate) fn error(path: &Path, problem: String) -> Error {
        Error::Data {
            place: path.display().to_string(),
            problem,
            cure: "use a `tokenizer.json` of a byte-level BPE tokenizer (those of GPT-2, Llama 3, Qwen and DeepSeek are)".into(),
        }
    }

    fn check(&self, path: &Path) -> Result<()> {
        let model = &self.model;
        let problem = if model.kind.as_deref().is_some_and(|kind| kind != "BPE") {
            "its model is not BPE"
        } else if model.byte_fallback || !self.is_byte_level() {
            "its BPE is not byte-level"
        } else if model.dropout.is_some_and(|dropout| dropout > 0.0) {
            "its BPE has dropout, so that encoding is random"
        } else if [&model.continuing_subword_prefix, &model.end_of_word_suffix]
            .into_iter()
            .any(|affix| affix.as_ref().is_some_and(|affix| !affix.is_empty()))
        {
            "its BPE marks word beginnings or ends, which byte-level BPE does not"
        } else {
            return Ok(());
        };
        Err(Self::error(path, problem.into()))
    }

    /// Whether every byte has a token and the pre-tokenizer maps bytes to characters.
    fn is_byte_level(&self) -> bool {
        let mentions = self
            .pre_tokenizer
            .as_ref()
            .is_some_and(|value| value.to_string().contains("\"ByteLevel\""));
        mentions
            && byte_characters()
                .iter()
                .all(|character| self.model.vocab.contains_key(character.encode_utf8(&mut [0; 4]) as &str))
    }

    /// Every token with its id.
    fn tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        let model = self.model.vocab.iter().map(|(text, &id)| (text.as_str(), id));
        model.chain(self.added_tokens.iter().map(|added| (added.content.as_str(), added.id)))
    }

    /// `(left, right, merged)` in order of rank.
    pub(crate) fn merges(&self, path: &Path) -> Result<Vec<(u32, u32, u32)>> {
        let id = |text: &str| {
            let known = self.model.vocab.get(text).copied();
            known.ok_or_else(|| Self::error(path, format!("a merge needs the token `{text}`, which its vocabulary lacks")))
        };
        let pairs = self.model.merges.iter().map(|merge| match merge {
            Merge::Pair([left, right]) => Ok((left.as_str(), right.as_str())),
            Merge::Joined(text) => text
                .split_once(' ')
                .ok_or_else(|| Self::error(path, format!("the merge `{text}` is not a pair"))),
        });
        pairs
            .map(|pair| {
                let (left, right) = pair?;
                Ok((id(left)?, id(right)?, id(&format!("{left}{right}"))?))
            })
            .collect()
    }
}

/// The character that stands for each byte in a byte-level vocabulary: printable Latin-1 characters for themselves, U+0100 onwards
/// for the rest (Radford et al. 2019).
pub(crate) fn byte_characters() -> [char; 256] {
    let mut characters = ['\0'; 256];
    let mut next = 0x100;
    for byte in 0..=255_u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        characters[byte as usize] = if printable {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
        };
    }
    characters
}

fn character_bytes() -> HashMap<char, u8> {
    byte_characters().into_iter().zip(0..=255).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_characters_are_one_to_one_and_gpt2s() {
        let characters = byte_characters();
        assert_eq!(character_bytes().len(), 256);
        assert_eq!(characters[b' ' as usize], 'Ġ');
        assert_eq!(characters[b'\n' as usize], 'Ċ');
        assert_eq!(characters[b'a' as usize], 'a');
        assert_eq!(characters[0xE4], 'ä');
    }

    #[test]
    fn special_tokens_are_those_of_deepseek() {
        assert_eq!(SPECIAL_TOKENS[0], "<｜begin▁of▁sentence｜>");
        assert_eq!(SPECIAL_TOKENS[4], "<｜fim▁hole｜>");
    }
}
