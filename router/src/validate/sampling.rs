//! How to pick tokens, compared with the model.

use std::collections::BTreeMap;

use sconce_proto::worker::{Grammar, LogitBias, SamplingParams};

use super::Bounds;
use crate::api::options::Sampling;
use crate::error::ApiError;

/// Most tokens of `stop_token_ids`.
const MAX_STOP_TOKENS: usize = 64;

/// Most tokens of `allowed_token_ids`.
const MAX_ALLOWED_TOKENS: usize = 1024;

/// Largest bias, as OpenAI has it.
const MAX_BIAS: f64 = 100.0;

/// The sampling parameters, with all that does not depend on the prompt.
pub(super) fn lower(sampling: &Sampling, bounds: &Bounds) -> Result<SamplingParams, ApiError> {
    Ok(SamplingParams {
        temperature: sampling.temperature.unwrap_or(1.0),
        top_k: sampling.top_k.unwrap_or(0),
        top_p: sampling.top_p.unwrap_or(1.0),
        min_p: sampling.min_p.unwrap_or(0.0),
        typical_p: sampling.typical_p.unwrap_or(1.0),
        repetition_penalty: sampling.repetition_penalty.unwrap_or(1.0),
        frequency_penalty: sampling.frequency_penalty.unwrap_or(0.0),
        presence_penalty: sampling.presence_penalty.unwrap_or(0.0),
        logit_bias: logit_bias(&sampling.logit_bias, bounds)?,
        // A negative seed is as good as any: its bits are the seed.
        seed: sampling.seed.map_or_else(rand::random, i64::cast_unsigned),
        stop_token_ids: stop_tokens(sampling, bounds)?,
        min_tokens: sampling.min_tokens.unwrap_or(0),
        max_tokens: 0,
        ignore_eos: sampling.ignore_eos,
        num_logprobs: None,
        num_prompt_logprobs: None,
        grammar: None,
        allowed_token_ids: allowed_tokens(sampling, bounds)?,
        // They have yet to be tokenized.
        bad_words: Vec::new(),
    })
}

/// Adds what the text must be, if it can be had with the rest.
pub(crate) fn constrain(
    sampling: &mut SamplingParams,
    (by, grammar): (&'static str, Grammar),
) -> Result<(), ApiError> {
    let clash = |param: &str| {
        let message = format!("`{param}` can't be had together with `{by}`");
        Err(ApiError::invalid(param, "invalid_value", message))
    };
    if !sampling.allowed_token_ids.is_empty() {
        return clash("allowed_token_ids");
    }
    // A text that is complete can't go on.
    if sampling.min_tokens > 0 {
        return clash("min_tokens");
    }
    sampling.grammar = Some(grammar);
    Ok(())
}

fn allowed_tokens(sampling: &Sampling, bounds: &Bounds) -> Result<Vec<u32>, ApiError> {
    const PARAM: &str = "allowed_token_ids";
    let Some(ids) = &sampling.allowed_token_ids else { return Ok(Vec::new()) };
    if ids.is_empty() {
        return Err(ApiError::invalid(PARAM, "empty_array", format!("`{PARAM}` is empty")));
    }
    if ids.len() > MAX_ALLOWED_TOKENS {
        let message = format!("`{PARAM}` has {} ids and may have {MAX_ALLOWED_TOKENS}", ids.len());
        return Err(ApiError::invalid(PARAM, "array_above_max_length", message));
    }
    let ids = ids.iter().enumerate();
    ids.map(|(i, id)| id.token(&format!("{PARAM}[{i}]"), bounds.info.vocab_size)).collect()
}

fn logit_bias(biases: &[(String, f64)], bounds: &Bounds) -> Result<Vec<LogitBias>, ApiError> {
    let max = bounds.limits.max_logit_bias;
    if biases.len() > max {
        let message = format!("`logit_bias` has {} entries and may have {max}", biases.len());
        return Err(ApiError::invalid("logit_bias", "object_above_max_properties", message));
    }
    let mut by_token = BTreeMap::new();
    for (key, bias) in biases {
        let param = format!("logit_bias.{key}");
        let token = token(key).filter(|token| *token < bounds.info.vocab_size);
        let Some(token) = token else {
            let last = bounds.info.vocab_size.saturating_sub(1);
            let message = format!("`{param}`: {key:?} is no token id from 0 to {last}");
            return Err(ApiError::invalid(param, "invalid_token_id", message));
        };
        if !(-MAX_BIAS..=MAX_BIAS).contains(bias) {
            let message = format!("`{param}` is {bias} and must be from -{MAX_BIAS} to {MAX_BIAS}");
            let code =
                if *bias < 0.0 { "decimal_below_min_value" } else { "decimal_above_max_value" };
            return Err(ApiError::invalid(param, code, message));
        }
        if by_token.insert(token, *bias as f32).is_some() {
            let message = format!("`logit_bias` names token {token} more than once");
            return Err(ApiError::invalid(param, "duplicate_parameter", message));
        }
    }
    Ok(by_token.into_iter().map(|(token, bias)| LogitBias { token, bias }).collect())
}

/// A token id in decimal. `u32::from_str` would also take a plus sign.
fn token(key: &str) -> Option<u32> {
    key.bytes().all(|byte| byte.is_ascii_digit()).then(|| key.parse().ok()).flatten()
}

fn stop_tokens(sampling: &Sampling, bounds: &Bounds) -> Result<Vec<u32>, ApiError> {
    let ids = &sampling.stop_token_ids;
    if ids.len() > MAX_STOP_TOKENS {
        let message =
            format!("`stop_token_ids` has {} ids and may have {MAX_STOP_TOKENS}", ids.len());
        return Err(ApiError::invalid("stop_token_ids", "array_above_max_length", message));
    }
    let ids = ids.iter().enumerate();
    ids.map(|(i, id)| id.token(&format!("stop_token_ids[{i}]"), bounds.info.vocab_size)).collect()
}
