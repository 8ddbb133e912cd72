//! The local runner: executes the phases of a job in worker processes on this machine.

pub mod directory;
pub mod display;
pub mod fingerprints;
mod gang;
mod interrupts;
pub mod job;
pub mod lock;
pub mod models;
mod phase;
pub mod process;
pub mod report;
pub mod status;
pub mod storage;
pub mod supervise;
pub mod tracker;
