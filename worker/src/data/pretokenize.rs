//! The pre-tokenizer: text to pieces, the units that byte-pair merges never cross.
//!
//! As in DeepSeek-V3 (paper, section 4.1), punctuation may merge with the line breaks that follow it. The definition is three
//! regular expressions applied one after the other, each isolating its matches; they are written into `tokenizer.json`, so that
//! any implementation of the format yields the same pieces. [`piece_end`] is the same as a state machine over character classes,
//! which is what makes encoding fast: the tests compare the two on random text.

use super::unicode::{CLASSES, Class};

/// Digits, up to three at a time from the left.
pub(crate) const DIGITS: &str = r"\p{N}{1,3}";

/// Runs of Han ideographs and kana: the ranges of [`super::unicode::IDEOGRAPHS`].
pub(crate) const IDEOGRAPHS: &str = "[\u{3040}-\u{30FF}\u{3400}-\u{4DBF}\u{4E00}-\u{9FFF}\u{F900}-\u{FAFF}\u{20000}-\u{323AF}]+";

/// Everything else, first match wins: letters with one leading character that is ASCII punctuation or no punctuation at all;
/// punctuation with a leading space and the line breaks after it; white space up to its last line break; white space but for the
/// last character, which goes with what follows; the rest.
pub(crate) const WORDS: &str = concat!(
    r"(?:[!-/:-@\[-`{-~]|[^\r\n\p{L}\p{M}\p{P}\p{S}])?[\p{L}\p{M}]+",
    r"| ?[\p{P}\p{S}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
    r"|[^\s\p{L}\p{M}\p{P}\p{S}]+",
);

/// The pre-tokenizer as `tokenizer.json` spells it.
pub(crate) fn definition() -> serde_json::Value {
    let split =
        |pattern: &str| serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    serde_json::json!({
        "type": "Sequence",
        "pretokenizers": [
            split(DIGITS),
            split(IDEOGRAPHS),
            split(WORDS),
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        ],
    })
}

/// End of the piece that begins at byte `start`, a character boundary below `text.len()`.
#[inline]
pub(crate) fn piece_end(text: &str, classes: &[Class], start: usize) -> usize {
    let scan = Scan {
        bytes: text.as_bytes(),
        classes,
    };
    let (class, length) = scan.class_at(start);
    let next = start + length;
    match class {
        Class::Letter => scan.letters(next),
        Class::AsciiPunctuation if scan.peek(next) == Some(Class::Letter) => scan.letters(next),
        Class::AsciiPunctuation | Class::Punctuation => scan.punctuation(next),
        Class::Space => match scan.peek(next) {
            Some(Class::Letter) => scan.letters(next),
            Some(Class::AsciiPunctuation | Class::Punctuation) => scan.punctuation(next),
            _ => scan.white_space(start),
        },
        Class::Blank if scan.peek(next) == Some(Class::Letter) => scan.letters(next),
        Class::Blank | Class::LineBreak => scan.white_space(start),
        Class::Digit => scan.digits(next),
        Class::Ideograph => scan.run(next, |class| class == Class::Ideograph),
        Class::Other if scan.peek(next) == Some(Class::Letter) => scan.letters(next),
        Class::Other => scan.run(next, |class| class == Class::Other),
    }
}

/// The table that [`piece_end`] takes: a look-up per call would cost more than the rest of it.
pub(crate) fn classes() -> &'static [Class] {
    &CLASSES
}

struct Scan<'a> {
    bytes: &'a [u8],
    classes: &'a [Class],
}

impl Scan<'_> {
    /// Class and length in bytes of the character at `at`.
    #[inline]
    fn class_at(&self, at: usize) -> (Class, usize) {
        let tail = |offset: usize| u32::from(self.bytes[at + offset] & 0x3F);
        let lead = self.bytes[at];
        let (code, length) = match lead {
            0..0x80 => return (self.classes[lead as usize], 1),
            0x80..0xE0 => (u32::from(lead & 0x1F) << 6 | tail(1), 2),
            0xE0..0xF0 => (u32::from(lead & 0x0F) << 12 | tail(1) << 6 | tail(2), 3),
            0xF0.. => (u32::from(lead & 0x07) << 18 | tail(1) << 12 | tail(2) << 6 | tail(3), 4),
        };
        (self.classes[code as usize], length)
    }

    #[inline]
    fn peek(&self, at: usize) -> Option<Class> {
        (at < self.bytes.len()).then(|| self.class_at(at).0)
    }

    /// End of the run of characters from `at` on whose class satisfies `belongs`.
    #[inline]
    fn run(&self, mut at: usize, belongs: impl Fn(Class) -> bool) -> usize {
        while at < self.bytes.len() {
            let (class, length) = self.class_at(at);
            if !belongs(class) {
                break;
            }
            at += length;
        }
        at
    }

    #[inline]
    fn letters(&self, at: usize) -> usize {
        self.run(at, |class| class == Class::Letter)
    }

    #[inline]
    fn punctuation(&self, at: usize) -> usize {
        let end = self.run(at, |class| matches!(class, Class::AsciiPunctuation | Class::Punctuation));
        self.run(end, |class| class == Class::LineBreak)
    }

    fn digits(&self, mut at: usize) -> usize {
        for _ in 1..3 {
            if self.peek(at) != Some(Class::Digit) {
                break;
            }
            at += self.class_at(at).1;
        }
        at
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+` at `start`. Digits and ideographs are cut out before, so that to the look-ahead they are the end
    /// of the text.
    fn white_space(&self, start: usize) -> usize {
        let mut at = start;
        let mut last = start;
        let mut after_break = None;
        while at < self.bytes.len() {
            let (class, length) = self.class_at(at);
            match class {
                Class::LineBreak => after_break = Some(at + length),
                Class::Space | Class::Blank => {}
                Class::Other | Class::Letter | Class::AsciiPunctuation | Class::Punctuation | Class::Digit | Class::Ideograph => break,
            }
            last = at;
            at += length;
        }
        if let Some(end) = after_break {
            return end;
        }
        let followed = !matches!(self.peek(at), None | Some(Class::Digit | Class::Ideograph));
        if followed && last > start { last } else { at }
    }
}

#[cfg(test)]
pub(crate) fn pieces(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < text.len() {
        let end = piece_end(text, classes(), start);
        pieces.push(&text[start..end]);
        start = end;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    /// The definition, executed by the `tokenizers` crate.
    fn oracle(text: &str) -> Vec<String> {
        static DEFINITION: LazyLock<tokenizers::PreTokenizerWrapper> = LazyLock::new(|| serde_json::from_value(definition()).unwrap());
        let mut pretokenized = PreTokenizedString::from(text);
        DEFINITION.pre_tokenize(&mut pretokenized).unwrap();
        let splits = pretokenized.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits
            .into_iter()
            .filter(|(_, (from, to), _)| to > from)
            .map(|(_, (from, to), _)| text[from..to].to_owned())
            .collect()
    }

    #[test]
    fn text_is_cut_where_a_reader_would_cut_it() {
        for (text, expected) in [
            ("Hello, world!\n\nNext", vec!["Hello", ",", " world", "!\n\n", "Next"]),
            ("    let x = 12345;\n", vec!["   ", " let", " x", " =", " ", "123", "45", ";\n"]),
            ("foo.bar(baz_qux)", vec!["foo", ".bar", "(baz", "_qux", ")"]),
            ("中文和English混排", vec!["中文和", "English", "混排"]),
            ("a  1", vec!["a", "  ", "1"]),
            ("a  \n \n  b", vec!["a", "  \n \n", " ", " b"]),
            ("\t\tx\t", vec!["\t", "\tx", "\t"]),
            ("naïve café", vec!["naïve", " café"]),
            ("“quoted”", vec!["“", "quoted", "”"]),
            ("\u{0}\u{1}ab\u{200B}", vec!["\u{0}\u{1}", "ab", "\u{200B}"]),
            ("", vec![]),
        ] {
            assert_eq!(pieces(text), expected, "{text:?}");
            assert_eq!(oracle(text), expected, "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn the_state_machine_agrees_with_the_regular_expressions(
            text in "[ -~\t\r\n\u{0}\u{7f}\u{85}\u{a0}é\u{301}“€😀½٣中のー𠀀한ก\u{200b}\u{3000}\u{e000}]{0,40}",
            any in any::<String>(),
        ) {
            prop_assert_eq!(pieces(&text), oracle(&text));
            prop_assert_eq!(pieces(&any), oracle(&any));
        }

        #[test]
        fn white_space_and_its_neighbours_agree(text in "[ \t\r\n\u{a0}\u{3000}a1中.\u{1}]{0,16}") {
            prop_assert_eq!(pieces(&text), oracle(&text));
        }
    }

    #[test]
    fn every_character_agrees_alone_and_between_others() {
        for code in 0..0x11_0000 {
            let Some(character) = char::from_u32(code) else { continue };
            if code > 0x3000 && code % 61 != 0 {
                continue;
            }
            let text = format!("a{character} {character}{character}\n1{character}b");
            assert_eq!(pieces(&text), oracle(&text), "U+{code:04X}");
        }
    }
}
