//! The assignment: everything one worker process needs to execute one attempt of one phase, resolved. The local runner writes it to
//! a file, the operator to a ConfigMap; the worker reads nothing else.

use crate::architecture::Architecture;
use crate::artifact::ArtifactKind;
use crate::manifest::{Corpus, Precision, Pretrain, Tokenizer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One attempt of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Assignment {
    /// Format version, 1. A worker refuses others.
    pub version: u32,
    /// Name of the job.
    pub job: String,
    /// Name of the phase.
    pub phase: String,
    /// Identity of the phase's execution: equal for all its attempts.
    pub run: String,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Seed of everything random in the phase.
    pub seed: u64,
    /// Cache key of the phase; the output artifact carries it.
    pub key: String,
    /// What to do.
    pub work: Work,
    /// Directories of the input artifacts.
    pub inputs: BTreeMap<ArtifactKind, InputArtifact>,
    /// Directory that becomes the output artifact. It holds checkpoints while the phase runs.
    pub output: String,
    /// Directory of the record spool.
    pub spool: String,
    /// Threads for computation; 0 means one per available core.
    pub threads: usize,
}

/// An input artifact of an assignment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InputArtifact {
    /// Directory.
    pub path: String,
    /// Cache key.
    pub key: String,
}

/// The work of a phase, with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one value per process; a box would only be in the way")]
#[serde(rename_all = "camelCase")]
pub enum Work {
    /// Train or adopt a tokenizer.
    Tokenizer(Tokenizer),
    /// Tokenise, deduplicate, split and pack text.
    Corpus(Corpus),
    /// Pre-train a model.
    Pretrain {
        /// The phase as declared.
        pretrain: Pretrain,
        /// The model.
        architecture: Architecture,
        /// Arithmetic of the linear layers.
        precision: Precision,
    },
}

/// Exit codes of a worker process: a contract with whoever starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// The phase is complete and its artifact committed.
    Done = 0,
    /// The assignment cannot be executed (sysexits `EX_USAGE`): do not retry.
    BadConfig = 64,
    /// An input is unreadable or wrong (sysexits `EX_DATAERR`): do not retry.
    BadData = 65,
    /// The loss or a gradient became non-finite (sysexits `EX_SOFTWARE`): policy decides.
    Diverged = 70,
    /// Reading or writing failed, disk full included (sysexits `EX_IOERR`): retry with back-off.
    Io = 74,
    /// Stopped on request after committing a checkpoint (sysexits `EX_TEMPFAIL`): resume, free of charge.
    Stopped = 75,
    /// Another rank of the attempt is gone: a victim, not the culprit. Retry with the whole gang.
    PeerLost = 76,
    /// The ranks of the attempt did not find each other in time: retry with the whole gang.
    Rendezvous = 78,
}
