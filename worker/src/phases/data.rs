//! The data phases: no checkpoints; an interrupted one starts over.

use super::{Context, close, commit, reporter};
use crate::Stop;
use crate::error::Result;
use fathom_spec::artifact::ArtifactKind;
use fathom_spec::assignment::Assignment;

/// Runs a stage that leaves files in the output directory and returns its statistics, and commits the artifact.
pub fn execute(
    assignment: &Assignment,
    stop: &Stop,
    kind: ArtifactKind,
    stage: impl FnOnce(&Context<'_>) -> Result<serde_json::Value>,
) -> Result<()> {
    let reporter = reporter(assignment, 0)?;
    let outcome = stage(&Context::new(assignment, stop, Some(&reporter))).and_then(|statistics| commit(assignment, kind, None, statistics));
    close(reporter, None, &outcome);
    outcome
}
