//! Table `checkpoints`: what a run can go on from.

use crate::error::to_i64;
use crate::{Result, Store};
use chrono::{DateTime, Utc};

/// A checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckpointRow {
    /// Database id.
    pub id: i64,
    /// Name of the run.
    pub run: String,
    /// Name of the phase.
    pub phase: String,
    /// Number of the attempt that wrote it, if it said so.
    pub attempt: Option<i32>,
    /// Optimizer steps.
    pub step: i64,
    /// Tokens trained on.
    pub tokens: Option<i64>,
    /// Size of all files.
    pub bytes: i64,
    /// Number of files.
    pub files: i32,
    /// Where it is.
    pub path: String,
    /// `committed` or `deleted`.
    pub state: String,
    /// When its digests were last compared with its files.
    pub verified_at: Option<DateTime<Utc>>,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
    /// Validation loss of its step.
    pub validation_loss: Option<f64>,
}

/// A checkpoint that is there.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenCheckpoint {
    /// Optimizer steps.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: Option<u64>,
    /// Size of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u32,
    /// Where it is.
    pub path: String,
    /// Whether its digests were compared with its files.
    pub verified: bool,
}

impl Store {
    /// Takes in which checkpoints a run has now; others that it had are marked deleted.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn report_checkpoints(&self, run: i64, seen: &[SeenCheckpoint]) -> Result<()> {
        let mut transaction = self.pool.begin().await?;
        for checkpoint in seen {
            sqlx::query!(
                "INSERT INTO checkpoints (run_id, step, tokens, bytes, files, path, state, verified_at, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, 'committed', CASE WHEN $7::bool THEN now() END, now())
                 ON CONFLICT ON CONSTRAINT checkpoints_run_id_step_key
                 DO UPDATE SET tokens = EXCLUDED.tokens, bytes = EXCLUDED.bytes, files = EXCLUDED.files, path = EXCLUDED.path, state = 'committed',
                    verified_at = COALESCE(checkpoints.verified_at, EXCLUDED.verified_at)",
                run,
                to_i64("step", checkpoint.step)?,
                checkpoint.tokens.map(|tokens| to_i64("tokens", tokens)).transpose()?,
                to_i64("bytes", checkpoint.bytes)?,
                i32::try_from(checkpoint.files).unwrap_or(i32::MAX),
                checkpoint.path,
                checkpoint.verified
            )
            .execute(&mut *transaction)
            .await?;
        }
        let steps = seen
            .iter()
            .map(|checkpoint| to_i64("step", checkpoint.step))
            .collect::<Result<Vec<_>>>()?;
        sqlx::query!(
            "UPDATE checkpoints SET state = 'deleted' WHERE run_id = $1 AND step <> ALL($2)",
            run,
            &steps
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The checkpoints of a job's runs, newest step first; at most 1,000.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn checkpoints(&self, job: i64) -> Result<Vec<CheckpointRow>> {
        let rows = sqlx::query_as!(
            CheckpointRow,
            r#"SELECT c.id, r.name AS run, r.phase, c.step, c.tokens, c.bytes, c.files, c.path, c.state, c.created_at,
                 -- A worker that goes on from a checkpoint has compared its digests before.
                 GREATEST(c.verified_at, (SELECT to_timestamp(max(started_at)) FROM attempts a WHERE a.run_id = c.run_id AND a.from_step = c.step))
                   AS verified_at,
                 (SELECT a.attempt FROM events e JOIN attempts a ON a.id = e.attempt_id
                  WHERE e.run_id = c.run_id AND e.step = c.step AND e.kind = 'CheckpointCommitted' ORDER BY e.id DESC LIMIT 1) AS attempt,
                 (SELECT value FROM evaluations e WHERE e.run_id = c.run_id AND e.step = c.step AND e.name = 'validation.loss'
                  ORDER BY attempt_id DESC LIMIT 1) AS validation_loss
               FROM checkpoints c JOIN runs r ON r.id = c.run_id WHERE r.job_id = $1 ORDER BY r.id DESC, c.step DESC LIMIT 1000"#,
            job
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }
}
