//! Training: initial weights, schedules by tokens, and the step (forward, backward, clip, AdamW, routing-bias update).

pub mod batch;
pub mod checkpoint;
pub mod data;
pub mod init;
pub mod parts;
pub mod schedule;
mod trainer;

pub use trainer::{StepReport, StepSettings, Trainer};
