//! Table `evaluations`: scores by step.

use crate::{Result, Store};

/// A score.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaluationRow {
    /// Database id of the attempt.
    pub attempt_id: i64,
    /// Optimizer step.
    pub step: i64,
    /// Name of the score.
    pub name: String,
    /// The score.
    pub value: f64,
}

impl Store {
    /// Scores of a run in order of steps, superseded ones included; at most 10,000.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn evaluations(&self, run: i64) -> Result<Vec<EvaluationRow>> {
        let rows = sqlx::query_as!(
            EvaluationRow,
            "SELECT attempt_id, step, name, value FROM evaluations WHERE run_id = $1 ORDER BY step, attempt_id, name LIMIT 10000",
            run
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }
}
