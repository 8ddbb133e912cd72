//! What a character is to the pre-tokenizer: a table over all code points, made from the same Unicode tables that the regular
//! expressions of [`super::pretokenize`] use, so that the two agree character by character.

use std::sync::LazyLock;

/// Classes of characters. They are disjoint and cover everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Class {
    /// None of the others: control, format, private-use and unassigned characters.
    Other,
    /// `\p{L}` and `\p{M}` that are not ideographs.
    Letter,
    /// ASCII punctuation and symbols, which may lead a run of letters.
    AsciiPunctuation,
    /// The other `\p{P}` and `\p{S}`.
    Punctuation,
    /// U+0020.
    Space,
    /// White space that is neither U+0020 nor a line break.
    Blank,
    /// `\r` and `\n`.
    LineBreak,
    /// `\p{N}`.
    Digit,
    /// Han ideographs and kana, the ranges of [`IDEOGRAPHS`].
    Ideograph,
}

/// Kana, Han ideographs with extension A, compatibility ideographs, extensions B to H.
pub(crate) const IDEOGRAPHS: [(char, char); 5] = [
    ('\u{3040}', '\u{30FF}'),
    ('\u{3400}', '\u{4DBF}'),
    ('\u{4E00}', '\u{9FFF}'),
    ('\u{F900}', '\u{FAFF}'),
    ('\u{20000}', '\u{323AF}'),
];

/// Class of every code point.
pub(crate) static CLASSES: LazyLock<Vec<Class>> = LazyLock::new(|| {
    let mut classes = vec![Class::Other; 0x11_0000];
    let mut fill = |pattern: &str, class: Class| {
        for (first, last) in ranges(pattern) {
            classes[first as usize..=last as usize].fill(class);
        }
    };
    fill(r"[\p{L}\p{M}]", Class::Letter);
    fill(r"[\p{P}\p{S}]", Class::Punctuation);
    fill(r"[!-/:-@\[-`{-~]", Class::AsciiPunctuation);
    fill(r"\s", Class::Blank);
    fill(" ", Class::Space);
    fill(r"[\r\n]", Class::LineBreak);
    for (first, last) in IDEOGRAPHS {
        classes[first as usize..=last as usize].fill(Class::Ideograph);
    }
    for (first, last) in ranges(r"\p{N}") {
        classes[first as usize..=last as usize].fill(Class::Digit);
    }
    classes
});

/// The ranges of code points that a character class matches.
fn ranges(pattern: &str) -> Vec<(char, char)> {
    let hir = regex_syntax::parse(pattern).expect("the patterns are constants of this file");
    match hir.kind() {
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) => {
            class.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Bytes(class)) => class
            .ranges()
            .iter()
            .map(|range| (char::from(range.start()), char::from(range.end())))
            .collect(),
        regex_syntax::hir::HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).expect("a parsed literal is UTF-8");
            text.chars().map(|one| (one, one)).collect()
        }
        other => unreachable!("`{pattern}` is a class or a literal, not {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_have_the_classes_one_expects() {
        for (character, class) in [
            ('a', Class::Letter),
            ('é', Class::Letter),
            ('\u{301}', Class::Letter),
            ('ก', Class::Letter),
            ('한', Class::Letter),
            ('_', Class::AsciiPunctuation),
            ('$', Class::AsciiPunctuation),
            ('“', Class::Punctuation),
            ('€', Class::Punctuation),
            ('😀', Class::Punctuation),
            (' ', Class::Space),
            ('\t', Class::Blank),
            ('\u{A0}', Class::Blank),
            ('\u{85}', Class::Blank),
            ('\n', Class::LineBreak),
            ('\r', Class::LineBreak),
            ('7', Class::Digit),
            ('½', Class::Digit),
            ('Ⅷ', Class::Digit),
            ('中', Class::Ideograph),
            ('の', Class::Ideograph),
            ('ー', Class::Ideograph),
            ('𠀀', Class::Ideograph),
            ('\0', Class::Other),
            ('\u{200B}', Class::Other),
            ('\u{E000}', Class::Other),
            ('\u{10FFFF}', Class::Other),
        ] {
            assert_eq!(CLASSES[character as usize], class, "{character:?}");
        }
    }
}
