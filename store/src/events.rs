//! Table `events`: what happened. Its ids are the offsets of live streams.

use crate::error::to_i64;
use crate::{Page, Result, Store};
use sqlx::PgConnection;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRow {
    /// Offset in the stream of all events.
    pub id: i64,
    /// Name of the job.
    pub job: String,
    /// Name of the run.
    pub run: Option<String>,
    /// Number of the attempt.
    pub attempt: Option<i32>,
    /// Database id of the attempt.
    pub attempt_id: Option<i64>,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// Kind.
    pub kind: String,
    /// `info`, `warning` or `error`.
    pub severity: String,
    /// Optimizer step.
    pub step: Option<i64>,
    /// One sentence.
    pub message: String,
}

/// An event to store.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Database id of the job.
    pub job: i64,
    /// Database id of the run.
    pub run: Option<i64>,
    /// Database id of the attempt.
    pub attempt: Option<i64>,
    /// Identity: an event of the same key is stored once.
    pub key: String,
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// Kind.
    pub kind: String,
    /// `info`, `warning` or `error`.
    pub severity: &'static str,
    /// Optimizer step.
    pub step: Option<u64>,
    /// One sentence.
    pub message: String,
}

/// Which events of a job.
#[derive(Clone, Debug, Default)]
pub struct EventFilter<'a> {
    /// Of this run only (database id).
    pub run: Option<i64>,
    /// Of this kind only.
    pub kind: Option<&'a str>,
    /// Of this severity only.
    pub severity: Option<&'a str>,
}

/// Stores events; returns those that are new.
pub(crate) async fn insert(connection: &mut PgConnection, events: &[NewEvent]) -> Result<Vec<EventRow>> {
    let mut rows = Vec::new();
    for event in events {
        let inserted = sqlx::query_as!(
            EventRow,
            r#"WITH new AS (
                 INSERT INTO events (job_id, run_id, attempt_id, key, time, kind, severity, step, message) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 ON CONFLICT ON CONSTRAINT events_job_id_key_key DO NOTHING RETURNING *)
               SELECT new.id, j.name AS job, r.name AS "run?", a.attempt AS "attempt?", new.attempt_id, new.time, new.kind, new.severity, new.step,
                 new.message
               FROM new JOIN jobs j ON j.id = new.job_id LEFT JOIN runs r ON r.id = new.run_id LEFT JOIN attempts a ON a.id = new.attempt_id"#,
            event.job,
            event.run,
            event.attempt,
            event.key,
            event.time,
            event.kind,
            event.severity,
            event.step.map(|step| to_i64("step", step)).transpose()?,
            event.message
        );
        rows.extend(inserted.fetch_optional(&mut *connection).await?);
    }
    Ok(rows)
}

impl Store {
    /// Stores events; returns those that are new.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn add_events(&self, events: &[NewEvent]) -> Result<Vec<EventRow>> {
        let mut transaction = self.pool.begin().await?;
        let rows = insert(&mut transaction, events).await?;
        transaction.commit().await?;
        Ok(rows)
    }

    /// Events of a job by when they happened, newest first; those before `before`, which is the time and id of an event.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn events(
        &self,
        job: i64,
        filter: &EventFilter<'_>,
        before: Option<(f64, i64)>,
        limit: u32,
    ) -> Result<Page<EventRow, (f64, i64)>> {
        let rows = sqlx::query_as!(
            EventRow,
            r#"SELECT e.id, j.name AS job, r.name AS "run?", a.attempt AS "attempt?", e.attempt_id, e.time, e.kind, e.severity, e.step, e.message
               FROM events e JOIN jobs j ON j.id = e.job_id LEFT JOIN runs r ON r.id = e.run_id LEFT JOIN attempts a ON a.id = e.attempt_id
               WHERE e.job_id = $1 AND ($2::bigint IS NULL OR e.run_id = $2) AND ($3::text IS NULL OR e.kind = $3)
                 AND ($4::text IS NULL OR e.severity = $4)
                 AND ($5::double precision IS NULL OR (e.time, e.id) < ($5::double precision, $6::bigint))
               ORDER BY e.time DESC, e.id DESC LIMIT $7"#,
            job,
            filter.run,
            filter.kind,
            filter.severity,
            before.map(|(time, _)| time),
            before.map(|(_, id)| id),
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| (row.time, row.id)))
    }

    /// Events of a job that were stored after the one with the id `after`, in the order in which they were stored.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn events_stored_after(&self, job: i64, filter: &EventFilter<'_>, after: i64, limit: u32) -> Result<Page<EventRow, i64>> {
        let rows = sqlx::query_as!(
            EventRow,
            r#"SELECT e.id, j.name AS job, r.name AS "run?", a.attempt AS "attempt?", e.attempt_id, e.time, e.kind, e.severity, e.step, e.message
               FROM events e JOIN jobs j ON j.id = e.job_id LEFT JOIN runs r ON r.id = e.run_id LEFT JOIN attempts a ON a.id = e.attempt_id
               WHERE e.job_id = $1 AND ($2::bigint IS NULL OR e.run_id = $2) AND ($3::text IS NULL OR e.kind = $3)
                 AND ($4::text IS NULL OR e.severity = $4) AND e.id > $5
               ORDER BY e.id LIMIT $6"#,
            job,
            filter.run,
            filter.kind,
            filter.severity,
            after,
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| row.id))
    }

    /// Events of all jobs, or of one run, after an id, oldest first.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn events_after(&self, run: Option<i64>, after: i64, limit: u32) -> Result<Vec<EventRow>> {
        let rows = sqlx::query_as!(
            EventRow,
            r#"SELECT e.id, j.name AS job, r.name AS "run?", a.attempt AS "attempt?", e.attempt_id, e.time, e.kind, e.severity, e.step, e.message
               FROM events e JOIN jobs j ON j.id = e.job_id LEFT JOIN runs r ON r.id = e.run_id LEFT JOIN attempts a ON a.id = e.attempt_id
               WHERE e.id > $2 AND ($1::bigint IS NULL OR e.run_id = $1) ORDER BY e.id LIMIT $3"#,
            run,
            after,
            i64::from(limit)
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }

    /// The newest event's id; 0 if there is none.
    ///
    /// # Errors
    /// [`crate::Error::Database`].
    pub async fn last_event(&self) -> Result<i64> {
        let id = sqlx::query_scalar!(r#"SELECT COALESCE(max(id), 0) AS "id!" FROM events"#);
        Ok(id.fetch_one(&self.pool).await?)
    }
}
