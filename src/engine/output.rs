//! What a sequence gains in a step, for whoever asked.

use std::time::Duration;

use super::plan::{Scored, TokenLogprobs};
use super::request::TokenId;
use super::sequence::RequestId;

/// A new token of a completion, or its end, or both; or progress with its prompt. Each completion has
/// exactly one output with `finish`, its last.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Whose.
    pub request: RequestId,
    /// Which of its completions.
    pub index: u32,
    /// The sampled token. An end token that ends the completion is reported too.
    pub token: Option<TokenId>,
    /// Why the completion ended, if it did.
    pub finish: Option<Finish>,
    /// When asked for.
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// On a completion's first output: prompt tokens found in the prefix cache.
    pub num_cached: Option<u32>,
    /// On a completion's first output: when its first step was planned.
    pub begun: Option<Duration>,
    /// Where it was asked for, after a step that computed some of the prompt, and then without
    /// token and end: prompt tokens computed so far.
    pub num_computed: Option<u32>,
    /// More of the prompt's tokens, when asked for; in outputs of their own before all others.
    pub scored: Vec<Scored>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// An end token, or one of `stop_token_ids`.
    StopToken,
    /// `max_tokens`, or the end of the context.
    Length,
    /// It was cancelled, and its blocks are free.
    Cancelled,
    /// It waited too long for its first step.
    Deadline,
    /// Its grammar allows nothing more; the token is part of the text.
    GrammarEnd,
    /// To follow its grammar would take more than the limits allow.
    GrammarLimit,
    /// Whatever it may go on with would complete a bad word.
    BadWord,
}
