//! What the OpenAPI document says besides the attributes of the routes: which problems the layers around the handlers may answer with, what
//! every problem looks like, and which fields are always there. One table for all operations, so that none can forget a status.

use axum::http::StatusCode;
use std::collections::BTreeMap;
use utoipa::Number;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{ArrayItems, KnownFormat, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type};
use utoipa::openapi::{
    ContentBuilder, HttpMethod, OpenApi as Document, PathItem, Ref, RefOr, Response, ResponseBuilder, SecurityRequirement,
};

/// Answers of which some fields are left out.
const SOMETIMES_ABSENT: [&str; 2] = ["Problem", "Token"];

/// What decides which problems an operation may answer with.
struct Facts {
    /// It needs a credential.
    secured: bool,
    /// It has parameters or a body.
    input: bool,
    /// It reads a body.
    reads_body: bool,
    /// Its body has a type.
    typed_body: bool,
    /// Its path names something.
    names: bool,
    /// It takes `Idempotency-Key`.
    key: bool,
    /// It takes `If-Match`.
    precondition: bool,
    /// It takes a cursor.
    cursor: bool,
}

/// A problem that operations share. Those that have it for reasons of their own list its status too.
struct Shared {
    status: StatusCode,
    name: &'static str,
    description: &'static str,
    headers: &'static [&'static str],
    applies: fn(&Facts) -> bool,
}

const SHARED: &[Shared] = &[
    Shared {
        status: StatusCode::BAD_REQUEST,
        name: "BadRequest",
        description: "The path, a parameter, a header or the body cannot be understood.",
        headers: &[],
        applies: |facts| facts.input,
    },
    Shared {
        status: StatusCode::UNAUTHORIZED,
        name: "Unauthenticated",
        description: "No credential that this server knows.",
        headers: &["WWW-Authenticate"],
        applies: |facts| facts.secured,
    },
    Shared {
        status: StatusCode::FORBIDDEN,
        name: "Forbidden",
        description: "The credential lacks a scope, or the request comes from another site.",
        headers: &[],
        applies: |facts| facts.secured,
    },
    Shared {
        status: StatusCode::NOT_FOUND,
        name: "NotFound",
        description: "There is no such thing.",
        headers: &[],
        applies: |facts| facts.names,
    },
    Shared {
        status: StatusCode::REQUEST_TIMEOUT,
        name: "RequestTimeout",
        description: "The body took too long to arrive.",
        headers: &[],
        applies: |facts| facts.reads_body,
    },
    Shared {
        status: StatusCode::CONFLICT,
        name: "Conflict",
        description: "The state does not allow it, or the first request with this `Idempotency-Key` is still running.",
        headers: &["Retry-After"],
        applies: |facts| facts.key,
    },
    Shared {
        status: StatusCode::GONE,
        name: "CursorExpired",
        description: "The cursor has expired.",
        headers: &[],
        applies: |facts| facts.cursor,
    },
    Shared {
        status: StatusCode::PRECONDITION_FAILED,
        name: "Stale",
        description: "The resource has changed since it was read.",
        headers: &[],
        applies: |facts| facts.precondition,
    },
    Shared {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        name: "TooLarge",
        description: "The body is larger than the limits allow.",
        headers: &[],
        applies: |facts| facts.reads_body,
    },
    Shared {
        status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
        name: "UnsupportedMediaType",
        description: "The body has a type or coding that is not taken here.",
        headers: &["Accept", "Accept-Encoding"],
        applies: |facts| facts.typed_body,
    },
    Shared {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        name: "Invalid",
        description: "The content is not valid; `errors` says where. Or the `Idempotency-Key` was used for another request.",
        headers: &[],
        applies: |facts| facts.key,
    },
    Shared {
        status: StatusCode::PRECONDITION_REQUIRED,
        name: "PreconditionRequired",
        description: "`If-Match` is missing.",
        headers: &[],
        applies: |_| false,
    },
    Shared {
        status: StatusCode::TOO_MANY_REQUESTS,
        name: "TooManyRequests",
        description: "More requests than the limits allow.",
        headers: &["Retry-After", "RateLimit", "RateLimit-Policy"],
        applies: |facts| facts.secured,
    },
    Shared {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        name: "Internal",
        description: "A fault of the server; its log has the cause under the id of the request.",
        headers: &[],
        applies: |_| true,
    },
    Shared {
        status: StatusCode::SERVICE_UNAVAILABLE,
        name: "Unavailable",
        description: "The server is busy or stopping, or a part of it does not answer.",
        headers: &["Retry-After"],
        applies: |_| true,
    },
    Shared {
        status: StatusCode::GATEWAY_TIMEOUT,
        name: "Timeout",
        description: "The answer took too long.",
        headers: &[],
        applies: |_| true,
    },
];

/// Headers of answers, with what they say.
const HEADERS: &[(&str, &str)] = &[
    ("Accept", "Types of bodies that are taken."),
    ("Accept-Encoding", "Codings of bodies that are taken."),
    ("Link", "The next page, with `rel=\"next\"`."),
    ("RateLimit", "What is left, and when there is more."),
    ("RateLimit-Policy", "Requests at once, and seconds until as many are there again."),
    ("Retry-After", "Seconds after which to try again."),
    ("WWW-Authenticate", "How to authenticate."),
    (REQUEST_ID, "Identity of the request, also in the server's log."),
];

const REQUEST_ID: &str = "X-Request-Id";

/// Completes the document that the routes make.
pub(crate) fn complete(document: &mut Document) {
    let components = document.components.get_or_insert_default();
    refer(&mut components.schemas);
    for (name, schema) in &mut components.schemas {
        if !SOMETIMES_ABSENT.contains(&name.as_str()) {
            require_all(schema);
        }
        bound(schema);
    }
    for (name, description) in HEADERS {
        let mut header = Header::new(ObjectBuilder::new().schema_type(Type::String));
        header.description = Some((*description).into());
        components.headers.insert((*name).into(), header.into());
    }
    for shared in SHARED {
        components.responses.insert(shared.name.into(), shared.response().into());
    }
    for item in document.paths.paths.values_mut() {
        for (method, operation) in operations(item) {
            let facts = Facts::of(&method, operation);
            operation.parameters.iter_mut().flatten().for_each(settle);
            let responses = &mut operation.responses.responses;
            for shared in SHARED.iter().filter(|shared| (shared.applies)(&facts)) {
                responses
                    .entry(shared.status.as_str().into())
                    .or_insert_with(|| Response::new("").into());
            }
            for (status, response) in responses {
                describe(status, response, &facts);
            }
        }
    }
}

/// Method and operation of a path.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let all = [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Delete, &mut item.delete),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

impl Facts {
    fn of(method: &HttpMethod, operation: &Operation) -> Self {
        let open = SecurityRequirement::default();
        let parameters = operation.parameters.as_deref().unwrap_or_default();
        let plain = |parameter: &RefOr<Parameter>| match parameter {
            RefOr::T(parameter) => Some((parameter.parameter_in.clone(), parameter.name.clone())),
            RefOr::Ref(_) => None,
        };
        let parameters: Vec<(ParameterIn, String)> = parameters.iter().filter_map(plain).collect();
        let takes = |name: &str| parameters.iter().any(|(_, own)| own == name);
        let reads_body = matches!(method, HttpMethod::Put | HttpMethod::Post);
        Self {
            secured: operation.security.as_ref().is_none_or(|security| !security.contains(&open)),
            input: reads_body || !parameters.is_empty(),
            reads_body,
            typed_body: operation.request_body.is_some(),
            names: parameters.iter().any(|(place, _)| *place == ParameterIn::Path),
            key: takes("Idempotency-Key"),
            precondition: takes("If-Match"),
            cursor: takes("cursor"),
        }
    }
}

impl Shared {
    fn response(&self) -> Response {
        let mut response = ResponseBuilder::new().description(self.description).build();
        problem(&mut response, self.headers);
        response
    }
}

/// Gives a response what all of its kind have. A problem about which its operation says nothing of its own is the shared one.
fn describe(status: &str, response: &mut RefOr<Response>, facts: &Facts) {
    let RefOr::T(own) = response else { return };
    let Ok(status) = status.parse::<StatusCode>() else { return };
    let shared = SHARED.iter().find(|shared| shared.status == status);
    match shared {
        Some(shared) if own.description.is_empty() => *response = Ref::from_response_name(shared.name).into(),
        Some(shared) => problem(own, shared.headers),
        None if status.is_client_error() || status.is_server_error() => problem(own, &[]),
        None => {
            header(own, REQUEST_ID);
            if status.is_success() && facts.cursor {
                header(own, "Link");
            }
            if own.description.is_empty() {
                own.description = format!("{}.", status.canonical_reason().unwrap_or("Done"));
            }
        }
    }
}

/// Makes a problem of a response.
fn problem(response: &mut Response, headers: &[&str]) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    response.content.insert("application/problem+json".into(), content.into());
    header(response, REQUEST_ID);
    headers.iter().for_each(|name| header(response, name));
}

fn header(response: &mut Response, name: &str) {
    let reference = Ref::new(format!("#/components/headers/{name}"));
    response.headers.entry(name.into()).or_insert(RefOr::Ref(reference));
}

/// Lists refer to the type of their items: utoipa writes it down once more in each, and that copy would miss what is said here.
fn refer(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let names: Vec<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas {
        let item = name
            .split_once('_')
            .map(|(_, item)| item.to_owned())
            .filter(|item| names.contains(item));
        if let Some(item) = item
            && let RefOr::T(Schema::Object(list)) = schema
            && let Some(RefOr::T(Schema::Array(items))) = list.properties.get_mut("items")
        {
            items.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(item).into()));
        }
    }
}

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

/// Gives integers of 32 bits without a sign their own name and bound: utoipa calls them `int32`, which ends earlier.
fn bound(schema: &mut RefOr<Schema>) {
    let RefOr::T(schema) = schema else { return };
    match schema {
        Schema::Object(object) => {
            object.properties.values_mut().for_each(bound);
            let narrow = object.format == Some(SchemaFormat::KnownFormat(KnownFormat::Int32));
            if narrow && object.minimum == Some(Number::Float(0.0)) && object.maximum.is_none() {
                object.format = Some(SchemaFormat::Custom("uint32".into()));
                object.maximum = Some(Number::UInt(4_294_967_295));
            }
        }
        Schema::OneOf(parts) => parts.items.iter_mut().for_each(bound),
        Schema::AllOf(parts) => parts.items.iter_mut().for_each(bound),
        Schema::AnyOf(parts) => parts.items.iter_mut().for_each(bound),
        _ => {}
    }
}

/// Takes null from the types of a parameter: one that is not given is absent. Then says what holds for all of its name.
fn settle(parameter: &mut RefOr<Parameter>) {
    let RefOr::T(parameter) = parameter else { return };
    let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema else {
        return;
    };
    if let SchemaType::Array(types) = &mut object.schema_type {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = types.as_slice() {
            object.schema_type = SchemaType::Type(only.clone());
        }
    }
    if parameter.parameter_in == ParameterIn::Path && object.schema_type == SchemaType::Type(Type::String) {
        object.min_length = Some(1);
    }
    match parameter.name.as_str() {
        "Idempotency-Key" => (object.min_length, object.max_length) = (Some(1), Some(255)),
        "limit" if object.maximum.is_none() => (object.minimum, object.maximum) = (Some(Number::UInt(1)), Some(Number::UInt(500))),
        _ => {}
    }
}
