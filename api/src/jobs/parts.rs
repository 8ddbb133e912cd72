//! Parts of a job: `/phases`, `/runs`, `/health`, `/checkpoints`.

use super::assemble;
use super::get::find;
use super::lineage::{artifact_checkpoints, checkpoint};
use crate::page::{Items, List};
use crate::problem::{Code, Problem};
use crate::view::{Checkpoint, Health, Phase, Run};
use crate::{Api, monitor};
use axum::Json;
use axum::extract::{Path, State};

/// The phases of a job, in order.
#[utoipa::path(get, path = "/jobs/{job}/phases", operation_id = "listJobPhases", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = Items<Phase>)))]
pub(super) async fn phases(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<Items<Phase>>, Problem> {
    let row = find(&api, &job).await?;
    let items = assemble::job_phases(&api, row).await?;
    Ok(Json(Items { items }))
}

/// The runs of a job, oldest first; at most 1,000.
#[utoipa::path(get, path = "/jobs/{job}/runs", operation_id = "listJobRuns", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = List<Run>)))]
pub(super) async fn runs(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<List<Run>>, Problem> {
    let row = find(&api, &job).await?;
    let runs = api.timed("runs", api.store.runs(row.id)).await?;
    let mut items = Vec::with_capacity(runs.len());
    for run in runs {
        let attempts = api.timed("attempts", api.store.attempts(run.id)).await?;
        items.push(Run::new(run, attempts.last().map_or(0, |attempt| attempt.attempt)));
    }
    Ok(Json(List { items, next_cursor: None }))
}

/// The health of a job: of the run that trains now or trained last.
#[utoipa::path(get, path = "/jobs/{job}/health", operation_id = "getJobHealth", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = Health)))]
pub(super) async fn health(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<fathom_spec::health::Health>, Problem> {
    use fathom_spec::health::{Detector, Situation, Thresholds, assess};
    let row = find(&api, &job).await?;
    let runs = api.timed("runs", api.store.runs(row.id)).await?;
    let newest = || runs.iter().find(|run| run.state == "running").or(runs.last());
    if let Some(run) = assemble::training_run(&row, &runs).or_else(newest) {
        return monitor::health(&api, run).await.map(Json);
    }
    // No run yet: nothing is known but the time.
    let situation = Situation {
        now: api.now(),
        phase_state: "pending".into(),
        ..Situation::default()
    };
    Ok(Json(assess(&Detector::new(Thresholds::default()), &situation)))
}

/// The checkpoints of a job, newest first, deleted ones and artifacts included; at most 1,000.
#[utoipa::path(get, path = "/jobs/{job}/checkpoints", operation_id = "listJobCheckpoints", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = List<Checkpoint>)))]
pub(super) async fn checkpoints(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<List<Checkpoint>>, Problem> {
    let row = find(&api, &job).await?;
    let runs = api.timed("runs", api.store.runs(row.id)).await?;
    let rows = api.timed("checkpoints", api.store.checkpoints(row.id)).await?;
    let mut items = artifact_checkpoints(&api, &row, &runs).await?;
    for found in rows {
        let run = runs.iter().find(|run| run.name == found.run);
        let run = run.ok_or_else(|| Problem::new(Code::CONFLICT, "The job is being deleted."))?;
        items.push(checkpoint(&row, run, found));
    }
    Ok(Json(List { items, next_cursor: None }))
}
