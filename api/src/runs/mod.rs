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

/// Beyond it a JSON number is not exact, and a column cannot hold it.
const MOST_STEP: u64 = 1 << 53;

/// A step that a query names.
fn step(name: &str, asked: Option<u64>) -> Result<Option<u64>, Problem> {
    match asked {
        Some(step) if step > MOST_STEP => Err(Problem::query(name, format!("expected at most {MOST_STEP}"))),
        other => Ok(other),
    }
}

/// The row of a run.
pub(crate) async fn find(api: &Api, name: &str) -> Result<RunRow, Problem> {
    api.timed("run", api.store.run(&api.config.project, name)).await
}
