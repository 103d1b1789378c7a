//! Checks what a router submits, once more.
//!
//! The router has validated it for its client already, and explains mistakes better. Here the
//! engine is protected: no message that gRPC delivers may make it panic.

use std::time::Duration;

use sconce_proto::worker::grammar::Source as WireSource;
use sconce_proto::worker::{ModelInfo, SamplingParams as Wire, Submit};

use crate::engine::request::{Request, SamplingParams};
use crate::grammar::Source;

/// Most tokens of all bad words of a request: they are compared for every token.
const MAX_BAD_TOKENS: usize = 1 << 16;

/// A request that the engine can trust.
pub(crate) struct Checked {
    pub(crate) id: u64,
    /// Without its grammar, which has yet to be compiled.
    pub(crate) request: Request,
    pub(crate) grammar: Option<Source>,
    /// How long it may wait for its first step.
    pub(crate) patience: Option<Duration>,
}

/// What is wrong with a request: names the parameter and the limit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(pub(super) String);

/// Returns the request if it fits the model.
pub(crate) fn check(submit: Submit, info: &ModelInfo) -> Result<Checked, Invalid> {
    check_prompt(&submit.prompt, info)?;
    if submit.n == 0 || submit.n > info.max_num_seqs {
        return invalid(format!("n must be between 1 and {}", info.max_num_seqs));
    }
    let Some(mut wire) = submit.sampling else { return invalid("sampling is missing") };
    check_numbers(&wire)?;
    check_tokens(&wire, info)?;
    let grammar = match wire.grammar.take() {
        None => None,
        Some(_) if !wire.allowed_token_ids.is_empty() => {
            return invalid("a grammar and allowed_token_ids can't be had together");
        }
        Some(grammar) => match grammar.source {
            None => return invalid("the grammar has no source"),
            Some(WireSource::JsonSchema(text)) => Some(Source::JsonSchema(text)),
            Some(WireSource::Regex(text)) => Some(Source::Regex(text)),
            Some(WireSource::Lark(text)) => Some(Source::Lark(text)),
        },
    };
    let cache_salt = match submit.cache_salt[..] {
        [] => 0,
        ref salt => u128::from_le_bytes(
            salt.try_into().or_else(|_| invalid("cache_salt must have 16 bytes"))?,
        ),
    };
    let priority = submit.priority;
    let patience = Duration::from_millis(submit.queue_deadline_ms.into());
    let sampling = sampling(wire);
    Ok(Checked {
        id: submit.request_id,
        request: Request {
            prompt: submit.prompt,
            n: submit.n,
            sampling,
            cache_salt,
            priority,
            report_progress: submit.report_progress,
        },
        grammar,
        patience: (!patience.is_zero()).then_some(patience),
    })
}

fn check_prompt(prompt: &[u32], info: &ModelInfo) -> Result<(), Invalid> {
    if prompt.is_empty() {
        return invalid("the prompt has no tokens");
    }
    if prompt.len() >= info.max_model_len as usize {
        let (given, limit) = (prompt.len(), info.max_model_len);
        return invalid(format!(
            "the prompt has {given} tokens, and with one more the model takes at most {limit}"
        ));
    }
    if prompt.iter().any(|token| *token >= info.vocab_size) {
        return invalid(format!("a prompt token is not below {}", info.vocab_size));
    }
    Ok(())
}

fn check_numbers(wire: &Wire) -> Result<(), Invalid> {
    let ranges = [
        ("temperature", wire.temperature, 0.0..=100.0),
        ("min_p", wire.min_p, 0.0..=1.0),
        ("top_p", wire.top_p, f32::MIN_POSITIVE..=1.0),
        ("typical_p", wire.typical_p, f32::MIN_POSITIVE..=1.0),
        ("repetition_penalty", wire.repetition_penalty, 1e-3..=1e3),
        ("frequency_penalty", wire.frequency_penalty, -100.0..=100.0),
        ("presence_penalty", wire.presence_penalty, -100.0..=100.0),
    ];
    // A NaN is in no range.
    match ranges.iter().find(|(_, given, range)| !range.contains(given)) {
        Some((name, _, range)) if *range.start() == f32::MIN_POSITIVE => {
            invalid(format!("{name} must be above 0 and at most {}", range.end()))
        }
        Some((name, _, range)) => {
            invalid(format!("{name} must be between {} and {}", range.start(), range.end()))
        }
        None => Ok(()),
    }
}

fn check_tokens(wire: &Wire, info: &ModelInfo) -> Result<(), Invalid> {
    let vocab_size = info.vocab_size;
    if wire.max_tokens == 0 {
        return invalid("max_tokens must be at least 1");
    }
    if wire.min_tokens > wire.max_tokens {
        return invalid("min_tokens must be at most max_tokens");
    }
    if wire.logit_bias.len() > vocab_size as usize {
        return invalid(format!("logit_bias has more than {vocab_size} entries"));
    }
    if wire.logit_bias.iter().any(|bias| bias.token >= vocab_size) {
        return invalid(format!("a token of logit_bias is not below {vocab_size}"));
    }
    if wire.logit_bias.iter().any(|bias| !(-1e4..=1e4).contains(&bias.bias)) {
        return invalid("a value of logit_bias is not between -10000 and 10000");
    }
    if wire.stop_token_ids.len() > vocab_size as usize {
        return invalid(format!("stop_token_ids has more than {vocab_size} entries"));
    }
    if wire.stop_token_ids.iter().any(|token| *token >= vocab_size) {
        return invalid(format!("a token of stop_token_ids is not below {vocab_size}"));
    }
    if wire.allowed_token_ids.len() > vocab_size as usize {
        return invalid(format!("allowed_token_ids has more than {vocab_size} entries"));
    }
    if wire.allowed_token_ids.iter().any(|token| *token >= vocab_size) {
        return invalid(format!("a token of allowed_token_ids is not below {vocab_size}"));
    }
    if wire.bad_words.iter().any(|word| word.tokens.is_empty()) {
        return invalid("one of bad_words has no tokens");
    }
    if wire.bad_words.iter().map(|word| word.tokens.len()).sum::<usize>() > MAX_BAD_TOKENS {
        return invalid(format!("bad_words have more than {MAX_BAD_TOKENS} tokens"));
    }
    if wire.bad_words.iter().flat_map(|word| &word.tokens).any(|token| *token >= vocab_size) {
        return invalid(format!("a token of bad_words is not below {vocab_size}"));
    }
    if wire.num_logprobs.is_some_and(|count| count > info.max_logprobs) {
        return invalid(format!("num_logprobs must be at most {}", info.max_logprobs));
    }
    if wire.num_prompt_logprobs.is_some_and(|count| count > info.max_logprobs) {
        return invalid(format!("num_prompt_logprobs must be at most {}", info.max_logprobs));
    }
    Ok(())
}

fn sampling(wire: Wire) -> SamplingParams {
    SamplingParams {
        temperature: wire.temperature,
        top_k: (wire.top_k > 0).then_some(wire.top_k),
        top_p: wire.top_p,
        min_p: wire.min_p,
        typical_p: wire.typical_p,
        repetition_penalty: wire.repetition_penalty,
        frequency_penalty: wire.frequency_penalty,
        presence_penalty: wire.presence_penalty,
        logit_bias: wire.logit_bias.into_iter().map(|bias| (bias.token, bias.bias)).collect(),
        seed: wire.seed,
        stop_token_ids: wire.stop_token_ids,
        min_tokens: wire.min_tokens,
        max_tokens: wire.max_tokens,
        ignore_eos: wire.ignore_eos,
        num_logprobs: wire.num_logprobs,
        num_prompt_logprobs: wire.num_prompt_logprobs,
        grammar: None,
        allowed_token_ids: wire.allowed_token_ids,
        bad_words: wire.bad_words.into_iter().map(|word| word.tokens).collect(),
    }
}

fn invalid<T>(message: impl Into<String>) -> Result<T, Invalid> {
    Err(Invalid(message.into()))
}
