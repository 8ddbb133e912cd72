//! What a phase may ask of the process that executes it. Phases are tested with a context of their own.

use fathom_spec::record::{EventKind, Progress};

/// The surroundings of a running phase.
pub trait PhaseContext: Sync {
    /// Seed of everything random in the phase.
    fn seed(&self) -> u64;
    /// Threads for computation, at least 1.
    fn threads(&self) -> usize;
    /// Reports how far the phase is. Cheap; may be called often.
    fn progress(&self, progress: Progress);
    /// Reports that something happened.
    fn event(&self, kind: EventKind, step: Option<u64>, message: String);
    /// Whether the phase has been asked to stop. Polled in every loop that may last longer than a second.
    fn stop_requested(&self) -> bool;
}
