//! A rerank request.

use serde::Deserialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::fields::{Door, Fields, request_schema};
use crate::error::ApiError;

/// The body of `POST /v1/rerank`.
pub(crate) struct RerankRequest {
    pub(crate) model: String,
    /// Whom it is for.
    pub(crate) user: Option<String>,
    pub(crate) query: String,
    pub(crate) documents: Documents,
    pub(crate) top_n: Option<u32>,
    pub(crate) return_documents: bool,
}

/// What is to be sorted.
#[derive(Debug, Deserialize)]
pub(crate) struct Documents(Vec<Document>);

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a string or an object with a `text`")]
enum Document {
    Text(String),
    Object { text: String },
}

impl RerankRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Rerank, body)?;
        Ok(Self {
            model: Fields::required("model", fields.text("model")?)?,
            user: fields.user()?,
            query: Fields::required("query", fields.parse("query")?)?,
            documents: Fields::required("documents", fields.parse("documents")?)?,
            top_n: fields.count("top_n")?,
            return_documents: fields.boolean("return_documents")?.unwrap_or(false),
        })
    }
}

impl Documents {
    pub(crate) fn into_texts(self) -> Vec<String> {
        let text = |document| match document {
            Document::Text(text) | Document::Object { text } => text,
        };
        self.0.into_iter().map(text).collect()
    }
}

impl PartialSchema for Documents {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let object = ObjectBuilder::new().property("text", text()).required("text");
        let document = AnyOfBuilder::new().item(text()).item(object);
        Schema::Array(ArrayBuilder::new().items(document).build()).into()
    }
}

impl ToSchema for Documents {}

impl PartialSchema for RerankRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Rerank)
    }
}

impl ToSchema for RerankRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Documents::name().into(), Documents::schema()));
    }
}
