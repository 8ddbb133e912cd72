//! Slow divergence: a loss that creeps upwards, which no single step shows.

use super::thresholds::LossThresholds;
use super::window::Window;

/// Steps that can be taken back exactly. A restart from further back begins anew, which costs a delay and nothing else.
const HISTORY: usize = 1024;
/// A rise must exceed so many standard errors of the fast average: with four sequences a batch the loss varies by 10% from step to step.
const STANDARD_ERRORS: f64 = 4.0;

/// Two exponential moving averages after a step, and for how many steps the fast one has been above the slow one.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    steps: u32,
    fast: f64,
    slow: f64,
    above_watch: u32,
    above_failing: u32,
}

/// How long the loss has been rising.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rise {
    /// The fast average over the slow one, less 1.
    pub(super) share: f64,
    /// The fast average.
    pub(super) fast: f64,
    /// The slow average.
    pub(super) slow: f64,
    /// Steps in a row above the limit of watch.
    pub(super) watch_steps: u32,
    /// Steps in a row above the limit of failing.
    pub(super) failing_steps: u32,
}

/// The averages of the loss.
#[derive(Clone, Debug)]
pub(super) struct Drift {
    history: Window<State>,
}

impl Drift {
    pub(super) fn new() -> Self {
        Self {
            history: Window::new(HISTORY),
        }
    }

    /// Adds a finite loss whose noise has the standard deviation `sigma`.
    pub(super) fn observe(&mut self, step: u64, loss: f64, sigma: f64, t: &LossThresholds) -> Rise {
        let mut state = self.history.last().copied().unwrap_or_default();
        state.steps = state.steps.saturating_add(1);
        state.fast = average(state.fast, loss, state.steps, t.fast_steps);
        state.slow = average(state.slow, loss, state.steps, t.slow_steps);
        let rise = state.fast - state.slow;
        let standard_error = sigma / (2.0 * f64::from(t.fast_steps.max(1))).sqrt();
        // Until the fast average has left the first steps behind, the two hardly differ and mean nothing.
        let judged = state.steps > t.warmup_steps.max(t.fast_steps);
        let above = |share: f64| judged && rise > (share * state.slow.abs()).max(STANDARD_ERRORS * standard_error);
        state.above_watch = if above(t.watch_rise) { state.above_watch + 1 } else { 0 };
        state.above_failing = if above(t.failing_rise) { state.above_failing + 1 } else { 0 };
        self.history.push(step, state);
        Rise {
            share: if state.slow == 0.0 { 0.0 } else { rise / state.slow.abs() },
            fast: state.fast,
            slow: state.slow,
            watch_steps: state.above_watch,
            failing_steps: state.above_failing,
        }
    }

    pub(super) fn truncate(&mut self, step: u64) {
        self.history.truncate(step);
    }
}

/// The next value of an average that is the plain mean until its horizon is reached, so that its start needs no correction.
fn average(mean: f64, value: f64, steps: u32, horizon: u32) -> f64 {
    mean + (value - mean) / f64::from(steps.min(horizon.max(1)))
}
