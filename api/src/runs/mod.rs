//! Runs: what they measured and printed.

mod compare;
mod data;
mod describe;
mod get;
mod matrices;
mod series;

use crate::Api;
use crate::problem::Problem;
use fathom_store::runs::RunRow;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of runs.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(get::run))
        .routes(routes!(get::attempts))
        .routes(routes!(get::metrics))
        .routes(routes!(get::logs))
        .routes(routes!(series::series))
        .routes(routes!(series::query))
        .routes(routes!(matrices::matrix))
        .routes(routes!(matrices::steps))
        .routes(routes!(matrices::rows))
        .routes(routes!(data::data))
        .routes(routes!(compare::compare))
        .routes(routes!(crate::live::run))
        .routes(routes!(crate::live::all))
}

/// The row of a run.
pub(crate) async fn find(api: &Api, name: &str) -> Result<RunRow, Problem> {
    api.timed("run", api.store.run(&api.config.project, name)).await
}
