//! Checks of single phases, and of each phase against the model and its inputs.

use super::read;
use super::wiring::{Inputs, Outline, connect};
use crate::architecture::Architecture;
use crate::artifact::ArtifactKind;
use crate::job::{PhaseKind, PhaseWork, ValidatedPhase};
use crate::manifest::{
    Balance, Batch, Checkpointing, Corpus, Ema, Evaluate, Extend, Grpo, Input, LearningRate, LearningRateForm, Mtp, Phase, Pretrain,
    Reward, Sft, Task, Tokenizer, Validation,
};
use crate::quantity::{Bytes, Milestone, Tokens};
use crate::report::Report;
use crate::tree::{Node, Path, Value};
use serde_json::Value as Json;

/// Checks all phases. `None` if one of them could not be read, or if there is no architecture to complete them with.
pub(super) fn check(
    shape: &Json,
    root: &Node,
    path: &Path,
    architecture: Option<&Architecture>,
    report: &mut Report<'_>,
) -> Option<Vec<ValidatedPhase>> {
    let shapes = shape.pointer("/spec/phases")?.as_array()?;
    let outlines: Vec<Outline> = shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| outline(shape, find(root, index), &path.element(index), report))
        .collect();
    check_names(&outlines, path, report);
    let wiring = connect(&outlines, path, report);

    let mut checker = Checker {
        architecture,
        report,
        done: Vec::new(),
        complete: true,
    };
    for ((index, shape), (outline, inputs)) in shapes.iter().enumerate().zip(outlines.into_iter().zip(wiring)) {
        checker.phase(shape, outline, inputs, &path.element(index));
    }
    let Checker { done, complete, .. } = checker;
    complete.then(|| done.into_iter().flatten().collect())
}

/// The node of phase `index`.
fn find(root: &Node, index: usize) -> Option<&Node> {
    let field = |node: &'_ Node, name: &str| -> Option<usize> {
        match &node.value {
            Value::Map(entries) => entries.iter().position(|entry| entry.key == name),
            _ => None,
        }
    };
    let mut node = root;
    for name in ["spec", "phases"] {
        let position = field(node, name)?;
        let Value::Map(entries) = &node.value else { return None };
        node = &entries[position].node;
    }
    match &node.value {
        Value::List(nodes) => nodes.get(index),
        _ => None,
    }
}

/// Name, kind and `from` of a phase. The kind is what is written, even if its fields are wrong.
fn outline(shape: &Json, node: Option<&Node>, path: &Path, report: &mut Report<'_>) -> Outline {
    let written: Vec<PhaseKind> = match node.map(|node| &node.value) {
        Some(Value::Map(entries)) => PhaseKind::ALL
            .into_iter()
            .filter(|kind| entries.iter().any(|entry| entry.key == kind.name()))
            .collect(),
        _ => Vec::new(),
    };
    let kinds = || PhaseKind::ALL.map(|kind| format!("`{kind}`")).join(", ");
    let kind = match written[..] {
        [kind] => {
            if shape.get(kind.name()) == Some(&Json::Null) {
                let message = format!("`{kind}` has no fields; write `{kind}: {{}}` for its defaults");
                report.error(&path.field(kind.name()), message);
            }
            Some(kind)
        }
        [] => {
            if !report.is_wrong(path) {
                report.error(path, format!("a phase needs a kind: one of {}", kinds()));
            }
            None
        }
        [first, second, ..] => {
            let message = format!("a phase has one kind, but `{first}` and `{second}` are given; make them two phases");
            report.error(&path.field(second.name()), message);
            None
        }
    };
    let strings = |value: Option<&Json>| -> Vec<String> {
        let list = value.and_then(Json::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|one| one.as_str().map(str::to_owned))
            .collect()
    };
    Outline {
        name: shape.get("name").and_then(Json::as_str).unwrap_or_default().to_owned(),
        kind,
        from: strings(shape.get("from")),
    }
}

fn check_names(outlines: &[Outline], path: &Path, report: &mut Report<'_>) {
    for (index, phase) in outlines.iter().enumerate() {
        if !phase.name.is_empty() && outlines[..index].iter().any(|earlier| earlier.name == phase.name) {
            let message = format!("an earlier phase is called `{}` as well; names are unique in a job", phase.name);
            report.error(&path.element(index).field("name"), message);
        }
    }
}

struct Checker<'c, 'r> {
    architecture: Option<&'c Architecture>,
    report: &'c mut Report<'r>,
    /// The phases so far; `None` for those that could not be read.
    done: Vec<Option<ValidatedPhase>>,
    complete: bool,
}

impl Checker<'_, '_> {
    fn phase(&mut self, shape: &Json, outline: Outline, inputs: Inputs, path: &Path) {
        let work = self.work(shape, outline.kind, &inputs, path);
        self.complete &= work.is_some();
        self.done.push(work.map(|work| ValidatedPhase {
            name: outline.name,
            work,
            inputs,
        }));
    }

    fn work(&mut self, shape: &Json, kind: Option<PhaseKind>, inputs: &Inputs, path: &Path) -> Option<PhaseWork> {
        let phase: Phase = read(shape, path, self.report)?;
        let path = path.field(kind?.name());
        let Phase {
            name: _,
            from: _,
            tokenizer,
            corpus,
            pretrain,
            extend,
            sft,
            grpo,
            evaluate,
            serve,
        } = phase;
        match kind? {
            PhaseKind::Tokenizer => self.tokenizer(tokenizer?, &path).map(PhaseWork::Tokenizer),
            PhaseKind::Corpus => Some(PhaseWork::Corpus(self.corpus(corpus?, &path))),
            PhaseKind::Pretrain => {
                if shape.pointer("/pretrain/ema") == Some(&Json::Null) {
                    let message = "`ema` has no fields; write `ema: {}` for its defaults, or leave it out";
                    self.report.error(&path.field("ema"), message);
                }
                self.pretrain(pretrain?, inputs, &path).map(PhaseWork::Pretrain)
            }
            PhaseKind::Extend => Some(PhaseWork::Extend(self.extend(extend?, inputs, &path))),
            PhaseKind::Sft => Some(PhaseWork::Sft(self.sft(sft?, &path))),
            PhaseKind::Grpo => Some(PhaseWork::Grpo(self.grpo(grpo?, &path))),
            PhaseKind::Evaluate => Some(PhaseWork::Evaluate(self.evaluate(evaluate?, &path))),
            PhaseKind::Serve => serve.map(PhaseWork::Serve),
        }
    }

    fn tokenizer(&mut self, tokenizer: Tokenizer, path: &Path) -> Option<Tokenizer> {
        let Tokenizer {
            vocab_size,
            file,
            input,
            sample_bytes,
        } = tokenizer;
        if sample_bytes == Bytes(0) {
            self.report.error(&path.field("sampleBytes"), "must be above 0");
        }
        if file.is_some() {
            for (field, given) in [("vocabSize", vocab_size.is_some()), ("input", !input.is_empty())] {
                if given {
                    let message = format!("`file` adopts a tokenizer as it is, `{field}` trains one; remove one of the two");
                    self.report.error(&path.field(field), message);
                }
            }
            return Some(Tokenizer {
                vocab_size,
                file,
                input,
                sample_bytes,
            });
        }
        if input.is_empty() {
            let message = "nothing to train on; give `input`, or `file` with an existing tokenizer.json";
            self.report.error(&path.field("input"), message);
        }
        self.inputs(&input, &path.field("input"));
        let model = self.architecture.map(|architecture| architecture.vocab_size);
        if let (Some(size), Some(model)) = (vocab_size, model) {
            if size > model {
                let message = format!("the model has room for {model} tokens only; lower it, or raise the model's vocab_size");
                self.report.error(&path.field("vocabSize"), message);
            } else if size < model {
                let message = format!(
                    "the model has room for {model} tokens; {} rows of its embedding will never be used",
                    model - size
                );
                self.report.warning(&path.field("vocabSize"), message);
            }
        }
        Some(Tokenizer {
            vocab_size: Some(vocab_size.or(model)?),
            file,
            input,
            sample_bytes,
        })
    }

    fn corpus(&mut self, corpus: Corpus, path: &Path) -> Corpus {
        self.inputs(&corpus.input, &path.field("input"));
        if corpus.validation_fraction == 0.0 {
            let message = "nothing is held out, so phases that train on this corpus cannot report a validation loss";
            self.report.warning(&path.field("validationFraction"), message);
        }
        corpus
    }

    fn inputs(&mut self, inputs: &[Input], path: &Path) {
        for (index, input) in inputs.iter().enumerate() {
            let path = path.element(index);
            if input.max_bytes == Some(Bytes(0)) {
                self.report
                    .error(&path.field("maxBytes"), "must be above 0; leave it out to read everything");
            }
            let name = input.name.as_ref();
            if name.is_some() && inputs[..index].iter().any(|earlier| earlier.name.as_ref() == name) {
                self.report.error(&path.field("name"), "an earlier source has this name as well");
            }
        }
        if !inputs.is_empty() && inputs.iter().all(|input| input.weight <= 0.0) {
            self.report.error(
                &path.element(0).field("weight"),
                "no source has a weight above 0, so nothing would be read",
            );
        }
    }

    fn pretrain(&mut self, pretrain: Pretrain<Option<LearningRateForm>>, inputs: &Inputs, path: &Path) -> Option<Pretrain> {
        let Pretrain {
            tokens,
            batch,
            learning_rate,
            optimizer,
            balance,
            mtp,
            checkpoint,
            validation,
            ema,
        } = pretrain;
        if tokens == Tokens(0) {
            self.report.error(&path.field("tokens"), "must be above 0");
        }
        self.batch(&batch, tokens, &path.field("batch"));
        self.milestones(tokens, &balance, &mtp, path);
        self.distances(tokens, &checkpoint, &validation, path);
        if optimizer.clip_norm <= 0.0 {
            self.report.error(&path.field("optimizer").field("clipNorm"), "must be above 0");
        }
        let architecture = self.architecture?;
        let learning_rate = learning_rate.unwrap_or_default().resolve(architecture.hidden_size);
        self.learning_rate(&learning_rate, tokens, &path.field("learningRate"));
        let rows = self.sequence_length(inputs, architecture, path);
        if let Some(length) = rows.filter(|&length| u64::from(length) * u64::from(batch.sequences) > tokens.0 && tokens.0 > 0) {
            let step = u64::from(length) * u64::from(batch.sequences);
            let message = format!(
                "less than one optimizer step of {step} tokens ({} rows of {length})",
                batch.sequences
            );
            self.report.warning(&path.field("tokens"), message);
        }
        if let Some((ema, length)) = ema.zip(rows) {
            let step = u64::from(length) * u64::from(batch.sequences);
            self.ema(ema, tokens.0 / step.max(1), &path.field("ema"));
        }
        Some(Pretrain {
            tokens,
            batch,
            learning_rate,
            optimizer,
            balance,
            mtp,
            checkpoint,
            validation,
            ema,
        })
    }

    /// `steps` of the phase, about.
    fn ema(&mut self, ema: Ema, steps: u64, path: &Path) {
        let window = (1.0 / (1.0 - ema.decay)).round();
        if window > steps as f64 {
            let message = format!("the average is over about {window} steps, but the phase has {steps}; lower it");
            self.report.warning(&path.field("decay"), message);
        }
    }

    /// Length of the rows that a phase trains on; must fit the model.
    fn sequence_length(&mut self, inputs: &Inputs, architecture: &Architecture, path: &Path) -> Option<u32> {
        let maker = inputs.get(&ArtifactKind::Corpus)?;
        let phase = self.done.get(*maker)?.as_ref()?;
        let PhaseWork::Corpus(corpus) = &phase.work else { return None };
        let (length, most) = (corpus.sequence_length, architecture.max_position_embeddings);
        if length > most {
            let message = format!(
                "the rows of `{}` have {length} tokens, but the model ends at {most} (max_position_embeddings); shorten sequenceLength or raise it",
                phase.name
            );
            self.report.error(path, message);
        }
        Some(length)
    }

    fn batch(&mut self, batch: &Batch, tokens: Tokens, path: &Path) {
        let Batch {
            sequences,
            ramp_from,
            ramp_until,
            micro_batch,
        } = *batch;
        for (field, size) in [("sequences", sequences), ("rampFrom", ramp_from)] {
            if micro_batch != 0 && !size.is_multiple_of(micro_batch) {
                let message = format!("{size} is not a multiple of microBatch ({micro_batch})");
                self.report.error(&path.field(field), message);
            }
        }
        if ramp_from > sequences {
            let message = format!("the ramp begins above its end ({ramp_from} > {sequences}); it can only rise");
            self.report.error(&path.field("rampFrom"), message);
        }
        self.within(ramp_until, tokens, &path.field("rampUntil"));
        if ramp_from < sequences && ramp_until.resolve(tokens) == Tokens(0) {
            let message = "the ramp has no length; say with `rampUntil` where it ends";
            self.report.error(&path.field("rampFrom"), message);
        }
    }

    /// A milestone may not lie behind the end of its phase.
    fn within(&mut self, milestone: Milestone, tokens: Tokens, path: &Path) {
        if milestone.resolve(tokens) > tokens {
            let message = format!("{milestone} tokens lie behind the end of the phase ({tokens} tokens)");
            self.report.error(path, message);
        }
    }

    fn milestones(&mut self, tokens: Tokens, balance: &Balance, mtp: &Mtp, path: &Path) {
        self.within(balance.bias_update_until, tokens, &path.field("balance").field("biasUpdateUntil"));
        self.within(mtp.final_from, tokens, &path.field("mtp").field("finalFrom"));
    }

    fn distances(&mut self, tokens: Tokens, checkpoint: &Checkpointing, validation: &Validation, path: &Path) {
        for (field, every) in [("checkpoint", checkpoint.every), ("validation", validation.every)] {
            if every.resolve(tokens) == Tokens(0) && tokens.0 > 0 {
                self.report.error(&path.field(field).field("every"), "must be above 0");
            }
        }
    }

    fn learning_rate(&mut self, rate: &LearningRate, tokens: Tokens, path: &Path) {
        let LearningRate {
            peak,
            floor,
            last,
            warmup_until,
            decay_from,
            decay_until,
            final_from,
        } = *rate;
        if peak <= 0.0 {
            self.report.error(&path.field("peak"), "must be above 0");
        }
        for (field, value) in [("floor", floor), ("final", last)] {
            if value > peak {
                let message = format!("{value} is above the peak ({peak})");
                self.report.error(&path.field(field), message);
            }
        }
        let order = [
            ("warmupUntil", warmup_until),
            ("decayFrom", decay_from),
            ("decayUntil", decay_until),
            ("finalFrom", final_from),
        ];
        for (field, milestone) in order {
            self.within(milestone, tokens, &path.field(field));
        }
        for pair in order.windows(2) {
            let ((earlier, first), (later, second)) = (pair[0], pair[1]);
            if first.resolve(tokens) > second.resolve(tokens) {
                let message = format!(
                    "{later} ({second}) lies before {earlier} ({first}); the schedule runs in the order warmupUntil, decayFrom, decayUntil, finalFrom"
                );
                self.report.error(&path.field(later), message);
            }
        }
    }

    fn extend(&mut self, extend: Extend, inputs: &Inputs, path: &Path) -> Extend {
        let corpus = inputs.get(&ArtifactKind::Corpus).and_then(|&maker| self.done.get(maker)?.as_ref());
        if let Some(ValidatedPhase {
            name,
            work: PhaseWork::Corpus(corpus),
            ..
        }) = corpus
            && corpus.sequence_length != extend.sequence_length
        {
            let message = format!(
                "{} tokens, but the rows of `{name}` have {}; add a `corpus` phase with this sequenceLength",
                extend.sequence_length, corpus.sequence_length
            );
            self.report.error(&path.field("sequenceLength"), message);
        }
        if let Some(architecture) = self.architecture {
            let reach = f64::from(architecture.max_position_embeddings) * extend.yarn.factor;
            if f64::from(extend.sequence_length) > reach {
                let message = format!(
                    "{} tokens are more than {} times the {} of the model; raise factor",
                    extend.sequence_length, extend.yarn.factor, architecture.max_position_embeddings
                );
                self.report.error(&path.field("yarn").field("factor"), message);
            }
        }
        if extend.yarn.beta_fast <= extend.yarn.beta_slow {
            let message = format!("must be above betaSlow ({})", extend.yarn.beta_slow);
            self.report.error(&path.field("yarn").field("betaFast"), message);
        }
        let tokens = Tokens(
            extend
                .steps
                .saturating_mul(u64::from(extend.sequence_length) * u64::from(extend.batch.sequences)),
        );
        self.batch(&extend.batch, tokens, &path.field("batch"));
        extend
    }

    fn sft(&mut self, sft: Sft, path: &Path) -> Sft {
        if sft.batch.ramp_from != sft.batch.sequences {
            self.report
                .error(&path.field("batch").field("rampFrom"), "fine-tuning has no batch ramp; remove it");
        }
        self.batch(&sft.batch, Tokens(u64::MAX), &path.field("batch"));
        if sft.learning_rate.to > sft.learning_rate.from {
            let message = format!(
                "{} is above `from` ({}); the rate decays",
                sft.learning_rate.to, sft.learning_rate.from
            );
            self.report.error(&path.field("learningRate").field("to"), message);
        }
        sft
    }

    fn grpo(&mut self, grpo: Grpo, path: &Path) -> Grpo {
        for (index, reward) in grpo.rewards.iter().enumerate() {
            let Reward {
                weight: _,
                answer,
                tests,
                model,
            } = reward;
            let kinds = [("answer", answer.is_some()), ("tests", tests.is_some()), ("model", model.is_some())];
            self.exactly_one("reward", &kinds, &path.field("rewards").element(index));
        }
        grpo
    }

    fn evaluate(&mut self, evaluate: Evaluate, path: &Path) -> Evaluate {
        let path = path.field("tasks");
        for (index, task) in evaluate.tasks.iter().enumerate() {
            let path = path.element(index);
            let Task {
                name,
                bits_per_byte,
                multiple_choice,
                generated_answer,
                needle,
            } = task;
            let kinds = [
                ("bitsPerByte", bits_per_byte.is_some()),
                ("multipleChoice", multiple_choice.is_some()),
                ("generatedAnswer", generated_answer.is_some()),
                ("needle", needle.is_some()),
            ];
            self.exactly_one("task", &kinds, &path);
            if evaluate.tasks[..index].iter().any(|earlier| earlier.name == *name) {
                self.report
                    .error(&path.field("name"), format!("an earlier task is called `{name}` as well"));
            }
            if let Some(text) = bits_per_byte {
                self.inputs(&text.input, &path.field("bitsPerByte").field("input"));
            }
        }
        evaluate
    }

    fn exactly_one(&mut self, what: &str, kinds: &[(&str, bool)], path: &Path) {
        let given: Vec<&str> = kinds.iter().filter(|(_, given)| *given).map(|&(name, _)| name).collect();
        match given[..] {
            [_] => {}
            [] => {
                let all: Vec<String> = kinds.iter().map(|(name, _)| format!("`{name}`")).collect();
                self.report.error(path, format!("a {what} needs a kind: one of {}", all.join(", ")));
            }
            [first, second, ..] => {
                let message = format!("a {what} has one kind, but `{first}` and `{second}` are given; make them two");
                self.report.error(&path.field(second), message);
            }
        }
    }
}
