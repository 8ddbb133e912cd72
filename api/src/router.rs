//! Every route, and the layers around them.

use crate::problem::{Code, Problem};
use crate::{Api, assets, auth, bounds, envelope, ingest, jobs, runs, service, view};
use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement};
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
            `-Infinity`. Times are RFC 3339 in UTC unless a name ends in `Seconds`.\n\n\
            Live streams are server-sent events: `metrics` {run, points: [LivePoint], matrices: [name]}, at most four a second and run; `event` Event; \
            `job` {job, state, phase}: read the job again; `health` {job, verdict}; `log` {run, lastId}: read the lines after the last you have; \
            `gap` {}: read everything again. The header `Last-Event-ID` resumes.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "jobs", description = "Jobs: what is wanted, and how far it is."),
        (name = "runs", description = "Runs: what was measured."),
        (name = "live", description = "Streams of what happens."),
        (name = "ingest", description = "For workers and runners."),
        (name = "service", description = "The server itself."),
    ),
    components(schemas(view::Event, crate::LivePoint, Problem)),
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
    let schemas = document.components.get_or_insert_default().schemas.iter_mut();
    for (name, schema) in schemas {
        if !SOMETIMES_ABSENT.contains(&name.as_str()) {
            require_all(schema);
        }
    }
    document.info.version = env!("CARGO_PKG_VERSION").into();
    for item in document.paths.paths.values_mut() {
        for operation in [&mut item.get, &mut item.put, &mut item.post, &mut item.delete]
            .into_iter()
            .flatten()
        {
            let responses = &mut operation.responses.responses;
            responses.entry("default".into()).or_insert_with(|| any_problem().into());
        }
    }
    document
}

/// Answers of which some fields are left out.
const SOMETIMES_ABSENT: [&str; 2] = ["Problem", "Token"];

/// Says that every field of an answer is there: one that is not known is null, never absent. Requests are told apart by refusing unknown fields.
fn require_all(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) if object.additional_properties.is_none() => {
            object.required = object.properties.keys().cloned().collect();
        }
        RefOr::T(Schema::AllOf(parts)) => parts.items.iter_mut().for_each(require_all),
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

/// What every operation may answer: no credential, a missing scope, too many requests, a fault.
fn any_problem() -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new()
        .description("Any other problem: no credential (401), not allowed (403), too many requests (429), a fault (500, 503, 504).")
        .content("application/problem+json", content)
        .build()
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
