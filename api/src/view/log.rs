//! Log lines.

use fathom_store::logs::LogRow;
use serde::Serialize;
use utoipa::ToSchema;

/// Weight of a line.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is suspicious.
    Warn,
    /// To know.
    Info,
    /// For developers.
    Debug,
}

/// A line that a worker printed.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// Place in the log.
    pub id: i64,
    /// Id of the run.
    pub run: String,
    /// Attempt.
    pub attempt: i32,
    /// Rank of the worker.
    pub rank: i32,
    /// When it was seen, RFC 3339.
    pub time: String,
    /// Weight.
    #[schema(value_type = LogLevel)]
    pub level: String,
    /// The text.
    pub text: String,
}

impl From<LogRow> for LogLine {
    fn from(row: LogRow) -> Self {
        let LogRow {
            id,
            run,
            attempt,
            rank,
            time,
            level,
            text,
        } = row;
        Self {
            id,
            run,
            attempt,
            rank,
            time: super::seconds(time),
            level,
            text,
        }
    }
}
