//! `POST /jobs`.

use super::validate::{invalid, manifest_text, parse};
use super::{assemble, get};
use crate::extract::Command;
use crate::idempotency::once;
use crate::problem::{Code, Problem};
use crate::view::{Job, PhaseReport};
use crate::{Api, CreateJob, monitor};
use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use fathom_spec::ValidatedJob;
use fathom_store::events::NewEvent;
use fathom_store::jobs::JobReport;
use serde_json::json;

/// Creates a job and runs it.
#[utoipa::path(post, path = "/jobs", operation_id = "createJob", tag = "jobs",
    request_body(content((String = "application/yaml"), (Object = "application/json"))),
    params(("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same key, the request is not done again.")),
    responses((status = 202, body = Job, headers(("Location" = String))),
              (status = 409, description = "There is such a job."),
              (status = 422)))]
pub(crate) async fn create(State(api): State<Api>, command: Command) -> Result<Response, Problem> {
    once(&api, &command, async {
        let text = manifest_text(&command)?;
        let job = accept(&api, &text).await?;
        let wanted = CreateJob {
            project: api.config.project.clone(),
            name: job.name().to_owned(),
            manifest: text.clone(),
        };
        let uid = api.intent.create(wanted).await?;
        mirror(&api, &job, &uid, &text).await?;
        answer(&api, job.name()).await
    })
    .await
}

/// A manifest that this version can execute, of a name that is free.
pub(super) async fn accept(api: &Api, text: &str) -> Result<ValidatedJob, Problem> {
    let job = parse(text.to_owned()).await?.map_err(|problems| invalid(&problems))?;
    let unsupported = fathom_spec::plan::unsupported(&job);
    if !unsupported.is_empty() {
        let problem = Problem::new(Code::INVALID_MANIFEST, "This version cannot execute the job.");
        return Err(unsupported.into_iter().fold(problem, |problem, reason| problem.at("", reason)));
    }
    match api.store.job(&api.config.project, job.name()).await {
        Err(fathom_store::Error::NotFound { .. }) => Ok(job),
        Ok(row) => {
            let problem = Problem::new(
                Code::CONFLICT,
                format!("There is a job `{}` already; it is {}.", row.name, row.state),
            );
            Err(problem.hint("Choose another name, or fork it."))
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes down that a job was accepted, so that it is seen before its runner reports. What the runner reports replaces it.
pub(super) async fn mirror(api: &Api, job: &ValidatedJob, uid: &str, text: &str) -> Result<(), Problem> {
    let effective = serde_saphyr::to_string(job).map_err(|error| Problem::internal("a manifest cannot be written", &error))?;
    let phases: Vec<PhaseReport> = job
        .phases
        .iter()
        .map(|phase| PhaseReport {
            name: phase.name.clone(),
            kind: phase.work.kind().name().to_owned(),
            state: "pending".into(),
            ..PhaseReport::default()
        })
        .collect();
    let report = JobReport {
        uid,
        state: "queued",
        message: None,
        labels: &json!(job.metadata.labels),
        phases: &json!(phases),
        submitted: text,
        effective: &effective,
    };
    let project = &api.config.project;
    match api.store.job(project, job.name()).await {
        // The runner was faster.
        Ok(row) if row.uid == uid => return Ok(()),
        Ok(_) | Err(_) => {
            let reported = api.timed("report_job", api.store.report_job(project, job.name(), &report)).await?;
            let event = NewEvent {
                job: reported.id,
                run: None,
                attempt: None,
                key: format!("created/{uid}"),
                time: api.now(),
                kind: "JobCreated".into(),
                severity: "info",
                step: None,
                message: "The job was created over the API".into(),
            };
            monitor::publish(api, &[event]).await?;
        }
    }
    api.hub.job(job.name(), "queued", None);
    Ok(())
}

/// 202 with the job as it is now.
pub(super) async fn answer(api: &Api, name: &str) -> Result<Response, Problem> {
    let row = get::find(api, name).await?;
    let job = assemble::job(api, row).await?;
    let location = format!("/api/v1/jobs/{name}");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(job)).into_response())
}
