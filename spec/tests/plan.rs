//! Plans as readable text, what changes a cache key, and assignments.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Golden;
use fathom_spec::artifact::ArtifactKind;
use fathom_spec::assignment::{Assignment, Work};
use fathom_spec::manifest::Preset;
use fathom_spec::plan::{
    AssignmentError, Attempt, Observed, ObservedAttempt, Placement, Plan, PlannedState, assignment, plan, unsupported,
};
use fathom_spec::{ValidatedJob, parse_manifest};
use std::collections::BTreeMap;

const NANO: &str = "
apiVersion: fathom.dev/v1alpha1
kind: DeepSeekV3Job
metadata: {name: job}
spec:
  seed: 42
  model: {preset: nano}
  phases:
    - {name: tokenizer, tokenizer: {input: [{paths: [docs]}]}}
    - {name: corpus, corpus: {sequenceLength: 256, input: [{paths: [docs]}]}}
    - {name: pretrain, pretrain: {tokens: 4M, batch: {sequences: 16}}}
";

fn job(text: &str) -> ValidatedJob {
    parse_manifest(text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// What a runner sees: digests of all inputs, and the artifacts of the named phases.
fn observed(job: &ValidatedJob, done: &[&str]) -> Observed {
    let mut observed = Observed {
        inputs: job
            .phases
            .iter()
            .map(|phase| (phase.name.clone(), format!("digest of {}", phase.name)))
            .collect(),
        ..Observed::default()
    };
    let keys = keys(job, &observed);
    observed.artifacts = done.iter().map(|&name| keys[name].clone()).collect();
    observed
}

fn keys(job: &ValidatedJob, observed: &Observed) -> BTreeMap<String, String> {
    let plan = plan(job, observed).unwrap();
    plan.phases.into_iter().filter_map(|phase| Some((phase.name, phase.key?))).collect()
}

fn render(plan: &Plan) -> String {
    let mut text = format!("job {}\n", plan.job);
    for phase in &plan.phases {
        let key = phase.key.as_deref().map_or("unknown", |key| &key[..16]);
        text += &format!("\n{} ({})\n  key {key}\n", phase.name, phase.kind);
        for (kind, input) in &phase.inputs {
            text += &format!("  reads the {kind:?} of {}\n", input.phase);
        }
        text += &format!("  {:?}\n", phase.state);
    }
    text += "\n";
    for sentence in &plan.report {
        text += &format!("{sentence}\n");
    }
    text
}

fn attempt(key: &str, attempt: Attempt) -> ObservedAttempt {
    ObservedAttempt {
        key: key.to_owned(),
        attempt,
    }
}

/// Stored plans hold keys: they fail when a change would make users train again.
#[test]
fn stored_plans() {
    let mut golden = Golden::new("plans", "txt");
    let nano = job(NANO);
    let mut check = |name: &str, job: &ValidatedJob, observed: &Observed| golden.check(name, &render(&plan(job, observed).unwrap()));
    check("nothing-known", &nano, &Observed::default());
    check("fresh", &nano, &observed(&nano, &[]));
    check("corpus-next", &nano, &observed(&nano, &["tokenizer"]));
    check("complete", &nano, &observed(&nano, &["tokenizer", "corpus", "pretrain"]));

    let all_keys = keys(&nano, &observed(&nano, &[]));
    let pretrain = &all_keys["pretrain"];
    let with = |attempt: ObservedAttempt| {
        let mut observed = observed(&nano, &["tokenizer", "corpus"]);
        observed.attempts.insert("pretrain".into(), attempt);
        observed
    };
    check("running", &nano, &with(attempt(pretrain, Attempt::Running { attempt: 2 })));
    check("stopped", &nano, &with(attempt(pretrain, Attempt::Stopped { attempt: 2 })));
    let failed = Attempt::Failed {
        attempt: 4,
        message: "disk full; free some space".into(),
    };
    check("failed", &nano, &with(attempt(pretrain, failed.clone())));
    check("edited-after-failure", &nano, &with(attempt("another key", failed)));

    let two = job(&NANO.replace(
        "    - {name: pretrain",
        "    - {name: other, corpus: {sequenceLength: 128, input: [{paths: [more]}]}}\n    - {name: pretrain",
    ));
    check("newest-corpus", &two, &observed(&two, &["tokenizer", "corpus"]));
    golden.finish();
}

/// Ranks have equal parts of a batch, in whole micro-batches, and there is a power of two of them.
#[test]
fn ranks_that_do_not_fit_the_batch_are_refused() {
    let reasons = |data: u32, batch: &str| {
        let text = fathom_spec::init_manifest(Preset::Unit)
            .replacen("\nspec:\n", &format!("\nspec:\n  parallelism: {{data: {data}}}\n"), 1)
            .replacen("        batch:\n          sequences: 16", &format!("        batch: {{{batch}}}"), 1);
        assert!(text.contains(batch) && text.contains("parallelism"), "{text}");
        unsupported(&parse_manifest(&text).unwrap()).join("; ")
    };
    assert_eq!(reasons(1, "sequences: 6, microBatch: 2, rampFrom: 2, rampUntil: 50%"), "");
    assert_eq!(reasons(2, "sequences: 8, microBatch: 4"), "");
    assert!(reasons(3, "sequences: 6, microBatch: 2").contains("use a power of two"));
    assert!(reasons(2, "sequences: 6, microBatch: 2").contains("a multiple of 4 (microBatch x parallelism.data)"));
    assert!(reasons(2, "sequences: 8, microBatch: 2, rampFrom: 4, rampUntil: 50%").contains("a batch ramp over 2 ranks"));
}

#[test]
fn unsupported_parts_are_all_named() {
    let whole = job(include_str!("golden/problems/all-phases.yaml"));
    let error = plan(&whole, &Observed::default()).unwrap_err();
    assert_eq!(
        error.unsupported,
        [
            "worker device `cuda`: not supported by this version; use cpu",
            "pipeline parallelism over 2 ranks: not supported by this version; use 1",
            "expert parallelism over 2 ranks: not supported by this version; use 1",
            "storage `s3://bucket/prefix`: not supported by this version; use file://DIRECTORY, or pvc://CLAIM/PREFIX on a cluster",
            "phase `pretrain`: a batch ramp over 2 ranks: not supported by this version; make batch.rampFrom equal to batch.sequences",
            "phase `extend` (extend): not supported by this version",
            "phase `sft` (sft): not supported by this version",
            "phase `grpo` (grpo): not supported by this version",
            "phase `evaluate` (evaluate): not supported by this version",
            "phase `serve` (serve): not supported by this version",
        ]
    );
}

/// For each edit, the phases whose keys change.
#[test]
fn what_changes_a_key() {
    let table: [(&str, &str, &[&str]); 15] = [
        // What decides the output.
        ("seed: 42", "seed: 43", &["tokenizer", "corpus", "pretrain"]),
        (
            "tokenizer: {input",
            "tokenizer: {vocabSize: 4000, input",
            &["tokenizer", "corpus", "pretrain"],
        ),
        ("sequenceLength: 256", "sequenceLength: 128", &["corpus", "pretrain"]),
        ("tokens: 4M", "tokens: 5M", &["pretrain"]),
        ("sequences: 16", "sequences: 32", &["pretrain"]),
        ("preset: nano", "preset: nano, architecture: {num_hidden_layers: 5}", &["pretrain"]),
        // What does not.
        ("tokens: 4M", "tokens: 4000000", &[]),
        (
            "tokens: 4M",
            "tokens: 4e6, learningRate: {peak: 0.003}, balance: {biasUpdateUntil: 96.6%}",
            &[],
        ),
        ("sequences: 16", "sequences: 16, rampFrom: 16, microBatch: 8", &[]),
        (
            "tokens: 4M",
            "tokens: 4M, checkpoint: {every: 1%, keep: 9}, validation: {every: 1%, rows: 8}",
            &[],
        ),
        ("seed: 42", "seed: 42\n  worker: {threads: 3}\n  restart: {maxRestarts: 9}", &[]),
        (
            "seed: 42",
            "seed: 42\n  storage: {uri: \"file:///elsewhere\"}\n  parallelism: {microBatches: 3}",
            &[],
        ),
        ("name: job", "name: another-job", &[]),
        ("tokenizer: {input", "tokenizer: {vocabSize: 4096, input", &[]),
        ("preset: nano", "preset: nano, architecture: {hidden_size: 256}", &[]),
    ];
    let base = job(NANO);
    let before = keys(&base, &observed(&base, &[]));
    for (from, to, expected) in table {
        assert!(NANO.contains(from), "{from}");
        let edited = job(&NANO.replace(from, to));
        let after = keys(&edited, &observed(&edited, &[]));
        let changed: Vec<&str> = ["tokenizer", "corpus", "pretrain"]
            .into_iter()
            .filter(|&name| before[name] != after[name])
            .collect();
        assert_eq!(changed, expected, "{to}");
    }
}

#[test]
fn names_of_phases_are_not_in_keys() {
    let base = job(NANO);
    let renamed = job(&NANO.replace("name: corpus", "name: text"));
    let mut seen = observed(&renamed, &[]);
    seen.inputs.insert("text".into(), "digest of corpus".into());
    assert_eq!(keys(&base, &observed(&base, &[]))["pretrain"], keys(&renamed, &seen)["pretrain"]);
}

#[test]
fn other_files_change_the_key() {
    let base = job(NANO);
    let seen = observed(&base, &[]);
    let before = keys(&base, &seen);
    let mut edited = seen.clone();
    edited.inputs.insert("corpus".into(), "another digest".into());
    let after = keys(&base, &edited);
    let changed: Vec<&String> = before.keys().filter(|&name| before[name] != after[name]).collect();
    assert_eq!(changed, ["corpus", "pretrain"]);
}

/// A fork, or an edit of a later phase, uses everything before the change again.
#[test]
fn editing_a_later_phase_keeps_earlier_artifacts() {
    let base = job(NANO);
    let done = observed(&base, &["tokenizer", "corpus", "pretrain"]);
    let fork = job(&NANO.replace("name: job", "name: fork").replace("tokens: 4M", "tokens: 8M"));
    let plan = plan(&fork, &done).unwrap();
    let states: Vec<&PlannedState> = plan.phases.iter().map(|phase| &phase.state).collect();
    assert_eq!(
        states,
        [&PlannedState::Cached, &PlannedState::Cached, &PlannedState::Ready { attempt: 1 }]
    );
    assert_eq!(plan.ready().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["pretrain"]);
    assert!(!plan.is_complete());
}

fn placement(inputs: &[(ArtifactKind, &str)]) -> Placement {
    Placement {
        inputs: inputs.iter().map(|&(kind, path)| (kind, path.to_owned())).collect(),
        output: "out".into(),
        spool: "spool".into(),
        threads: 2,
    }
}

#[test]
fn an_assignment_is_complete_and_survives_a_file() {
    let job = job(NANO);
    let observed = observed(&job, &["tokenizer", "corpus"]);
    let plan = plan(&job, &observed).unwrap();
    let directories = [
        (ArtifactKind::Tokenizer, "a/tokenizer"),
        (ArtifactKind::Corpus, "a/corpus"),
        (ArtifactKind::Report, "unused"),
    ];
    let made = assignment(&job, &plan, "pretrain", 3, placement(&directories)).unwrap();
    let key = plan.phase("pretrain").unwrap().key.clone().unwrap();
    assert_eq!((made.attempt, made.seed, made.threads, &made.key), (3, 42, 2, &key));
    assert_eq!(made.run, format!("job.pretrain.{}", &key[..12]));
    assert_eq!(
        made.inputs.keys().collect::<Vec<_>>(),
        [&ArtifactKind::Tokenizer, &ArtifactKind::Corpus]
    );
    assert_eq!(
        Some(&made.inputs[&ArtifactKind::Corpus].key),
        plan.phase("corpus").unwrap().key.as_ref()
    );
    let Work::Pretrain {
        pretrain, architecture, ..
    } = &made.work
    else {
        panic!("{:?}", made.work)
    };
    assert_eq!((pretrain.batch.micro_batch, pretrain.learning_rate.peak), (8, 3e-3));
    assert_eq!(architecture, &job.architecture);
    let text = serde_json::to_string(&made).unwrap();
    assert_eq!(serde_json::from_str::<Assignment>(&text).unwrap(), made);
}

#[test]
fn assignments_that_cannot_be() {
    let job = job(NANO);
    let observed = observed(&job, &["tokenizer"]);
    let plan = plan(&job, &observed).unwrap();
    let message = |phase: &str, inputs: &[(ArtifactKind, &str)]| {
        let error: AssignmentError = assignment(&job, &plan, phase, 1, placement(inputs)).unwrap_err();
        error.to_string()
    };
    assert_eq!(message("nothing", &[]), "the job has no phase `nothing`");
    assert_eq!(
        message("tokenizer", &[]),
        "`tokenizer` (tokenizer) is done; its artifact is used again."
    );
    assert_eq!(message("pretrain", &[]), "`pretrain` (pretrain) waits for the corpus of `corpus`.");
    assert_eq!(
        message("corpus", &[]),
        "no directory is given for the tokenizer that `corpus` reads"
    );
}
