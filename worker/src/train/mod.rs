//! Training: initial weights, schedules by tokens, and the step (forward, backward, clip, AdamW, routing-bias update) with the moving
//! average of the parameters.

pub mod batch;
pub mod checkpoint;
pub mod data;
mod ema;
pub mod init;
pub mod parts;
pub mod schedule;
mod sums;
mod trainer;

pub use trainer::{StepReport, StepSettings, Trainer, max_violations};
