//! The fold over the steps of a run.

use super::alarms::{Alarms, Moment};
use super::balance::Balance;
use super::clipping::Clipping;
use super::detection::{Code, Detection, Severity, StepView};
use super::drift::Drift;
use super::overfit::Overfitting;
use super::pace::Pace;
use super::spikes::{Score, Spikes};
use super::thresholds::Thresholds;
use super::throughput::Throughput;
use super::vitals::{Vital, Vitals};
use super::words::{non_finite, number, percent, plain};

/// Follows a training run step by step and says what begins to go wrong. The same steps give the same detections.
///
/// A step costs a few order statistics over 200 numbers and one pass over the expert load: some ten microseconds at full size.
#[derive(Clone, Debug)]
pub struct Detector {
    pub(super) thresholds: Thresholds,
    /// Last step that is not superseded.
    last: Option<u64>,
    pub(super) loss: Spikes,
    pub(super) drift: Drift,
    pub(super) overfitting: Overfitting,
    pub(super) gradient: Spikes,
    pub(super) clipping: Clipping,
    pub(super) throughput: Throughput,
    pub(super) balance: Balance,
    pub(super) pace: Pace,
    pub(super) alarms: Alarms,
    pub(super) vitals: Vitals,
}

/// What is special about one detection.
struct Found {
    onset: u64,
    layer: Option<usize>,
    expert: Option<usize>,
    value: f64,
    text: String,
    metric: String,
}

impl Found {
    fn new(onset: u64, metric: &str, value: f64, text: String) -> Self {
        Self {
            onset,
            layer: None,
            expert: None,
            value,
            text,
            metric: metric.to_owned(),
        }
    }
}

impl Detector {
    /// A detector of a run that has no step yet.
    #[must_use]
    pub fn new(thresholds: Thresholds) -> Self {
        Self {
            last: None,
            loss: Spikes::new(thresholds.loss.window, thresholds.loss.warmup_steps),
            drift: Drift::new(),
            overfitting: Overfitting::new(),
            gradient: Spikes::new(thresholds.gradient.window, thresholds.gradient.warmup_steps),
            clipping: Clipping::new(thresholds.gradient.clipped_steps),
            throughput: Throughput::new(&thresholds.throughput),
            balance: Balance::new(&thresholds.balance),
            pace: Pace::new(),
            alarms: Alarms::default(),
            vitals: Vitals::new(),
            thresholds,
        }
    }

    /// The thresholds in force.
    #[must_use]
    pub const fn thresholds(&self) -> &Thresholds {
        &self.thresholds
    }

    /// The last step that is not superseded; none before the first.
    #[must_use]
    pub const fn last_step(&self) -> Option<u64> {
        self.last
    }

    /// Median seconds from the end of one step to the end of the next; none before the second step.
    #[must_use]
    pub const fn step_seconds(&self) -> Option<f64> {
        self.pace.median()
    }

    /// What is wrong now, each thing at its highest severity.
    pub fn active(&self) -> impl Iterator<Item = &Detection> {
        self.alarms.active()
    }

    /// Adds a step and returns what begins with it. Steps come in order; of one that was seen before (a validation that is reported apart
    /// from its step) only the validation counts, and that its numbers are finite.
    pub fn observe(&mut self, view: &StepView<'_>) -> Vec<Detection> {
        let now = Moment {
            step: view.step,
            time: view.time,
        };
        let seen = self.last.is_some_and(|last| view.step <= last);
        if !seen {
            self.last = Some(view.step);
            self.vitals.observe(view.step, Vital::of(view));
        }
        if let Some(loss) = view.scalars.get("validation.loss") {
            self.vitals.validation.push(view.step, *loss);
            if loss.is_finite() {
                self.overfitting.validate(view.step, *loss);
            }
        }
        self.judge_finite(view, now);
        if !seen {
            let vital = Vital::of(view);
            self.judge_loss(vital.loss, now);
            self.judge_validation(vital.loss, now);
            self.judge_gradient(vital.gradient_norm, now);
            self.judge_throughput(vital.tokens_per_second, now);
            self.judge_balance(view, now);
            self.pace.observe(view.step, view.time, &self.thresholds.progress);
        }
        self.alarms
            .expire(now, u64::from(self.thresholds.hold_steps), self.thresholds.hold_seconds);
        self.alarms.take_fresh()
    }

    /// A new attempt goes on after `from_step` at `time`, in seconds since the Unix epoch: all later steps are superseded, and what they
    /// showed is forgotten. If they reach back beyond what a window holds, its rule begins anew.
    pub fn restart(&mut self, from_step: u64, time: f64) {
        // A part that is not reset would judge a run by steps that it no longer has.
        let Self {
            thresholds,
            last,
            loss,
            drift,
            overfitting,
            gradient,
            clipping,
            throughput,
            balance,
            pace,
            alarms,
            vitals,
        } = self;
        *last = last.map(|last| last.min(from_step)).filter(|last| *last > 0);
        loss.truncate(from_step);
        drift.truncate(from_step);
        overfitting.truncate(from_step);
        gradient.truncate(from_step);
        clipping.truncate(from_step);
        throughput.restart(from_step, &thresholds.throughput);
        balance.truncate(from_step, &thresholds.balance);
        pace.restart(from_step, time);
        alarms.restart(from_step, time);
        vitals.truncate(from_step);
    }

    fn raise(&mut self, code: Code, layer: Option<usize>, severity: Severity, now: Moment, found: impl FnOnce() -> Found) {
        let vitals = &self.vitals;
        self.alarms.raise((code, layer), severity, now, || {
            let found = found();
            Detection {
                code,
                severity,
                step: now.step,
                onset: found.onset,
                time: if found.onset == now.step {
                    Some(now.time)
                } else {
                    vitals.time_of(found.onset)
                },
                layer: found.layer,
                expert: found.expert,
                value: found.value,
                text: found.text,
                metric: found.metric,
                page: code.page(),
            }
        });
    }

    fn judge_finite(&mut self, view: &StepView<'_>, now: Moment) {
        let judged = |name: &str| name.starts_with("loss.") || name == "gradient_norm" || name == "validation.loss";
        let broken = view.scalars.iter().find(|(name, value)| !value.is_finite() && judged(name));
        if let Some((name, &value)) = broken {
            let text = || format!("`{name}` is {} at step {}", non_finite(value), now.step);
            self.raise(Code::NonFinite, None, Severity::Failing, now, || {
                Found::new(now.step, name, value, text())
            });
            self.vitals.non_finite.push(now.step, text());
        }
    }

    fn judge_loss(&mut self, loss: Option<f64>, now: Moment) {
        let Some(loss) = loss.filter(|loss| loss.is_finite()) else { return };
        let t = self.thresholds.loss.clone();
        let score = self.loss.observe(now.step, loss, t.noise_floor * loss.abs());
        if let Some(onset) = self.loss.in_a_row(t.failing_z, t.failing_steps) {
            self.raise(Code::LossSpike, None, Severity::Failing, now, || {
                let text = format!(
                    "Loss jumped at step {onset} and stayed more than {} standard deviations high for {} steps: {loss:.3} where {:.3} was expected",
                    plain(t.failing_z),
                    t.failing_steps,
                    score.expected
                );
                Found::new(onset, "loss.main", score.z, text)
            });
        } else if let Some(onset) = self.loss.repeated(t.watch_z).or((score.z > t.single_z).then_some(now.step)) {
            self.raise(Code::LossSpike, None, Severity::Watch, now, || {
                Found::new(onset, "loss.main", score.z, jump("Loss", loss, score, now.step))
            });
        }

        let rise = self.drift.observe(now.step, loss, score.sigma, &t);
        let severity = if rise.failing_steps >= t.failing_rise_steps {
            Severity::Failing
        } else if rise.watch_steps >= t.watch_rise_steps {
            Severity::Watch
        } else {
            return;
        };
        self.raise(Code::LossDiverging, None, severity, now, || {
            let onset = now.step.saturating_sub(u64::from(rise.watch_steps.max(1)) - 1);
            let text = format!(
                "Loss is rising: its mean over {} steps, {:.3}, is {} above that over {} steps, and has been above it for {} steps",
                t.fast_steps,
                rise.fast,
                percent(rise.share),
                t.slow_steps,
                rise.watch_steps
            );
            Found::new(onset, "loss.main", rise.share, text)
        });
    }

    /// Between validations the last one stands.
    fn judge_validation(&mut self, loss: Option<f64>, now: Moment) {
        if let Some(loss) = loss.filter(|loss| loss.is_finite()) {
            self.overfitting.train(loss);
        }
        let t = &self.thresholds.loss;
        let Some(found) = self.overfitting.judge(t) else { return };
        let count = t.overfit_validations;
        self.raise(Code::Overfitting, None, Severity::Watch, now, || {
            let text = format!(
                "Overfitting: the last {count} validation losses, {:.3} on average, are {} above the {count} before, while the training loss fell by {}; \
                 the lowest was at step {}",
                found.now,
                percent(found.rise),
                percent(found.fall),
                found.best
            );
            Found::new(found.since, "validation.loss", found.rise, text)
        });
    }

    fn judge_gradient(&mut self, norm: Option<f64>, now: Moment) {
        let Some(norm) = norm.filter(|norm| norm.is_finite()) else { return };
        let t = self.thresholds.gradient.clone();
        // A norm of exactly 0 has no logarithm and nothing to say about jumps.
        if norm > 0.0 {
            let score = self.gradient.observe(now.step, norm.ln(), t.noise_floor);
            if let Some(onset) = self.gradient.repeated(t.watch_z).or((score.z > t.single_z).then_some(now.step)) {
                self.raise(Code::GradientSpike, None, Severity::Watch, now, || {
                    let score = Score {
                        expected: score.expected.exp(),
                        ..score
                    };
                    Found::new(onset, "gradient_norm", score.z, jump("Gradient norm", norm, score, now.step))
                });
            }
        }
        let Some(clip_norm) = t.clip_norm else { return };
        self.clipping.observe(now.step, norm > clip_norm, &t);
        if let Some(now_clipped) = self.clipping.share().filter(|share| share.judged && share.share > t.clipped_share) {
            self.raise(Code::GradientClipped, None, Severity::Failing, now, || {
                let text = format!(
                    "Gradients were clipped at norm {} on {} of the last {} steps; earlier in the run it was on at most {}",
                    plain(clip_norm),
                    percent(now_clipped.share),
                    t.clipped_steps,
                    percent(t.clipped_share / 2.0)
                );
                Found::new(now_clipped.since, "gradient_norm", now_clipped.share, text)
            });
        }
    }

    fn judge_throughput(&mut self, tokens_per_second: Option<f64>, now: Moment) {
        let Some(speed) = tokens_per_second.filter(|speed| speed.is_finite()) else {
            return;
        };
        let t = self.thresholds.throughput.clone();
        self.throughput.observe(now.step, now.time, speed, &t);
        let rules = [
            (self.throughput.failing(), t.failing_drop, t.failing_seconds, Severity::Failing),
            (self.throughput.watch(), t.watch_drop, t.watch_seconds, Severity::Watch),
        ];
        for (drop, limit, seconds, severity) in rules {
            if let Some(drop) = drop.filter(|drop| drop.share > limit.max(drop.noise)) {
                self.raise(Code::ThroughputDrop, None, severity, now, || {
                    let text = format!(
                        "{} tokens/s over the last {}, {} below the {} before",
                        number(drop.now),
                        super::words::span(seconds),
                        percent(drop.share),
                        number(drop.before)
                    );
                    Found::new(drop.since, "tokens_per_second", drop.share, text)
                });
            }
        }
    }

    fn judge_balance(&mut self, view: &StepView<'_>, now: Moment) {
        let Some(load) = view.load else { return };
        let t = self.thresholds.balance.clone();
        self.balance.observe(now.step, load, &t);
        let over: Vec<_> = self.balance.over().collect();
        for over in over {
            let (severity, limit) = if over.failing {
                (Severity::Failing, t.failing_max_violation)
            } else {
                (Severity::Watch, t.watch_max_violation)
            };
            self.raise(Code::ExpertImbalance, Some(over.layer), severity, now, || {
                let text = format!(
                    "Expert load of MoE layer {}: MaxVio {} on average, above {} for {} steps",
                    over.layer,
                    number(over.mean),
                    plain(limit),
                    t.window
                );
                Found {
                    layer: Some(over.layer),
                    ..Found::new(over.since, "moe.load", over.mean, text)
                }
            });
        }
        for dead in self.balance.dead().to_vec() {
            self.raise(Code::ExpertDead, Some(dead.layer), Severity::Failing, now, || {
                let others = match dead.count {
                    1 => String::new(),
                    count => format!(", nor have {} others of the layer", count - 1),
                };
                let text = format!(
                    "Expert {} of MoE layer {} has had no token for {} steps{others}",
                    dead.expert,
                    dead.layer,
                    now.step - dead.since + 1
                );
                Found {
                    layer: Some(dead.layer),
                    expert: Some(dead.expert),
                    ..Found::new(dead.since, "moe.load", dead.count as f64, text)
                }
            });
        }
        if let Some(rising) = self.balance.rising() {
            self.raise(Code::ImbalanceRising, None, Severity::Watch, now, || {
                let text = format!(
                    "Expert load grows uneven in {} layers, most in MoE layer {}: mean MaxVio from {} to {}, rising for {} steps",
                    rising.layers,
                    rising.layer,
                    number(rising.from),
                    number(rising.to),
                    now.step.saturating_sub(rising.since)
                );
                Found {
                    layer: Some(rising.layer),
                    ..Found::new(rising.since, "moe.load", rising.to - rising.from, text)
                }
            });
        }
    }
}

fn jump(what: &str, value: f64, score: Score, step: u64) -> String {
    format!(
        "{what} {value:.3} at step {step}, {} standard deviations above the {:.3} that was expected",
        number(score.z),
        score.expected
    )
}
