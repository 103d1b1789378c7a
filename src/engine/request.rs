//! What a client asked of the engine, in tokens. Checked by the router; the engine trusts it.

use crate::grammar::Grammar;

/// A token's place in the vocabulary.
pub type TokenId = u32;

/// From this priority number on, nobody waits for the answer.
pub const BACKGROUND_PRIORITY: i32 = 10_000;

/// One prompt and how to continue it.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// At least one token.
    pub prompt: Vec<TokenId>,
    /// Completions to generate from the prompt, at least 1.
    pub n: u32,
    /// How to choose tokens, and when to stop.
    pub sampling: SamplingParams,
    /// Prefix-cache entries are shared only between requests with equal salts.
    pub cache_salt: u128,
    /// Whether outputs tell how much of the prompt is computed.
    pub report_progress: bool,
    /// Of the requests with equal salts, those with lower numbers come first.
    pub priority: i32,
}

/// How tokens are chosen and when a completion ends.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keeps the `k` likeliest tokens; `None` keeps all.
    pub top_k: Option<u32>,
    /// Keeps the likeliest tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this likely relative to the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Locally typical sampling (Meister et al., 2022); 1 keeps all.
    pub typical_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or completion
    /// (CTRL, Keskar et al., 2019); 1 for none.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the completion.
    pub frequency_penalty: f32,
    /// Subtracted once for a token that occurs in the completion.
    pub presence_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// Completion `i` of a request draws with a seed derived from `(seed, i)`.
    pub seed: u64,
    /// Tokens that end the completion, beside the model's own end tokens.
    pub stop_token_ids: Vec<TokenId>,
    /// No end token can be sampled before so many tokens.
    pub min_tokens: u32,
    /// At least 1.
    pub max_tokens: u32,
    /// The model's own end tokens don't end the completion.
    pub ignore_eos: bool,
    /// `None`: no log-probabilities. `Some(0)`: the sampled token's. `Some(n)`: also the `n`
    /// likeliest.
    pub num_logprobs: Option<u32>,
    /// As `num_logprobs`, of the prompt's tokens from the second on.
    pub num_prompt_logprobs: Option<u32>,
    /// What the completion's text must be. `None`: anything.
    pub grammar: Option<Grammar>,
    /// The only tokens that may be sampled, in order; empty: all.
    pub allowed_token_ids: Vec<TokenId>,
    /// What must not be generated: the last token of each is not sampled where the completion ends
    /// with those before it.
    pub bad_words: Vec<Vec<TokenId>>,
}

impl Default for SamplingParams {
    /// Greedy, one token, nothing else.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            stop_token_ids: Vec::new(),
            min_tokens: 0,
            max_tokens: 1,
            ignore_eos: false,
            num_logprobs: None,
            num_prompt_logprobs: None,
            grammar: None,
            allowed_token_ids: Vec::new(),
            bad_words: Vec::new(),
        }
    }
}
