//! Manifests in, problems out. Each `tests/golden/problems/NAME.yaml` has its problems in `NAME.txt`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Golden;
use fathom_spec::parse_manifest;
use std::time::{Duration, Instant};

#[test]
fn problems_of_stored_manifests() {
    let mut golden = Golden::new("problems", "txt");
    for (name, manifest) in golden.inputs("yaml") {
        let (verdict, problems) = match parse_manifest(&manifest) {
            Ok(job) => ("accepted", job.warnings),
            Err(problems) => ("refused", problems),
        };
        let mut text = format!("{verdict}\n");
        for problem in problems {
            text += &format!("{problem}\n");
        }
        golden.check(&name, &text);
    }
    golden.finish();
}

/// What no honest manifest looks like gets one clear problem. The time limit is far above what it takes: it fails for
/// quadratic work, not for a slow machine.
#[test]
fn hostile_texts_are_refused_quickly() {
    let header = "apiVersion: fathom.dev/v1alpha1\nkind: DeepSeekV3Job\n";
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..30 {
        bomb += &format!("a{level}: &a{level} [{}]\n", format!("*a{}, ", level - 1).repeat(9));
    }
    let deep_block: String = (0..500).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let table = [
        ("100 MB", format!("{header}# {}", "x".repeat(100 << 20)), "the limit of 1048576"),
        ("deep flow list", "[".repeat(1 << 20), "nested too deeply"),
        ("deep flow mapping", "{a: ".repeat(200_000), "nested too deeply"),
        ("deep block list", "- ".repeat(500_000), "nested too deeply"),
        ("deep block mapping", deep_block, "nested too deeply"),
        ("aliases", bomb, "values"),
        ("many values", format!("a: [{}]", "1,".repeat(300_000)), "too many values"),
        ("two documents", format!("{header}---\n{header}"), "several documents"),
        ("no YAML", "a: [1, 2\nb: }".into(), "not readable as YAML"),
        ("control characters", "a: \u{1}".into(), "not readable as YAML"),
        ("unknown tag", "a: !!python/object:os.system x".into(), "not readable as YAML"),
        ("unknown alias", "a: *b".into(), "not readable as YAML"),
        ("not finite", "a: .nan".into(), "not readable as YAML"),
    ];
    for (name, text, expected) in table {
        let start = Instant::now();
        let problems = parse_manifest(&text).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10), "{name} took {:?}", start.elapsed());
        assert_eq!(problems.len(), 1, "{name}: {problems:?}");
        assert!(problems[0].message.contains(expected), "{name}: {}", problems[0]);
    }
}

/// A text full of mistakes lists the first 200, in linear time.
#[test]
fn the_list_of_problems_is_bounded() {
    let fields: String = (0..9_000).map(|field| format!("f{field}: 1\n")).collect();
    assert_eq!(parse_manifest(&fields).unwrap_err().len(), 200);
    let repeated = "a: 1\n".repeat(9_000);
    assert_eq!(parse_manifest(&repeated).unwrap_err().len(), 200);
}

#[test]
fn anchors_and_merge_keys_are_understood() {
    let text = "
defaults: &defaults {sequences: 8}
";
    assert!(parse_manifest(text).unwrap_err().iter().any(|problem| problem.path == "defaults"));
    let text = fathom_spec::init_manifest(fathom_spec::manifest::Preset::Nano);
    assert!(text.contains("*text"), "the example shares its input through an anchor");
    let job = parse_manifest(&text).unwrap();
    let text = text.replace("sequences: 16", "<<: {sequences: 16, microBatch: 2}");
    let merged = parse_manifest(&text).unwrap();
    assert_ne!(job, merged);
}

/// `sft:` without fields is null to YAML.
#[test]
fn a_kind_without_fields_is_a_problem() {
    let manifest = |phase: &str| {
        format!(
            "apiVersion: fathom.dev/v1alpha1\nkind: DeepSeekV3Job\nmetadata: {{name: job}}\nspec:\n  model: {{preset: nano}}\n  phases:\n    - {{name: a, {phase}}}\n"
        )
    };
    let problems = parse_manifest(&manifest("tokenizer:")).unwrap_err();
    let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        messages,
        ["7:17: error: spec.phases[0].tokenizer: `tokenizer` has no fields; write `tokenizer: {}` for its defaults"]
    );
    assert!(parse_manifest(&manifest("tokenizer: {file: tokenizer.json}")).is_ok());
}
