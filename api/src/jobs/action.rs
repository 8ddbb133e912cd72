//! `POST /jobs/{job}:pause`, `:resume`, `:cancel` and `:fork`.

use super::create::{accept, answer, mirror};
use super::get::{find, version};
use super::patch;
use crate::body;
use crate::extract::Command;
use crate::idempotency::once;
use crate::problem::{Code, Problem};
use crate::view::{Action, Job, allowed_actions};
use crate::{Api, ForkJob};
use axum::extract::{Path, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Deserialize;
use utoipa::ToSchema;

/// The body of `:fork`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ForkRequest {
    /// Name of the new job.
    name: String,
    /// Checkpoint to begin at; without it, the new job re-uses the artifacts of phases that it does not change.
    at_step: Option<u64>,
    /// JSON merge patch (RFC 7396) of the manifest.
    #[schema(value_type = Option<Object>)]
    patch: Option<serde_json::Value>,
}

/// Verbs that stand after a job's name.
const VERBS: [&str; 4] = ["pause", "resume", "cancel", "fork"];

/// A method that does not fit `name` or `name:verb`: one route has both, so it cannot tell by itself which are allowed.
pub(super) async fn no_such_method(Path(segment): Path<String>) -> Problem {
    not_allowed(&segment)
}

fn not_allowed(segment: &str) -> Problem {
    let verb = segment.rsplit_once(':').is_some_and(|(_, verb)| VERBS.contains(&verb));
    let allowed = HeaderValue::from_static(if verb { "POST" } else { "GET, HEAD, DELETE" });
    let detail = "A job takes GET and DELETE; POST takes `:pause`, `:resume`, `:cancel` or `:fork` after its name.";
    Problem::new(Code::METHOD_NOT_ALLOWED, detail).header(header::ALLOW, allowed)
}

/// Takes `name:verb` apart.
pub(super) async fn dispatch(State(api): State<Api>, Path(segment): Path<String>, command: Command) -> Result<Response, Problem> {
    let unknown = || not_allowed(&segment);
    let (name, verb) = segment.rsplit_once(':').ok_or_else(unknown)?;
    let name = Path(name.to_owned());
    match verb {
        "pause" => pause(State(api), name, command).await,
        "resume" => resume(State(api), name, command).await,
        "cancel" => cancel(State(api), name, command).await,
        "fork" => fork(State(api), name, command).await,
        _ => Err(unknown()),
    }
}

/// Stops a job after a checkpoint; it keeps its place.
#[utoipa::path(post, path = "/jobs/{job}:pause", operation_id = "pauseJob", tag = "jobs",
    params(("job" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Job),
              (status = 409)))]
pub(super) async fn pause(State(api): State<Api>, Path(job): Path<String>, command: Command) -> Result<Response, Problem> {
    change(&api, &job, &command, Action::Pause).await
}

/// Lets a paused, stopped, cancelled or failed job go on from its newest checkpoint.
#[utoipa::path(post, path = "/jobs/{job}:resume", operation_id = "resumeJob", tag = "jobs",
    params(("job" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Job),
              (status = 409)))]
pub(super) async fn resume(State(api): State<Api>, Path(job): Path<String>, command: Command) -> Result<Response, Problem> {
    change(&api, &job, &command, Action::Resume).await
}

/// Ends a job after a checkpoint.
#[utoipa::path(post, path = "/jobs/{job}:cancel", operation_id = "cancelJob", tag = "jobs",
    params(("job" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Job),
              (status = 409)))]
pub(super) async fn cancel(State(api): State<Api>, Path(job): Path<String>, command: Command) -> Result<Response, Problem> {
    change(&api, &job, &command, Action::Cancel).await
}

/// Begins another job like this one, at a checkpoint of it, with a patch of its manifest.
#[utoipa::path(post, path = "/jobs/{job}:fork", operation_id = "forkJob", tag = "jobs", request_body = ForkRequest,
    params(("job" = String, Path), ("If-Match" = Option<String>, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 202, body = Job, headers(("Location" = String))),
              (status = 409),
              (status = 422)))]
pub(super) async fn fork(State(api): State<Api>, Path(job): Path<String>, command: Command) -> Result<Response, Problem> {
    once(&api, &command, async {
        let ForkRequest { name, at_step, patch } = body::parse(&command.body)?;
        let row = find(&api, &job).await?;
        version(&row).check(&command.headers, false)?;
        let generation = api.timed("generation", api.store.generation(row.id, None)).await?;
        let manifest = patch::fork(&generation.submitted, &name, patch.as_ref())?;
        let job = accept(&api, &manifest).await?;
        let wanted = ForkJob {
            project: row.project,
            from: row.name,
            name: name.clone(),
            manifest: manifest.clone(),
            at_step,
        };
        let uid = api.intent.fork(wanted).await?;
        mirror(&api, &job, &uid, &manifest).await?;
        answer(&api, &name).await
    })
    .await
}

async fn change(api: &Api, name: &str, command: &Command, action: Action) -> Result<Response, Problem> {
    once(api, command, async {
        let row = find(api, name).await?;
        version(&row).check(&command.headers, false)?;
        let allowed = allowed_actions(&row.state);
        if !allowed.contains(&action) {
            let word = |action: &Action| {
                serde_json::to_value(action)
                    .ok()
                    .and_then(|value| value.as_str().map(str::to_owned))
            };
            let words: Vec<String> = allowed.iter().filter_map(word).collect();
            let detail = format!(
                "The job `{}` is {}; what can be done with it now: {}.",
                row.name,
                row.state,
                words.join(", ")
            );
            return Err(Problem::new(Code::CONFLICT, detail));
        }
        let (project, name) = (row.project.as_str(), row.name.as_str());
        match action {
            Action::Pause => api.intent.pause(project, name).await?,
            Action::Resume => api.intent.resume(project, name).await?,
            Action::Cancel => api.intent.cancel(project, name).await?,
            // These have handlers of their own.
            Action::Fork | Action::Delete => {}
        }
        answer(api, name).await
    })
    .await
}
