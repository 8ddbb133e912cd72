//! When something is worth a word: every number that the rules use.

use serde::{Deserialize, Serialize};

/// All thresholds. Where a default departs from a plain "z > 4", it is because of the rate of false alarms: normal noise alone exceeds
/// z = 4 three times in 100,000 steps, and the noise of small batches has heavier tails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Thresholds {
    /// Steps that a reason stays after its rule last held, so that a spike can be seen by someone who looks a little later.
    #[schemars(range(max = 1_000_000_000))]
    pub hold_steps: u32,
    /// The same in seconds, for runs of fast steps; both must have passed.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub hold_seconds: f64,
    /// Loss.
    pub loss: LossThresholds,
    /// Gradient norm.
    pub gradient: GradientThresholds,
    /// Tokens per second.
    pub throughput: ThroughputThresholds,
    /// Load of the experts.
    pub balance: BalanceThresholds,
    /// Time without a step.
    pub progress: ProgressThresholds,
    /// Age of the newest checkpoint.
    pub checkpoint: CheckpointThresholds,
    /// Restarts.
    pub restarts: RestartThresholds,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            hold_steps: 100,
            hold_seconds: 60.0,
            loss: LossThresholds::default(),
            gradient: GradientThresholds::default(),
            throughput: ThroughputThresholds::default(),
            balance: BalanceThresholds::default(),
            progress: ProgressThresholds::default(),
            checkpoint: CheckpointThresholds::default(),
            restarts: RestartThresholds::default(),
        }
    }
}

/// Thresholds of the loss. A z is the distance of a step from the median of the 20 steps before it, in robust standard deviations of that
/// distance over `window`: from the median absolute deviation, or from the 95th percentile where the upper tail is heavier than a normal
/// one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LossThresholds {
    /// Steps that the noise is measured over.
    #[schemars(range(min = 10, max = 100_000))]
    pub window: u32,
    /// Steps before anything is judged.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u32,
    /// Smallest standard deviation that the noise is taken to have, as a share of the loss: with huge batches it is so small that a
    /// harmless wobble would be many of them.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub noise_floor: f64,
    /// Watch: this z is exceeded on three of five steps ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_z: f64,
    /// ... or this one on a single step.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub single_z: f64,
    /// Failing: this z is exceeded ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub failing_z: f64,
    /// ... on so many steps in a row; at most 9, because the median of 20 steps follows a longer jump.
    #[schemars(range(min = 1, max = 9))]
    pub failing_steps: u32,
    /// Horizon of the fast moving average, in steps.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub fast_steps: u32,
    /// Horizon of the slow moving average, in steps.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub slow_steps: u32,
    /// Watch: the fast average is above the slow one by this share, and by four standard errors ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_rise: f64,
    /// ... for so many steps in a row.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub watch_rise_steps: u32,
    /// Failing: the same by this share ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub failing_rise: f64,
    /// ... for so many steps in a row.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub failing_rise_steps: u32,
    /// Watch: the last so many validation losses are all above as many before them ...
    #[schemars(range(min = 1, max = 20))]
    pub overfit_validations: u32,
    /// ... and on average by this share, and by four standard errors, while the training loss has fallen.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub overfit_rise: f64,
}

impl Default for LossThresholds {
    fn default() -> Self {
        Self {
            window: 200,
            warmup_steps: 50,
            noise_floor: 0.0025,
            watch_z: 4.0,
            single_z: 8.0,
            failing_z: 8.0,
            failing_steps: 5,
            fast_steps: 50,
            slow_steps: 1000,
            watch_rise: 0.01,
            watch_rise_steps: 200,
            failing_rise: 0.05,
            failing_rise_steps: 500,
            overfit_validations: 3,
            overfit_rise: 0.01,
        }
    }
}

/// Thresholds of the gradient norm before clipping. A z is that of its logarithm, because gradient norms vary by factors. A single step
/// needs a higher one than the loss does: with four sequences a batch, norms of 4 to 7 times the median are part of a good run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct GradientThresholds {
    /// Steps that the noise is measured over.
    #[schemars(range(min = 10, max = 100_000))]
    pub window: u32,
    /// Steps before anything is judged.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u32,
    /// Smallest standard deviation that the noise of the logarithm is taken to have.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub noise_floor: f64,
    /// Watch: this z is exceeded on three of five steps ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_z: f64,
    /// ... or this one on a single step.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub single_z: f64,
    /// `optimizer.clipNorm` of the phase, which is where it comes from; none where the norm is unknown, and then clipping is not judged.
    #[serde(skip)]
    pub clip_norm: Option<f64>,
    /// Failing: more than this share of steps is clipped, and a time is known when at most half this share was. A small model with a
    /// high learning rate is clipped on every step from the first to the last and learns well, so clipping alone says nothing.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub clipped_share: f64,
    /// Steps that the share is taken over.
    #[schemars(range(min = 10, max = 100_000))]
    pub clipped_steps: u32,
    /// Steps before the share is taken: gradients are small or large for their own reasons while the learning rate warms up.
    #[schemars(range(max = 1_000_000_000))]
    pub clipped_warmup_steps: u32,
}

impl Default for GradientThresholds {
    fn default() -> Self {
        Self {
            window: 200,
            warmup_steps: 50,
            noise_floor: 0.1,
            watch_z: 6.0,
            single_z: 12.0,
            clip_norm: None,
            clipped_share: 0.5,
            clipped_steps: 100,
            clipped_warmup_steps: 200,
        }
    }
}

/// Thresholds of tokens per second: the median of the newest minutes against the median of the hour before. A drop must also exceed
/// three robust standard deviations of that hour, so that a shared machine is judged by its own noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ThroughputThresholds {
    /// Steps of an attempt that are left out: caches are cold and pages are faulted in.
    #[schemars(range(max = 1_000_000_000))]
    pub skip_steps: u32,
    /// Watch: a drop by this share ...
    #[schemars(range(min = 0.0, max = 1.0))]
    pub watch_drop: f64,
    /// ... over so many seconds.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub watch_seconds: f64,
    /// Failing: a drop by this share ...
    #[schemars(range(min = 0.0, max = 1.0))]
    pub failing_drop: f64,
    /// ... over so many seconds.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub failing_seconds: f64,
}

impl Default for ThroughputThresholds {
    fn default() -> Self {
        Self {
            skip_steps: 5,
            watch_drop: 0.10,
            watch_seconds: 300.0,
            failing_drop: 0.30,
            failing_seconds: 600.0,
        }
    }
}

/// Thresholds of the load of experts. MaxVio of a layer is `(max - mean) / mean` of the tokens per expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BalanceThresholds {
    /// A layer is judged on steps that give it this many tokens per expert on average. With fewer, chance alone makes the load uneven:
    /// 64 tokens each on 256 experts have a MaxVio of 0.4 under perfect routing, 8 tokens one of 1.3.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub min_tokens_per_expert: f64,
    /// Steps at the start of a run that are not judged: routing begins uneven and is balanced by then.
    #[schemars(range(max = 1_000_000_000))]
    pub warmup_steps: u32,
    /// Steps of the window. A limit is broken by a layer above it on nine tenths of them.
    #[schemars(range(min = 10, max = 100_000))]
    pub window: u32,
    /// Watch above this MaxVio.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_max_violation: f64,
    /// Failing above this MaxVio.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub failing_max_violation: f64,
    /// Watch: MaxVio rose over four windows in a row by this much in all ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub rise: f64,
    /// ... in so many layers (all, where a model has fewer).
    #[schemars(range(min = 1, max = 1000))]
    pub rise_layers: u32,
    /// Failing: an expert without a token for so many steps.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub dead_steps: u32,
}

impl Default for BalanceThresholds {
    fn default() -> Self {
        Self {
            min_tokens_per_expert: 64.0,
            warmup_steps: 200,
            window: 100,
            watch_max_violation: 1.0,
            failing_max_violation: 4.0,
            rise: 0.25,
            rise_layers: 3,
            dead_steps: 500,
        }
    }
}

/// Thresholds of the time without a step. Beside multiples of the median step time there are floors, for two reasons: records travel in
/// batches and are read about once a second, so that nothing much shorter can be told from a stall; and between steps a run validates
/// and writes checkpoints. Pauses that were seen before raise the limits: to 1.5 (watch) and 3 (stalled) times the second longest of the
/// last eight, the longest being left out because it may have been an incident.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProgressThresholds {
    /// Watch: no step for so many median step times ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_steps: f64,
    /// ... and for so many seconds.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub watch_seconds: f64,
    /// Stalled: no step for so many median step times ...
    #[schemars(range(min = 0.0, max = 1e6))]
    pub stalled_steps: f64,
    /// ... and for so many seconds.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub stalled_seconds: f64,
    /// Seconds that the first step of an attempt may take before the run is stalled; half of it is watch.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub startup_seconds: f64,
    /// Seconds without a heartbeat after which the process counts as lost.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub heartbeat_seconds: f64,
}

impl Default for ProgressThresholds {
    fn default() -> Self {
        Self {
            watch_steps: 3.0,
            watch_seconds: 30.0,
            stalled_steps: 10.0,
            stalled_seconds: 120.0,
            startup_seconds: 600.0,
            heartbeat_seconds: 60.0,
        }
    }
}

/// Thresholds of the age of the newest checkpoint, in intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckpointThresholds {
    /// Watch above so many intervals.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub watch_intervals: f64,
    /// Failing above so many intervals.
    #[schemars(range(min = 0.0, max = 1e6))]
    pub failing_intervals: f64,
    /// An age below so many seconds is never judged: the loss of a minute is cheap, whatever the interval.
    #[schemars(range(min = 0.0, max = 1e9))]
    pub min_seconds: f64,
}

impl Default for CheckpointThresholds {
    fn default() -> Self {
        Self {
            watch_intervals: 2.0,
            failing_intervals: 4.0,
            min_seconds: 60.0,
        }
    }
}

/// Thresholds of restarts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct RestartThresholds {
    /// Watch: so many restarts within an hour.
    #[schemars(range(min = 1, max = 1000))]
    pub watch_per_hour: u32,
    /// Failing: so many restarts within an hour ...
    #[schemars(range(min = 1, max = 1000))]
    pub failing_per_hour: u32,
    /// ... or so many in a row without a step between them.
    #[schemars(range(min = 1, max = 1000))]
    pub without_step: u32,
}

impl Default for RestartThresholds {
    fn default() -> Self {
        Self {
            watch_per_hour: 2,
            failing_per_hour: 5,
            without_step: 3,
        }
    }
}
