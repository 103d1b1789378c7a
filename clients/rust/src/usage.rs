//! Tokens, as the server counted them.

use serde::{Deserialize, Serialize};

/// Tokens of a request and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens of the answer; none for embeddings.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
    /// Of the prompt's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
    /// Of the answer's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
}

impl Usage {
    /// Tokens of the prompt that the server did not compute again; `None` when it does not say.
    pub fn cached_tokens(&self) -> Option<u64> {
        self.prompt_tokens_details.and_then(|details| details.cached_tokens)
    }
}

/// What is said of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptDetails {
    /// Found in the server's prefix cache.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

/// What is said of an answer's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionDetails {
    /// Spent on reasoning.
    #[serde(default)]
    pub reasoning_tokens: Option<u64>,
}

/// What a stream tells besides the text.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct StreamOptions {
    /// The usage, in a chunk before the end.
    pub include_usage: bool,
}
