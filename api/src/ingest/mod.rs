//! What workers and runners report. Every request can be sent again without harm.

mod checkpoints;
mod logs;
mod metrics;
mod status;

use crate::Api;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// The routes of ingest.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(metrics::metrics))
        .routes(routes!(logs::logs))
        .routes(routes!(checkpoints::checkpoints))
        .routes(routes!(status::status))
}
