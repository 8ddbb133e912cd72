//! `PUT /runs/{run}/checkpoints`.

use crate::extract::Json;
use crate::problem::{Code, Problem};
use crate::{Api, runs};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use fathom_store::checkpoints::SeenCheckpoint;
use serde::Deserialize;
use utoipa::ToSchema;

/// Checkpoints that a run may have at a time.
const MOST: usize = 1000;

/// A checkpoint that is there.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReportedCheckpoint {
    /// Optimizer steps.
    step: u64,
    /// Tokens trained on.
    #[serde(default)]
    tokens: Option<u64>,
    /// Size of all files.
    bytes: u64,
    /// Number of files.
    files: u32,
    /// Where it is.
    path: String,
    /// Whether its digests were compared with its files.
    #[serde(default)]
    verified: bool,
}

/// The checkpoints of a run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct CheckpointsReport {
    /// Everything that is there now; what is not here was deleted.
    items: Vec<ReportedCheckpoint>,
}

/// Takes in which checkpoints a run has now.
#[utoipa::path(put, path = "/runs/{run}/checkpoints", operation_id = "reportRunCheckpoints", tag = "ingest", params(("run" = String, Path)), request_body = CheckpointsReport,
    responses((status = 204, description = "It is known."),
              (status = 422)))]
pub(super) async fn checkpoints(
    State(api): State<Api>,
    Path(run): Path<String>,
    Json(report): Json<CheckpointsReport>,
) -> Result<StatusCode, Problem> {
    if report.items.len() > MOST {
        return Err(Problem::new(Code::INVALID, format!("A run may have {MOST} checkpoints.")).at("/items", "too many"));
    }
    let row = runs::find(&api, &run).await?;
    let seen: Vec<SeenCheckpoint> = report.items.into_iter().map(seen).collect();
    api.timed("report_checkpoints", api.store.report_checkpoints(row.id, &seen)).await?;
    let job = api.timed("job_by_id", api.store.job_by_id(row.job_id)).await?;
    api.hub.job(&job.name, &job.state, Some(&row.phase));
    Ok(StatusCode::NO_CONTENT)
}

fn seen(reported: ReportedCheckpoint) -> SeenCheckpoint {
    let ReportedCheckpoint {
        step,
        tokens,
        bytes,
        files,
        path,
        verified,
    } = reported;
    SeenCheckpoint {
        step,
        tokens,
        bytes,
        files,
        path,
        verified,
    }
}
