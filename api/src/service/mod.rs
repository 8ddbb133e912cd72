//! The server itself: probes, its metrics, its documentation, tokens.

mod docs;
mod probes;
mod tokens;
mod version;

use crate::Api;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(crate) use docs::docs;

/// Routes under `/api/v1`.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(version::version))
        .routes(routes!(version::whoami))
        .routes(routes!(version::projects))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::delete))
}

/// Routes outside it.
pub(crate) fn outside() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(probes::healthz))
        .routes(routes!(probes::readyz))
        .routes(routes!(probes::metrics))
}
