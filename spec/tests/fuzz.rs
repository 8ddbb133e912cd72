//! Bounded fuzzing: no text makes the parser panic, and what it accepts holds together.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fathom_spec::key::{canonical_json, digest};
use fathom_spec::manifest::Preset;
use fathom_spec::plan::{Observed, plan};
use fathom_spec::{init_manifest, parse_manifest};
use proptest::prelude::*;
use serde_json::Value;

const ALL_PHASES: &str = include_str!("golden/problems/all-phases.yaml");
const MISTAKES: [&str; 4] = [
    include_str!("golden/problems/wrong-types.yaml"),
    include_str!("golden/problems/phases.yaml"),
    include_str!("golden/problems/schedule.yaml"),
    include_str!("golden/problems/post-training.yaml"),
];

/// Parses, plans and checks what must hold for any text.
fn exercise(text: &str) {
    match parse_manifest(text) {
        Ok(job) => {
            for (index, phase) in job.phases.iter().enumerate() {
                assert!(phase.inputs.values().all(|&maker| maker < index), "a phase reads a later one");
            }
            assert_eq!(job.architecture.check(), []);
            // Planning may refuse, and must not panic.
            let _ = plan(&job, &Observed::default());
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
            assert!(places.is_sorted(), "{places:?}");
            // To YAML a carriage return alone ends a line as well.
            let lines = text.split(['\n', '\r']).count() as u64;
            assert!(problems.iter().all(|problem| problem.line <= lines && !problem.message.is_empty()));
            assert!(
                problems.iter().all(|problem| problem.to_string().len() < 8192),
                "a problem quotes its input at length"
            );
        }
    }
}

/// A valid or mistaken manifest, with some of its characters or lines changed.
fn mutated() -> impl Strategy<Value = String> {
    let seeds: Vec<String> = Preset::ALL
        .map(init_manifest)
        .into_iter()
        .chain([ALL_PHASES.to_owned()])
        .chain(MISTAKES.map(str::to_owned))
        .collect();
    let junk = prop_oneof![
        Just("0"),
        Just("-1"),
        Just("1e999"),
        Just("18446744073709551616"),
        Just("0.0000001"),
        Just("4294967295"),
        Just("null"),
        Just("{}"),
        Just("[]"),
        Just("100%"),
        Just("10T"),
        Just("&a"),
        Just("*text"),
        Just("<<: "),
        Just("\"\u{0}\""),
        Just("é"),
        Just(": "),
        Just("- "),
        Just("\n"),
        Just("  "),
        Just("name"),
        Just("!!float"),
        Just("|"),
        Just("'"),
    ];
    let edit = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), junk, 0u8..4);
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..5)).prop_map(|(mut text, edits)| {
        for (from, to, junk, kind) in edits {
            if text.is_empty() {
                break;
            }
            let boundaries: Vec<usize> = text.char_indices().map(|(index, _)| index).collect();
            let (first, second) = (boundaries[from.index(boundaries.len())], boundaries[to.index(boundaries.len())]);
            let (start, end) = (first.min(second), first.max(second));
            match kind {
                // Replace a word or number by junk.
                0 => {
                    let word = text[start..]
                        .find(|c: char| c.is_alphanumeric())
                        .map_or(start, |offset| start + offset);
                    let end = text[word..]
                        .find(|c: char| !c.is_alphanumeric())
                        .map_or(text.len(), |offset| word + offset);
                    text.replace_range(word..end, junk);
                }
                1 => text.insert_str(start, junk),
                // Remove a stretch of at most 200 bytes.
                2 => {
                    let end = boundaries
                        .iter()
                        .copied()
                        .filter(|&index| index <= end.min(start + 200))
                        .max()
                        .unwrap_or(start);
                    text.replace_range(start..end, "");
                }
                // Repeat a line.
                _ => {
                    let line = text[start..].lines().next().unwrap_or_default().to_owned();
                    text.insert_str(start, &format!("{line}\n"));
                }
            }
        }
        text
    })
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Structured nonsense: any JSON is YAML, in the right places of a manifest.
fn shaped() -> impl Strategy<Value = String> {
    (
        json(),
        json(),
        prop::sample::select(vec![
            "tokenizer",
            "corpus",
            "pretrain",
            "extend",
            "sft",
            "grpo",
            "evaluate",
            "serve",
            "from",
        ]),
    )
        .prop_map(|(model, fields, kind)| {
            let mut phase = serde_json::json!({"name": "a"});
            phase[kind] = fields;
            let manifest = serde_json::json!({
                "apiVersion": "fathom.dev/v1alpha1", "kind": "DeepSeekV3Job", "metadata": {"name": "job"},
                "spec": {"model": {"preset": "unit", "architecture": model}, "phases": [phase]},
            });
            manifest.to_string()
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text(text in "(?s).{0,300}") {
        exercise(&text);
    }

    #[test]
    fn yaml_like_text(text in "([a-z]{1,4}: |- |\\{|\\}|\\[|\\]|\n {0,4}|&a |\\*a|'|\"|#|\\||>|---|[0-9.e%-]{1,5}|!|<<: ){0,60}") {
        exercise(&text);
    }

    #[test]
    fn mutated_manifests(text in mutated()) {
        exercise(&text);
    }

    #[test]
    fn shaped_nonsense(text in shaped()) {
        exercise(&text);
    }

    /// Canonical JSON reads back equal, and is its own canonical form whatever the order of fields was.
    #[test]
    fn canonical_json_round_trip(value in json()) {
        let text = canonical_json(&value);
        let back: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&back, &value);
        prop_assert_eq!(canonical_json(&back), text);
        prop_assert_eq!(digest(&back), digest(&value));
    }
}

#[test]
fn canonical_json_is_sorted_and_dense() {
    let value: Value = serde_json::from_str(r#" { "b" : [1, 2.50, "é\n"], "a" : {"z": null, "y": true} } "#).unwrap();
    assert_eq!(canonical_json(&value), r#"{"a":{"y":true,"z":null},"b":[1,2.5,"é\n"]}"#);
}
