//! Answers to a text-completion request.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::api::reply::{
    Collected, ProgressReport, PromptLogprobs, PromptTokenLogprob, TimingsReport, UsageReport,
    finite,
};
use crate::detokenizer::TokenTable;
use crate::generation::TokenLogprob;

/// The answer to a text-completion request, or one event of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Completion {
    /// Unique, and the same in every event.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix seconds.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// Names all that an answer depends on beside the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<String>,
    /// The completions, or what is new of them.
    pub choices: Vec<CompletionChoice>,
    /// What they cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageReport>,
    /// With `include_progress`, in chunks without choices: how much of the prompts is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<ProgressReport>,
    /// With `include_timings`: how long it took. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<TimingsReport>,
}

/// One completion, or what is new of it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct CompletionChoice {
    /// Completion `k` of prompt `p` is `p * n + k`.
    pub index: u32,
    /// The text.
    pub text: String,
    /// Its tokens, if they were asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; `null` in all events but the last.
    pub finish_reason: Option<String>,
    /// The prompt's tokens, if they were asked for. Not of OpenAI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptTokenLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

/// Tokens with their log-probabilities: lists of equal length.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Their texts.
    pub tokens: Vec<String>,
    /// Their log-probabilities; -9999 for impossible, and `null` of a prompt's first.
    pub token_logprobs: Vec<Option<f32>>,
    /// For each, the likeliest tokens and their log-probabilities; `null` of a prompt's first.
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each begins in the text, in characters.
    pub text_offset: Vec<usize>,
}

impl CompletionChoice {
    pub(crate) fn new(index: usize, choice: Collected, logprobs: Option<&TokenTable>) -> Self {
        let logprobs = logprobs.map(|tokens| CompletionLogprobs::new(&choice.logprobs, tokens));
        Self {
            index: index as u32,
            text: choice.text,
            logprobs,
            finish_reason: Some(choice.finish_reason.into()),
            prompt_logprobs: None,
        }
    }
}

impl CompletionLogprobs {
    pub(crate) fn new(logprobs: &[TokenLogprob], tokens: &TokenTable) -> Self {
        let mut lists = Self::default();
        for logprob in logprobs {
            lists.tokens.push(text(tokens.bytes(logprob.token)));
            lists.token_logprobs.push(logprob.logprob.map(finite));
            let top = logprob.top.iter();
            let top = top.map(|(token, logprob)| {
                (text(tokens.bytes(*token)), Value::from(finite(*logprob)))
            });
            lists.top_logprobs.push(logprob.logprob.map(|_| top.collect()));
            lists.text_offset.push(logprob.offset);
        }
        lists
    }
}

/// A token's text. Tokens are keys here, so parts of characters must stay apart: they are written as
/// their bytes, as OpenAI does.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            bytes.iter().fold("bytes:".to_owned(), |text, byte| format!("{text}\\x{byte:02x}"))
        }
    }
}
