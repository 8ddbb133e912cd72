//! The encoder yields the ids of the `tokenizers` crate, for any text.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod common;

use fathom_worker::data::encode::{Encoder, bench_encode};
use fathom_worker::data::vocabulary::TOKENIZER_FILE;
use proptest::prelude::*;
use std::sync::{LazyLock, Mutex};

struct Both {
    ours: Mutex<Encoder>,
    theirs: tokenizers::Tokenizer,
    directory: tempfile::TempDir,
}

/// A tokenizer trained on English, code and other scripts.
static BOTH: LazyLock<Both> = LazyLock::new(|| {
    let mut documents = common::documents(100);
    documents.push(("samples.txt".into(), SAMPLES.join("\n").repeat(3)));
    documents.push(("code.rs".into(), include_str!("data_encode.rs").into()));
    let text = common::tree(&documents);
    let (directory, _) = common::train_tokenizer_of(text.path(), 1200);
    let mut theirs = tokenizers::Tokenizer::from_file(directory.path().join(TOKENIZER_FILE)).unwrap();
    theirs.set_encode_special_tokens(true);
    let ours = Encoder::open(directory.path()).unwrap();
    assert!(ours.is_fast());
    Both {
        ours: Mutex::new(ours),
        theirs,
        directory,
    }
});

const SAMPLES: [&str; 9] = [
    "Mixture-of-Experts models route each token to a few experts; the others stay idle.\n\n\tSee §2.1.2 (page 7).",
    "Die Gewichtsmatrix wird blockweise quantisiert – größer ist nicht besser.",
    "模型学习预测下一个词。専門家は256人います。",
    "Модель учится предсказывать следующий токен.",
    "النموذج يتعلم التنبؤ بالكلمة التالية ١٢٣٤",
    "मॉडल अगला शब्द सीखता है। 한국어 문장도 있습니다. ภาษาไทยไม่มีเว้นวรรค",
    "🙂👩‍👩‍👧‍👦 e\u{301}\u{200b} ½ Ⅷ ﬁ",
    "fn main() {\r\n    let x = vec![0_u8; 1 << 20];\r\n    println!(\"{x:?}\");\r\n}\r\n",
    "<｜begin▁of▁sentence｜>user text that spells a special token<｜fim▁hole｜>",
];

fn check(text: &str) {
    let mut tokens = Vec::new();
    let mut ours = BOTH.ours.lock().unwrap();
    ours.encode(text, &mut tokens).unwrap();
    let theirs = BOTH.theirs.encode_fast(text, false).unwrap();
    assert_eq!(tokens, theirs.get_ids(), "{text:?}");
    assert_eq!(ours.vocabulary().decode(&tokens), text);
    assert!(
        tokens.iter().all(|&token| !ours.vocabulary().is_special(token)),
        "special tokens never come from text"
    );
}

#[test]
fn samples_have_the_same_ids() {
    SAMPLES.iter().for_each(|text| check(text));
    check(&SAMPLES.join(""));
    check("");
}

#[test]
fn long_runs_have_the_same_ids() {
    for unit in ["a", " ", "\n", "=", "中", "ab", "the", "é", "\u{0}", "7", " \n", "a1", "ΔΩ"] {
        for count in [1, 2, 3, 30, 31, 32, 33, 95, 96, 97, 1000, 20_000] {
            check(&unit.repeat(count));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_text_has_the_same_ids(text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&text);
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn mixed_samples_have_the_same_ids(parts in proptest::collection::vec((0_usize..9, 0_usize..80, 0_usize..80), 0..12)) {
        let slice = |(sample, from, to): (usize, usize, usize)| -> String { SAMPLES[sample].chars().skip(from.min(to)).take(from.max(to)).collect() };
        check(&parts.into_iter().map(slice).collect::<String>());
    }
}

#[test]
fn the_benchmark_compares_ids() {
    let texts: Vec<String> = common::documents(20).into_iter().map(|(_, text)| text).collect();
    let speed = bench_encode(BOTH.directory.path(), &texts, 2).unwrap();
    assert_eq!(speed.mismatches, 0);
    assert_eq!(speed.bytes, texts.iter().map(|text| text.len() as u64).sum::<u64>());
    assert!(speed.tokens > speed.bytes / 10);
}
