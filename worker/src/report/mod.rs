//! Reports of a running phase: a [`Reporter`] that the trainer feeds and never waits for, a spool of append-only files on disk, and
//! readers of it.
//!
//! # The spool
//!
//! One directory per run, one file per attempt, `attempt-0001.spool`. A record is one line: CRC-32 of the JSON in 8 lower-case hexadecimal
//! digits, a space, the [`Record`](fathom_spec::record::Record) as JSON, a line feed. A death in the middle of a write leaves a line
//! without line feed: the writer cuts it off when it opens the file again, and readers wait for its end (or pass over it once a later
//! attempt exists). Any other damage breaks a CRC: that line is reported with file and offset and the rest is read. (`writer`, `sequence`)
//! identifies a record, so reading a part again is harmless. The files of a run together stay below [`Options::max_bytes`]: beyond it new
//! metrics are dropped and counted, and an event says so, for which a part of the space is set aside.
//!
//! # Every step exactly once
//!
//! An attempt begins with the event `AttemptStarted`, which is on disk before anything else is reported; its `step` is the step of the
//! checkpoint that the attempt resumed from. [`Resolved`] is the view without the steps that a later attempt made anew: metrics of a step
//! above a later attempt's start are ghosts, kept in the files and left out of the view. Two rules make the view complete:
//!
//! * whatever is reported for the steps up to S is flushed ([`Reporter::flush`]) *before* a checkpoint of step S is committed. A worker
//!   that is killed after the commit resumes from S, and no step up to S can be missing; one that is killed before resumes from an older
//!   checkpoint and reports those steps again, superseding the flushed ones;
//! * a validation at step S is reported before the flush that precedes the checkpoint of S, since the resumed attempt will not repeat it.
//!
//! What was dropped for want of space is missing, counted, and said in a `RecordsDropped` event.

mod frame;
mod inbox;
mod reader;
mod reporter;
mod resolve;
mod spool;

pub use frame::MAX_FRAME_BYTES;
pub use reader::{Cursor, Damage, Entry, SpoolReader};
pub use reporter::{FlushError, Options, Reporter, Totals};
pub use resolve::{Resolved, resolve};

use std::sync::Arc;
use std::time::SystemTime;

/// Gives the time of a record, in seconds since the Unix epoch.
pub type Clock = Arc<dyn Fn() -> f64 + Send + Sync>;

/// The machine's clock: the one place where reports meet it.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0.0, |elapsed| elapsed.as_secs_f64())
    })
}
