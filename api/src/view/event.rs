//! Events.

use fathom_store::events::EventRow;
use serde::Serialize;
use utoipa::ToSchema;

/// Weight of an event.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum EventSeverity {
    /// To know.
    Info,
    /// To look at.
    Warning,
    /// To act on.
    Error,
}

/// Something that happened.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Offset in the stream of all events.
    pub id: i64,
    /// Name of the job.
    pub job: String,
    /// Id of the run.
    pub run: Option<String>,
    /// When, RFC 3339.
    pub time: String,
    /// What: an event of a worker (`AttemptStarted`, `CheckpointCommitted`, `NonFinite`, ...), or `HealthChanged`, `JobCreated`,
    /// `PhaseChanged`, `Detected`.
    pub kind: String,
    /// Weight.
    #[schema(value_type = EventSeverity)]
    pub severity: String,
    /// Optimizer step.
    pub step: Option<i64>,
    /// One sentence.
    pub message: String,
    /// Attempt that reported it.
    pub attempt: Option<i32>,
    /// Whether a later attempt made its step again.
    pub superseded: bool,
}

impl From<EventRow> for Event {
    fn from(row: EventRow) -> Self {
        let EventRow {
            id,
            job,
            run,
            attempt,
            attempt_id: _,
            time,
            kind,
            severity,
            step,
            message,
        } = row;
        Self {
            id,
            job,
            run,
            time: super::seconds(time),
            kind,
            severity,
            step,
            message,
            attempt,
            superseded: false,
        }
    }
}
