//! `DELETE /jobs/{job}`.

use super::get::{find, version};
use crate::problem::{Code, Problem};
use crate::view::{Action, allowed_actions};
use crate::{Api, IntentError};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};

/// Forgets a job: its history goes, its artifacts stay for other jobs. Refused while it runs.
#[utoipa::path(delete, path = "/jobs/{job}", operation_id = "deleteJob", tag = "jobs",
    params(("job" = String, Path, description = "Name of the job."), ("If-Match" = String, Header, description = "The `ETag` of what you have seen.")),
    responses((status = 204, description = "It is gone."),
              (status = 409, description = "It runs."),
              (status = 428)))]
pub(crate) async fn delete(State(api): State<Api>, Path(job): Path<String>, headers: HeaderMap) -> Result<StatusCode, Problem> {
    let row = find(&api, &job).await?;
    version(&row).check(&headers, true)?;
    if !allowed_actions(&row.state).contains(&Action::Delete) {
        let detail = format!("The job `{}` is {}.", row.name, row.state);
        return Err(Problem::new(Code::CONFLICT, detail).hint("Cancel it first."));
    }
    match api.intent.delete(&row.project, &row.name).await {
        // History of a job that whoever runs jobs has forgotten already is just history.
        Ok(()) | Err(IntentError::NotFound) => {}
        Err(error) => return Err(error.into()),
    }
    api.timed("delete_job", api.store.delete_job(row.id)).await?;
    api.hub.job(&row.name, "deleted", None);
    Ok(StatusCode::NO_CONTENT)
}
