//! Responses, as OpenAI defines them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::item::Item;
use super::request::ResponsesRequest;
use crate::api::reply::now;
use crate::error::ApiError;
use crate::generation::{FinishReason, TokenUsage};

/// A response: what was asked for, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponseObject {
    /// Unique.
    pub id: String,
    /// `response`.
    pub object: String,
    /// Unix seconds.
    pub created_at: u64,
    /// Unix seconds; `null` where it is not complete.
    pub completed_at: Option<u64>,
    /// `queued`, `in_progress`, `completed`, `incomplete`, `failed` or `cancelled`.
    pub status: String,
    /// Whether it is made without anyone waiting.
    pub background: bool,
    /// Why it failed.
    pub error: Option<ResponseFailure>,
    /// Why it is incomplete.
    pub incomplete_details: Option<IncompleteDetails>,
    /// As it was asked for.
    pub instructions: Option<String>,
    /// As it was asked for.
    pub max_output_tokens: Option<u32>,
    /// As it was asked for. There are no tools that it would count.
    pub max_tool_calls: Option<i64>,
    /// The model that answers.
    pub model: String,
    /// What it thinks, says and calls.
    pub output: Vec<Item>,
    /// As it was asked for.
    pub parallel_tool_calls: bool,
    /// What it continues.
    pub previous_response_id: Option<String>,
    /// As it was asked for.
    pub prompt_cache_key: Option<String>,
    /// As it was asked for.
    pub reasoning: ReasoningEcho,
    /// As it was asked for.
    pub safety_identifier: Option<String>,
    /// `default`.
    pub service_tier: String,
    /// Whether it can be asked for again.
    pub store: bool,
    /// As it was asked for.
    pub temperature: f32,
    /// As it was asked for.
    #[schema(value_type = Object)]
    pub text: Map<String, Value>,
    /// As it was asked for.
    #[schema(value_type = Value)]
    pub tool_choice: Value,
    /// As they were asked for.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Map<String, Value>>,
    /// As it was asked for.
    pub top_logprobs: u32,
    /// As it was asked for.
    pub top_p: f32,
    /// As it was asked for.
    pub frequency_penalty: f32,
    /// As it was asked for.
    pub presence_penalty: f32,
    /// `disabled`: nothing is ever cut.
    pub truncation: String,
    /// What it has cost, once it is complete.
    pub usage: Option<ResponseUsage>,
    /// As it was asked for.
    pub user: Option<String>,
    /// As it was asked for.
    pub metadata: BTreeMap<String, String>,
}

/// Why a response failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseFailure {
    /// For programs.
    pub code: String,
    /// For the developer who reads it.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct IncompleteDetails {
    /// `max_output_tokens`: they, or the model's context, were used up.
    pub reason: String,
}

/// How much the model was asked to think.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasoningEcho {
    /// As it was asked for.
    pub effort: Option<String>,
    /// As it was asked for.
    pub summary: Option<String>,
}

/// Tokens that a response has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseUsage {
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// More of them.
    pub input_tokens_details: InputTokensDetails,
    /// Tokens of the answer, thoughts included.
    pub output_tokens: u64,
    /// More of them.
    pub output_tokens_details: ResponseOutputTokensDetails,
    /// Both.
    pub total_tokens: u64,
}

/// More of a prompt's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InputTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: u64,
    /// Always 0: what is computed is cached without being asked.
    pub cache_write_tokens: u64,
}

/// More of an answer's tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResponseOutputTokensDetails {
    /// Tokens of the model's reasoning.
    pub reasoning_tokens: u64,
}

/// A response that is no more.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedResponse {
    /// Which.
    pub id: String,
    /// `response`.
    pub object: String,
    /// Always true.
    pub deleted: bool,
}

/// Some of the items that went into a response.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ItemList {
    /// `list`.
    pub object: String,
    /// The items.
    pub data: Vec<Item>,
    /// The first of them.
    pub first_id: Option<String>,
    /// The last of them, to go on after.
    pub last_id: Option<String>,
    /// Whether there are more.
    pub has_more: bool,
}

/// How many tokens would go into a response.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct InputTokens {
    /// `response.input_tokens`.
    pub object: String,
    /// Tokens of the prompt.
    pub input_tokens: u64,
}

impl ResponseObject {
    /// A response that begins.
    pub(crate) fn begin(id: String, model: &str, request: &mut ResponsesRequest) -> Self {
        let sampling = &request.options.sampling;
        let echo = std::mem::take(&mut request.echo);
        let reasoning = request.reasoning.as_ref();
        Self {
            id,
            object: "response".into(),
            created_at: now(),
            completed_at: None,
            status: if request.background { "queued" } else { "in_progress" }.into(),
            background: request.background,
            error: None,
            incomplete_details: None,
            instructions: request.instructions.clone(),
            max_output_tokens: request.max_output_tokens,
            max_tool_calls: echo.max_tool_calls,
            model: model.into(),
            output: Vec::new(),
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            previous_response_id: request.previous_response_id.clone(),
            prompt_cache_key: echo.prompt_cache_key,
            reasoning: ReasoningEcho {
                effort: reasoning.and_then(|it| it.effort.clone()),
                summary: reasoning.and_then(|it| it.summary.clone()),
            },
            safety_identifier: echo.safety_identifier,
            service_tier: "default".into(),
            store: request.store.unwrap_or(true),
            temperature: sampling.temperature.unwrap_or(1.0),
            text: text_echo(echo.text),
            tool_choice: echo.tool_choice.unwrap_or_else(|| "auto".into()),
            tools: echo.tools.into_iter().map(tool_echo).collect(),
            top_logprobs: request.top_logprobs.unwrap_or(0),
            top_p: sampling.top_p.unwrap_or(1.0),
            frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
            presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
            truncation: "disabled".into(),
            usage: None,
            user: echo.user,
            metadata: echo.metadata,
        }
    }

    /// The response as it ended.
    pub(crate) fn finish(&mut self, finish: FinishReason, output: Vec<Item>, usage: TokenUsage) {
        self.output = output;
        self.usage = Some(usage.into());
        match finish {
            FinishReason::Length => {
                self.status = "incomplete".into();
                let reason = "max_output_tokens".into();
                self.incomplete_details = Some(IncompleteDetails { reason });
            }
            FinishReason::Stop | FinishReason::StopText(_) | FinishReason::ToolCalls => {
                self.status = "completed".into();
                self.completed_at = Some(now());
            }
        }
    }

    /// The response as it broke off.
    pub(crate) fn fail(&mut self, error: &ApiError, output: Vec<Item>) {
        self.status = "failed".into();
        self.output = output;
        let code = error.report().code.unwrap_or_else(|| "server_error".into());
        self.error = Some(ResponseFailure { code, message: error.to_string() });
    }
}

impl ResponseObject {
    /// Whether it is still to be made.
    pub(crate) fn is_unfinished(&self) -> bool {
        matches!(self.status.as_str(), "queued" | "in_progress")
    }
}

fn text_echo(text: Option<Map<String, Value>>) -> Map<String, Value> {
    let mut text = text.unwrap_or_default();
    text.entry("format").or_insert_with(|| json!({"type": "text"}));
    text
}

/// A tool with the keys that SDKs look for.
fn tool_echo(mut tool: Map<String, Value>) -> Map<String, Value> {
    for key in ["description", "parameters", "strict"] {
        tool.entry(key).or_insert(Value::Null);
    }
    tool
}

impl From<TokenUsage> for ResponseUsage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            input_tokens: usage.num_prompt,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.num_cached,
                cache_write_tokens: 0,
            },
            output_tokens: usage.num_completion,
            output_tokens_details: ResponseOutputTokensDetails {
                reasoning_tokens: usage.num_reasoning,
            },
            total_tokens: usage.num_prompt + usage.num_completion,
        }
    }
}
