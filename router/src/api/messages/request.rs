//! A request for a message as Anthropic defines it.

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::fields::{Door, Fields, request_schema};
use crate::api::options::{Options, Sampling};
use crate::api::text_or::{TextOr, text_or_list};
use crate::error::ApiError;
use crate::validate::number::Wide;

/// The body of `POST /v1/messages`.
pub(crate) struct MessagesRequest {
    pub(crate) input: Input,
    /// None where only tokens are counted.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop_sequences: Vec<String>,
    pub(crate) options: Options,
}

/// The body of `POST /v1/messages/count_tokens`: what makes the prompt.
pub(crate) struct CountTokensRequest;

/// What makes the prompt.
pub(crate) struct Input {
    pub(crate) messages: Vec<MessageParam>,
    pub(crate) system: Option<BlockContent>,
    pub(crate) tools: Option<Vec<ToolParam>>,
    pub(crate) tool_choice: Option<ToolChoiceParam>,
    pub(crate) thinking: Option<ThinkingParam>,
    pub(crate) output_config: Option<OutputConfig>,
}

/// One turn of a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct MessageParam {
    /// `user`, `assistant` or `system`.
    #[schema(required)]
    pub(crate) role: Option<String>,
    /// A text, or a list of blocks.
    #[schema(required)]
    pub(crate) content: Option<BlockContent>,
}

/// What a turn, or a tool's result, says.
#[derive(Debug)]
pub(crate) enum BlockContent {
    /// As one text.
    Text(String),
    /// In blocks.
    Blocks(Vec<BlockParam>),
}

/// A block of a turn. Which of the fields it has, its type says.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct BlockParam {
    /// `text`, `tool_use`, `tool_result`, `thinking` or `redacted_thinking`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The text of a `text`.
    pub(crate) text: Option<String>,
    /// The text of a `thinking`.
    pub(crate) thinking: Option<String>,
    /// The id of a `tool_use`.
    pub(crate) id: Option<String>,
    /// The tool of a `tool_use`.
    pub(crate) name: Option<String>,
    /// The arguments of a `tool_use`.
    pub(crate) input: Option<Map<String, Value>>,
    /// In a `tool_result`: the call that it answers.
    pub(crate) tool_use_id: Option<String>,
    /// In a `tool_result`: what came back.
    #[schema(no_recursion)]
    pub(crate) content: Option<BlockContent>,
    /// In a `tool_result`: whether the call failed.
    pub(crate) is_error: Option<bool>,
}

/// Something that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ToolParam {
    /// `custom`, which may be left out.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// At most 64 letters, digits, dashes and underscores.
    #[schema(required)]
    pub(crate) name: Option<String>,
    /// What it does, for the model.
    pub(crate) description: Option<String>,
    /// The JSON schema of its arguments.
    #[schema(required)]
    pub(crate) input_schema: Option<Map<String, Value>>,
}

/// Whether, and what, the model must call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ToolChoiceParam {
    /// `auto`, `any`, `tool` or `none`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The tool of type `tool`.
    pub(crate) name: Option<String>,
    /// True: at most one call.
    pub(crate) disable_parallel_tool_use: Option<bool>,
}

/// Whether the model thinks before it answers.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ThinkingParam {
    /// `enabled`, `disabled` or `adaptive`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// From 1024, below `max_tokens`. Not enforced.
    #[schema(value_type = Option<u32>)]
    pub(crate) budget_tokens: Option<Wide>,
    /// `summarized`: the thoughts are sent.
    pub(crate) display: Option<String>,
}

/// What the answer must look like, and how much to think about it.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OutputConfig {
    /// `low`, `medium`, `high`, `xhigh` or `max`.
    pub(crate) effort: Option<String>,
    /// What the answer's text must be.
    pub(crate) format: Option<OutputFormat>,
}

/// What an answer's text must be.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct OutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// The schema.
    #[schema(required, value_type = Object)]
    pub(crate) schema: Option<Box<RawValue>>,
}

/// What is known of a request.
#[derive(Deserialize)]
struct Metadata {
    user_id: Option<String>,
}

/// Texts that end an answer.
#[derive(Deserialize)]
pub(crate) struct StopSequences(Vec<String>);

impl MessagesRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Messages, body)?;
        let sampling = Sampling {
            temperature: fields.number("temperature")?,
            top_p: fields.fraction("top_p")?,
            top_k: fields.count("top_k")?,
            ..Sampling::default()
        };
        let options = Options {
            model: Fields::required("model", fields.text("model")?)?,
            user: fields.parse::<Metadata>("metadata")?.and_then(|metadata| metadata.user_id),
            sampling,
            stream: fields.boolean("stream")?.unwrap_or(false),
            ..Options::default()
        };
        let stop_sequences = fields.parse::<StopSequences>("stop_sequences")?;
        Ok(Self {
            max_tokens: Some(Fields::required("max_tokens", fields.count("max_tokens")?)?),
            stop_sequences: stop_sequences.map(|stop| stop.0).unwrap_or_default(),
            input: Input::read(&fields)?,
            options,
        })
    }

    /// Reads a body whose tokens are only counted.
    pub(crate) fn read_to_count(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::CountTokens, body)?;
        let model = Fields::required("model", fields.text("model")?)?;
        Ok(Self {
            options: Options { model, ..Options::default() },
            max_tokens: None,
            stop_sequences: Vec::new(),
            input: Input::read(&fields)?,
        })
    }
}

impl Input {
    fn read(fields: &Fields) -> Result<Self, ApiError> {
        Ok(Self {
            messages: Fields::required("messages", fields.parse("messages")?)?,
            system: fields.parse("system")?,
            tools: fields.parse("tools")?,
            tool_choice: fields.parse("tool_choice")?,
            thinking: fields.parse("thinking")?,
            output_config: fields.parse("output_config")?,
        })
    }
}

impl<'de> Deserialize<'de> for BlockContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_list(deserializer, "a string or a list of blocks")? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::Other(other) => Self::Blocks(other),
        })
    }
}

impl PartialSchema for BlockContent {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let blocks = ArrayBuilder::new().items(Ref::from_schema_name("BlockParam"));
        Schema::AnyOf(AnyOfBuilder::new().item(text).item(blocks).build()).into()
    }
}

impl ToSchema for BlockContent {}

impl PartialSchema for StopSequences {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        Schema::Array(ArrayBuilder::new().items(text).max_items(Some(4)).build()).into()
    }
}

impl ToSchema for StopSequences {}

impl PartialSchema for MessagesRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Messages)
    }
}

impl ToSchema for MessagesRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((StopSequences::name().into(), StopSequences::schema()));
        input_schemas(schemas);
    }
}

impl PartialSchema for CountTokensRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::CountTokens)
    }
}

impl ToSchema for CountTokensRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        input_schemas(schemas);
    }
}

fn input_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((MessageParam::name().into(), MessageParam::schema()));
    schemas.push((BlockContent::name().into(), BlockContent::schema()));
    schemas.push((BlockParam::name().into(), BlockParam::schema()));
    schemas.push((ToolParam::name().into(), ToolParam::schema()));
    schemas.push((ToolChoiceParam::name().into(), ToolChoiceParam::schema()));
    schemas.push((ThinkingParam::name().into(), ThinkingParam::schema()));
    schemas.push((OutputConfig::name().into(), OutputConfig::schema()));
    schemas.push((OutputFormat::name().into(), OutputFormat::schema()));
}
