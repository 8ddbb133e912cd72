//! Pre-training end to end inside one process: the same weights whether it runs through, is stopped and resumed at any step, or runs on
//! other numbers of threads; a damaged newest checkpoint is replaced by the one before.

#![allow(clippy::unwrap_used)]

use fathom_spec::architecture::Architecture;
use fathom_spec::artifact::{ArtifactKind, ArtifactManifest};
use fathom_spec::assignment::{Assignment, InputArtifact, Work};
use fathom_spec::manifest::{
    Balance, BalanceMethod, BalanceSelection, Batch, Checkpointing, Corpus, Deduplicate, Ema, Fim, Input, LearningRate, Mtp, Optimizer,
    Precision, Pretrain, Tokenizer, Validation,
};
use fathom_spec::quantity::{Bytes, Milestone, Tokens};
use fathom_spec::record::{Body, EventKind, MetricBatch};
use fathom_worker::error::Error;
use fathom_worker::{Stop, report};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

const SEED: u64 = 42;
const LENGTH: u32 = 32;
const STEPS: u64 = 12;
const BATCH: u32 = 4;

/// A tokenizer and a corpus, made once for all tests.
struct Data {
    _directory: tempfile::TempDir,
    text: PathBuf,
    tokenizer: PathBuf,
    corpus: PathBuf,
}

fn data() -> &'static Data {
    static DATA: OnceLock<Data> = OnceLock::new();
    DATA.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        std::fs::create_dir(&text).unwrap();
        for document in 0..200 {
            std::fs::write(text.join(format!("{document}.txt")), story(document)).unwrap();
        }
        let input = vec![source(None, &text, "*.txt")];
        let (tokenizer, corpus) = (directory.path().join("tokenizer"), directory.path().join("corpus"));
        let work = Work::Tokenizer(Tokenizer {
            vocab_size: Some(384),
            file: None,
            input: input.clone(),
            sample_bytes: Bytes(1 << 20),
        });
        execute(&assignment(work, BTreeMap::new(), &tokenizer, 1, 1)).unwrap();
        make_corpus(&tokenizer, input, &corpus);
        Data {
            _directory: directory,
            text,
            tokenizer,
            corpus,
        }
    })
}

fn make_corpus(tokenizer: &Path, input: Vec<Input>, output: &Path) {
    let work = Work::Corpus(Corpus {
        sequence_length: LENGTH,
        input,
        fim: Fim { rate: 0.1 },
        validation_fraction: 0.05,
        deduplicate: Deduplicate {
            exact: true,
            near_threshold: None,
        },
        punctuation_split: 0.1,
    });
    let inputs = BTreeMap::from([(ArtifactKind::Tokenizer, artifact(tokenizer))]);
    execute(&assignment(work, inputs, output, 1, 1)).unwrap();
}

fn source(name: Option<&str>, directory: &Path, pattern: &str) -> Input {
    Input {
        name: name.map(Into::into),
        paths: vec![format!("{}/{pattern}", directory.display())],
        exclude: Vec::new(),
        text_field: "text".into(),
        weight: 1.0,
        max_bytes: None,
    }
}

/// A little text with structure to learn.
fn story(seed: u32) -> String {
    let nouns = ["the tensor", "a gradient", "the router", "an expert", "the latent", "a token"];
    let verbs = ["meets", "feeds", "scales", "balances", "ignores", "predicts"];
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = |list: &[&'static str]| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        list[(state >> 16) as usize % list.len()]
    };
    let mut text = format!("Story {seed}.\n");
    for _ in 0..12 {
        writeln!(text, "{} {} {}.", next(&nouns), next(&verbs), next(&nouns)).unwrap();
    }
    text
}

fn architecture() -> Architecture {
    Architecture {
        vocab_size: 384,
        hidden_size: 32,
        intermediate_size: 48,
        moe_intermediate_size: 16,
        num_hidden_layers: 3,
        num_attention_heads: 2,
        n_shared_experts: 1,
        n_routed_experts: 8,
        num_experts_per_tok: 2,
        n_group: 4,
        topk_group: 2,
        first_k_dense_replace: 1,
        q_lora_rank: Some(12),
        kv_lora_rank: 8,
        qk_nope_head_dim: 8,
        qk_rope_head_dim: 4,
        v_head_dim: 8,
        num_nextn_predict_layers: 1,
        routed_scaling_factor: 2.5,
        norm_topk_prob: true,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: None,
        max_position_embeddings: 64,
        initializer_range: 0.02,
    }
}

fn pretrain() -> Pretrain {
    let share = Milestone::Fraction;
    Pretrain {
        tokens: Tokens(STEPS * u64::from(BATCH * LENGTH)),
        batch: Batch {
            sequences: BATCH,
            ramp_from: BATCH,
            ramp_until: Milestone::Tokens(Tokens(0)),
            micro_batch: 2,
        },
        learning_rate: LearningRate {
            peak: 1e-2,
            floor: 1e-3,
            last: 3e-4,
            warmup_until: share(0.1),
            decay_from: share(0.676),
            decay_until: share(0.966),
            final_from: share(0.989),
        },
        optimizer: Optimizer {
            beta1: 0.9,
            beta2: 0.95,
            epsilon: 1e-8,
            weight_decay: 0.1,
            clip_norm: 1.0,
        },
        balance: Balance {
            bias_update_speed: 0.001,
            bias_update_until: share(0.966),
            centered: false,
            method: BalanceMethod::AuxiliaryLossFree,
            loss_weight: 1e-4,
            loss_selection: BalanceSelection::Unbiased,
        },
        mtp: Mtp {
            weight: 0.3,
            final_weight: 0.1,
            final_from: share(0.676),
        },
        checkpoint: Checkpointing {
            every: share(0.25),
            keep: 3,
        },
        validation: Validation {
            every: share(0.5),
            rows: 4,
        },
        ema: Some(Ema { decay: 0.8 }),
    }
}

fn artifact(path: &Path) -> InputArtifact {
    InputArtifact {
        path: path.display().to_string(),
        key: "0".repeat(64),
    }
}

fn assignment(work: Work, inputs: BTreeMap<ArtifactKind, InputArtifact>, output: &Path, attempt: u32, threads: usize) -> Assignment {
    Assignment {
        version: 1,
        job: "test".into(),
        phase: "phase".into(),
        run: "test/phase".into(),
        attempt,
        seed: SEED,
        key: "f".repeat(64),
        work,
        inputs,
        output: output.display().to_string(),
        spool: output.with_extension("spool").display().to_string(),
        threads,
    }
}

fn pretraining(output: &Path, attempt: u32, threads: usize) -> Assignment {
    let work = Work::Pretrain {
        pretrain: pretrain(),
        architecture: architecture(),
        precision: Precision::F32,
    };
    let inputs = BTreeMap::from([
        (ArtifactKind::Tokenizer, artifact(&data().tokenizer)),
        (ArtifactKind::Corpus, artifact(&data().corpus)),
    ]);
    assignment(work, inputs, output, attempt, threads)
}

fn execute(assignment: &Assignment) -> Result<(), Error> {
    fathom_worker::run(assignment, None, &Stop::new())
}

/// Asks to stop as soon as the spool holds `step`.
fn execute_until(assignment: &Assignment, step: u64) -> Result<(), Error> {
    let stop = Stop::new();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| fathom_worker::run(assignment, None, &stop));
        while !worker.is_finished() {
            let reached = metrics(assignment).last().is_some_and(|batch| batch.step >= step);
            if reached {
                stop.request();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        worker.join().unwrap()
    })
}

fn metrics(assignment: &Assignment) -> Vec<MetricBatch> {
    let Ok(records) = report::resolve(Path::new(&assignment.spool)) else {
        return Vec::new();
    };
    let batches = records.into_iter().filter_map(|record| match record.body {
        Body::Metrics(batch) => Some(batch),
        Body::Event(_) | Body::Progress(_) => None,
    });
    batches.collect()
}

/// Digests of the files that must not depend on how the run went.
fn digests(output: &Path) -> BTreeMap<String, String> {
    let manifest: ArtifactManifest = serde_json::from_slice(&std::fs::read(output.join("artifact.json")).unwrap()).unwrap();
    let mut digests: BTreeMap<_, _> = manifest.files.into_iter().map(|(name, digest)| (name, digest.blake3)).collect();
    assert!(
        digests.contains_key("model.safetensors") && digests.contains_key("optimizer.safetensors"),
        "{digests:?}"
    );
    digests.retain(|name, _| name.ends_with(".safetensors") || name.rsplit('/').next() == Some("config.json"));
    digests
}

fn losses(assignment: &Assignment) -> Vec<(u64, u64)> {
    metrics(assignment)
        .iter()
        .map(|batch| (batch.step, batch.scalars["loss.total"].to_bits()))
        .collect()
}

#[test]
fn stopping_resuming_and_threads_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let straight = pretraining(&directory.path().join("straight"), 1, 1);
    execute(&straight).unwrap();
    let expected = (digests(Path::new(&straight.output)), losses(&straight));
    assert_eq!(expected.1.len() as u64, STEPS);
    let (first, last) = (&metrics(&straight)[0], &metrics(&straight)[STEPS as usize - 1]);
    assert!(
        last.scalars["loss.main"] < first.scalars["loss.main"] - 0.3,
        "it learns: {first:?} {last:?}"
    );
    assert_eq!((first.matrices["moe.load"].rows, first.matrices["moe.load"].columns), (3, 8));
    // The last step has the validation that the summary shows; steps between validations have none.
    let artifact: ArtifactManifest =
        serde_json::from_slice(&std::fs::read(Path::new(&straight.output).join("artifact.json")).unwrap()).unwrap();
    for (metric, statistic) in [
        ("validation.loss", "validation_loss"),
        ("validation.bits_per_byte", "validation_bits_per_byte"),
        ("validation.ema.loss", "validation_ema_loss"),
        ("validation.ema.bits_per_byte", "validation_ema_bits_per_byte"),
    ] {
        assert_eq!(
            last.scalars.get(metric).copied(),
            artifact.statistics[statistic].as_f64(),
            "{metric}"
        );
        assert!(last.scalars.contains_key(metric) && !first.scalars.contains_key(metric));
    }

    for threads in [2, 3] {
        let output = directory.path().join(format!("threads-{threads}"));
        let other = pretraining(&output, 1, threads);
        execute(&other).unwrap();
        assert_eq!((digests(&output), losses(&other)), expected, "{threads} threads");
    }
    for stop_at in [1, 2, 5, 11] {
        let output = directory.path().join(format!("stop-{stop_at}"));
        let first = pretraining(&output, 1, 2);
        match execute_until(&first, stop_at) {
            Err(Error::Stopped) => execute(&pretraining(&output, 2, 1)).unwrap(),
            Ok(()) => {} // it was faster than the request
            Err(error) => panic!("{error}"),
        }
        assert_eq!((digests(&output), losses(&first)), expected, "stopped at step {stop_at}");
    }
}

/// Without `ema` the same model is trained, and nothing of an average is left.
#[test]
fn an_average_is_a_second_model_and_changes_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let averaged = pretraining(&directory.path().join("averaged"), 1, 2);
    let mut plain = pretraining(&directory.path().join("plain"), 1, 2);
    let Work::Pretrain { pretrain, .. } = &mut plain.work else {
        unreachable!()
    };
    pretrain.ema = None;
    // What an attempt left that ended while it made the artifact.
    let leftover = Path::new(&averaged.output).join("ema/leftover");
    std::fs::create_dir_all(leftover.parent().unwrap()).unwrap();
    std::fs::write(&leftover, "").unwrap();
    execute(&averaged).unwrap();
    assert!(!leftover.exists());
    execute(&plain).unwrap();
    let [mut with, without] = [&averaged, &plain].map(|assignment| digests(Path::new(&assignment.output)));
    let average = with.remove("ema/model.safetensors").unwrap();
    assert_eq!(with.remove("ema/config.json"), with.get("config.json").cloned());
    assert_ne!(Some(&average), with.get("model.safetensors"), "another model");
    assert_eq!(with, without);
    assert!(Path::new(&averaged.output).join("ema/tokenizer.json").exists());
    assert!(!Path::new(&plain.output).join("ema").exists());
    for (with, without) in metrics(&averaged).iter().zip(metrics(&plain)) {
        let timed = |name: &str| name == "step_seconds" || name == "tokens_per_second";
        let mut scalars = with.scalars.clone();
        scalars.retain(|name, _| !name.starts_with("validation.ema.") && !timed(name));
        let mut expected = without.scalars;
        expected.retain(|name, _| !timed(name));
        assert_eq!(scalars, expected, "step {}", with.step);
        assert_eq!(with.matrices, without.matrices, "step {}", with.step);
    }
}

/// Loss and load of each source add up to those of the whole; measuring them changes nothing of what is trained.
#[test]
fn validation_tells_sources_apart() {
    const LAYERS: usize = 2;
    const EXPERTS: usize = 8;
    const TOP_K: usize = 2;
    let directory = tempfile::tempdir().unwrap();
    let (corpus, unnamed) = (directory.path().join("corpus"), directory.path().join("unnamed"));
    let text = &data().text;
    let input = vec![
        source(Some("ema"), text, "*[02468].txt"),
        source(Some("odd ones"), text, "*[13579].txt"),
    ];
    make_corpus(&data().tokenizer, input, &corpus);
    // As an older version wrote it.
    std::fs::create_dir(&unnamed).unwrap();
    for entry in std::fs::read_dir(&corpus).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, unnamed.join(path.file_name().unwrap())).unwrap();
    }
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(corpus.join("corpus.json")).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("validation_sources").unwrap();
    std::fs::write(unnamed.join("corpus.json"), manifest.to_string()).unwrap();

    let train = |name: &str, corpus: &Path, every: f64| {
        let mut assignment = pretraining(&directory.path().join(name), 1, 2);
        assignment.inputs.insert(ArtifactKind::Corpus, artifact(corpus));
        let Work::Pretrain { pretrain, .. } = &mut assignment.work else {
            unreachable!()
        };
        pretrain.batch.micro_batch = 4;
        pretrain.validation = Validation {
            every: Milestone::Fraction(every),
            rows: 5,
        };
        execute(&assignment).unwrap();
        assignment
    };
    let often = train("often", &corpus, 0.25);
    let never = train("never", &corpus, 0.0);
    let older = train("older", &unnamed, 0.25);

    let batches = metrics(&often);
    let validations: Vec<&MetricBatch> = batches
        .iter()
        .filter(|batch| batch.scalars.contains_key("validation.loss"))
        .collect();
    assert_eq!(validations.len(), 4);
    let artifact: ArtifactManifest =
        serde_json::from_slice(&std::fs::read(Path::new(&often.output).join("artifact.json")).unwrap()).unwrap();
    let rows_of = |source: &str| artifact.statistics["validation_sources"][source]["rows"].as_u64().unwrap() as usize;
    let all = [rows_of("ema"), rows_of("odd ones")];
    assert!(
        all.iter().any(|rows| rows % 4 != 0) && all.iter().all(|&rows| rows > 5),
        "a last micro-batch that is not full: {all:?}"
    );
    assert_eq!(
        artifact.statistics["validation_rows"].as_u64().unwrap() as usize,
        all.iter().sum::<usize>()
    );
    for (index, batch) in validations.iter().enumerate() {
        let is_last = index + 1 == validations.len();
        let mut weighted = 0.0;
        let mut rows = 0;
        for source in ["ema", "odd_ones"] {
            let load = &batch.matrices[&format!("validation.load.{source}")];
            assert_eq!((load.rows, load.columns), (LAYERS, EXPERTS), "the layers of the main model");
            let sums: Vec<f32> = load.values.chunks(EXPERTS).map(|layer| layer.iter().sum()).collect();
            let share = sums[0] as usize / (LENGTH as usize * TOP_K);
            assert_eq!(sums, [(share * LENGTH as usize * TOP_K) as f32; LAYERS], "tokens x top-k");
            rows += share;
            weighted += share as f64 * batch.scalars[&format!("validation.loss.{source}")];
            let violations = load.values.chunks(EXPERTS).zip(&sums).map(|(layer, sum)| {
                let largest = layer.iter().copied().fold(0.0, f32::max);
                f64::from(largest) * EXPERTS as f64 / f64::from(*sum) - 1.0
            });
            let violation = violations.sum::<f64>() / LAYERS as f64;
            assert!((batch.scalars[&format!("validation.max_violation.{source}")] - violation).abs() < 1e-12);
            assert!(!batch.scalars.contains_key(&format!("validation.ema.loss.{source}")));
        }
        assert_eq!(rows, if is_last { all.iter().sum() } else { 5 }, "step {}", batch.step);
        assert!((batch.scalars["validation.loss"] - weighted / rows as f64).abs() < 1e-12);
        assert!(batch.scalars.contains_key("validation.ema.loss"));
    }
    let last = validations[3];
    for (metric, source) in [("ema", "ema"), ("odd_ones", "odd ones")] {
        let recorded = &artifact.statistics["validation_sources"][source];
        for name in ["loss", "bits_per_byte", "max_violation"] {
            assert_eq!(
                last.scalars[&format!("validation.{name}.{metric}")],
                recorded[name].as_f64().unwrap()
            );
        }
    }

    let outcome = |assignment: &Assignment| (digests(Path::new(&assignment.output)), losses(assignment));
    assert_eq!(outcome(&often), outcome(&never));
    assert_eq!(outcome(&often), outcome(&older));
    for (with, without) in batches.iter().zip(metrics(&never)) {
        for name in ["moe.load", "moe.bias"] {
            assert_eq!(with.matrices[name], without.matrices[name], "{name} of step {}", with.step);
        }
    }
    let whole = metrics(&older).pop().unwrap();
    assert!((whole.scalars["validation.loss"] - last.scalars["validation.loss"]).abs() < 1e-9);
    assert_eq!(whole.matrices.keys().collect::<Vec<_>>(), ["moe.bias", "moe.load"]);
    assert!(!whole.scalars.keys().any(|name| name.starts_with("validation.loss.")));
}

#[test]
fn a_damaged_checkpoint_is_rejected_loudly_and_the_one_before_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("out");
    let first = pretraining(&output, 1, 1);
    match execute_until(&first, 7) {
        Err(Error::Stopped) => {}
        other => panic!("expected a stop, got {other:?}"),
    }
    let mut checkpoints: Vec<_> = std::fs::read_dir(output.join(".checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    checkpoints.sort();
    assert!(checkpoints.len() >= 2, "{checkpoints:?}");
    let newest = checkpoints.last().unwrap().join("model.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let second = pretraining(&output, 2, 1);
    execute(&second).unwrap();
    let records = report::resolve(Path::new(&second.spool)).unwrap();
    let rejected = records.iter().find_map(|record| match &record.body {
        Body::Event(event) if event.kind == EventKind::CheckpointRejected => Some(event.message.clone()),
        _ => None,
    });
    assert!(
        rejected.is_some_and(|message| message.contains("model.safetensors")),
        "the event names the file"
    );

    let straight = pretraining(&directory.path().join("straight"), 1, 1);
    execute(&straight).unwrap();
    assert_eq!(
        (digests(&output), losses(&second)),
        (digests(Path::new(&straight.output)), losses(&straight))
    );
}

#[test]
fn a_model_that_does_not_fit_its_corpus_is_refused_with_place_and_cure() {
    let directory = tempfile::tempdir().unwrap();
    let mut assignment = pretraining(&directory.path().join("out"), 1, 1);
    let Work::Pretrain { architecture, .. } = &mut assignment.work else {
        unreachable!()
    };
    architecture.vocab_size = 300;
    let error = execute(&assignment).unwrap_err().to_string();
    assert!(error.contains("tokens, the model 300") && error.contains("vocab_size"), "{error}");
}

#[test]
fn divergence_ends_the_attempt_with_the_step_and_keeps_the_value() {
    let directory = tempfile::tempdir().unwrap();
    let mut assignment = pretraining(&directory.path().join("out"), 1, 1);
    let Work::Pretrain { pretrain, .. } = &mut assignment.work else {
        unreachable!()
    };
    pretrain.learning_rate.peak = 1e30;
    let error = execute(&assignment).unwrap_err();
    assert!(matches!(error, Error::Diverged { step: 2.., .. }), "{error}");
    assert!(
        metrics(&assignment)
            .last()
            .is_some_and(|batch| !batch.scalars["loss.total"].is_finite() || !batch.scalars["gradient_norm"].is_finite())
    );
}
