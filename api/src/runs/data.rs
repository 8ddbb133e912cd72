//! `GET /runs/{run}/data`.

use super::find;
use crate::Api;
use crate::problem::Problem;
use crate::view::{RunData, RunDataItem};
use axum::Json;
use axum::extract::{Path, State};
use fathom_store::artifacts::ArtifactRow;
use std::collections::BTreeMap;

/// Generations of artifacts that are followed back.
const MOST_GENERATIONS: usize = 8;

/// What is known about the data that a run read: statistics of its tokenizer and corpus.
#[utoipa::path(get, path = "/runs/{run}/data", operation_id = "getRunData", tag = "runs", params(("run" = String, Path)),
    responses((status = 200, body = RunData)))]
pub(super) async fn data(State(api): State<Api>, Path(run): Path<String>) -> Result<Json<RunData>, Problem> {
    let row = find(&api, &run).await?;
    let job = api.timed("job_by_id", api.store.job_by_id(row.job_id)).await?;
    // A run that is not finished has no artifact whose lineage could be followed: its inputs are those of the job's phases.
    let mut keys: Vec<String> = crate::jobs::phase_keys(&job);
    keys.push(row.key);
    let mut found: BTreeMap<String, ArtifactRow> = BTreeMap::new();
    for _ in 0..MOST_GENERATIONS {
        keys.retain(|key| !found.contains_key(key));
        if keys.is_empty() {
            break;
        }
        let artifacts = api.timed("artifacts", api.store.artifacts(&job.project, &keys)).await?;
        let parents =
            |artifact: &ArtifactRow| serde_json::from_value::<BTreeMap<String, String>>(artifact.lineage.clone()).unwrap_or_default();
        keys = artifacts.iter().flat_map(|artifact| parents(artifact).into_values()).collect();
        found.extend(artifacts.into_iter().map(|artifact| (artifact.key.clone(), artifact)));
    }
    let mut items: Vec<ArtifactRow> = found
        .into_values()
        .filter(|artifact| matches!(artifact.kind.as_str(), "tokenizer" | "corpus"))
        .collect();
    items.sort_by_key(|artifact| artifact.id);
    let item = |artifact: ArtifactRow| RunDataItem {
        phase: artifact.phase,
        kind: artifact.kind,
        key: artifact.key,
        statistics: artifact.statistics,
    };
    Ok(Json(RunData {
        items: items.into_iter().map(item).collect(),
    }))
}
