//! What an answer's text must look like, as clients say it: typed, not yet compared with anything.
//! Schemas keep their text, and with it the order of their properties.

use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// OpenAI's `response_format`.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The schema of type `json_schema`.
    pub(crate) json_schema: Option<NamedSchema>,
    /// A schema for type `json_object`. Not of OpenAI.
    #[schema(value_type = Option<Object>)]
    pub(crate) schema: Option<Box<RawValue>>,
}

/// A JSON schema with a name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NamedSchema {
    /// At most 64 letters, digits, dashes and underscores.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// The schema.
    #[schema(required, value_type = Object)]
    pub(crate) schema: Option<Box<RawValue>>,
    /// Read and not needed: the schema is always enforced.
    #[expect(dead_code, reason = "its type is checked")]
    pub(crate) strict: Option<bool>,
    /// Read and not used.
    #[expect(dead_code, reason = "its type is checked")]
    pub(crate) description: Option<String>,
}

/// vLLM's `structured_outputs`: one of these.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, or its text.
    #[schema(value_type = Option<Object>)]
    pub(crate) json: Option<Box<RawValue>>,
    /// True: any JSON object.
    pub(crate) json_object: Option<bool>,
    /// A regular expression that the whole text matches.
    pub(crate) regex: Option<String>,
    /// The texts to choose from.
    pub(crate) choice: Option<Vec<String>>,
    /// A grammar in llguidance's dialect of Lark.
    pub(crate) grammar: Option<String>,
}
