//! Jobs: one file per endpoint or small group.

mod action;
mod assemble;
mod create;
mod delete;
mod events;
mod filter;
mod get;
mod lineage;
mod list;
mod logs;
mod manifest;
mod overview;
mod parts;
mod patch;
mod validate;

use crate::Api;
use axum::routing::post;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use logs::{LogQuery, page_of_lines};
pub(crate) use overview::KeptCurves;

/// The routes of jobs.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    let mut router = OpenApiRouter::new()
        .routes(routes!(list::list, create::create))
        .routes(routes!(validate::validate))
        .routes(routes!(validate::plan))
        .routes(routes!(get::get, delete::delete))
        // `/jobs/a:pause`: the router cannot split a segment, so one handler does.
        .route("/jobs/{job}", post(action::dispatch).fallback(action::no_such_method))
        .routes(routes!(manifest::manifest))
        .routes(routes!(manifest::generations))
        .routes(routes!(parts::phases))
        .routes(routes!(parts::runs))
        .routes(routes!(parts::health))
        .routes(routes!(parts::checkpoints))
        .routes(routes!(events::events))
        .routes(routes!(logs::logs))
        .routes(routes!(lineage::lineage));
    for (schemas, paths, _) in [
        routes!(action::pause),
        routes!(action::resume),
        routes!(action::cancel),
        routes!(action::fork),
    ] {
        document(&mut router, schemas, paths);
    }
    router
}

type Schemas = Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::schema::Schema>)>;

/// Adds paths to the document whose requests are dispatched by another route.
fn document(router: &mut OpenApiRouter<Api>, schemas: Schemas, paths: utoipa::openapi::path::Paths) {
    let document = router.get_openapi_mut();
    document.paths.paths.extend(paths.paths);
    document.components.get_or_insert_default().schemas.extend(schemas);
}

/// Cache keys of a job's phases, as far as they are known.
pub(crate) fn phase_keys(job: &fathom_store::jobs::JobRow) -> Vec<String> {
    assemble::reports(job).into_iter().filter_map(|phase| phase.key).collect()
}
