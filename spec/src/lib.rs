//! The language everyone in Fathom speaks: the `DeepSeekV3Job` manifest, its validation, sizing and plan, the
//! assignment that a worker receives, the artifacts it leaves and the records it reports.
//!
//! Pure by rule: no I/O, no clock, no async, no environment. Time and randomness are arguments.

pub mod architecture;
pub mod artifact;
pub mod assignment;
pub mod cost;
pub mod crd;
pub mod health;
pub mod init;
pub mod job;
pub mod key;
pub mod manifest;
pub mod memory;
pub mod order;
pub mod plan;
pub mod problem;
pub mod quantity;
pub mod record;
mod report;
pub mod schema;
mod shape;
pub mod size;
pub mod state;
pub mod status;
mod tree;
mod validate;

pub use architecture::Architecture;
pub use init::init_manifest;
pub use job::{PhaseKind, PhaseWork, ValidatedJob, ValidatedPhase};
pub use problem::{Problem, Severity};
pub use validate::parse_manifest;
