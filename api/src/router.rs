//! Every route, and the layers around them.

use crate::problem::{Code, Problem};
use crate::{Api, assets, auth, bounds, document, envelope, ingest, jobs, runs, service, view};
use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{OpenApi as Document, SecurityRequirement};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

/// What the document says besides the routes.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Fathom",
        description = "Declare, run and watch DeepSeek-V3 experiments.\n\n\
            Every answer that is no success is `application/problem+json` (RFC 9457). Lists have `limit` and `cursor`; `nextCursor` and the \
            header `Link: rel=\"next\"` lead to the next page. Numbers that may be non-finite are numbers or the strings `NaN`, `Infinity`, \
            `-Infinity`. A query parameter without a value counts as absent, and one that is not known is ignored. Times are RFC 3339 in UTC unless a name ends in `Seconds`.\n\n\
            Live streams are server-sent events; `LiveMessage` lists their messages. A run sends at most four messages of each kind a second. The \
            header `Last-Event-ID` resumes; whoever was away for too long gets `gap`.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "jobs", description = "Jobs: what is wanted, and how far it is."),
        (name = "runs", description = "Runs: what was measured."),
        (name = "live", description = "Streams of what happens."),
        (name = "ingest", description = "For workers and runners."),
        (name = "service", description = "The server itself."),
    ),
    components(schemas(
        view::Event, view::GapMessage, view::HealthMessage, view::JobMessage, view::JobMessageState, view::LogMessage,
        view::MetricsMessage, crate::LivePoint, Problem
    )),
    modifiers(&Security)
)]
struct Description;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut Document) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The secret of a launch, or a token (`fat_...`)."))
            .build();
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description(
            auth::COOKIE,
            "Set by the link that `fathom ui` prints. Requests that change something need the header `X-Fathom-Csrf: 1` as well.",
        ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(bearer));
        components.add_security_scheme("cookie", SecurityScheme::ApiKey(cookie));
        let none: [&str; 0] = [];
        document.security = Some(vec![
            SecurityRequirement::new("bearer", none),
            SecurityRequirement::new("cookie", none),
        ]);
    }
}

fn routes() -> OpenApiRouter<Api> {
    let v1 = OpenApiRouter::new()
        .merge(jobs::routes())
        .merge(runs::routes())
        .merge(ingest::routes())
        .merge(service::routes());
    OpenApiRouter::with_openapi(Description::openapi())
        .nest("/api/v1", v1)
        .merge(service::outside())
}

/// The OpenAPI 3.1 document, derived from the routes.
#[must_use]
pub fn openapi() -> Document {
    let (_, mut document) = routes().split_for_parts();
    document.info.version = env!("CARGO_PKG_VERSION").into();
    document::complete(&mut document);
    document
}

/// All routes with all layers.
pub fn router(api: Api) -> Router {
    let (routes, _) = routes().split_for_parts();
    routes
        .merge(service::docs(&openapi()))
        .fallback(fallback)
        .layer(from_fn_with_state(api.clone(), bounds::throttle))
        .layer(from_fn_with_state(api.clone(), auth::authenticate))
        .layer(from_fn_with_state(api.clone(), bounds::bound))
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::custom(envelope::Panicked))
        .layer(from_fn_with_state(api.clone(), envelope::envelope))
        .with_state(api)
}

/// What is no route: a file of the dashboard, or nothing.
async fn fallback(request: Request) -> Result<axum::response::Response, Problem> {
    let path = request.uri().path();
    let page = !path.starts_with("/api/") && path != "/api";
    match assets::answer(request.method(), path, request.headers()) {
        Some(response) if page => Ok(response),
        Some(_) | None => Err(Problem::new(Code::NOT_FOUND, "There is nothing at this address.").hint("/docs lists what there is.")),
    }
}
