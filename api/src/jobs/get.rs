//! `GET /jobs/{job}`.

use super::assemble;
use crate::Api;
use crate::etag::{Version, tagged};
use crate::problem::Problem;
use crate::view::Job;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use fathom_store::jobs::JobRow;

/// One job.
#[utoipa::path(get, path = "/jobs/{job}", operation_id = "getJob", tag = "jobs",
    params(("job" = String, Path, description = "Name of the job."), ("If-None-Match" = Option<String>, Header)),
    responses((status = 200, body = Job, headers(("ETag" = String))), (status = 304, description = "The client has it.")))]
pub(crate) async fn get(State(api): State<Api>, Path(job): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    let row = find(&api, &job).await?;
    let version = version(&row);
    let job = assemble::job(&api, row).await?;
    tagged(StatusCode::OK, &version, &job, &headers)
}

/// The row of a job.
pub(crate) async fn find(api: &Api, name: &str) -> Result<JobRow, Problem> {
    api.timed("job", api.store.job(&api.config.project, name)).await
}

/// The version of a job, for entity tags.
pub(crate) fn version(row: &JobRow) -> Version {
    Version::new(&row.uid, row.version)
}
