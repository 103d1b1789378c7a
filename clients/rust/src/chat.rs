//! Chats.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Extra, StreamOptions, Usage};

/// Messages to answer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChatRequest {
    /// The model.
    pub model: String,
    /// The conversation, oldest message first.
    pub messages: Vec<Message>,
    /// Most tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u32>,
    /// 0 takes the likeliest token each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Samples from the likeliest tokens of this much probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Makes the same request sample the same answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// Texts that end the answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Tools that the model may call, as OpenAI's API has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// The form of the answer, such as a JSON schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<Value>,
    /// What a stream tells besides the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// What else the server takes.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatRequest {
    /// Asks `model`; see [`Self::user`].
    pub fn new(model: impl Into<String>) -> Self {
        Self { model: model.into(), ..Self::default() }
    }

    /// With a message of the user's at the end.
    #[must_use]
    pub fn user(self, text: impl Into<String>) -> Self {
        self.message(Message::new(Role::User, text))
    }

    /// With a system prompt at the end: it belongs first.
    #[must_use]
    pub fn system(self, text: impl Into<String>) -> Self {
        self.message(Message::new(Role::System, text))
    }

    /// With `message` at the end.
    #[must_use]
    pub fn message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// With the usage at the end of a stream.
    #[must_use]
    pub fn with_usage(mut self) -> Self {
        self.stream_options = Some(StreamOptions { include_usage: true });
        self
    }
}

/// Who says a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Who sets the rules.
    System,
    /// The same, in the words of newer models.
    Developer,
    /// Who asks.
    User,
    /// The model.
    #[default]
    Assistant,
    /// A tool, with the result of a call.
    Tool,
}

/// One message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who says it.
    #[serde(default)]
    pub role: Role,
    /// What is said. `None` where tools are called instead.
    #[serde(default)]
    pub content: Option<String>,
    /// The tools that the model calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// Of a tool's message: the call whose result it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What else there is, such as `reasoning_content`.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Message {
    /// A message of text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self { role, content: Some(text.into()), ..Self::default() }
    }
}

/// A tool that the model calls. In a stream, a piece of that: pieces of one call share an index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// Of a stream: which call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// What the result refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What is called.
    #[serde(default)]
    pub function: Function,
}

/// A function's name and arguments.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Function {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON text.
    #[serde(default)]
    pub arguments: String,
}

/// A whole answer.
#[derive(Clone, Debug, Deserialize)]
pub struct Chat {
    /// What the server calls it.
    #[serde(default)]
    pub id: String,
    /// The model that made it.
    #[serde(default)]
    pub model: String,
    /// One for each answer.
    pub choices: Vec<ChatChoice>,
    /// Tokens.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Chat {
    /// The text of the first answer; empty where it only calls tools.
    pub fn text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.message.content.as_deref()).unwrap_or("")
    }
}

/// One answer.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatChoice {
    /// Which answer.
    #[serde(default)]
    pub index: u32,
    /// The model's message.
    pub message: Message,
    /// Why it ended: `stop`, `length`, `tool_calls`, …
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// What else the server says, such as `logprobs`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// A piece of an answer that is streamed.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatChunk {
    /// What the server calls the answer.
    #[serde(default)]
    pub id: String,
    /// The model that makes it.
    #[serde(default)]
    pub model: String,
    /// Pieces; none in the chunk with the usage.
    #[serde(default)]
    pub choices: Vec<ChatChunkChoice>,
    /// Tokens, in the last chunk if that was asked for.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}

impl ChatChunk {
    /// The text of the first answer's piece; empty where there is none.
    pub fn text(&self) -> &str {
        self.choices.first().and_then(|choice| choice.delta.content.as_deref()).unwrap_or("")
    }

    /// The reasoning of the first answer's piece; empty where there is none.
    pub fn reasoning(&self) -> &str {
        let delta = self.choices.first().map(|choice| &choice.delta);
        delta.and_then(|delta| delta.reasoning_content.as_deref()).unwrap_or("")
    }
}

/// A piece of one answer.
#[derive(Clone, Debug, Deserialize)]
pub struct ChatChunkChoice {
    /// Which answer.
    #[serde(default)]
    pub index: u32,
    /// What is new.
    #[serde(default)]
    pub delta: Delta,
    /// Why it ended. `None`: it goes on.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// What else the server says, such as `logprobs`.
    #[serde(flatten)]
    pub extra: Extra,
}

/// What is new in an answer.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Delta {
    /// Text.
    #[serde(default)]
    pub content: Option<String>,
    /// What the model thinks before it answers.
    #[serde(default, alias = "reasoning")]
    pub reasoning_content: Option<String>,
    /// Pieces of calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}
