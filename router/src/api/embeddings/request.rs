//! An embeddings request as OpenAI defines it.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use crate::api::completions::request::Prompt;
use crate::api::fields::{Door, Fields, request_schema};
use crate::error::ApiError;

/// The body of `POST /v1/embeddings`.
pub(crate) struct EmbeddingRequest {
    pub(crate) model: String,
    /// Whom it is for.
    pub(crate) user: Option<String>,
    pub(crate) input: Prompt,
    pub(crate) format: Format,
    pub(crate) dimensions: Option<u32>,
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// As a list of numbers.
    Float,
    /// Their bytes, little-endian, as text.
    Base64,
}

/// What is sent of a vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) format: Format,
    /// So many of its first elements, made a vector of length 1 again.
    pub(crate) dimensions: Option<usize>,
}

impl EmbeddingRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Embeddings, body)?;
        let format = fields.text("encoding_format")?;
        Ok(Self {
            model: Fields::required("model", fields.text("model")?)?,
            user: fields.user()?,
            input: Fields::required("input", fields.parse("input")?)?,
            format: match format.as_deref() {
                Some("base64") => Format::Base64,
                // The table lets no other word through.
                _ => Format::Float,
            },
            dimensions: fields.count("dimensions")?,
        })
    }
}

impl Shape {
    /// The shape, if the model's vectors have so many elements.
    pub(crate) fn new(
        format: Format,
        dimensions: Option<u32>,
        num_outputs: u32,
    ) -> Result<Self, ApiError> {
        if let Some(given) = dimensions.filter(|given| *given > num_outputs) {
            let message = format!(
                "`dimensions` is {given} and the model's embeddings have {num_outputs}: it must be \
                 from 1 to {num_outputs}"
            );
            return Err(ApiError::invalid("dimensions", "integer_above_max_value", message));
        }
        let dimensions = dimensions.filter(|given| *given < num_outputs);
        Ok(Self { format, dimensions: dimensions.map(|given| given as usize) })
    }
}

impl PartialSchema for EmbeddingRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Embeddings)
    }
}

impl ToSchema for EmbeddingRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Prompt::name().into(), Prompt::schema()));
    }
}
