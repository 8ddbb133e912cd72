//! Tables `projects`, `jobs` and `job_generations`.

use crate::{Error, Page, Result, Store};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// A job as it is known.
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    /// Database id.
    pub id: i64,
    /// Name of the project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Identity behind the name.
    pub uid: String,
    /// State in one word.
    pub state: String,
    /// Why it is in this state.
    pub message: Option<String>,
    /// Labels, an object of strings.
    pub labels: Value,
    /// Status of each phase in order, as the runner reported it.
    pub phases: Value,
    /// Number of the newest manifest, from 1.
    pub generation: i32,
    /// Grows with every change.
    pub version: i64,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
    /// When its first phase started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached its end.
    pub finished_at: Option<DateTime<Utc>>,
}

/// What a runner reports about a job.
#[derive(Clone, Debug)]
pub struct JobReport<'a> {
    /// Identity behind the name.
    pub uid: &'a str,
    /// State in one word.
    pub state: &'a str,
    /// Why.
    pub message: Option<&'a str>,
    /// Labels, an object of strings.
    pub labels: &'a Value,
    /// Status of each phase in order.
    pub phases: &'a Value,
    /// The manifest as it was written.
    pub submitted: &'a str,
    /// The manifest with every default filled in.
    pub effective: &'a str,
}

/// A manifest that a job had.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationRow {
    /// From 1.
    pub generation: i32,
    /// As it was written.
    pub submitted: String,
    /// With every default filled in.
    pub effective: String,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

/// What [`Store::report_job`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Database id of the job.
    pub id: i64,
    /// Number of its newest manifest.
    pub generation: i32,
    /// Whether anything is different now.
    pub changed: bool,
    /// Whether the job was not known before.
    pub created: bool,
}

/// Order of a list of jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobOrder {
    /// Newest first.
    Newest,
    /// By name.
    Name,
}

/// Which jobs.
#[derive(Clone, Debug, Default)]
pub struct JobFilter<'a> {
    /// In this state only.
    pub state: Option<&'a str>,
    /// Whose name contains this.
    pub name_contains: Option<&'a str>,
}

impl Store {
    /// Names of the projects.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn projects(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar!("SELECT name FROM projects ORDER BY name")
            .fetch_all(&self.pool)
            .await?)
    }

    /// Takes in what a runner reports about a job. Reporting the same twice changes nothing.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the project, [`Error::Database`].
    pub async fn report_job(&self, project: &str, name: &str, report: &JobReport<'_>) -> Result<Reported> {
        let mut transaction = self.pool.begin().await?;
        let project_id = sqlx::query_scalar!("SELECT id FROM projects WHERE name = $1", project)
            .fetch_optional(&mut *transaction)
            .await?
            .ok_or_else(|| Error::NotFound {
                what: "project",
                name: project.to_owned(),
            })?;
        let finished = matches!(report.state, "succeeded" | "failed" | "cancelled");
        let started = !matches!(report.state, "pending" | "queued");
        let known = sqlx::query!(
            "SELECT id FROM jobs WHERE project_id = $1 AND name = $2 FOR UPDATE",
            project_id,
            name
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let (id, created) = match known {
            Some(row) => (row.id, false),
            None => {
                let id = sqlx::query_scalar!(
                    "INSERT INTO jobs (project_id, name, uid, state, created_at, updated_at) VALUES ($1, $2, $3, $4, now(), now()) RETURNING id",
                    project_id,
                    name,
                    report.uid,
                    report.state
                );
                (id.fetch_one(&mut *transaction).await?, true)
            }
        };
        let newest = sqlx::query!(
            "SELECT generation, submitted FROM job_generations WHERE job_id = $1 ORDER BY generation DESC LIMIT 1",
            id
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let generation = match newest {
            Some(row) if row.submitted == report.submitted => row.generation,
            other => {
                let generation = other.map_or(1, |row| row.generation + 1);
                sqlx::query!(
                    "INSERT INTO job_generations (job_id, generation, submitted, effective, created_at) VALUES ($1, $2, $3, $4, now())",
                    id,
                    generation,
                    report.submitted,
                    report.effective
                )
                .execute(&mut *transaction)
                .await?;
                generation
            }
        };
        let changed = sqlx::query!(
            "UPDATE jobs SET uid = $2, state = $3, message = $4, labels = $5, phases = $6, generation = $7, version = version + 1,
                updated_at = now(),
                started_at = COALESCE(started_at, CASE WHEN $8 THEN now() END),
                finished_at = CASE WHEN $9 THEN COALESCE(finished_at, now()) END
             WHERE id = $1 AND (uid, state, message, labels, phases, generation) IS DISTINCT FROM ($2, $3, $4, $5, $6, $7)",
            id,
            report.uid,
            report.state,
            report.message,
            report.labels,
            report.phases,
            generation,
            started,
            finished
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected()
            > 0;
        transaction.commit().await?;
        Ok(Reported {
            id,
            generation,
            changed: changed || created,
            created,
        })
    }

    /// Sets the state of a job that is not running, because its intent changed (queued, paused, cancelled).
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn set_job_state(&self, id: i64, state: &str, message: Option<&str>) -> Result<()> {
        sqlx::query!(
            "UPDATE jobs SET state = $2, message = $3, version = version + 1, updated_at = now() WHERE id = $1 AND (state, message) IS DISTINCT FROM ($2, $3)",
            id,
            state,
            message
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// A job by name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn job(&self, project: &str, name: &str) -> Result<JobRow> {
        sqlx::query_as!(
            JobRow,
            "SELECT j.id, p.name AS project, j.name, uid, state, message, labels, phases, generation, version, j.created_at, updated_at, started_at,
                finished_at
             FROM jobs j JOIN projects p ON p.id = j.project_id WHERE p.name = $1 AND j.name = $2",
            project,
            name
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| not_found(name))
    }

    /// A job by database id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn job_by_id(&self, id: i64) -> Result<JobRow> {
        sqlx::query_as!(
            JobRow,
            "SELECT j.id, p.name AS project, j.name, uid, state, message, labels, phases, generation, version, j.created_at, updated_at, started_at,
                finished_at
             FROM jobs j JOIN projects p ON p.id = j.project_id WHERE j.id = $1",
            id
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| not_found(&id.to_string()))
    }

    /// Jobs of a project, newest first, after the job whose (creation time, id) is `after`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn jobs_newest(
        &self,
        project: &str,
        filter: &JobFilter<'_>,
        after: Option<(DateTime<Utc>, i64)>,
        limit: u32,
    ) -> Result<Page<JobRow, (DateTime<Utc>, i64)>> {
        let (time, id) = after.map_or((None, None), |(time, id)| (Some(time), Some(id)));
        let rows = sqlx::query_as!(
            JobRow,
            "SELECT j.id, p.name AS project, j.name, uid, state, message, labels, phases, generation, version, j.created_at, updated_at, started_at,
                finished_at
             FROM jobs j JOIN projects p ON p.id = j.project_id
             WHERE p.name = $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR strpos(j.name, $3) > 0)
                AND ($4::timestamptz IS NULL OR (j.created_at, j.id) < ($4, $5))
             ORDER BY j.created_at DESC, j.id DESC LIMIT $6",
            project,
            filter.state,
            filter.name_contains,
            time,
            id,
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| (row.created_at, row.id)))
    }

    /// Jobs of a project by name, after the name `after`.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn jobs_by_name(
        &self,
        project: &str,
        filter: &JobFilter<'_>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Page<JobRow, String>> {
        let rows = sqlx::query_as!(
            JobRow,
            "SELECT j.id, p.name AS project, j.name, uid, state, message, labels, phases, generation, version, j.created_at, updated_at, started_at,
                finished_at
             FROM jobs j JOIN projects p ON p.id = j.project_id
             WHERE p.name = $1 AND ($2::text IS NULL OR state = $2) AND ($3::text IS NULL OR strpos(j.name, $3) > 0)
                AND ($4::text IS NULL OR j.name > $4)
             ORDER BY j.name LIMIT $5",
            project,
            filter.state,
            filter.name_contains,
            after,
            i64::from(limit) + 1
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(Page::new(rows, limit, |row| row.name.clone()))
    }

    /// Deletes a job and all its history.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn delete_job(&self, id: i64) -> Result<()> {
        let deleted = sqlx::query!("DELETE FROM jobs WHERE id = $1", id).execute(&self.pool).await?;
        if deleted.rows_affected() == 0 {
            return Err(not_found(&id.to_string()));
        }
        self.shared.series.clear();
        Ok(())
    }

    /// A manifest of a job; the newest without a number.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Database`].
    pub async fn generation(&self, job: i64, generation: Option<i32>) -> Result<GenerationRow> {
        sqlx::query_as!(
            GenerationRow,
            "SELECT generation, submitted, effective, created_at FROM job_generations
             WHERE job_id = $1 AND ($2::int IS NULL OR generation = $2) ORDER BY generation DESC LIMIT 1",
            job,
            generation
        )
        .fetch_optional(&self.pool)
        .await?
        .ok_or_else(|| Error::NotFound {
            what: "generation",
            name: generation.map_or("newest".to_owned(), |generation| generation.to_string()),
        })
    }

    /// Numbers and times of a job's manifests, newest first; at most 500.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn generations(&self, job: i64) -> Result<Vec<(i32, DateTime<Utc>)>> {
        let rows = sqlx::query!(
            "SELECT generation, created_at FROM job_generations WHERE job_id = $1 ORDER BY generation DESC LIMIT 500",
            job
        );
        let rows = rows.fetch_all(&self.pool).await?;
        Ok(rows.into_iter().map(|row| (row.generation, row.created_at)).collect())
    }
}

fn not_found(name: &str) -> Error {
    Error::NotFound {
        what: "job",
        name: name.to_owned(),
    }
}
