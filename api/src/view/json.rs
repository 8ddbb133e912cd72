//! JSON whose shape is not the API's: fields of manifests.

use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

/// Any JSON. The document lists the types: a schema without any is taken for an oversight.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AnyJson(pub serde_json::Value);

impl PartialSchema for AnyJson {
    fn schema() -> RefOr<Schema> {
        let types = vec![Type::Null, Type::Boolean, Type::Number, Type::String, Type::Array, Type::Object];
        ObjectBuilder::new()
            .schema_type(SchemaType::Array(types))
            .description(Some("Any JSON."))
            .into()
    }
}

impl ToSchema for AnyJson {}
