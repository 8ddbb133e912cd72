//! Is a training run healthy? A [`Detector`] folds over the steps of a run and says what begins to go wrong; [`assess`] joins that with
//! what is known of the process into one [`Health`]: a verdict, its reasons, the next action and six vital signs.
//!
//! The rules compare a run with its own recent past, so that one set of defaults serves a run of 780 steps and one of 235,000. Each is
//! written for its rate of false alarms as well as for its delay: a detector that cries wolf is switched off. The defaults and the
//! reasons for them are in [`Thresholds`].
//!
//! Steps come resolved: once each and in order. A new attempt that makes steps again announces it with [`Detector::restart`], and what
//! the superseded steps had shown is forgotten.

mod alarms;
mod assess;
mod balance;
mod clipping;
mod detection;
mod detector;
mod drift;
mod overfit;
mod pace;
mod reasons;
mod spikes;
#[cfg(test)]
mod tests;
mod thresholds;
mod throughput;
mod tiles;
mod view;
mod vitals;
mod window;
mod words;

pub use assess::assess;
pub use detection::{Code, Detection, Load, Page, Severity, StepView};
pub use detector::Detector;
pub use reasons::{CheckpointMark, EventSummary, Finished, Situation};
pub use thresholds::{
    BalanceThresholds, CheckpointThresholds, GradientThresholds, LossThresholds, ProgressThresholds, RestartThresholds, Thresholds,
    ThroughputThresholds,
};
pub use view::{ActionKind, Health, NextAction, Reason, Since, Tile, TileId, Verdict};
