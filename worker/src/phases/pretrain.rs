//! Pre-training: the loop around [`Trainer::step`].

use super::numerics;
use super::validate::{HeldOut, Validated, validate};
use super::{Context, close, commit, input, reporter, threads};
use crate::Stop;
use crate::checkpoint::store::{Checkpoint, Store};
use crate::context::PhaseContext;
use crate::data::shard::Rows;
use crate::data::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::generate::{Generator, Sampling};
use crate::model::layout::FfnIds;
use crate::model::{BalanceScope, BatchDims, Model, Recipe, Storage};
use crate::report::Reporter;
use crate::train::checkpoint::{self, Position, StaticFiles};
use crate::train::data::RowOrder;
use crate::train::{StepReport, StepSettings, Trainer, init, schedule};
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Cpu, Kernels};
use fathom_spec::architecture::Architecture;
use fathom_spec::artifact::ArtifactKind;
use fathom_spec::assignment::Assignment;
use fathom_spec::manifest::{BalanceMethod, BalanceSelection, Ema, Precision, Pretrain};
use fathom_spec::quantity::{Milestone, Tokens};
use fathom_spec::record::{EventKind, Matrix, MetricBatch, Progress};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Checkpoints of the running phase, inside the output directory; not part of the artifact.
const CHECKPOINTS: &str = ".checkpoints";
/// How long a checkpoint waits for the records of its steps to be durable.
const FLUSH_DEADLINE: Duration = Duration::from_secs(10);
/// Generated lines in the report.
const SAMPLES: usize = 3;
/// Tokens of each sample's prompt and continuation.
const SAMPLE_TOKENS: (usize, usize) = (16, 48);
/// Files of a tokenizer artifact that a model directory carries.
const TOKENIZER_FILES: [&str; 2] = ["tokenizer.json", "tokenizer_config.json"];

/// Executes the phase.
///
/// # Errors
/// As [`super::run`].
pub fn run(assignment: &Assignment, pretrain: &Pretrain, architecture: &Architecture, precision: Precision, stop: &Stop) -> Result<()> {
    let mut store = Store::open(&Path::new(&assignment.output).join(CHECKPOINTS))?;
    let mut rejected = Vec::new();
    let newest = store.newest_valid(|path, corruption| rejected.push((path.to_path_buf(), corruption.to_string())))?;
    let reporter = reporter(assignment, newest.as_ref().map_or(0, |checkpoint| checkpoint.manifest.step))?;
    for (path, corruption) in &rejected {
        let used = newest.as_ref().map_or("none is left: training starts over".into(), |newest| {
            format!("{} is used", newest.path.display())
        });
        let message = format!("the checkpoint {} is damaged ({corruption}); {used}", path.display());
        eprintln!("{message}");
        reporter.event(EventKind::CheckpointRejected, None, message);
    }
    let context = Context::new(assignment, stop, &reporter);
    let setup = Setup {
        assignment,
        pretrain,
        architecture,
        precision,
        context: &context,
        reporter: &reporter,
        store,
        newest: newest.as_ref(),
    };
    let (step, outcome) = match precision {
        Precision::F32 => execute::<f32>(setup),
        Precision::Bf16 | Precision::Fp8 => execute::<Bf16>(setup),
    };
    close(reporter, step, &outcome);
    outcome
}

/// What a run is made of.
struct Setup<'a> {
    assignment: &'a Assignment,
    pretrain: &'a Pretrain,
    architecture: &'a Architecture,
    precision: Precision,
    context: &'a Context<'a>,
    reporter: &'a Reporter,
    store: Store,
    newest: Option<&'a Checkpoint>,
}

/// Trains with activations of one type; returns the last step too.
fn execute<A: Storage>(setup: Setup<'_>) -> (Option<u64>, Result<()>) {
    let newest = setup.newest;
    let kernels = Cpu::new(threads(setup.assignment));
    let mut run = match Run::<_, A>::new(kernels, setup) {
        Ok(run) => run,
        Err(error) => return (None, Err(error)),
    };
    let outcome = run.resume(newest).and_then(|()| run.train());
    (Some(run.position.step), outcome)
}

/// A phase under way.
struct Run<'a, K: Kernels, A: Storage> {
    assignment: &'a Assignment,
    pretrain: &'a Pretrain,
    context: &'a Context<'a>,
    reporter: &'a Reporter,
    store: Store,
    trainer: Trainer<K, A>,
    rows: Rows,
    order: RowOrder,
    validation: HeldOut,
    vocabulary: Vocabulary,
    token_bytes: Vec<u32>,
    files: StaticFiles,
    position: Position,
    speed: Speed,
    last: Option<StepReport>,
    /// The validation of the last step, where there was one.
    validated: Option<Validated>,
}

/// Tokens trained on by this process and the time that their steps took.
#[derive(Default)]
struct Speed {
    tokens: u64,
    seconds: f64,
}

impl<'a, K: Kernels, A: Storage> Run<'a, K, A> {
    fn new(kernels: K, setup: Setup<'a>) -> Result<Self> {
        let Setup {
            assignment,
            pretrain,
            architecture,
            precision,
            context,
            reporter,
            store,
            newest: _,
        } = setup;
        let corpus = input(assignment, ArtifactKind::Corpus)?;
        let tokenizer = input(assignment, ArtifactKind::Tokenizer)?;
        let (rows, validation) = (Rows::open(&corpus.join("train"))?, HeldOut::open(&corpus)?);
        let vocabulary = Vocabulary::open(&tokenizer)?;
        check(&corpus, &rows, &vocabulary, architecture)?;
        let length = rows.row_tokens() - 1;
        let recipe = Recipe {
            precision,
            recompute: precision.recomputes(),
            balance_unbiased: pretrain.balance.loss_selection == BalanceSelection::Unbiased,
            balance_scope: match pretrain.balance.method {
                BalanceMethod::AuxiliaryLossFree | BalanceMethod::Sequence => BalanceScope::Sequence,
                BalanceMethod::Batch => BalanceScope::MicroBatch,
            },
        };
        let mut model = Model::new(kernels, architecture.clone(), length, recipe);
        init::initialise(&mut model, assignment.seed);
        let micro = BatchDims {
            sequences: pretrain.batch.micro_batch as usize,
            length,
        };
        let trainer = Trainer::new(model, pretrain.optimizer.clone(), micro);
        Ok(Self {
            assignment,
            pretrain,
            context,
            reporter,
            store,
            trainer: match pretrain.ema {
                Some(Ema { decay }) => trainer.with_ema(decay),
                None => trainer,
            },
            order: RowOrder::new(rows.len(), assignment.seed),
            rows,
            validation,
            token_bytes: vocabulary.token_bytes(),
            files: static_files(architecture, &tokenizer, &vocabulary)?,
            vocabulary,
            position: Position {
                key: assignment.key.clone(),
                ..Position::default()
            },
            speed: Speed::default(),
            last: None,
            validated: None,
        })
    }

    /// Continues from a checkpoint.
    fn resume(&mut self, checkpoint: Option<&Checkpoint>) -> Result<()> {
        if let Some(checkpoint) = checkpoint {
            self.position = checkpoint::load(&mut self.trainer, checkpoint, &self.assignment.key)?;
        }
        Ok(())
    }

    fn train(&mut self) -> Result<()> {
        let total = self.pretrain.tokens;
        self.progress("training");
        while self.position.tokens < total.0 {
            let before = self.position.tokens;
            let started = Instant::now();
            let Some((report, settings)) = self.step()? else {
                return self.stop();
            };
            let seconds = started.elapsed().as_secs_f64();
            self.speed.tokens += self.position.tokens - before;
            self.speed.seconds += seconds;
            let after = self.position.tokens;
            let crossed = |every: Milestone| crosses(every.resolve(total), before, after);
            let validation = if after >= total.0 {
                // Before the last checkpoint: a step is reported once, with everything that was measured of it.
                self.validate_all()?
            } else if crossed(self.pretrain.validation.every) {
                self.validate(self.pretrain.validation.rows as usize)?
            } else {
                None
            };
            self.report(&report, settings, before, seconds, validation.as_ref());
            self.refuse_divergence(&report)?;
            self.last = Some(report);
            self.validated = validation;
            self.progress("training");
            if crossed(self.pretrain.checkpoint.every) && self.position.tokens < total.0 {
                self.checkpoint()?;
            }
        }
        self.finish()
    }

    /// The next optimizer step; nothing if the phase is asked to stop before its end.
    fn step(&mut self) -> Result<Option<(StepReport, StepSettings)>> {
        let (pretrain, total) = (self.pretrain, self.pretrain.tokens);
        let sequences = u64::from(schedule::batch_sequences(&pretrain.batch, Tokens(self.position.tokens), total));
        let row_tokens = self.rows.row_tokens();
        let mut rows = vec![0; sequences as usize * row_tokens];
        for (index, row) in (0..).zip(rows.chunks_exact_mut(row_tokens)) {
            self.rows.read(self.order.row(self.position.sequences + index), row)?;
        }
        let seen = Tokens(self.position.tokens + sequences * (row_tokens as u64 - 1));
        let settings = StepSettings {
            learning_rate: schedule::learning_rate(&pretrain.learning_rate, seen, total),
            mtp_weight: schedule::mtp_weight(&pretrain.mtp, seen, total),
            balance_weight: pretrain.balance.loss_weight,
            bias_update_speed: schedule::bias_update_speed(&pretrain.balance, seen, total),
            bias_centered: pretrain.balance.centered,
        };
        let interrupted = || self.context.stop_requested();
        let Some(report) = self.trainer.step(self.position.step + 1, &rows, settings, &interrupted) else {
            return Ok(None);
        };
        self.position.step += 1;
        self.position.tokens = seen.0;
        self.position.sequences += sequences;
        Ok(Some((report, settings)))
    }

    fn validate(&mut self, limit: usize) -> Result<Option<Validated>> {
        validate(&mut self.trainer, &self.validation, limit, &self.token_bytes, self.context)
    }

    fn validate_all(&mut self) -> Result<Option<Validated>> {
        self.progress("validating");
        self.validate(usize::MAX)
    }

    /// One batch of metrics for the step that just ended.
    fn report(&self, report: &StepReport, settings: StepSettings, before: u64, seconds: f64, validation: Option<&Validated>) {
        let tokens = self.position.tokens - before;
        let violations = report.max_violations();
        let mean = violations.iter().sum::<f64>() / violations.len().max(1) as f64;
        let mut scalars: BTreeMap<String, f64> = [
            ("loss.main", report.main_loss),
            ("loss.balance", report.balance_loss),
            ("loss.total", report.total_loss),
            ("gradient_norm", report.gradient_norm),
            ("learning_rate", settings.learning_rate),
            ("mtp_weight", settings.mtp_weight),
            ("bias_update_speed", settings.bias_update_speed),
            ("batch_sequences", (tokens / (self.rows.row_tokens() as u64 - 1)) as f64),
            ("step_seconds", seconds),
            ("tokens_per_second", tokens as f64 / seconds),
            ("moe.max_violation.mean", mean),
            ("moe.max_violation.worst", violations.iter().copied().fold(0.0, f64::max)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (depth, loss) in (1..).zip(&report.mtp_losses) {
            scalars.insert(format!("loss.mtp.{depth}"), *loss);
        }
        scalars.extend(validation.map(Validated::scalars).unwrap_or_default());
        let load = matrix(
            report
                .expert_counts
                .iter()
                .map(|counts| counts.iter().map(|&count| count as f32).collect())
                .collect(),
        );
        let mut matrices = vec![("moe.load", load), ("moe.bias", matrix(self.routing_biases()))];
        if self.trainer.model.recipe.precision == Precision::Fp8 {
            scalars.extend(numerics::scalars(&report.numerics).map(|(name, value)| (name.to_owned(), value)));
            matrices.extend(numerics::matrices(&report.numerics));
        }
        let matrices = matrices.into_iter().map(|(name, matrix)| (name.to_owned(), matrix));
        self.reporter.metrics(MetricBatch {
            step: self.position.step,
            tokens: self.position.tokens,
            scalars,
            matrices: matrices
                .chain(validation.into_iter().flat_map(Validated::matrices))
                .filter(|(_, matrix)| matrix.rows > 0)
                .collect(),
        });
    }

    /// Routing bias of every expert, per MoE layer.
    fn routing_biases(&self) -> Vec<Vec<f32>> {
        let model = &self.trainer.model;
        let blocks = model.layout.all_blocks().filter_map(|block| match &block.ffn {
            FfnIds::Moe(moe) => Some(moe.bias),
            FfnIds::Dense(_) => None,
        });
        blocks
            .map(|bias| {
                let mut values = vec![0.0; model.layout.tensor(bias).len];
                model.kernels.download(&mut values, &model.weights[bias], 0);
                values
            })
            .collect()
    }

    fn refuse_divergence(&self, report: &StepReport) -> Result<()> {
        match report.finite_quantities().into_iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(()),
            Some((quantity, value)) => Err(Error::Diverged {
                quantity: quantity.into(),
                value,
                step: self.position.step,
                cure: "lower learningRate.peak or optimizer.clipNorm and run again; the last checkpoint is kept".into(),
            }),
        }
    }

    fn progress(&self, stage: &str) {
        self.context.progress(Progress {
            stage: stage.into(),
            done: self.position.tokens,
            total: Some(self.pretrain.tokens.0),
            unit: "tokens".into(),
        });
    }

    /// Commits a checkpoint of the current position; one of the same step (a resume after the last step) is replaced.
    fn checkpoint(&mut self) -> Result<PathBuf> {
        // No record of a step that the checkpoint contains may be lost, or the step would be missing after a crash.
        if let Err(error) = self.reporter.flush(FLUSH_DEADLINE) {
            eprintln!("checkpointing although {error}");
        }
        let checkpoint = checkpoint::save(&mut self.store, &mut self.trainer, &self.position, &self.files)?;
        self.store.retain(self.pretrain.checkpoint.keep as usize)?;
        self.reporter.event(
            EventKind::CheckpointCommitted,
            Some(self.position.step),
            format!("checkpoint of step {} in {}", self.position.step, checkpoint.path.display()),
        );
        Ok(checkpoint.path)
    }

    fn stop(&mut self) -> Result<()> {
        if self.position.step > 0 {
            self.checkpoint()?;
        }
        Err(Error::Stopped)
    }

    /// The last checkpoint becomes the artifact.
    fn finish(&mut self) -> Result<()> {
        let checkpoint = self.checkpoint()?;
        if self.validated.is_none() {
            // An earlier process made the last step, or was asked to stop while it validated.
            self.validated = self.validate_all()?;
        }
        if self.context.stop_requested() {
            return Err(Error::Stopped);
        }
        let statistics = self.statistics()?;
        let output = Path::new(&self.assignment.output);
        clear(output)?;
        link_files(&checkpoint, output)?;
        commit(self.assignment, ArtifactKind::Checkpoint, Some(self.position.step), statistics)
    }

    fn statistics(&self) -> Result<serde_json::Value> {
        let Speed { tokens, seconds } = self.speed;
        let violations = self.last.as_ref().map(StepReport::max_violations).unwrap_or_default();
        let mut statistics = json!({
            "steps": self.position.step,
            "tokens": self.position.tokens,
            "parameters": self.trainer.model.layout.parameters(),
            "training_loss": self.last.as_ref().map(|report| report.main_loss),
            "validation_loss": null,
            "validation_bits_per_byte": null,
            "validation_rows": null,
            "tokens_per_second": (seconds > 0.0).then(|| tokens as f64 / seconds),
            "max_violation": (!violations.is_empty()).then(|| violations.iter().sum::<f64>() / violations.len() as f64),
            "samples": self.samples()?,
        });
        if let Some(validated) = &self.validated {
            validated.describe(&mut statistics);
        }
        Ok(statistics)
    }

    /// A few continuations of held-out text.
    fn samples(&self) -> Result<Vec<serde_json::Value>> {
        let model = &self.trainer.model;
        let mut generator = Generator::new(model, self.trainer.micro_batch().length);
        let (prompt_tokens, limit) = SAMPLE_TOKENS;
        let rows = &self.validation.rows;
        let mut row = vec![0; rows.row_tokens()];
        let stride = (rows.len() / SAMPLES).max(1);
        let mut samples = Vec::new();
        for index in (0..rows.len()).step_by(stride).take(SAMPLES) {
            rows.read(index, &mut row)?;
            let prompt: Vec<u32> = row
                .iter()
                .copied()
                .filter(|&token| !self.vocabulary.is_special(token))
                .take(prompt_tokens)
                .collect();
            if prompt.is_empty() {
                continue;
            }
            let sampling = Sampling {
                temperature: 0.7,
                top_k: 40,
                seed: self.assignment.seed,
            };
            let text = generator.generate(&prompt, limit, &[self.vocabulary.end()], sampling);
            samples.push(json!({ "prompt": self.vocabulary.decode(&prompt), "text": self.vocabulary.decode(&text) }));
        }
        Ok(samples)
    }
}

/// Removes the files that an interrupted [`Run::finish`] left; the checkpoints' directory begins with a dot and stays.
fn clear(output: &Path) -> Result<()> {
    for entry in fs::read_dir(output).map_err(Error::io("list", output))? {
        let entry = entry.map_err(Error::io("list", output))?;
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            let removed = if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(Error::io("remove the leftover", &path))?;
        }
    }
    Ok(())
}

/// Puts the files of a checkpoint into `to`: links, not copies, as the checkpoint is removed after the commit.
fn link_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).map_err(Error::io("list", from))? {
        let entry = entry.map_err(Error::io("list", from))?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir(&target).map_err(Error::io("create the directory", &target))?;
            link_files(&path, &target)?;
        } else {
            fs::hard_link(&path, &target)
                .or_else(|_| fs::copy(&path, &target).map(|_| ()))
                .map_err(Error::io("write", &target))?;
        }
    }
    Ok(())
}

/// Whether a multiple of `every` lies in `before..=after`, `before` excluded.
const fn crosses(every: Tokens, before: u64, after: u64) -> bool {
    every.0 > 0 && before / every.0 < after / every.0
}

/// Rows of equal length as a matrix.
pub(super) fn matrix(rows: Vec<Vec<f32>>) -> Matrix {
    Matrix {
        rows: rows.len(),
        columns: rows.first().map_or(0, Vec::len),
        values: rows.into_iter().flatten().collect(),
    }
}

/// Whether the corpus can train this model.
fn check(corpus: &Path, rows: &Rows, vocabulary: &Vocabulary, architecture: &Architecture) -> Result<()> {
    let data = |problem: String, cure: &str| {
        Err(Error::Data {
            place: corpus.display().to_string(),
            problem,
            cure: cure.into(),
        })
    };
    if rows.is_empty() {
        return data(
            "there is not one full row of tokens".into(),
            "give the corpus phase more text, or a shorter sequenceLength",
        );
    }
    if vocabulary.size() > architecture.vocab_size {
        let problem = format!(
            "its tokenizer has {} tokens, the model {}",
            vocabulary.size(),
            architecture.vocab_size
        );
        return data(problem, "use a tokenizer with at most as many tokens as the model's vocab_size");
    }
    let length = rows.row_tokens() - 1;
    if length > architecture.max_position_embeddings as usize {
        let problem = format!(
            "rows of {length} tokens, but the model's max_position_embeddings is {}",
            architecture.max_position_embeddings
        );
        return data(problem, "use a shorter sequenceLength");
    }
    if length <= architecture.num_nextn_predict_layers as usize {
        let problem = format!("rows of {length} tokens for MTP depth {}", architecture.num_nextn_predict_layers);
        return data(problem, "use a longer sequenceLength");
    }
    Ok(())
}

/// `config.json` and the tokenizer's files.
fn static_files(architecture: &Architecture, tokenizer: &Path, vocabulary: &Vocabulary) -> Result<StaticFiles> {
    let config = architecture.to_config_json(vocabulary.begin(), vocabulary.end(), "float32");
    // A JSON value always has a textual form.
    let mut files = vec![(
        "config.json".to_owned(),
        serde_json::to_vec_pretty(&config).expect("a JSON value serialises"),
    )];
    for name in TOKENIZER_FILES {
        let path = tokenizer.join(name);
        if path.exists() {
            files.push((name.to_owned(), fs::read(&path).map_err(Error::io("read", &path))?));
        }
    }
    Ok(StaticFiles { files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_crossed_once() {
        let crossed: Vec<u64> = (0..10).filter(|&step| crosses(Tokens(250), step * 100, (step + 1) * 100)).collect();
        assert_eq!(crossed, [2, 4, 7, 9]);
        assert!(!crosses(Tokens(0), 0, 100));
    }
}
