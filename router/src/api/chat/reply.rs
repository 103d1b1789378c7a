//! Answers to a chat request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::reply::{
    Collected, CollectedCall, ProgressReport, PromptLogprobs, PromptTokenLogprob, TimingsReport,
    UsageReport, finite,
};
use crate::detokenizer::TokenTable;
use crate::generation::{CallDelta, FinishReason, TokenLogprob};
use crate::validate::CallStyle;

/// Why a completion ended that calls one of `functions`.
pub(crate) const FUNCTION_CALL: &str = "function_call";

/// The answer to a chat request that is not streamed.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletion {
    /// Unique.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// Names all that an answer depends on beside the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// The completions, in order.
    pub choices: Vec<ChatChoice>,
    /// What they cost.
    pub usage: UsageReport,
    /// With `include_timings`: how long it took. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<TimingsReport>,
    /// The prompt's tokens, if they were asked for. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptTokenLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// One completion.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatChoice {
    /// Which.
    pub index: u32,
    /// What the model says.
    pub message: AssistantMessage,
    /// Its tokens, if they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length`, `tool_calls` or `function_call`.
    pub finish_reason: String,
}

/// What the model says.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// The text; `null` where there are calls and no text.
    pub content: Option<String>,
    /// Always `null`.
    pub refusal: Option<String>,
    /// What it thought before. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What it calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<MessageToolCall>>,
    /// What it calls, of `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<CalledFunction>,
}

/// A call of a tool.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct MessageToolCall {
    /// To name it in the message with its result.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: CalledFunction,
}

/// A function and its arguments.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CalledFunction {
    /// The function's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The text of a JSON object; in a chunk, more of it.
    pub arguments: String,
}

/// What is new of a call.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolCallChunk {
    /// Which of the message's calls.
    pub index: usize,
    /// In its first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first chunk.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name, in its first chunk, and more of the arguments.
    pub function: CalledFunction,
}

/// Tokens with their log-probabilities.
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// The tokens of the text.
    pub content: Vec<ChatTokenLogprob>,
    /// Always `null`.
    pub refusal: Option<Vec<ChatTokenLogprob>>,
}

/// A token of a completion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTokenLogprob {
    /// Its text; where it is part of a character, with replacement characters.
    pub token: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability; -9999 for impossible.
    pub logprob: f32,
    /// The likeliest tokens in its place, best first.
    pub top_logprobs: Vec<ChatTopLogprob>,
}

/// A token that might have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ChatTopLogprob {
    /// Its text.
    pub token: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its log-probability.
    pub logprob: f32,
}

/// One event of a streamed answer.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatCompletionChunk {
    /// The same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Names all that an answer depends on beside the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// What is new; empty in chunks that report usage, progress or timings.
    pub choices: Vec<ChatChunkChoice>,
    /// With `include_usage`: `null`, and the usage in the last chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageReport>,
    /// With `include_progress`, in chunks without choices: how much of the prompts is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<ProgressReport>,
    /// With `include_timings`: how long it took. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<TimingsReport>,
}

/// What is new of one completion.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatChunkChoice {
    /// Which.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// The tokens of the new text, if they were asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Set once, in the last chunk of a completion.
    pub finish_reason: Option<String>,
}

/// What is new in a message.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatDelta {
    /// `assistant`, in the first chunk of a completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what it thinks before. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of its calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallChunk>>,
    /// More of its call of one of `functions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function_call: Option<CalledFunction>,
}

impl ChatChoice {
    pub(crate) fn new(index: usize, choice: Collected, logprobs: Option<&TokenTable>) -> Self {
        let logprobs = logprobs.map(|tokens| ChatLogprobs::new(&choice.logprobs, tokens));
        Self {
            index: index as u32,
            message: AssistantMessage::new(choice.text, choice.reasoning, choice.calls),
            logprobs,
            finish_reason: choice.finish_reason.into(),
        }
    }
}

impl ChatChoice {
    /// With its call as clients expect it.
    pub(crate) fn calling(mut self, style: CallStyle) -> Self {
        match (style, self.message.tool_calls.take_if(|_| style == CallStyle::Function)) {
            (CallStyle::Tools, _) | (CallStyle::Function, None) => {}
            (CallStyle::Function, Some(calls)) => {
                self.message.function_call = calls.into_iter().next().map(|call| call.function);
                if self.finish_reason == FinishReason::ToolCalls.as_str() {
                    self.finish_reason = FUNCTION_CALL.into();
                }
            }
        }
        self
    }
}

impl AssistantMessage {
    fn new(text: String, reasoning: String, calls: Vec<CollectedCall>) -> Self {
        let call = |call: CollectedCall| MessageToolCall {
            id: call.id,
            kind: "function".into(),
            function: CalledFunction { name: Some(call.name), arguments: call.arguments },
        };
        Self {
            role: "assistant".into(),
            content: (!text.is_empty() || calls.is_empty()).then_some(text),
            refusal: None,
            reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
            tool_calls: (!calls.is_empty()).then(|| calls.into_iter().map(call).collect()),
            function_call: None,
        }
    }
}

impl ToolCallChunk {
    pub(crate) fn new(call: &CallDelta) -> Self {
        match call {
            CallDelta::Start { index, id, name } => Self {
                index: *index,
                id: Some(id.clone()),
                kind: Some("function".into()),
                function: CalledFunction { name: Some(name.clone()), arguments: String::new() },
            },
            CallDelta::Arguments { index, fragment } => Self {
                index: *index,
                id: None,
                kind: None,
                function: CalledFunction { name: None, arguments: fragment.clone() },
            },
        }
    }
}

impl ChatLogprobs {
    pub(crate) fn new(logprobs: &[TokenLogprob], tokens: &TokenTable) -> Self {
        let text = |token| String::from_utf8_lossy(tokens.bytes(token)).into_owned();
        let entry = |logprob: &TokenLogprob| ChatTokenLogprob {
            token: text(logprob.token),
            bytes: tokens.bytes(logprob.token).to_vec(),
            logprob: finite(logprob.logprob.unwrap_or_default()),
            top_logprobs: logprob
                .top
                .iter()
                .map(|(token, logprob)| ChatTopLogprob {
                    token: text(*token),
                    bytes: tokens.bytes(*token).to_vec(),
                    logprob: finite(*logprob),
                })
                .collect(),
        };
        Self { content: logprobs.iter().map(entry).collect(), refusal: None }
    }
}
