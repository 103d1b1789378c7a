//! A request for a response as OpenAI defines it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::Deserializer;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{AnyOfBuilder, ArrayBuilder, ObjectBuilder, Ref, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::api::chat::request::Content;
use crate::api::fields::{Door, Fields, request_schema};
use crate::api::format::StructuredOutputs;
use crate::api::options::{BadWords, LogitBias, Options, Stop, TokenIds};
use crate::api::text_or::{TextOr, text_or_list, text_or_object};
use crate::error::ApiError;

/// The body of `POST /v1/responses`.
pub(crate) struct ResponsesRequest {
    pub(crate) input: Input,
    pub(crate) instructions: Option<String>,
    pub(crate) previous_response_id: Option<String>,
    pub(crate) max_output_tokens: Option<u32>,
    pub(crate) include: Vec<String>,
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) tools: Vec<FunctionTool>,
    pub(crate) tool_choice: Option<ResponseToolChoice>,
    pub(crate) parallel_tool_calls: Option<bool>,
    pub(crate) text: Option<TextConfig>,
    pub(crate) reasoning: Option<ReasoningConfig>,
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
    pub(crate) stream_options: Option<ResponseStreamOptions>,
    pub(crate) store: Option<bool>,
    pub(crate) background: bool,
    pub(crate) options: Options,
    /// What the response repeats of the request.
    pub(crate) echo: Echo,
}

/// What a response repeats of its request, as it was given.
#[derive(Debug, Default)]
pub(crate) struct Echo {
    pub(crate) tools: Vec<Map<String, Value>>,
    pub(crate) tool_choice: Option<Value>,
    pub(crate) text: Option<Map<String, Value>>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) user: Option<String>,
    pub(crate) safety_identifier: Option<String>,
    pub(crate) prompt_cache_key: Option<String>,
    pub(crate) max_tool_calls: Option<i64>,
}

/// The body of `POST /v1/responses/input_tokens`: what makes the prompt.
pub(crate) struct InputTokensRequest;

/// What is answered.
#[derive(Debug)]
pub(crate) enum Input {
    /// What a user says.
    Text(String),
    /// Items of a conversation.
    Items(Vec<InputItem>),
}

/// An item that goes in. Which of the fields it has, its type says.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct InputItem {
    /// `message` (which may be left out), `function_call`, `function_call_output`, `reasoning` or
    /// `item_reference`.
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    /// Of an item that came as an answer; of an `item_reference`: the item that it stands for.
    pub(crate) id: Option<String>,
    /// Of a `message`: `system`, `developer`, `user` or `assistant`.
    pub(crate) role: Option<String>,
    /// Of a `message` or a `reasoning`: a text, or a list of text parts.
    pub(crate) content: Option<Content>,
    /// Of a `reasoning`: a list of text parts.
    pub(crate) summary: Option<Content>,
    /// Of a `function_call` or its output.
    pub(crate) call_id: Option<String>,
    /// Of a `function_call`: the function.
    pub(crate) name: Option<String>,
    /// Of a `function_call`: the text of a JSON object.
    pub(crate) arguments: Option<String>,
    /// Of a `function_call_output`: a text, or a list of text parts.
    pub(crate) output: Option<Content>,
}

/// A function that the model may call.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct FunctionTool {
    /// `function`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
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
pub(crate) enum ResponseToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One tool, or some of them.
    Object(ResponseToolChoiceObject),
}

/// One tool, or some of them.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ResponseToolChoiceObject {
    /// `function` or `allowed_tools`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// Of `function`: the one that must be called.
    pub(crate) name: Option<String>,
    /// Of `allowed_tools`: `auto` or `required`.
    pub(crate) mode: Option<String>,
    /// Of `allowed_tools`: the tools that may be called.
    pub(crate) tools: Option<Vec<ToolName>>,
}

/// A tool by name.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ToolName {
    /// Among `tools`.
    #[schema(required)]
    pub(crate) name: Option<String>,
}

/// What the answer's text must look like.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TextConfig {
    /// What it must be.
    pub(crate) format: Option<TextFormat>,
    /// `medium`.
    pub(crate) verbosity: Option<String>,
}

/// What an answer's text must be.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(required)]
    pub(crate) kind: Option<String>,
    /// Of `json_schema`: at most 64 letters, digits, dashes and underscores.
    pub(crate) name: Option<String>,
    /// Of `json_schema`: the schema.
    #[schema(value_type = Option<Object>)]
    pub(crate) schema: Option<Box<RawValue>>,
}

/// How much the model thinks.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct ReasoningConfig {
    /// `none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`.
    pub(crate) effort: Option<String>,
    /// `auto`: there are no summaries, thoughts are sent as they are.
    pub(crate) summary: Option<String>,
    /// The older name of `summary`.
    pub(crate) generate_summary: Option<String>,
}

/// Options of a streamed response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
pub(crate) struct ResponseStreamOptions {
    /// Accepted; nothing is obfuscated.
    pub include_obfuscation: Option<bool>,
}

/// Names of what else a response should have.
#[derive(Deserialize)]
pub(crate) struct Include(Vec<String>);

impl ResponsesRequest {
    /// Reads a body.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::read(Door::Responses, body)?;
        let options = Options::read_shared(&fields)?;
        let prompt = Self::read_prompt(&fields)?;
        Ok(Self {
            max_output_tokens: fields.count("max_output_tokens")?,
            include: fields.parse::<Include>("include")?.map(|it| it.0).unwrap_or_default(),
            top_logprobs: fields.count("top_logprobs")?,
            chat_template_kwargs: fields.parse("chat_template_kwargs")?,
            stream_options: fields.parse("stream_options")?,
            store: fields.boolean("store")?,
            background: fields.boolean("background")?.unwrap_or(false),
            options,
            echo: Echo {
                metadata: fields.metadata("metadata")?,
                user: fields.text("user")?,
                safety_identifier: fields.text("safety_identifier")?,
                prompt_cache_key: fields.text("prompt_cache_key")?,
                max_tool_calls: fields.integer("max_tool_calls")?,
                ..prompt.echo
            },
            ..prompt
        })
    }

    /// Reads a body whose tokens are only counted.
    pub(crate) fn read_to_count(body: &[u8]) -> Result<Self, ApiError> {
        Self::read_prompt(&Fields::read(Door::InputTokens, body)?)
    }

    /// What makes the prompt.
    fn read_prompt(fields: &Fields) -> Result<Self, ApiError> {
        let model = Fields::required("model", fields.text("model")?)?;
        Ok(Self {
            input: Fields::required("input", fields.parse("input")?)?,
            instructions: fields.parse("instructions")?,
            previous_response_id: fields.text("previous_response_id")?,
            tools: fields.parse("tools")?.unwrap_or_default(),
            tool_choice: fields.parse("tool_choice")?,
            parallel_tool_calls: fields.boolean("parallel_tool_calls")?,
            text: fields.parse("text")?,
            reasoning: fields.parse("reasoning")?,
            options: Options { model, ..Options::default() },
            echo: Echo {
                tools: fields.parse("tools")?.unwrap_or_default(),
                tool_choice: fields.parse("tool_choice")?,
                text: fields.parse("text")?,
                ..Echo::default()
            },
            max_output_tokens: None,
            include: Vec::new(),
            top_logprobs: None,
            chat_template_kwargs: None,
            stream_options: None,
            store: None,
            background: false,
        })
    }
}

impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_list(deserializer, "a string or a list of items")? {
            TextOr::Text(text) => Self::Text(text),
            TextOr::Other(other) => Self::Items(other),
        })
    }
}

impl<'de> Deserialize<'de> for ResponseToolChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match text_or_object(deserializer, "a string or an object")? {
            TextOr::Text(text) => Self::Mode(text),
            TextOr::Other(other) => Self::Object(other),
        })
    }
}

impl PartialSchema for Input {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        let items = ArrayBuilder::new().items(Ref::from_schema_name("InputItem"));
        Schema::AnyOf(AnyOfBuilder::new().item(text).item(items).build()).into()
    }
}

impl PartialSchema for ResponseToolChoice {
    fn schema() -> RefOr<Schema> {
        let mode = ObjectBuilder::new().schema_type(Type::String);
        let mode = mode.enum_values(Some(["none", "auto", "required"]));
        let object = Ref::from_schema_name("ResponseToolChoiceObject");
        Schema::AnyOf(AnyOfBuilder::new().item(mode).item(object).build()).into()
    }
}

impl PartialSchema for Include {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        Schema::Array(ArrayBuilder::new().items(text).build()).into()
    }
}

impl PartialSchema for ResponsesRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::Responses)
    }
}

impl PartialSchema for InputTokensRequest {
    fn schema() -> RefOr<Schema> {
        request_schema(Door::InputTokens)
    }
}

impl ToSchema for Input {}
impl ToSchema for ResponseToolChoice {}
impl ToSchema for Include {}

impl ToSchema for ResponsesRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        prompt_schemas(schemas);
        schemas.push((Include::name().into(), Include::schema()));
        schemas.push((Stop::name().into(), Stop::schema()));
        schemas.push((BadWords::name().into(), BadWords::schema()));
        schemas.push((LogitBias::name().into(), LogitBias::schema()));
        schemas.push((TokenIds::name().into(), TokenIds::schema()));
        schemas.push((StructuredOutputs::name().into(), StructuredOutputs::schema()));
        schemas.push((ResponseStreamOptions::name().into(), ResponseStreamOptions::schema()));
    }
}

impl ToSchema for InputTokensRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        prompt_schemas(schemas);
    }
}

fn prompt_schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((Input::name().into(), Input::schema()));
    schemas.push((InputItem::name().into(), InputItem::schema()));
    schemas.push((Content::name().into(), Content::schema()));
    Content::schemas(schemas);
    schemas.push((FunctionTool::name().into(), FunctionTool::schema()));
    schemas.push((ResponseToolChoice::name().into(), ResponseToolChoice::schema()));
    schemas.push((ResponseToolChoiceObject::name().into(), ResponseToolChoiceObject::schema()));
    schemas.push((ToolName::name().into(), ToolName::schema()));
    schemas.push((TextConfig::name().into(), TextConfig::schema()));
    schemas.push((TextFormat::name().into(), TextFormat::schema()));
    schemas.push((ReasoningConfig::name().into(), ReasoningConfig::schema()));
}
