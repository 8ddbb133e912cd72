//! One optimizer step over the micro-batches of a global batch.

use super::batch;
use super::ema::{self, Ema};
use super::sums::{LossSums, Passes, Sums, download, tree};
use crate::model::layout::{FfnIds, Role};
use crate::model::{Activations, Batch, BatchDims, LossScales, MAX_MTP_DEPTH, Model, Numerics, Storage, TensorClass, Weights};
use fathom_kernels::dims::AdamW;
use fathom_kernels::formats::Statistics;
use fathom_kernels::{Alone, Comm, Kernels};
use fathom_spec::manifest::Optimizer;

/// What a step is told by the schedules.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Weight of the MTP loss `[lambda]`.
    pub mtp_weight: f64,
    /// Factor of the balance loss `[alpha]`.
    pub balance_weight: f64,
    /// Step of the routing bias `[gamma]`.
    pub bias_update_speed: f64,
    /// Whether the mean of the bias update is subtracted from it.
    pub bias_centered: bool,
}

/// What a step measured.
#[derive(Clone, Debug, PartialEq)]
pub struct StepReport {
    /// Mean cross-entropy of the main model, in nats per token.
    pub main_loss: f64,
    /// Mean cross-entropy of each MTP depth, in nats per token.
    pub mtp_losses: Vec<f64>,
    /// Balance loss without its factor: mean over sequences (or micro-batches), summed over MoE layers.
    pub balance_loss: f64,
    /// `main + lambda / D * sum of MTP + alpha * balance`.
    pub total_loss: f64,
    /// Norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// Tokens sent to each expert, per MoE layer (the MTP modules' last).
    pub expert_counts: Vec<Vec<u32>>,
    /// What quantisation saw, per layer (the MTP modules' last) and [`crate::model::TensorClass`].
    pub numerics: Vec<Vec<Statistics>>,
}

impl StepReport {
    /// What must be finite for the step to count, by name: the loss, the gradient norm, and as NaN what was quantised although it was not.
    pub fn finite_quantities(&self) -> [(&'static str, f64); 3] {
        let broken = self.numerics.iter().flatten().any(|statistics| statistics.non_finite > 0);
        [
            ("the loss", self.total_loss),
            ("the gradient norm", self.gradient_norm),
            ("a quantised value", if broken { f64::NAN } else { 0.0 }),
        ]
    }

    /// [`max_violations`] of the step.
    #[must_use]
    pub fn max_violations(&self) -> Vec<f64> {
        max_violations(&self.expert_counts)
    }
}

/// MaxVio, `max(count) / mean(count) - 1`, of each MoE layer's counts of tokens per expert.
#[must_use]
pub fn max_violations(expert_counts: &[Vec<u32>]) -> Vec<f64> {
    expert_counts
        .iter()
        .map(|counts| {
            let total: f64 = counts.iter().map(|&count| f64::from(count)).sum();
            let largest = counts.iter().copied().max().unwrap_or(0);
            if total == 0.0 {
                0.0
            } else {
                f64::from(largest) * counts.len() as f64 / total - 1.0
            }
        })
        .collect()
}

/// A model with its optimizer's state and the memory of its passes.
pub struct Trainer<K: Kernels, A: Storage = f32> {
    /// The model.
    pub model: Model<K, A>,
    /// First moments of AdamW.
    pub first_moments: Weights<K, A>,
    /// Second moments of AdamW.
    pub second_moments: Weights<K, A>,
    ema: Option<Ema<K>>,
    optimizer: Optimizer,
    micro: BatchDims,
    acts: Activations<K, A>,
    batch: Batch<K>,
    /// Values on their way from the device.
    host: Vec<f32>,
    /// As an update leaves them.
    gradients_are_zero: bool,
    /// Gradients of micro-batches that wait to be added, zero between steps.
    waiting: Vec<Weights<K>>,
}

impl<K: Kernels, A: Storage> Trainer<K, A> {
    /// A trainer of `model` on micro-batches of the shape `micro`.
    pub fn new(model: Model<K, A>, optimizer: Optimizer, micro: BatchDims) -> Self {
        let first_moments = Weights::zeros_like_trainable(&model.kernels, &model.layout);
        let second_moments = Weights::zeros_like_trainable(&model.kernels, &model.layout);
        let acts = model.activations(micro);
        let batch = Batch::new(&model.kernels, micro, model.layout.mtp.len());
        let mut trainer = Self {
            model,
            first_moments,
            second_moments,
            ema: None,
            optimizer,
            micro,
            acts,
            batch,
            host: Vec::new(),
            gradients_are_zero: false,
            waiting: Vec::new(),
        };
        trainer.refresh();
        trainer
    }

    /// The same with a moving average of the parameters, from the first step on.
    #[must_use]
    pub fn with_ema(mut self, decay: f64) -> Self {
        self.ema = Some(Ema::new(&self.model, decay));
        self
    }

    /// After a change of the parameters from outside: makes what products read follow.
    pub fn refresh(&mut self) {
        self.model.refresh(&mut self.acts);
    }

    /// Shape of a micro-batch.
    pub const fn micro_batch(&self) -> BatchDims {
        self.micro
    }

    /// Step number `step` (from 1) on a global batch: rows of `length + 1` tokens, a whole number of micro-batches.
    ///
    /// Nothing is updated if a quantity of [`StepReport::finite_quantities`] is not finite, or if `interrupted` says so between two micro-batches (then there is no report).
    ///
    /// With a moving average it must not be called from one of the kernels' own threads, which it would wait for.
    ///
    /// # Panics
    /// If the batch is empty or not a whole number of micro-batches.
    pub fn step(&mut self, step: u64, rows: &[u32], settings: StepSettings, interrupted: &(dyn Fn() -> bool + Sync)) -> Option<StepReport> {
        let Ok(report) = self.step_among(&mut Alone, step, rows, settings, interrupted);
        report
    }

    /// As [`Trainer::step`], with `rows` this rank's part of the global batch: the ranks have equal parts, in their order. All of them take the same step, to the bit, and
    /// the same as one rank with all rows would. What `interrupted` says must be the same on all.
    ///
    /// # Errors
    /// Those of `comm`.
    ///
    /// # Panics
    /// As there.
    pub fn step_among<C: Comm<K>>(
        &mut self,
        comm: &mut C,
        step: u64,
        rows: &[u32],
        settings: StepSettings,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<StepReport>, C::Error> {
        let Some(report) = self.accumulate_among(comm, rows, settings, interrupted)? else {
            return Ok(None);
        };
        if report.finite_quantities().iter().all(|(_, value)| value.is_finite()) {
            self.update(step, report.gradient_norm, settings);
        }
        Ok(Some(report))
    }

    /// Gradients of a global batch, left in `model.gradients`.
    pub fn accumulate(&mut self, rows: &[u32], settings: StepSettings, interrupted: &(dyn Fn() -> bool + Sync)) -> Option<StepReport> {
        let Ok(report) = self.accumulate_among(&mut Alone, rows, settings, interrupted);
        report
    }

    fn accumulate_among<C: Comm<K>>(
        &mut self,
        comm: &mut C,
        rows: &[u32],
        settings: StepSettings,
        interrupted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Option<StepReport>, C::Error> {
        let micro_tokens = self.micro.sequences * (self.micro.length + 1);
        assert!(
            !rows.is_empty() && rows.len().is_multiple_of(micro_tokens),
            "a global batch is a whole number of micro-batches"
        );
        let sequences = rows.len() / (self.micro.length + 1) * comm.size();
        let scales = self.loss_scales(sequences, settings);
        if !std::mem::take(&mut self.gradients_are_zero) {
            self.model.zero_gradients();
        }
        for moe in self.acts.moe_layers_mut() {
            self.model.kernels.fill(&mut moe.counts, 0);
        }
        let mut gradients = std::mem::replace(&mut self.model.gradients, Weights::empty());
        let mut waiting = std::mem::take(&mut self.waiting);
        // The depth of the tree.
        while waiting.len() < (rows.len() / micro_tokens).ilog2() as usize {
            waiting.push(Weights::zeros_like_trainable(&self.model.kernels, &self.model.layout));
        }
        let Self {
            model,
            acts,
            batch,
            ema,
            host,
            ..
        } = self;
        let model = &*model;
        let sums = ema::beside(ema.as_mut(), model, || {
            model.kernels.scope(|| {
                let pass = |gradients: &mut Weights<K>, micro: &[u32]| {
                    if interrupted() {
                        return None;
                    }
                    batch::load(&model.kernels, batch, micro);
                    model.forward(acts, batch, true);
                    model.backward(gradients, acts, batch, scales);
                    Some(LossSums::of(model, acts, host))
                };
                let mut passes = Passes {
                    micro_tokens,
                    pass,
                    layout: &model.layout,
                };
                passes.run(&model.kernels, rows, &mut gradients, &mut waiting)
            })
        });
        self.model.gradients = gradients;
        let Some(sums) = sums else {
            // What waited is not zero, and is given up.
            return Ok(None);
        };
        self.waiting = waiting;
        let sums = Sums {
            losses: sums,
            expert_counts: self
                .acts
                .moe_layers()
                .map(|moe| download(&self.model.kernels, &moe.counts))
                .collect(),
            numerics: self.acts.numerics.take(&self.model.kernels),
        };
        let sums = self.add_ranks(comm, sums)?;
        Ok(Some(self.report(sums, sequences, settings)))
    }

    /// Adds up gradients and sums over the ranks.
    fn add_ranks<C: Comm<K>>(&mut self, comm: &mut C, mut sums: Sums) -> Result<Sums, C::Error> {
        if comm.size() == 1 {
            return Ok(sums);
        }
        let Model { kernels, gradients, .. } = &mut self.model;
        comm.all_reduce(kernels, &mut gradients.buffers_mut())?;
        if comm.rank() > 0 {
            // All ranks quantise the weights alike: those of one count.
            for layer in &mut sums.numerics {
                layer[TensorClass::AttentionWeight as usize] = Statistics::default();
                layer[TensorClass::FfnWeight as usize] = Statistics::default();
            }
        }
        let all = comm
            .all_gather(&sums.bytes())?
            .into_iter()
            .map(|bytes| sums.parse(&bytes))
            .collect();
        let sums = tree(all, Sums::add);
        // Those of all ranks: the routing biases follow from them.
        for (moe, counts) in self.acts.moe_layers_mut().zip(&sums.expert_counts) {
            self.model.kernels.upload(&mut moe.counts, 0, counts);
        }
        Ok(sums)
    }

    fn loss_scales(&self, sequences: usize, settings: StepSettings) -> LossScales {
        let depth = self.model.layout.mtp.len();
        let mut mtp = [0.0; MAX_MTP_DEPTH];
        for (index, scale) in mtp.iter_mut().enumerate().take(depth) {
            let targets = sequences * (self.micro.length - index - 1);
            *scale = (settings.mtp_weight / (depth * targets) as f64) as f32;
        }
        LossScales {
            main: (1.0 / (sequences * self.micro.length) as f64) as f32,
            mtp,
            balance: (settings.balance_weight / self.balance_parts(sequences) as f64) as f32,
        }
    }

    /// Parts of a global batch that the balance loss is a mean over.
    const fn balance_parts(&self, sequences: usize) -> usize {
        sequences / self.micro.sequences * self.model.recipe.balance_parts(self.micro)
    }

    fn report(&self, sums: Sums, sequences: usize, settings: StepSettings) -> StepReport {
        let Sums {
            losses: sums,
            expert_counts,
            numerics,
        } = sums;
        let depth = self.model.layout.mtp.len();
        let main_loss = sums.main / (sequences * self.micro.length) as f64;
        let mtp_losses: Vec<_> = (0..depth)
            .map(|index| sums.mtp[index] / (sequences * (self.micro.length - index - 1)) as f64)
            .collect();
        let balance_loss = sums.balance / self.balance_parts(sequences) as f64;
        let mtp_mean = if depth == 0 {
            0.0
        } else {
            mtp_losses.iter().sum::<f64>() / depth as f64
        };
        StepReport {
            main_loss,
            mtp_losses,
            balance_loss,
            total_loss: main_loss + settings.mtp_weight * mtp_mean + settings.balance_weight * balance_loss,
            gradient_norm: self.model.gradient_norm(),
            expert_counts,
            numerics,
        }
    }

    /// AdamW with clipping, then the routing biases.
    fn update(&mut self, step: u64, gradient_norm: f64, settings: StepSettings) {
        let Optimizer {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            clip_norm,
        } = self.optimizer;
        let Model {
            kernels,
            layout,
            weights,
            gradients,
            ..
        } = &mut self.model;
        let kernels = &*kernels;
        // The convention of torch's clip_grad_norm_, its 1e-6 included.
        let gradient_scale = (clip_norm / (gradient_norm + 1e-6)).min(1.0) as f32;
        kernels.scope(|| {
            for id in layout.ids() {
                let decay = match layout.tensor(id).role {
                    Role::Matrix => weight_decay,
                    Role::Gain => 0.0,
                    Role::RoutingBias => continue,
                };
                let hyperparameters = AdamW {
                    learning_rate: settings.learning_rate as f32,
                    beta1: beta1 as f32,
                    beta2: beta2 as f32,
                    epsilon: epsilon as f32,
                    weight_decay: decay as f32,
                    step,
                    gradient_scale,
                };
                let (first, second) = (&mut self.first_moments[id], &mut self.second_moments[id]);
                let (master, rounded) = weights.update(id);
                kernels.adamw(master, rounded, first, second, &mut gradients[id], hyperparameters);
            }
        });
        self.gradients_are_zero = true;
        let biases = layout.all_blocks().filter_map(|block| match &block.ffn {
            FfnIds::Moe(moe) => Some(moe.bias),
            FfnIds::Dense(_) => None,
        });
        for (bias, moe) in biases.zip(self.acts.moe_layers()) {
            kernels.update_bias(
                weights.update(bias).0,
                &moe.counts,
                settings.bias_update_speed as f32,
                settings.bias_centered,
            );
        }
        self.refresh();
        if let Some(ema) = &mut self.ema {
            ema.follow(step);
        }
    }

    /// Takes the last step into the moving average, if that is still to be done.
    pub fn catch_up(&mut self) {
        if let Some(ema) = &mut self.ema {
            ema.catch_up(&self.model);
        }
    }

    /// The averaged parameters, if an average is kept; those of routing biases are empty.
    ///
    /// # Panics
    /// If the last step is not in: [`Trainer::catch_up`] before.
    pub fn average(&self) -> Option<&Weights<K>> {
        self.ema.as_ref().map(Ema::weights)
    }

    /// The same, to be restored, and the model.
    pub fn average_mut(&mut self) -> Option<(&Model<K, A>, &mut Weights<K>)> {
        self.ema.as_mut().map(|ema| (&self.model, ema.weights_mut()))
    }

    /// Runs `work` with the averaged parameters in the model's place; nothing if none are kept. Afterwards all is as before, to the bit: `work`
    /// may evaluate, not train.
    pub fn with_average<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let mut ema = self.ema.take()?;
        ema.catch_up(&self.model);
        // What quantisation sees meanwhile is of another model.
        let unseen = Numerics::new(&self.model.kernels, &self.model.layout);
        let seen = std::mem::replace(&mut self.acts.numerics, unseen);
        self.exchange(&mut ema);
        let result = work(self);
        self.exchange(&mut ema);
        self.acts.numerics = seen;
        self.ema = Some(ema);
        Some(result)
    }

    fn exchange(&mut self, ema: &mut Ema<K>) {
        self.model.weights.exchange(&self.model.layout, ema.weights_mut());
        self.refresh();
    }

    /// Negative log-likelihood of every target of the main model, for one micro-batch of rows, in nats.
    pub fn evaluate(&mut self, rows: &[u32]) -> Vec<f32> {
        let Self { model, acts, batch, .. } = self;
        let model = &*model;
        model.kernels.scope(|| {
            batch::load(&model.kernels, batch, rows);
            model.forward(acts, batch, false);
            model.evaluate(acts, batch);
            download(&model.kernels, &acts.nll)
        })
    }

    /// Adds to `counts` the tokens of the first `sequences` rows of the last pass that were sent to each expert, per MoE layer of the main model,
    /// `[layers][E]`. The counters that training reports and balances by are another thing, which starts at 0 with each step.
    pub fn count_experts(&self, counts: &mut Vec<Vec<u32>>, sequences: usize) {
        let k = &self.model.kernels;
        counts.resize(self.acts.main_moe_layers().count(), Vec::new());
        for (layer, moe) in counts.iter_mut().zip(self.acts.main_moe_layers()) {
            layer.resize(k.len(&moe.counts), 0);
            let mut indices = vec![0; k.len(&moe.indices) / self.micro.sequences * sequences];
            k.download(&mut indices, &moe.indices, 0);
            for expert in indices {
                layer[expert as usize] += 1;
            }
        }
    }

    /// The activations of the last pass.
    pub const fn activations(&self) -> &Activations<K, A> {
        &self.acts
    }
}
