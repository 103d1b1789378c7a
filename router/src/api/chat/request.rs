//! A chat request as OpenAI defines it.

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::tools::{Function, FunctionCall, FunctionCallOption, Tool, ToolCall, ToolChoice};
use crate::api::fields::{Door, Fields, missing, request_schema};
use crate::api::format::{NamedSchema, ResponseFormat, StructuredOutputs};
use crate::api::options::{BadWords, LogitBias, Options, Stop, StreamOptions, TokenIds};
use crate::api::text_or::{TextOr, text_or_list};
use crate::error::ApiError;

/// The body of `POST /v1/chat/completions`.
pub(crate) struct ChatCompletionRequest {
    pub(crate) messages: Vec<Message>,
    pub(crate) max_completion_tokens: Option<u32>,
    pub(crate) logprobs: bool,
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) add_generation_prompt: Option<bool>,
    pub(crate) continue_final_message: bool,
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) reasoning_effort: Option<String>,
    pub(crate) tools: Option<Vec<Tool>>,
    pub(crate) tool_choice: Option<ToolChoice>,
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) functions: Option<Vec<Function>>,
    pub(crate) function_call: Option<FunctionCallOption>,
    pub(crate) options: Options,
}

/// One message of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Message {
    /// `system`, `developer`, `user`, `assistant`, `tool` or `function`.
    #[schema(required)]
    pub(crate) role: Option<String>,
    /// A text, or a list of text parts. Required but for an assistant's message with calls.
    pub(crate) content: Option<Content>,
    /// Who speaks; some chat templates write it.
    pub(crate) name: Option<String>,
    /// In an assistant's message: what it called.
    pub(crate) tool_calls: Option<Vec<ToolCall>>,
    /// In a tool's message: the call that it answers.
    pub(crate) tool_call_id: Option<String>,
    /// In an assistant's message: what it thought. Not of OpenAI.
    #[serde(alias = "reasoning")]
    pub(crate) reasoning_content: Option<String>,
    /// In an assistant's message: what it called, where it was given `functions`.
    pub(crate) function_call: Option<FunctionCall>,
}

/// What a message says.
#[derive(Debug)]
pub(crate) enum Content {
    /// As one text.
    Text(String),
    /// In parts.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Part {
    /// `text`; in an assistant's message also `refusal`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The text of a part of type `text`.
    pub(crate) text: Option<String>,
    /// The text of a part of type `refusal`.
    pub(crate) refusal: Option<String>,
}

/// What the answer is expected to be.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct Prediction {
    /// `content`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// A text, or a list of text parts.
    #[schema(required)]
    pub(crate) content: Option<Content>,
}

impl ChatCompletionRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Chat, body)?;
        fields
            .parse::<Prediction>("prediction")?
            .map_or(Ok(()), |prediction| prediction.check())?;
        Ok(Self {
            options: Options::read(&fields)?,
            messages: Fields::required("messages", fields.parse("messages")?)?,
            max_completion_tokens: fields.count("max_completion_tokens")?,
            logprobs: fields.boolean("logprobs")?.unwrap_or(false),
            top_logprobs: fields.count("top_logprobs")?,
            add_generation_prompt: fields.boolean("add_generation_prompt")?,
            continue_final_message: fields.boolean("continue_final_message")?.unwrap_or(false),
            chat_template_kwargs: fields.parse("chat_template_kwargs")?,
            reasoning_effort: fields.text("reasoning_effort")?,
            tools: fields.parse("tools")?,
            tool_choice: fields.parse("tool_choice")?,
            parallel_tool_calls: fields.boolean("parallel_tool_calls")?,
            functions: fields.parse("functions")?,
            function_call: fields.parse("function_call")?,
        })
    }
}

impl Prediction {
    fn check(&self) -> Result<(), ApiError> {
        match (self.kind.as_deref(), &self.content) {
            (None, _) => Err(missing("prediction.type")),
            (Some("content"), None) => Err(missing("prediction.content")),
            (Some("content"), Some(Content::Text(_))) => Ok(()),
            (Some("content"), Some(Content::Parts(parts))) => {
                match parts.iter().position(|part| part.kind.as_deref() != Some("text")) {
                    None => Ok(()),
                    Some(at) => {
                        let param = format!("prediction.content[{at}].type");
                        let message = format!("`{param}` must be text");
                        Err(ApiError::invalid(param, "invalid_value", message))
                    }
                }
            }
            (Some(kind), _) => {
                let param = "prediction.type";
                let message = format!("`{param}` is {kind:?} and must be content");
                Err(ApiError::invalid(param, "invalid_value", message))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_list(deserializer, "a string or a list of parts")? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::Other(other) => Self::Parts(other),
        })
    }
}

impl PartialSchema for Content {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let parts = ArrayBuilder::new().items(Ref::from_schema_name("Part"));
        Schema::AnyOf(AnyOfBuilder::new().item(text).item(parts).build()).into()
    }
}

impl ToSchema for Content {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Part::name().into(), Part::schema()));
    }
}

impl PartialSchema for ChatCompletionRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Chat)
    }
}

impl ToSchema for ChatCompletionRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Message::name().into(), Message::schema()));
        schemas.push((Stop::name().into(), Stop::schema()));
        schemas.push((LogitBias::name().into(), LogitBias::schema()));
        schemas.push((TokenIds::name().into(), TokenIds::schema()));
        schemas.push((BadWords::name().into(), BadWords::schema()));
        schemas.push((StreamOptions::name().into(), StreamOptions::schema()));
        schemas.push((ResponseFormat::name().into(), ResponseFormat::schema()));
        schemas.push((NamedSchema::name().into(), NamedSchema::schema()));
        schemas.push((StructuredOutputs::name().into(), StructuredOutputs::schema()));
        Message::schemas(schemas);
        schemas.push((Prediction::name().into(), Prediction::schema()));
        schemas.push((Tool::name().into(), Tool::schema()));
        Tool::schemas(schemas);
        schemas.push((ToolChoice::name().into(), ToolChoice::schema()));
        schemas.push((FunctionCallOption::name().into(), FunctionCallOption::schema()));
        ToolChoice::schemas(schemas);
    }
}
