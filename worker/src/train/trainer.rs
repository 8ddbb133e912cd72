//! One optimizer step over the micro-batches of a global batch.

use super::batch;
use super::ema::{self, Ema};
use crate::model::layout::{FfnIds, Role, TensorId};
use crate::model::{Activations, Batch, BatchDims, LossScales, MAX_MTP_DEPTH, Model, Numerics, Storage, Weights};
use fathom_kernels::Kernels;
use fathom_kernels::dims::AdamW;
use fathom_kernels::formats::Statistics;
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
    /// As an update leaves them.
    gradients_are_zero: bool,
}

/// Sums of a pass, in nats; `balance` over sequences and layers.
#[derive(Default)]
struct LossSums {
    main: f64,
    mtp: [f64; MAX_MTP_DEPTH],
    balance: f64,
}

impl LossSums {
    fn add<K: Kernels, A: Storage>(&mut self, model: &Model<K, A>, acts: &Activations<K, A>) {
        let k = &model.kernels;
        self.main += sum(k, &acts.nll);
        for (index, total) in self.mtp.iter_mut().enumerate().take(model.layout.mtp.len()) {
            *total += sum(k, acts.mtp_nll(index));
        }
        self.balance += acts.moe_layers().map(|moe| sum(k, &moe.balance_loss)).sum::<f64>();
    }
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
            gradients_are_zero: false,
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
        let report = self.accumulate(rows, settings, interrupted)?;
        if report.finite_quantities().iter().all(|(_, value)| value.is_finite()) {
            self.update(step, report.gradient_norm, settings);
        }
        Some(report)
    }

    /// Gradients of a global batch, left in `model.gradients`.
    pub fn accumulate(&mut self, rows: &[u32], settings: StepSettings, interrupted: &(dyn Fn() -> bool + Sync)) -> Option<StepReport> {
        let micro_tokens = self.micro.sequences * (self.micro.length + 1);
        assert!(
            !rows.is_empty() && rows.len().is_multiple_of(micro_tokens),
            "a global batch is a whole number of micro-batches"
        );
        let sequences = rows.len() / (self.micro.length + 1);
        let scales = self.loss_scales(sequences, settings);
        if !std::mem::take(&mut self.gradients_are_zero) {
            self.model.zero_gradients();
        }
        for moe in self.acts.moe_layers_mut() {
            self.model.kernels.fill(&mut moe.counts, 0);
        }
        let mut gradients = std::mem::replace(&mut self.model.gradients, Weights::empty());
        let Self {
            model, acts, batch, ema, ..
        } = self;
        let model = &*model;
        let sums = ema::beside(ema.as_mut(), model, || {
            model.kernels.scope(|| {
                let mut sums = LossSums::default();
                for micro in rows.chunks_exact(micro_tokens) {
                    if interrupted() {
                        return None;
                    }
                    batch::load(&model.kernels, batch, micro);
                    model.forward(acts, batch, true);
                    model.backward(&mut gradients, acts, batch, scales);
                    sums.add(model, acts);
                }
                Some(sums)
            })
        });
        self.model.gradients = gradients;
        Some(self.report(&sums?, sequences, settings))
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

    fn report(&mut self, sums: &LossSums, sequences: usize, settings: StepSettings) -> StepReport {
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
        let k = &self.model.kernels;
        StepReport {
            main_loss,
            mtp_losses,
            balance_loss,
            total_loss: main_loss + settings.mtp_weight * mtp_mean + settings.balance_weight * balance_loss,
            gradient_norm: self.model.gradient_norm(),
            expert_counts: self.acts.moe_layers().map(|moe| download(k, &moe.counts)).collect(),
            numerics: self.acts.numerics.take(k),
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
        let biases: Vec<TensorId> = layout
            .all_blocks()
            .filter_map(|block| match &block.ffn {
                FfnIds::Moe(moe) => Some(moe.bias),
                FfnIds::Dense(_) => None,
            })
            .collect();
        for (bias, moe) in biases.into_iter().zip(self.acts.moe_layers()) {
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

/// Copies a whole buffer to the host.
fn download<K: Kernels, T: fathom_kernels::Element>(k: &K, buffer: &K::Buffer<T>) -> Vec<T> {
    let mut values = vec![T::default(); k.len(buffer)];
    k.download(&mut values, buffer, 0);
    values
}

fn sum<K: Kernels>(k: &K, buffer: &K::Buffer<f32>) -> f64 {
    download(k, buffer).iter().map(|&value| f64::from(value)).sum()
}
