//! The answers of the endpoints, as OpenAI defines them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::detokenizer::TokenTable;
use crate::error::ApiError;
use crate::generation::{
    CallDelta, Progress, Scores, TextStream, Timings, TokenLogprob, TokenUsage,
};

/// What a request has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Tokens of the completions.
    pub completion_tokens: u64,
    /// Both.
    pub total_tokens: u64,
    /// More of the prompts' tokens.
    pub prompt_tokens_details: PromptTokensDetails,
    /// More of the completions' tokens.
    pub completion_tokens_details: CompletionTokensDetails,
}

/// More of the prompts' tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokensDetails {
    /// Tokens found in the prefix cache.
    pub cached_tokens: u64,
}

/// More of the completions' tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionTokensDetails {
    /// Tokens of the model's reasoning, where it is kept apart.
    pub reasoning_tokens: u64,
    /// Always 0: no answer is made of its `prediction`.
    #[serde(default)]
    pub accepted_prediction_tokens: u64,
    /// Always 0.
    #[serde(default)]
    pub rejected_prediction_tokens: u64,
}

/// How much of a request's prompts is computed. Fields as llama.cpp names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProgressReport {
    /// Tokens of the prompts.
    pub total: u64,
    /// Of those, tokens found in the prefix cache.
    pub cache: u64,
    /// Tokens computed so far, or found.
    pub processed: u64,
    /// Milliseconds since the request came.
    pub time_ms: f64,
}

/// How long a request took, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TimingsReport {
    /// From the worker's taking it to its first step.
    pub queue_ms: Option<f64>,
    /// From its arrival to its first token.
    pub ttft_ms: Option<f64>,
    /// Per token after the first, on average; `null` where no completion has two.
    pub tpot_ms: Option<f64>,
    /// From its arrival to its last token.
    pub e2e_ms: Option<f64>,
}

/// What a request for vectors or scores has cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VectorUsage {
    /// Tokens of the inputs.
    pub prompt_tokens: u64,
    /// The same.
    pub total_tokens: u64,
}

impl VectorUsage {
    pub(crate) fn new(num_tokens: u64) -> Self {
        Self { prompt_tokens: num_tokens, total_tokens: num_tokens }
    }
}

/// More numbers than these are written as JSON on a thread for blocking work.
const MAX_INLINE_NUMBERS: usize = 16 << 10;

/// Answers with what `make` makes of so many numbers.
pub(crate) async fn respond<T: Serialize + Send + 'static>(
    num_numbers: usize,
    make: impl FnOnce() -> T + Send + 'static,
) -> Result<Response, ApiError> {
    let write = move || serde_json::to_vec(&make());
    let json = if num_numbers <= MAX_INLINE_NUMBERS {
        write()
    } else {
        let work = tokio::task::spawn_blocking(write).await;
        work.map_err(|error| {
            tracing::error!(%error, "writing an answer failed");
            ApiError::Internal
        })?
    };
    let json = json.map_err(|error| {
        tracing::error!(%error, "an answer can't be written as JSON");
        ApiError::Internal
    })?;
    Ok(([(CONTENT_TYPE, "application/json")], json).into_response())
}

/// OpenAI's error body.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorReport,
}

/// What is wrong.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorReport {
    /// For the developer who reads it.
    pub message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// Path of the wrong parameter.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<String>,
}

impl From<Progress> for ProgressReport {
    fn from(progress: Progress) -> Self {
        Self {
            total: progress.num_prompt,
            cache: progress.num_cached,
            processed: progress.num_computed,
            time_ms: ms(progress.since_arrival),
        }
    }
}

impl From<Timings> for TimingsReport {
    fn from(timings: Timings) -> Self {
        Self {
            queue_ms: timings.queue.map(ms),
            ttft_ms: timings.ttft.map(ms),
            tpot_ms: timings.tpot.map(ms),
            e2e_ms: timings.e2e.map(ms),
        }
    }
}

/// Milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1e3
}

impl From<TokenUsage> for UsageReport {
    fn from(usage: TokenUsage) -> Self {
        Self {
            prompt_tokens: usage.num_prompt,
            completion_tokens: usage.num_completion,
            total_tokens: usage.num_prompt + usage.num_completion,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.num_cached },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens: usage.num_reasoning,
                accepted_prediction_tokens: 0,
                rejected_prediction_tokens: 0,
            },
        }
    }
}

/// A completion as a whole.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) text: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<CollectedCall>,
    pub(crate) logprobs: Vec<TokenLogprob>,
    pub(crate) finish_reason: &'static str,
}

/// A call as a whole.
#[derive(Debug)]
pub(crate) struct CollectedCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
}

/// Waits for every completion of a request: a whole answer is the same deltas, collected.
pub(crate) async fn collect(stream: &mut TextStream) -> Result<Vec<Collected>, ApiError> {
    let mut choices: Vec<_> = (0..stream.num_choices()).map(|_| Collected::default()).collect();
    while let Some(delta) = stream.next().await {
        let delta = delta?;
        if delta.report.is_some() {
            continue;
        }
        let Some(choice) = choices.get_mut(delta.choice as usize) else { continue };
        choice.text.push_str(&delta.text);
        choice.reasoning.push_str(&delta.reasoning);
        for call in delta.calls {
            choice.call(call);
        }
        choice.logprobs.extend(delta.logprobs);
        choice.finish_reason = delta.finish.map_or(choice.finish_reason, |finish| finish.as_str());
    }
    Ok(choices)
}

impl Collected {
    fn call(&mut self, call: CallDelta) {
        match call {
            CallDelta::Start { id, name, .. } => {
                self.calls.push(CollectedCall { id, name, arguments: String::new() });
            }
            CallDelta::Arguments { index, fragment } => {
                if let Some(call) = self.calls.get_mut(index) {
                    call.arguments.push_str(&fragment);
                }
            }
        }
    }
}

/// For each token of a prompt, that token and the likeliest in its place, by id; `null` for the
/// first, which follows nothing. As vLLM has it.
pub type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptTokenLogprob>>>;

/// A token that is in a prompt, or might have been.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptTokenLogprob {
    /// Its log-probability; -9999 for impossible.
    pub logprob: f32,
    /// 1 for the likeliest.
    pub rank: u32,
    /// Its text.
    pub decoded_token: String,
}

/// A prompt's tokens with so many of the likeliest each.
pub(crate) fn prompt_logprobs(
    scores: &Scores,
    num_logprobs: u32,
    tokens: &TokenTable,
) -> PromptLogprobs {
    let entry = |token: u32, logprob: f32, rank: u32| {
        let decoded_token = String::from_utf8_lossy(tokens.bytes(token)).into_owned();
        (token, PromptTokenLogprob { logprob: finite(logprob), rank, decoded_token })
    };
    let rest = scores.rest.iter().map(|score| {
        let top = (1..).zip(score.top.iter().take(num_logprobs as usize));
        let top = top.map(|(rank, top)| entry(top.token, top.logprob, rank));
        Some(top.chain([entry(score.token, score.logprob, score.rank)]).collect())
    });
    std::iter::once(None).chain(rest).collect()
}

/// A log-probability as JSON can write it: minus infinity is OpenAI's -9999.
pub(crate) fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}

/// The id of an answer.
pub(crate) fn id(prefix: &str) -> String {
    format!("{prefix}-{}", uuid::Uuid::now_v7().simple())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_epoch.map(|since| since.as_secs()).unwrap_or_default()
}
