//! What the tests of the data stages share, and those of training.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod training;

use fathom_spec::manifest::{Corpus, Deduplicate, Fim, Input, Tokenizer};
use fathom_spec::quantity::Bytes;
use fathom_spec::record::{EventKind, Progress};
use fathom_worker::context::PhaseContext;
use std::path::Path;
use std::sync::Mutex;

/// A phase's surroundings that record events.
pub struct Context {
    threads: usize,
    stop: bool,
    events: Mutex<Vec<String>>,
}

impl Context {
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            stop: false,
            events: Mutex::default(),
        }
    }

    pub fn stopping() -> Self {
        Self {
            stop: true,
            ..Self::new(2)
        }
    }

    pub fn events(&self) -> Vec<String> {
        self.events.lock().unwrap().clone()
    }
}

impl PhaseContext for Context {
    fn seed(&self) -> u64 {
        42
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn progress(&self, progress: Progress) {
        assert!(progress.total.is_none_or(|total| progress.done <= total), "{progress:?}");
    }

    fn event(&self, _: EventKind, _: Option<u64>, message: String) {
        self.events.lock().unwrap().push(message);
    }

    fn stop_requested(&self) -> bool {
        self.stop
    }
}

/// `count` different documents of English-like text and code, of 50 to 2,000 bytes.
pub fn documents(count: usize) -> Vec<(String, String)> {
    const WORDS: [&str; 24] = [
        "the", "model", "learns", "from", "text", "and", "every", "expert", "is", "sent", "tokens", "that", "it", "knows", "best", "naïve",
        "中文", "fn", "value", "loss", "falls", "slowly", "gradient", "flows",
    ];
    let mut state = 12_345_u64;
    let mut next = move |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    (0..count)
        .map(|index| {
            let mut text = format!("Document {index}.\n");
            for _ in 0..10 + next(300) {
                text += WORDS[next(WORDS.len())];
                text += [" ", " ", " ", " ", ", ", ".\n", ";\n\n", "() {\n    ", "123 "][next(9)];
            }
            (format!("{index:04}.txt"), text)
        })
        .collect()
}

pub fn tree(documents: &[(String, String)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in documents {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

pub fn corpus_input(path: &Path) -> Input {
    Input {
        name: Some("text".into()),
        paths: vec![path.display().to_string()],
        exclude: vec![],
        text_field: "text".into(),
        weight: 1.0,
        max_bytes: None,
    }
}

pub fn tokenizer_config(text: &Path) -> Tokenizer {
    Tokenizer {
        vocab_size: Some(400),
        file: None,
        input: vec![corpus_input(text)],
        sample_bytes: Bytes(1 << 20),
    }
}

pub fn corpus_config(text: &Path) -> Corpus {
    Corpus {
        sequence_length: 127,
        input: vec![corpus_input(text)],
        fim: Fim { rate: 0.0 },
        validation_fraction: 0.1,
        deduplicate: Deduplicate {
            exact: true,
            near_threshold: Some(0.8),
        },
        punctuation_split: 0.0,
    }
}

/// A tokenizer trained on the text in a directory.
pub fn train_tokenizer(text: &Path) -> (tempfile::TempDir, Context) {
    train_tokenizer_of(text, 400)
}

/// The same with a vocabulary of another size.
pub fn train_tokenizer_of(text: &Path, vocab_size: u32) -> (tempfile::TempDir, Context) {
    let directory = tempfile::tempdir().unwrap();
    let ctx = Context::new(2);
    let mut config = tokenizer_config(text);
    config.vocab_size = Some(vocab_size);
    fathom_worker::data::tokenizer::run(&config, directory.path(), &ctx).unwrap();
    (directory, ctx)
}

/// Writes texts as `t.jsonl`, `t.jsonl.zst`, `t.jsonl.gz` and `t.parquet`, each with a second field.
pub fn write_formats(directory: &Path, texts: &[&str]) {
    use std::io::Write;
    let lines: String = texts
        .iter()
        .enumerate()
        .map(|(id, text)| format!("{}\n", serde_json::json!({"id": {"nested": [id]}, "text": text})))
        .collect();
    std::fs::write(directory.join("t.jsonl"), &lines).unwrap();
    // Two frames, one after the other, as parallel compressors write them.
    let (first, second) = lines.split_at(lines.len() / 2);
    let frames = [first, second].map(|part| zstd::encode_all(part.as_bytes(), 3).unwrap()).concat();
    std::fs::write(directory.join("t.jsonl.zst"), frames).unwrap();
    let file = std::fs::File::create(directory.join("t.jsonl.gz")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    gzip.finish().unwrap();
    write_parquet(&directory.join("t.parquet"), texts);
}

/// Two row groups, a nullable text column with a null among the texts, Zstandard.
fn write_parquet(path: &Path, texts: &[&str]) {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use std::sync::Arc;
    let schema = "message schema { REQUIRED INT64 id; OPTIONAL BYTE_ARRAY text (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .build();
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::new(properties)).unwrap();
    for half in texts.chunks(texts.len().div_ceil(2)) {
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let ids: Vec<i64> = (0..=half.len() as i64).collect();
        column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let values: Vec<ByteArray> = half.iter().map(|&text| ByteArray::from(text)).collect();
        let mut definitions = vec![1; half.len() + 1];
        definitions[half.len() / 2] = 0;
        column
            .typed::<ByteArrayType>()
            .write_batch(&values, Some(&definitions), None)
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
}
