//! Table `artifacts`: the phase cache and its lineage.

use crate::error::to_i64;
use crate::{Error, Result, Store};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// A finished artifact.
#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactRow {
    /// Database id.
    pub id: i64,
    /// `tokenizer`, `corpus`, `checkpoint` or `report`.
    pub kind: String,
    /// Cache key.
    pub key: String,
    /// Name of the phase that made it.
    pub phase: String,
    /// Optimizer steps, for a checkpoint.
    pub step: Option<i64>,
    /// Size of all files.
    pub bytes: i64,
    /// Number of files.
    pub files: i32,
    /// Where it is.
    pub path: String,
    /// Cache keys of the artifacts that it was made from, by kind.
    pub lineage: Value,
    /// Statistics of the phase.
    pub statistics: Value,
    /// When it was first seen.
    pub created_at: DateTime<Utc>,
}

/// An artifact that is there.
#[derive(Clone, Debug)]
pub struct SeenArtifact<'a> {
    /// `tokenizer`, `corpus`, `checkpoint` or `report`.
    pub kind: &'a str,
    /// Cache key.
    pub key: &'a str,
    /// Name of the phase that made it.
    pub phase: &'a str,
    /// Optimizer steps, for a checkpoint.
    pub step: Option<u64>,
    /// Size of all files.
    pub bytes: u64,
    /// Number of files.
    pub files: u32,
    /// Where it is.
    pub path: &'a str,
    /// Cache keys of the artifacts that it was made from, by kind.
    pub lineage: &'a Value,
    /// Statistics of the phase.
    pub statistics: &'a Value,
}

impl Store {
    /// Takes in a finished artifact; artifacts never change.
    ///
    /// # Errors
    /// [`Error::NotFound`] for the project, [`Error::Database`].
    pub async fn report_artifact(&self, project: &str, seen: &SeenArtifact<'_>) -> Result<()> {
        let stored = sqlx::query!(
            "INSERT INTO artifacts (project_id, kind, key, phase, step, bytes, files, path, lineage, statistics, created_at)
             SELECT id, $2, $3, $4, $5, $6, $7, $8, $9, $10, now() FROM projects WHERE name = $1
             ON CONFLICT ON CONSTRAINT artifacts_project_id_kind_key_key DO UPDATE SET path = EXCLUDED.path",
            project,
            seen.kind,
            seen.key,
            seen.phase,
            seen.step.map(|step| to_i64("step", step)).transpose()?,
            to_i64("bytes", seen.bytes)?,
            i32::try_from(seen.files).unwrap_or(i32::MAX),
            seen.path,
            seen.lineage,
            seen.statistics
        );
        match stored.execute(&self.pool).await?.rows_affected() {
            0 => Err(Error::NotFound {
                what: "project",
                name: project.to_owned(),
            }),
            _ => Ok(()),
        }
    }

    /// The artifacts with these keys.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub async fn artifacts(&self, project: &str, keys: &[String]) -> Result<Vec<ArtifactRow>> {
        let rows = sqlx::query_as!(
            ArtifactRow,
            "SELECT a.id, kind, key, phase, step, bytes, files, path, lineage, statistics, a.created_at
             FROM artifacts a JOIN projects p ON p.id = a.project_id WHERE p.name = $1 AND key = ANY($2) ORDER BY a.id",
            project,
            keys
        );
        Ok(rows.fetch_all(&self.pool).await?)
    }
}
