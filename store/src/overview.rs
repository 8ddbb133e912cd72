//! What a list of jobs shows of each, read for all of them at once: the number of queries does not grow with the list.

use crate::attempts::AttemptRow;
use crate::events::EventRow;
use crate::runs::RunRow;
use crate::{Result, Store};
use std::collections::{BTreeMap, HashMap};

impl Store {
    /// Runs of some jobs, by job, oldest first; at most 1,000 of each.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn runs_of(&self, jobs: &[i64]) -> Result<HashMap<i64, Vec<RunRow>>> {
        let rows = sqlx::query_as!(
            RunRow,
            r#"SELECT r.id AS "id!", r.job_id AS "job_id!", j.name AS "job!", r.name AS "name!", r.phase AS "phase!", r.kind AS "kind!",
                 r.key AS "key!", r.state AS "state!", r.flops_per_token, r.created_at AS "created_at!", r.last_step, r.last_tokens, r.last_time,
                 r.progress
               FROM jobs j CROSS JOIN LATERAL (SELECT * FROM runs WHERE job_id = j.id ORDER BY id LIMIT 1000) r
               WHERE j.id = ANY($1) ORDER BY r.id"#,
            jobs
        );
        let mut found: HashMap<i64, Vec<RunRow>> = HashMap::new();
        for row in rows.fetch_all(&self.pool).await? {
            found.entry(row.job_id).or_default().push(row);
        }
        Ok(found)
    }

    /// How many records of each run of some jobs were taken in. Whatever is added to a run changes its number, so that who reads the number
    /// before the run knows later whether what was read is still all there is.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn records_of(&self, jobs: &[i64]) -> Result<HashMap<i64, i64>> {
        let rows = sqlx::query!(
            r#"SELECT w.run_id, sum(w.next_sequence)::bigint AS "records!" FROM runs r JOIN writers w ON w.run_id = r.id
               WHERE r.job_id = ANY($1) GROUP BY w.run_id"#,
            jobs
        );
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|row| (row.run_id, row.records)).collect())
    }

    /// Attempts of some runs, by run, in order of execution.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn attempts_of(&self, runs: &[i64]) -> Result<HashMap<i64, Vec<AttemptRow>>> {
        let rows = sqlx::query!(
            "SELECT run_id, id, attempt, execution, from_step, started_at, ended_at, outcome, message, last_step, last_time, sealed_steps
             FROM attempts WHERE run_id = ANY($1) ORDER BY run_id, attempt, execution",
            runs
        );
        let mut found: HashMap<i64, Vec<AttemptRow>> = HashMap::new();
        for row in rows.fetch_all(&self.pool).await? {
            found.entry(row.run_id).or_default().push(AttemptRow {
                id: row.id,
                attempt: row.attempt,
                execution: row.execution,
                from_step: row.from_step,
                started_at: row.started_at,
                ended_at: row.ended_at,
                outcome: row.outcome,
                message: row.message,
                last_step: row.last_step,
                last_time: row.last_time,
                sealed_steps: row.sealed_steps,
            });
        }
        Ok(found)
    }

    /// Database ids of some scalars of some runs, by run and name.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn scalars_of(&self, runs: &[i64], names: &[&str]) -> Result<BTreeMap<(i64, String), i64>> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let rows = sqlx::query!(
            "SELECT run_id, name, id FROM series WHERE run_id = ANY($1) AND name = ANY($2) AND kind = 'scalar'",
            runs,
            &names
        );
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|row| ((row.run_id, row.name), row.id)).collect())
    }

    /// The newest events of each of some runs, by run and when they happened, newest first; at most `limit` of each.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn events_of(&self, runs: &[i64], limit: u32) -> Result<HashMap<i64, Vec<EventRow>>> {
        let rows = sqlx::query!(
            r#"SELECT r.id AS "run_id!", e.id AS "id!", j.name AS "job!", r.name AS "run?", a.attempt AS "attempt?", e.attempt_id, e.time AS "time!",
                 e.kind AS "kind!", e.severity AS "severity!", e.step, e.message AS "message!"
               FROM runs r JOIN jobs j ON j.id = r.job_id
               CROSS JOIN LATERAL (SELECT * FROM events WHERE job_id = r.job_id AND run_id = r.id ORDER BY time DESC, id DESC LIMIT $2) e
               LEFT JOIN attempts a ON a.id = e.attempt_id
               WHERE r.id = ANY($1) ORDER BY e.time DESC, e.id DESC"#,
            runs,
            i64::from(limit)
        );
        let mut found: HashMap<i64, Vec<EventRow>> = HashMap::new();
        for row in rows.fetch_all(&self.pool).await? {
            found.entry(row.run_id).or_default().push(EventRow {
                id: row.id,
                job: row.job,
                run: row.run,
                attempt: row.attempt,
                attempt_id: row.attempt_id,
                time: row.time,
                kind: row.kind,
                severity: row.severity,
                step: row.step,
                message: row.message,
            });
        }
        Ok(found)
    }
}
