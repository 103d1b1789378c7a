//! Completions of text.

use serde::{Deserialize, Serialize};

use crate::{Extra, StreamOptions, Usage};

/// A text to complete.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CompletionRequest {
    /// The model.
    pub model: String,
    /// The text.
    pub prompt: String,
    /// Most tokens of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
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
    /// What a stream tells besides the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
    /// What else the server takes.
    #[serde(flatten)]
    pub extra: Extra,
}

impl CompletionRequest {
    /// Asks `model` to go on after `prompt`.
    pub fn new(model: impl Into<String>, prompt: impl Into<String>) -> Self {
        Self { model: model.into(), prompt: prompt.into(), ..Self::default() }
    }
}

/// A completion, or a piece of one that is streamed.
#[derive(Clone, Debug, Deserialize)]
pub struct Completion {
    /// What the server calls it.
    #[serde(default)]
    pub id: String,
    /// The model that made it.
    #[serde(default)]
    pub model: String,
    /// One for each answer; none in the chunk with the usage.
    #[serde(default)]
    pub choices: Vec<CompletionChoice>,
    /// Tokens. Of a stream: in its last chunk, if that was asked for.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// What else the server says.
    #[serde(flatten)]
    pub extra: Extra,
}

impl Completion {
    /// The text of the first answer.
    pub fn text(&self) -> &str {
        self.choices.first().map_or("", |choice| &choice.text)
    }
}

/// One answer, or a piece of it.
#[derive(Clone, Debug, Deserialize)]
pub struct CompletionChoice {
    /// Which answer.
    #[serde(default)]
    pub index: u32,
    /// The text.
    #[serde(default)]
    pub text: String,
    /// Why it ended: `stop`, `length`, … `None`: it goes on.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// What else the server says, such as `logprobs`.
    #[serde(flatten)]
    pub extra: Extra,
}
