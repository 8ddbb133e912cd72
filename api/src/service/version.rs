//! `/version`, `/whoami`, `/projects`.

use crate::Api;
use crate::auth::{Principal, Scope};
use crate::limits::Limits;
use crate::page::List;
use crate::problem::Problem;
use crate::view::time;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

/// What this server is.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Version {
    /// Version of the program.
    version: String,
    /// Version of the API.
    api: &'static str,
    /// Its limits; whoever passes one gets an error that names it.
    limits: Limits,
}

/// Whoever asks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WhoAmI {
    /// `local`, or the token's name.
    name: String,
    /// What they may do.
    scopes: Vec<Scope>,
    /// When their token expires, RFC 3339.
    expires_at: Option<String>,
}

/// A namespace of jobs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Project {
    /// Name.
    name: String,
}

/// What this server is, and its limits.
#[utoipa::path(get, path = "/version", operation_id = "getVersion", tag = "service", responses((status = 200, body = Version)))]
pub(super) async fn version(State(api): State<Api>) -> Json<Version> {
    Json(Version {
        version: api.config.version.clone(),
        api: "v1",
        limits: api.config.limits.clone(),
    })
}

/// Whoever asks, and what they may do.
#[utoipa::path(get, path = "/whoami", operation_id = "getWhoami", tag = "service", responses((status = 200, body = WhoAmI)))]
pub(super) async fn whoami(principal: Principal) -> Json<WhoAmI> {
    Json(WhoAmI {
        name: principal.name,
        scopes: principal.scopes.into_iter().collect(),
        expires_at: principal.expires_at.map(time),
    })
}

/// The projects.
#[utoipa::path(get, path = "/projects", operation_id = "listProjects", tag = "service", responses((status = 200, body = List<Project>)))]
pub(super) async fn projects(State(api): State<Api>) -> Result<Json<List<Project>>, Problem> {
    let names = api.timed("projects", api.store.projects()).await?;
    Ok(Json(List {
        items: names.into_iter().map(|name| Project { name }).collect(),
        next_cursor: None,
    }))
}
