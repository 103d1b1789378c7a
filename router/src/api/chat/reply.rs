//! Answers to a chat request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::reply::{Collected, UsageReport, finite};
use crate::detokenizer::TokenTable;
use crate::generation::TokenLogprob;

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
    /// The completions, in order.
    pub choices: Vec<ChatChoice>,
    /// What they cost.
    pub usage: UsageReport,
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
    /// `stop` or `length`.
    pub finish_reason: String,
}

/// What the model says.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AssistantMessage {
    /// `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
    /// Always `null`.
    pub refusal: Option<String>,
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
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, PartialEq, Serialize, Deserialize, ToSchema)]
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
    /// What is new; empty in the chunk that reports the usage.
    pub choices: Vec<ChatChunkChoice>,
    /// With `include_usage`: `null`, and the usage in the last chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageReport>,
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
}

impl ChatChoice {
    pub(crate) fn new(index: usize, choice: Collected, logprobs: Option<&TokenTable>) -> Self {
        let logprobs = logprobs.map(|tokens| ChatLogprobs::new(&choice.logprobs, tokens));
        Self {
            index: index as u32,
            message: AssistantMessage {
                role: "assistant".into(),
                content: choice.text,
                refusal: None,
            },
            logprobs,
            finish_reason: choice.finish_reason.into(),
        }
    }
}

impl ChatLogprobs {
    pub(crate) fn new(logprobs: &[TokenLogprob], tokens: &TokenTable) -> Self {
        let text = |token| String::from_utf8_lossy(tokens.bytes(token)).into_owned();
        let entry = |logprob: &TokenLogprob| ChatTokenLogprob {
            token: text(logprob.token),
            bytes: tokens.bytes(logprob.token).to_vec(),
            logprob: finite(logprob.logprob),
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
