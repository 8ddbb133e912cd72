//! The trainer: data stages, model, training loop, checkpoints and reports. A synchronous library.


pub mod artifact;
pub mod checkpoint;
pub mod context;
pub mod data;
pub mod error;
pub mod report;
mod stop;

pub use stop::Stop;
