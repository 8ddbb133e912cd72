//! What can go wrong with the history, in terms that a client can act on.

use crate::codec::CodecError;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such thing.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The change contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// Records before those that were sent are missing.
    #[error("the records from {expected} on are missing")]
    Gap {
        /// Sequence number of the first record that is missing.
        expected: u64,
    },
    /// The input is not acceptable.
    #[error("{0}")]
    Invalid(String),
    /// A stored block cannot be read.
    #[error(transparent)]
    Damaged(#[from] CodecError),
    /// The database cannot be reached or refused a statement.
    #[error("the database failed")]
    Database(#[source] sqlx::Error),
    /// The database cannot be brought up to this version.
    #[error("the database cannot be migrated")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The embedded database cannot be started.
    #[error("the embedded database failed: {0}")]
    Embedded(String),
}

/// Result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Constraints that a client can violate, and what it is told. All others are defects of this program.
const CLIENT_CONSTRAINTS: &[(&str, &str)] = &[
    ("jobs_project_id_name_key", "a job of this name exists already"),
    ("jobs_name_check", "a job's name has 1 to 253 characters"),
    ("projects_name_key", "a project of this name exists already"),
    ("projects_name_check", "a project's name has 1 to 63 characters"),
    ("series_name_check", "a metric's name has 1 to 200 characters"),
    ("series_shape_check", "a metric is either a scalar or a matrix of one shape"),
    ("writers_writer_check", "a writer's name has at most 400 characters"),
    ("tokens_name_key", "a token of this name exists already"),
    ("tokens_name_check", "a token's name has 1 to 100 characters"),
    ("idempotency_keys_key_check", "an idempotency key has 1 to 255 characters"),
];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let constraint = error.as_database_error().and_then(sqlx::error::DatabaseError::constraint);
        match CLIENT_CONSTRAINTS.iter().find(|(name, _)| Some(*name) == constraint) {
            Some((name, text)) if name.ends_with("_key") => Self::Conflict((*text).to_owned()),
            Some((_, text)) => Self::Invalid((*text).to_owned()),
            None if is_unstorable(&error) => {
                Self::Invalid("a value cannot be stored: it is out of range, or a text that holds NUL".to_owned())
            }
            None => Self::Database(error),
        }
    }
}

/// Whether the database refused a value for what it is (class 22, "data exception"): every column takes what the checks before it let through,
/// except for NUL in texts.
fn is_unstorable(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code.starts_with("22"))
}

/// Step, token or sequence number for a column.
///
/// # Errors
/// [`Error::Invalid`] beyond 2^53, which a JSON number cannot hold either.
pub(crate) fn to_i64(what: &str, value: u64) -> Result<i64> {
    i64::try_from(value)
        .ok()
        .filter(|&value| value <= 1 << 53)
        .ok_or_else(|| Error::Invalid(format!("{what} {value} is larger than 2^53")))
}
