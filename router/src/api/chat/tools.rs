//! The tools of a chat request, as OpenAI defines them.

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::text_or::{TextOr, text_or_object};

/// Something that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Tool {
    /// `function`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The function.
    #[schema(required)]
    pub(crate) function: Option<Function>,
}

/// A function that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Function {
    /// At most 64 letters, digits, dashes and underscores.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// What it does, for the model.
    pub(crate) description: Option<String>,
    /// The JSON schema of its arguments; none: it has no arguments.
    pub(crate) parameters: Option<Map<String, Value>>,
    /// Read and not needed: arguments are always of the schema where a call is forced.
    #[expect(dead_code, reason = "its type is checked")]
    pub(crate) strict: Option<bool>,
}

/// Whether, and what, the model must call.
#[derive(Debug)]
pub(crate) enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One tool, or some of them.
    Object(ToolChoiceObject),
}

/// One tool, or some of them.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ToolChoiceObject {
    /// `function` or `allowed_tools`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The function that must be called.
    pub(crate) function: Option<FunctionName>,
    /// The tools that may be called.
    pub(crate) allowed_tools: Option<AllowedTools>,
}

/// A function by name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct FunctionName {
    /// Among `tools`.
    #[schema(required)]
    pub(crate) name: Option<String>,
}

/// Whether, and which of `functions`, the model must call.
#[derive(Debug)]
pub(crate) enum FunctionCallOption {
    /// `none` or `auto`.
    Mode(String),
    /// This one.
    Named(FunctionName),
}

/// Some of the tools.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct AllowedTools {
    /// `auto` or `required`.
    #[schema(required)]
    pub(crate) mode: Option<String>,
    /// Which.
    #[schema(required)]
    pub(crate) tools: Option<Vec<NamedTool>>,
}

/// A tool by name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct NamedTool {
    /// The function.
    #[schema(required)]
    pub(crate) function: Option<FunctionName>,
}

/// A call that the model made before.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ToolCall {
    /// As it was given.
    #[schema(required)]
    pub(crate) id: Option<String>,
    /// `function`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// What was called.
    #[schema(required)]
    pub(crate) function: Option<FunctionCall>,
}

/// A function and its arguments.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct FunctionCall {
    /// The function's name.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// The text of a JSON object.
    pub(crate) arguments: Option<String>,
}

impl<'de> Deserialize<'de> for ToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_object(deserializer, "a string or an object")? {
            TextOr::Text(text) => Self::Mode(text),
            TextOr::Other(other) => Self::Object(other),
        })
    }
}

impl<'de> Deserialize<'de> for FunctionCallOption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_object(deserializer, "a string or an object")? {
            TextOr::Text(text) => Self::Mode(text),
            TextOr::Other(other) => Self::Named(other),
        })
    }
}

impl PartialSchema for FunctionCallOption {
    fn schema() -> RefOr<Schema> {
        let mode = ObjectBuilder::new().schema_type(Type::String);
        let mode = mode.enum_values(Some(["none", "auto"]));
        let named = Ref::from_schema_name("FunctionName");
        Schema::AnyOf(AnyOfBuilder::new().item(mode).item(named).build()).into()
    }
}

impl ToSchema for FunctionCallOption {}

impl PartialSchema for ToolChoice {
    fn schema() -> RefOr<Schema> {
        let mode = ObjectBuilder::new().schema_type(Type::String);
        let mode = mode.enum_values(Some(["none", "auto", "required"]));
        let object = Ref::from_schema_name("ToolChoiceObject");
        Schema::AnyOf(AnyOfBuilder::new().item(mode).item(object).build()).into()
    }
}

impl ToSchema for ToolChoice {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ToolChoiceObject::name().into(), ToolChoiceObject::schema()));
        ToolChoiceObject::schemas(schemas);
    }
}
