//! Pre-training: the loop around [`Trainer::step`].

use super::inputs::{check, static_files};
use super::numerics;
use super::validate::{HeldOut, Validated, validate};
use super::{Context, close, commit, input, reporter, threads};
use crate::Stop;
use crate::checkpoint::store::{self, Checkpoint, Store};
use crate::context::PhaseContext;
use crate::data::shard::Rows;
use crate::data::vocabulary::Vocabulary;
use crate::error::{Error, Result};
use crate::generate::{Generator, Sampling};
use crate::model::layout::FfnIds;
use crate::model::{BalanceScope, BatchDims, Model, Recipe, Storage};
use crate::parallel::{Group, Tcp};
use crate::report::Reporter;
use crate::train::checkpoint::{self, Position, StaticFiles};
use crate::train::data::RowOrder;
use crate::train::{StepReport, StepSettings, Trainer, init, schedule};
use fathom_kernels::formats::Bf16;
use fathom_kernels::{Comm, Cpu, Kernels};
use fathom_spec::architecture::Architecture;
use fathom_spec::artifact::ArtifactKind;
use fathom_spec::assignment::Assignment;
use fathom_spec::manifest::{BalanceMethod, BalanceSelection, Ema, Precision, Pretrain};
use fathom_spec::quantity::{Milestone, Tokens};
use fathom_spec::record::{EventKind, Matrix, MetricBatch, Progress};
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
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

/// Executes the phase.
///
/// # Errors
/// As [`super::run`].
pub fn run(
    assignment: &Assignment,
    pretrain: &Pretrain,
    architecture: &Architecture,
    precision: Precision,
    group: Option<&Group>,
    stop: &Stop,
) -> Result<()> {
    let key = format!("{}/{}/{}", assignment.run, assignment.phase, assignment.attempt);
    let connect = || match group {
        Some(group) => group.connect(key, &|| stop.requested()),
        None => Ok(Tcp::alone()),
    };
    let job = Job {
        assignment,
        pretrain,
        architecture,
        precision,
    };
    if group.is_some_and(|group| group.rank > 0) {
        let context = Context::new(assignment, stop, None);
        return connect().and_then(|comm| execute(job, comm, &context, None).1);
    }
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
    let context = Context::new(assignment, stop, Some(&reporter));
    let lead = Lead {
        reporter: &reporter,
        store,
        newest,
    };
    let (step, outcome) = match connect() {
        Ok(comm) => execute(job, comm, &context, Some(lead)),
        Err(error) => (None, Err(error)),
    };
    close(reporter, step, &outcome);
    outcome
}

/// What is to be done.
#[derive(Clone, Copy)]
struct Job<'a> {
    assignment: &'a Assignment,
    pretrain: &'a Pretrain,
    architecture: &'a Architecture,
    precision: Precision,
}

/// What rank 0 alone has: it reports and writes.
struct Lead<'a> {
    reporter: &'a Reporter,
    store: Store,
    /// The checkpoint that training goes on from.
    newest: Option<Checkpoint>,
}

/// Trains with activations of the precision's type; returns the last step too.
fn execute(job: Job<'_>, comm: Tcp, context: &Context<'_>, lead: Option<Lead<'_>>) -> (Option<u64>, Result<()>) {
    match job.precision {
        Precision::F32 => execute_in::<f32>(job, comm, context, lead),
        Precision::Bf16 | Precision::Fp8 => execute_in::<Bf16>(job, comm, context, lead),
    }
}

fn execute_in<A: Storage>(job: Job<'_>, comm: Tcp, context: &Context<'_>, lead: Option<Lead<'_>>) -> (Option<u64>, Result<()>) {
    let kernels = Cpu::new(threads(job.assignment));
    let mut run = match Run::<_, A, _>::new(kernels, comm, job, context, lead) {
        Ok(run) => run,
        Err(error) => return (None, Err(error)),
    };
    let outcome = run.resume().and_then(|()| run.train());
    (Some(run.position.step), outcome)
}

/// A phase under way.
struct Run<'a, K: Kernels, A: Storage, C> {
    assignment: &'a Assignment,
    pretrain: &'a Pretrain,
    context: &'a Context<'a>,
    lead: Option<Lead<'a>>,
    comm: C,
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

impl<'a, K: Kernels, A: Storage, C: Comm<K, Error = Error>> Run<'a, K, A, C> {
    fn new(kernels: K, comm: C, job: Job<'a>, context: &'a Context<'a>, lead: Option<Lead<'a>>) -> Result<Self> {
        let Job {
            assignment,
            pretrain,
            architecture,
            precision,
        } = job;
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
            lead,
            comm,
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

    /// Continues from the checkpoint that rank 0 has found; the others read the same one.
    fn resume(&mut self) -> Result<()> {
        let newest = self.lead.as_mut().and_then(|lead| lead.newest.take());
        let name = newest.as_ref().map_or(&b""[..], |newest| newest.path.as_os_str().as_bytes());
        let name = self.comm.all_gather(name)?.swap_remove(0);
        let checkpoint = match newest {
            None if !name.is_empty() => Some(open(Path::new(OsStr::from_bytes(&name)))?),
            newest => newest,
        };
        if let Some(checkpoint) = checkpoint {
            self.position = checkpoint::load(&mut self.trainer, &checkpoint, &self.assignment.key)?;
        }
        Ok(())
    }

    /// Whether a rank is asked to stop: then all do, before the same step.
    fn all_stop(&mut self) -> Result<bool> {
        let asked = self.comm.all_gather(&[u8::from(self.context.stop_requested())])?;
        Ok(asked.iter().any(|asked| *asked == [1]))
    }

    fn train(&mut self) -> Result<()> {
        let total = self.pretrain.tokens;
        self.progress("training");
        while self.position.tokens < total.0 {
            if self.all_stop()? {
                return self.stop();
            }
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
        let (rank, ranks) = (self.comm.rank() as u64, self.comm.size() as u64);
        let unit = u64::from(pretrain.batch.micro_batch) * ranks;
        if !sequences.is_multiple_of(unit) {
            return Err(Error::Config {
                problem: format!(
                    "a batch of {sequences} sequences does not part into micro-batches of {} for {ranks} ranks",
                    pretrain.batch.micro_batch
                ),
                cure: "make batch.sequences a multiple of microBatch times parallelism.data, without a ramp".into(),
            });
        }
        let share = sequences / ranks;
        let mut rows = vec![0; share as usize * row_tokens];
        for (index, row) in (rank * share..).zip(rows.chunks_exact_mut(row_tokens)) {
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
        // Several ranks stop between steps, where they can agree on it.
        let interrupted = || ranks == 1 && self.context.stop_requested();
        let step = self.position.step + 1;
        let Some(report) = self.trainer.step_among(&mut self.comm, step, &rows, settings, &interrupted)? else {
            return Ok(None);
        };
        self.position.step += 1;
        self.position.tokens = seen.0;
        self.position.sequences += sequences;
        Ok(Some((report, settings)))
    }

    /// By rank 0; the others wait for it at the next step.
    fn validate(&mut self, limit: usize) -> Result<Option<Validated>> {
        if self.lead.is_none() {
            return Ok(None);
        }
        validate(&mut self.trainer, &self.validation, limit, &self.token_bytes, self.context)
    }

    fn validate_all(&mut self) -> Result<Option<Validated>> {
        self.progress("validating");
        self.validate(usize::MAX)
    }

    /// One batch of metrics for the step that just ended.
    fn report(&self, report: &StepReport, settings: StepSettings, before: u64, seconds: f64, validation: Option<&Validated>) {
        let Some(Lead { reporter, .. }) = self.lead else { return };
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
        reporter.metrics(MetricBatch {
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

    /// Commits a checkpoint of the current position; one of the same step (a resume after the last step) is replaced. Nothing but for rank 0.
    fn checkpoint(&mut self) -> Result<Option<PathBuf>> {
        let Some(Lead { reporter, store, .. }) = &mut self.lead else {
            return Ok(None);
        };
        // No record of a step that the checkpoint contains may be lost, or the step would be missing after a crash.
        if let Err(error) = reporter.flush(FLUSH_DEADLINE) {
            eprintln!("checkpointing although {error}");
        }
        let checkpoint = checkpoint::save(store, &mut self.trainer, &self.position, &self.files)?;
        store.retain(self.pretrain.checkpoint.keep as usize)?;
        reporter.event(
            EventKind::CheckpointCommitted,
            Some(self.position.step),
            format!("checkpoint of step {} in {}", self.position.step, checkpoint.path.display()),
        );
        Ok(Some(checkpoint.path))
    }

    fn stop(&mut self) -> Result<()> {
        if self.position.step > 0 {
            self.checkpoint()?;
        }
        Err(Error::Stopped)
    }

    /// The last checkpoint becomes the artifact.
    fn finish(&mut self) -> Result<()> {
        let Some(checkpoint) = self.checkpoint()? else {
            return Ok(());
        };
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

/// The checkpoint that rank 0 has chosen, and verified.
fn open(path: &Path) -> Result<Checkpoint> {
    store::read(path).map_err(|corruption| Error::Data {
        place: path.display().to_string(),
        problem: format!("the checkpoint that rank 0 resumes from cannot be read here ({corruption})"),
        cure: "let all ranks share the output directory".into(),
    })
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
