//! What clients see: the JSON of the API. A field that is here is a promise; database rows are not.

mod event;
mod health;
mod job;
mod json;
mod lineage;
mod live;
mod log;
mod record;
mod run;
pub(crate) mod series;

pub use event::{Event, EventSeverity};
pub use health::{Health, HealthSummary, NextAction, NextActionKind, Reason, ReasonPage, ReasonSeverity, Since, Tile, TileId, Verdict};
pub use job::{
    Action, ArtifactReport, Generation, GenerationMark, Job, JobState, Phase, PhaseReport, PhaseStateWord, RunReport, StatusReport,
    allowed_actions,
};
pub use json::AnyJson;
pub use lineage::{Checkpoint, CheckpointState, Lineage, LineageEdge, LineageNode, LineageNodeKind, Parent, RunData, RunDataItem};
pub use live::{GapMessage, HealthMessage, JobMessage, JobMessageState, LiveMessage, LogMessage, MetricsMessage};
pub use log::{LogLevel, LogLine};
pub use record::{LifecycleEvent, LifecycleEventKind, Progress, Record, RecordBody, StepMatrix, StepMetrics};
pub use run::{Attempt, AttemptOutcome, Metric, MetricBetter, MetricKind, Run, Superseded};
pub use series::{
    Axis, ComparedField, ComparedMetric, Comparison, MatrixRows, MatrixStep, MatrixSteps, MatrixView, Series, SeriesColumns, SeriesOfRun,
};

use chrono::{DateTime, SecondsFormat, Utc};

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// RFC 3339 of seconds since the Unix epoch.
pub(crate) fn seconds(seconds: f64) -> String {
    // Rounded to the microsecond: floating point would show 0.299999 s for 0.3 s otherwise. Times out of range are shown as the epoch.
    let microseconds = if seconds.is_finite() { (seconds * 1e6).round() as i64 } else { 0 };
    time(DateTime::from_timestamp_micros(microseconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (value, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (1_764_031_200.3, "2025-11-25T00:40:00.300Z"),
            (f64::NAN, "1970-01-01T00:00:00.000Z"),
            (1e300, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }
}
