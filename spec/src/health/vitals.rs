//! The last values of a run, for people to look at.

use super::detection::StepView;
use super::window::{Sparkline, Window};

/// Steps whose values and times can be looked up.
const HISTORY: usize = 1024;
/// Validations and non-finite values that are remembered.
const FEW: usize = 64;

/// The values of one step, where it had them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vital {
    /// End of the step, in seconds since the Unix epoch.
    pub(super) time: f64,
    /// Nats per token of the main model.
    pub(super) loss: Option<f64>,
    pub(super) gradient_norm: Option<f64>,
    pub(super) tokens_per_second: Option<f64>,
    /// Highest MaxVio of a layer.
    pub(super) max_violation: Option<f64>,
}

impl Vital {
    pub(super) fn of(view: &StepView<'_>) -> Self {
        let scalar = |name: &str| view.scalars.get(name).copied();
        Self {
            time: view.time,
            loss: scalar("loss.main").or_else(|| scalar("loss.total")),
            gradient_norm: scalar("gradient_norm"),
            tokens_per_second: scalar("tokens_per_second"),
            max_violation: scalar("moe.max_violation.worst"),
        }
    }
}

/// The last values and the whole run in small.
#[derive(Clone, Debug)]
pub(super) struct Vitals {
    pub(super) steps: Window<Vital>,
    pub(super) validation: Window<f64>,
    pub(super) non_finite: Window<String>,
    pub(super) loss: Sparkline,
    pub(super) gradient_norm: Sparkline,
    pub(super) tokens_per_second: Sparkline,
    pub(super) max_violation: Sparkline,
}

impl Vitals {
    pub(super) fn new() -> Self {
        Self {
            steps: Window::new(HISTORY),
            validation: Window::new(FEW),
            non_finite: Window::new(FEW),
            loss: Sparkline::new(),
            gradient_norm: Sparkline::new(),
            tokens_per_second: Sparkline::new(),
            max_violation: Sparkline::new(),
        }
    }

    pub(super) fn observe(&mut self, step: u64, vital: Vital) {
        let lines = [
            (&mut self.loss, vital.loss),
            (&mut self.gradient_norm, vital.gradient_norm),
            (&mut self.tokens_per_second, vital.tokens_per_second),
            (&mut self.max_violation, vital.max_violation),
        ];
        for (line, value) in lines {
            if let Some(value) = value {
                line.push(step, value);
            }
        }
        self.steps.push(step, vital);
    }

    /// When a step ended; none if it is no longer remembered.
    pub(super) fn time_of(&self, step: u64) -> Option<f64> {
        self.steps.get(step).map(|vital| vital.time)
    }

    /// Forgets the steps after `step`.
    pub(super) fn truncate(&mut self, step: u64) {
        // A new measurement must have its place here, or it outlives the step that it was made at.
        let Self {
            steps,
            validation,
            non_finite,
            loss,
            gradient_norm,
            tokens_per_second,
            max_violation,
        } = self;
        steps.truncate(step);
        validation.truncate(step);
        non_finite.truncate(step);
        for line in [loss, gradient_norm, tokens_per_second, max_violation] {
            line.truncate(step);
        }
    }
}
