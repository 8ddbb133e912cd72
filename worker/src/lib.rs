//! The trainer: data stages, model, training loop, checkpoints and reports. A synchronous library.


pub mod artifact;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod context;
pub mod data;
pub mod debug;
pub mod error;
pub mod generate;
pub mod model;
pub mod report;
mod stop;
pub mod train;

pub use stop::Stop;
