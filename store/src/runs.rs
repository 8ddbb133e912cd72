//! Table `runs`: executions of phases.

use crate::{Error, Result, Store};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// An execution of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct RunRow {
    /// Database id.
    pub id: i64,
    /// Database id of the job.
    pub job_id: i64,
    /// Name of the job.
    pub job: String,
    /// `<job>.<phase>.<first 12 digits of the key>`.
    pub name: String,
    /// Name of the phase.
    pub phase: String,
    /// Kind of the phase.
    pub kind: String,
    /// Cache key of the phase.
    pub key: String,
    /// State in one word.
    pub state: String,
    /// Floating-point operations per trained token.
    pub flops_per_token: Option<f64>,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
    /// Newest step.
    pub last_step: Option<i64>,
    /// Tokens after it.
    pub last_tokens: Option<i64>,
    /// When it was reported, in seconds since the Unix epoch.
    pub last_time: Option<f64>,
    /// What the phase is doing.
    pub progress: Option<Value>,
}

/// What is known of a run before its worker reports.
#[derive(Clone, Debug)]
pub struct RunReport<'a> {
    /// `<job>.<phase>.<first 12 digits of the key>`.
    pub name: &'a str,
    /// Name of the phase.
    pub phase: &'a str,
    /// Kind of the phase.
    pub kind: &'a str,
    /// Cache key of the phase.
    pub key: &'a str,
    /// State in one word.
    pub state: &'a str,
    /// Floating-point operations per trained token.
    pub flops_per_token: Option<f64>,
}

impl Store {
    /// Takes in what is known of a run. Returns its database id. When it has ended its points are folded, in the background.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn report_run(&self, job: i64, report: &RunReport<'_>) -> Result<i64> {
        let RunReport {
            name,
            phase,
            kind,
            key,
            state,
            flops_per_token,
        } = *report;
        let id = sqlx::query_scalar!(
            "INSERT INTO runs (job_id, name, phase, kind, key, state, flops_per_token, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, now())
             ON CONFLICT ON CONSTRAINT runs_job_id_name_key
             DO UPDATE SET state = EXCLUDED.state, flops_per_token = COALESCE(EXCLUDED.flops_per_token, runs.flops_per_token)
             RETURNING id",
            job,
            name,
            phase,
            kind,
            key,
            state,
            flops_per_token
        );
        let id = id.fetch_one(&self.pool).await?;
        if matches!(state, "succeeded" | "failed") {
            // A worker that was killed did not say that it ended.
            for attempt in self.unfolded(id, None).await? {
                self.note_end(attempt);
            }
        }
        Ok(id)
    }

    /// A run by name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn run(&self, project: &str, name: &str) -> Result<RunRow> {
        sqlx::query_as!(
            RunRow,
            "SELECT r.id, job_id, j.name AS job, r.name, phase, kind, key, r.state, flops_per_token, r.created_at, last_step, last_tokens, last_time,
                progress
             FROM runs r JOIN jobs j ON j.id = r.job_id JOIN projects p ON p.id = j.project_id WHERE p.name = $1 AND r.name = $2",
            project,
            name
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::NotFound {
            what: "run",
            name: name.to_owned(),
        })
    }

    /// Runs of a job, oldest first; at most 1,000.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn runs(&self, job: i64) -> Result<Vec<RunRow>> {
        let rows = sqlx::query_as!(
            RunRow,
            "SELECT r.id, job_id, j.name AS job, r.name, phase, kind, key, r.state, flops_per_token, r.created_at, last_step, last_tokens, last_time,
                progress
             FROM runs r JOIN jobs j ON j.id = r.job_id WHERE job_id = $1 ORDER BY r.id LIMIT 1000",
            job
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }
}
