//! Megatron's own reader opens our shards and sees the same tokens. Skipped where its environment is not installed
//! (`worker/tests/megatron/setup.sh`).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod common;

use common::{corpus_config, train_tokenizer, tree};
use fathom_worker::data::corpus;
use fathom_worker::data::shard::{Rows, ShardWriter, TokenType};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The documents that megatron-core reads, as sequences of tokens, with the `numpy` name of their type.
fn read_with_megatron(prefix: &Path) -> Option<(String, Vec<Vec<Vec<u32>>>)> {
    let environment = std::env::var_os("FATHOM_MEGATRON_ENV").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from)?;
    let python = environment
        .unwrap_or_else(|| home.join(".cache/fathom/megatron"))
        .join("bin/python");
    if !python.exists() {
        println!("skipped: {} does not exist; run worker/tests/megatron/setup.sh", python.display());
        return None;
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/megatron/read.py");
    let output = Command::new(python).arg(script).arg(prefix).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    Some((
        json["dtype"].as_str().unwrap().to_owned(),
        serde_json::from_value(json["documents"].clone()).unwrap(),
    ))
}

#[test]
fn megatron_reads_the_rows_of_a_corpus() {
    let text = tree(&common::documents(150));
    let (tokenizer, ctx) = train_tokenizer(text.path());
    let out = tempfile::tempdir().unwrap();
    let statistics = corpus::run(&corpus_config(text.path()), tokenizer.path(), out.path(), &ctx).unwrap();
    for name in ["train", "validation"] {
        let prefix = out.path().join(name);
        let Some((dtype, documents)) = read_with_megatron(&prefix) else {
            return;
        };
        let rows = Rows::open(&prefix).unwrap();
        assert_eq!(dtype, "uint16");
        assert_eq!(documents.len(), rows.len());
        assert_eq!(documents.len() as u64, statistics[format!("{name}_rows")].as_u64().unwrap());
        for (index, document) in documents.iter().enumerate() {
            let mut row = vec![0; rows.row_tokens()];
            rows.read(index, &mut row).unwrap();
            assert_eq!(document.concat(), row);
        }
    }
}

#[test]
fn megatron_reads_wide_tokens() {
    let out = tempfile::tempdir().unwrap();
    let prefix = out.path().join("wide");
    let mut writer = ShardWriter::create(&prefix, TokenType::I32).unwrap();
    let documents: Vec<Vec<Vec<u32>>> = vec![vec![vec![129_279, 1], vec![65_536]], vec![vec![7, 8, 9]]];
    for document in &documents {
        for sequence in document {
            let bytes: Vec<u8> = sequence.iter().flat_map(|token| token.to_le_bytes()).collect();
            writer.fragment(&bytes).unwrap();
        }
        writer.end_document();
    }
    writer.finish().unwrap();
    let Some(read) = read_with_megatron(&prefix) else { return };
    assert_eq!(read, ("int32".into(), documents));
}
