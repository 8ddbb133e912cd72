//! The data stages from files to rows, with a real tokenizer.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod common;

use common::{Context, corpus_config, corpus_input, tokenizer_config, train_tokenizer, tree};
use fathom_spec::manifest::Input;
use fathom_worker::data::encode::Encoder;
use fathom_worker::data::shard::Rows;
use fathom_worker::data::vocabulary::Vocabulary;
use fathom_worker::data::{corpus, tokenizer};
use fathom_worker::error::Error;
use std::path::Path;

/// All rows of a shard.
fn rows(prefix: &Path) -> Vec<Vec<u32>> {
    let rows = Rows::open(prefix).unwrap();
    let read = |index| {
        let mut tokens = vec![0; rows.row_tokens()];
        rows.read(index, &mut tokens).unwrap();
        tokens
    };
    (0..rows.len()).map(read).collect()
}

#[test]
fn the_corpus_is_the_same_bytes_for_any_number_of_threads() {
    let text = tree(&common::documents(300));
    let mut outputs = Vec::new();
    for threads in [1, 2, 7] {
        let out = tempfile::tempdir().unwrap();
        let ctx = Context::new(threads);
        let tokenizer_dir = out.path().join("tokenizer");
        tokenizer::run(&tokenizer_config(text.path()), &tokenizer_dir, &ctx).unwrap();
        let corpus_dir = out.path().join("corpus");
        let mut config = corpus_config(text.path());
        config.fim.rate = 0.3;
        config.punctuation_split = 0.3;
        config.input[0].weight = 1.5;
        let statistics = corpus::run(&config, &tokenizer_dir, &corpus_dir, &ctx).unwrap();
        assert!(statistics["fim_share"].as_f64().unwrap() > 0.1, "{statistics}");
        assert!(statistics["punctuation_tokens_split"].as_u64().unwrap() > 0, "{statistics}");
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for directory in [&tokenizer_dir, &corpus_dir] {
            let mut names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            files.extend(
                names
                    .into_iter()
                    .map(|path| (path.file_name().unwrap().to_string_lossy().into(), std::fs::read(path).unwrap())),
            );
        }
        outputs.push(files);
    }
    let names: Vec<&str> = outputs[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tokenizer.json",
            "tokenizer_config.json",
            "corpus.json",
            "train.bin",
            "train.idx",
            "validation.bin",
            "validation.idx",
            "validation.txt"
        ]
    );
    assert_eq!(outputs[0], outputs[1]);
    assert_eq!(outputs[0], outputs[2]);
}

#[test]
fn rows_hold_the_documents() {
    let text = tree(&common::documents(200));
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let mut config = corpus_config(text.path());
    config.sequence_length = 1023;
    let statistics = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
    let vocabulary = Vocabulary::open(tokenizer_dir.path()).unwrap();
    let train = rows(&out.path().join("train"));
    assert!(train.iter().all(|row| row.len() == config.sequence_length as usize + 1));
    assert_eq!(train.len() as u64, statistics["train_rows"].as_u64().unwrap());
    // Without FIM and splitting, a document that was not cut is found between its begin and end.
    let all: Vec<u32> = train.concat();
    let whole = all
        .split(|&token| token == vocabulary.end())
        .map(|tokens| vocabulary.decode(tokens))
        .collect::<std::collections::HashSet<_>>();
    let originals = common::documents(200);
    let found = originals.iter().filter(|(_, text)| whole.contains(text)).count();
    assert!(found > 100, "{found} of 200 documents are whole in {} rows", train.len());

    let validation = rows(&out.path().join("validation"));
    assert!(!validation.is_empty());
    let held_out: String = validation.iter().map(|row| vocabulary.decode(row)).collect();
    assert_eq!(std::fs::read_to_string(out.path().join("validation.txt")).unwrap(), held_out);
    let bytes = vocabulary.token_bytes();
    let counted: u64 = validation.iter().flatten().map(|&token| u64::from(bytes[token as usize])).sum();
    assert_eq!(counted, held_out.len() as u64);
    assert!(!out.path().join(".staging").exists());
}

/// The validation split of several sources is that of each alone, one after the other; what is trained on mixes them.
#[test]
fn validation_rows_are_packed_source_by_source() {
    let documents = common::documents(300);
    let (prose, code) = (tree(&documents[..200]), tree(&documents[200..]));
    let short = tree(&[("one.txt".into(), "too short for a row".into())]);
    let (tokenizer_dir, ctx) = train_tokenizer(prose.path());
    let input = |name: &str, path: &Path| Input {
        name: Some(name.into()),
        ..corpus_input(path)
    };
    let run = |input: Vec<Input>| {
        let out = tempfile::tempdir().unwrap();
        let mut config = corpus_config(prose.path());
        config.validation_fraction = 0.4;
        config.input = input;
        let statistics = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
        (statistics, out)
    };
    let read = |out: &tempfile::TempDir, name: &str| std::fs::read(out.path().join(name)).unwrap();
    let manifest = |out: &tempfile::TempDir| -> serde_json::Value { serde_json::from_slice(&read(out, "corpus.json")).unwrap() };

    let (statistics, all) = run(vec![
        input("prose", prose.path()),
        input("short", short.path()),
        input("code", code.path()),
    ]);
    let (first, one) = run(vec![input("prose", prose.path())]);
    let (second, two) = run(vec![input("code", code.path())]);
    let rows = |statistics: &serde_json::Value| statistics["validation_rows"].as_u64().unwrap();
    assert!(rows(&first) > 30 && rows(&second) > 15, "{first} {second}");
    for name in ["validation.bin", "validation.txt"] {
        assert!(read(&all, name) == [read(&one, name), read(&two, name)].concat(), "{name}");
    }
    let recorded = serde_json::json!([
        {"name": "prose", "rows": rows(&first)}, {"name": "short", "rows": 0}, {"name": "code", "rows": rows(&second)},
    ]);
    assert_eq!(manifest(&all)["validation_sources"], recorded);
    assert!(
        manifest(&one).get("validation_sources").is_none(),
        "a corpus of one source is what it was"
    );
    assert_eq!(rows(&statistics), rows(&first) + rows(&second));
    let lost: u64 = ["prose", "short", "code"]
        .iter()
        .map(|source| statistics["sources"][source]["validation_tokens"].as_u64().unwrap() % 128)
        .sum();
    assert_eq!(statistics["validation_dropped_tokens"], lost);
    let events = ctx.events();
    assert!(
        events
            .iter()
            .any(|event| event.contains("of 1 of 3 sources do not fill one row of 128")),
        "{events:?}"
    );
}

#[test]
fn held_out_documents_are_not_trained_on() {
    let text = tree(&common::documents(200));
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let mut config = corpus_config(text.path());
    config.validation_fraction = 0.3;
    corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
    let vocabulary = Vocabulary::open(tokenizer_dir.path()).unwrap();
    let text_of = |name: &str| -> String { rows(&out.path().join(name)).iter().map(|row| vocabulary.decode(row)).collect() };
    let (train, validation) = (text_of("train"), text_of("validation"));
    let identities = |text: &str| {
        text.split("Document ")
            .skip(1)
            .map(|part| part.split('.').next().unwrap().to_owned())
            .collect::<std::collections::HashSet<_>>()
    };
    let (train, validation) = (identities(&train), identities(&validation));
    assert!(validation.len() > 30, "{}", validation.len());
    assert!(train.len() > 90, "{}", train.len());
    assert!(train.is_disjoint(&validation));
}

#[test]
fn duplicates_are_counted_and_dropped() {
    let mut documents = common::documents(60);
    let long = |salt: usize| -> String {
        (0..400)
            .map(|word| format!("w{} ", (word * 7919 + salt * 104_729) % 5003))
            .collect()
    };
    documents.push(("x-original.txt".into(), long(1)));
    documents.push(("y-exact.txt".into(), long(1)));
    documents.push(("z-near.txt".into(), format!("{}changed {}", &long(1)[..1000], &long(1)[1000..])));
    documents.push(("z-other.txt".into(), long(2)));
    let text = tree(&documents);
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let run = |exact, near_threshold| {
        let out = tempfile::tempdir().unwrap();
        let mut config = corpus_config(text.path());
        config.deduplicate.exact = exact;
        config.deduplicate.near_threshold = near_threshold;
        let statistics = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
        (
            statistics["exact_duplicates"].as_u64().unwrap(),
            statistics["near_duplicates"].as_u64().unwrap(),
        )
    };
    assert_eq!(run(false, None), (0, 0));
    assert_eq!(run(true, None), (1, 0));
    assert_eq!(run(true, Some(0.8)), (1, 1));
    assert_eq!(run(false, Some(0.8)), (0, 2));
}

#[test]
fn fill_in_the_middle_is_prefix_suffix_middle() {
    let text = tree(&common::documents(100));
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let mut config = corpus_config(text.path());
    config.sequence_length = 1023;
    config.fim.rate = 1.0;
    config.validation_fraction = 0.0;
    let statistics = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
    assert_eq!(statistics["fim_share"].as_f64(), Some(1.0));
    let vocabulary = Vocabulary::open(tokenizer_dir.path()).unwrap();
    let fim = vocabulary.fim().unwrap();
    let originals: std::collections::HashSet<String> = common::documents(100).into_iter().map(|(_, text)| text).collect();
    let mut restored = 0;
    for row in rows(&out.path().join("train")) {
        for document in row.split(|&token| token == vocabulary.end()) {
            let place = |mark| document.iter().position(|&token| token == mark);
            let [Some(begin), Some(hole), Some(end)] = [place(fim.begin), place(fim.hole), place(fim.end)] else {
                continue;
            };
            if begin != 1 || document[0] != vocabulary.begin() {
                continue;
            }
            let part = |from: usize, to: usize| vocabulary.decode(&document[from..to]);
            let text = part(begin + 1, hole) + &part(end + 1, document.len()) + &part(hole + 1, end);
            restored += usize::from(originals.contains(&text));
        }
    }
    assert!(restored > 50, "{restored} of 100 documents are restored from their parts");
}

#[test]
fn weights_thin_and_repeat() {
    let text = tree(&common::documents(200));
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let documents = |weight: f64| {
        let out = tempfile::tempdir().unwrap();
        let mut config = corpus_config(text.path());
        config.validation_fraction = 0.0;
        config.input[0].weight = weight;
        let statistics = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap();
        statistics["train_documents"].as_u64().unwrap()
    };
    assert_eq!(documents(1.0), 200);
    assert_eq!(documents(3.0), 600);
    // Within five standard deviations of a binomial with n = 200 and p = 1/2.
    assert!(documents(0.5).abs_diff(100) < 36);
    assert!(documents(1.5).abs_diff(300) < 36);
}

#[test]
fn all_formats_yield_the_same_documents() {
    let documents = common::documents(50);
    let texts: Vec<&str> = documents.iter().map(|(_, text)| text.as_str()).collect();
    let directory = tempfile::tempdir().unwrap();
    common::write_formats(directory.path(), &texts);
    let read = |name: &str| -> Vec<String> {
        let inputs = [corpus_input(&directory.path().join(name))];
        let files = fathom_worker::data::input::expand(&inputs).unwrap();
        fathom_worker::data::stream::Documents::new(files, &inputs)
            .map(|document| document.unwrap().text)
            .collect()
    };
    for name in ["t.jsonl", "t.jsonl.zst", "t.jsonl.gz", "t.parquet"] {
        assert_eq!(read(name), texts, "{name}");
    }
}

#[test]
fn unusable_input_is_named_with_its_cure() {
    let directory = tempfile::tempdir().unwrap();
    let (tokenizer_dir, ctx) = train_tokenizer(tree(&common::documents(40)).path());
    let long = "word ".repeat(400);
    for (name, content, parts) in [
        (
            "bad.jsonl",
            b"{\"text\": \"a\"}\n{\"text\": \"b\"\n".to_vec(),
            ["bad.jsonl, line 2", "remove the line"],
        ),
        (
            "field.jsonl",
            b"{\"content\": \"a\"}\n".to_vec(),
            ["field.jsonl, line 1", "no field `text`"],
        ),
        ("type.jsonl", b"{\"text\": 7}\n".to_vec(), ["type.jsonl, line 1", "textField"]),
        (
            "cut.jsonl.gz",
            vec![0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 3, 1],
            ["cut.jsonl.gz", "decompressed"],
        ),
        (
            "cut.jsonl.zst",
            zstd::encode_all(long.as_bytes(), 3).unwrap()[..10].to_vec(),
            ["cut.jsonl.zst", "decompressed"],
        ),
        (
            "not.parquet",
            b"PAR1 this is not".to_vec(),
            ["not.parquet", "not a readable Parquet file"],
        ),
        ("small.txt", b"too little".to_vec(), ["do not fill one row", "sequenceLength"]),
    ] {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        let mut config = corpus_config(directory.path());
        config.input = vec![corpus_input(&path)];
        let out = tempfile::tempdir().unwrap();
        let error = corpus::run(&config, tokenizer_dir.path(), out.path(), &ctx).unwrap_err();
        assert!(matches!(error, Error::Data { .. }), "{error}");
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{name}: {message}");
    }
}

#[test]
fn broken_text_is_repaired_and_counted() {
    let mut documents = common::documents(60);
    documents.push(("empty.txt".into(), String::new()));
    let text = tree(&documents);
    std::fs::write(text.path().join("latin1.txt"), b"na\xEFve caf\xE9 ".repeat(40)).unwrap();
    std::fs::write(
        text.path().join("surrogate.jsonl"),
        "{\"other\": [1], \"text\": \"lone \\ud800 surrogate\"}\n{\"text\": null}\n\n",
    )
    .unwrap();
    let (tokenizer_dir, ctx) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let statistics = corpus::run(&corpus_config(text.path()), tokenizer_dir.path(), out.path(), &ctx).unwrap();
    assert_eq!(statistics["invalid_utf8_documents"], 2);
    assert_eq!(statistics["empty_documents"], 2);
    let events = ctx.events();
    assert!(
        events.iter().any(|event| event.contains("2 documents had bytes that are no UTF-8")),
        "{events:?}"
    );
}

#[test]
fn a_stop_request_ends_the_phase_and_a_restart_cleans_up() {
    let text = tree(&common::documents(100));
    let (tokenizer_dir, _) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let config = corpus_config(text.path());
    let stopped = corpus::run(&config, tokenizer_dir.path(), out.path(), &Context::stopping());
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    assert!(out.path().join(".staging").exists());
    std::fs::write(out.path().join(".staging/left-over"), "x").unwrap();
    corpus::run(&config, tokenizer_dir.path(), out.path(), &Context::new(2)).unwrap();
    assert!(!out.path().join(".staging").exists());
    assert!(matches!(
        tokenizer::run(&tokenizer_config(text.path()), out.path(), &Context::stopping()),
        Err(Error::Stopped)
    ));
}

#[test]
fn an_adopted_tokenizer_is_checked_and_used() {
    let text = tree(&common::documents(100));
    let (trained, ctx) = train_tokenizer(text.path());
    let file = trained.path().join("tokenizer.json");
    let adopt = |path: &Path| {
        let out = tempfile::tempdir().unwrap();
        let mut config = tokenizer_config(text.path());
        config.vocab_size = None;
        config.file = Some(path.display().to_string());
        let statistics = tokenizer::run(&config, out.path(), &ctx)?;
        Ok::<_, Error>((statistics, out))
    };
    let (statistics, out) = adopt(&file).unwrap();
    assert_eq!(statistics["adopted"], true);
    assert!(statistics["bytes_per_token"].as_f64().unwrap() > 1.5);
    assert_eq!(
        std::fs::read(out.path().join("tokenizer.json")).unwrap(),
        std::fs::read(&file).unwrap()
    );

    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut json = json.clone();
        change(&mut json);
        let path = trained.path().join("changed.json");
        std::fs::write(&path, json.to_string()).unwrap();
        path
    };
    for (change, part) in [
        (
            (&|json: &mut serde_json::Value| json["model"]["type"] = "WordPiece".into()) as &dyn Fn(&mut serde_json::Value),
            "not BPE",
        ),
        (
            &|json| drop(json["model"]["vocab"].as_object_mut().unwrap().remove("Ġ")),
            "not byte-level",
        ),
        (&|json| json["model"]["byte_fallback"] = true.into(), "not byte-level"),
        (&|json| json["model"]["merges"][0] = serde_json::json!(["a", "nothing"]), "nothing"),
        (&|json| json["added_tokens"] = serde_json::json!([]), "ends a document"),
        (&|json| *json = serde_json::json!([]), "changed.json"),
    ] {
        let message = adopt(&changed(change)).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains("changed.json"), "{message}");
    }

    // A GPT-2 style tokenizer: not our pre-tokenizer, so the crate encodes; no FIM tokens, so FIM is refused.
    let foreign = changed(&|json| {
        json["pre_tokenizer"] =
            serde_json::json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| !token["content"].as_str().unwrap().contains("fim"));
    });
    let (statistics, out) = adopt(&foreign).unwrap();
    assert_eq!(statistics["fast_encoder"], false);
    let mut config = corpus_config(text.path());
    config.fim.rate = 0.1;
    let target = tempfile::tempdir().unwrap();
    let error = corpus::run(&config, out.path(), target.path(), &ctx).unwrap_err().to_string();
    assert!(error.contains("fill-in-the-middle") && error.contains("tokenizer.json"), "{error}");
    config.fim.rate = 0.0;
    corpus::run(&config, out.path(), target.path(), &ctx).unwrap();
    assert!(!Encoder::open(out.path()).unwrap().is_fast());
}
