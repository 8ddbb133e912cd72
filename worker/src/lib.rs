//! The trainer: data stages, model, training loop, checkpoints and reports. A synchronous library; the `fathom worker` process is a thin
//! shell around [`run`].

pub mod artifact;
pub mod bench;
pub mod checkpoint;
pub mod config;
pub mod context;
pub mod data;
pub mod debug;
pub mod error;
pub mod generate;
pub mod hf;
pub mod model;
pub mod parallel;
mod phases;
pub mod report;
mod stop;
pub mod train;

pub use phases::run;
pub use stop::Stop;
