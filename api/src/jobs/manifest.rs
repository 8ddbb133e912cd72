//! `GET /jobs/{job}/manifest` and `/generations`.

use super::get::find;
use crate::Api;
use crate::extract::Query;
use crate::page::List;
use crate::problem::Problem;
use crate::view::{Generation, GenerationMark, time};
use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::IntoParams;

/// Parameters of the manifest.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ManifestQuery {
    /// Which manifest, from 1; the newest without.
    generation: Option<i32>,
}

/// A manifest of a job: as it was written, and with every default filled in.
#[utoipa::path(get, path = "/jobs/{job}/manifest", operation_id = "getJobManifest", tag = "jobs", params(("job" = String, Path), ManifestQuery),
    responses((status = 200, body = Generation)))]
pub(super) async fn manifest(
    State(api): State<Api>,
    Path(job): Path<String>,
    Query(query): Query<ManifestQuery>,
) -> Result<Json<Generation>, Problem> {
    let job = find(&api, &job).await?;
    let row = api.timed("generation", api.store.generation(job.id, query.generation)).await?;
    Ok(Json(Generation {
        generation: row.generation,
        submitted: row.submitted,
        effective: row.effective,
        created_at: time(row.created_at),
    }))
}

/// The manifests that a job had, newest first; at most 500.
#[utoipa::path(get, path = "/jobs/{job}/generations", operation_id = "listJobGenerations", tag = "jobs", params(("job" = String, Path)),
    responses((status = 200, body = List<GenerationMark>)))]
pub(super) async fn generations(State(api): State<Api>, Path(job): Path<String>) -> Result<Json<List<GenerationMark>>, Problem> {
    let job = find(&api, &job).await?;
    let rows = api.timed("generations", api.store.generations(job.id)).await?;
    let mark = |(generation, created_at)| GenerationMark {
        generation,
        created_at: time(created_at),
    };
    Ok(Json(List {
        items: rows.into_iter().map(mark).collect(),
        next_cursor: None,
    }))
}
