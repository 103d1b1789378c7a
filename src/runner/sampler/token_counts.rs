//! Which tokens a sequence has seen: what penalties are computed from.

use std::collections::HashMap;

use crate::engine::request::{SamplingParams, TokenId};

/// The tokens of a sequence's prompt, and those of its completion with their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenCounts {
    /// Occurrences in the completion; 0 for tokens of the prompt alone.
    num_in_completion: HashMap<TokenId, u32>,
}

impl TokenCounts {
    /// Counts `prompt` if `params` have a penalty that needs it; `None` without penalties.
    pub(super) fn needed_by(params: &SamplingParams, prompt: &[TokenId]) -> Option<Self> {
        let of_prompt = params.repetition_penalty != 1.0;
        let of_completion = params.frequency_penalty != 0.0 || params.presence_penalty != 0.0;
        if !of_prompt && !of_completion {
            return None;
        }
        let prompt = if of_prompt { prompt } else { &[] };
        Some(Self { num_in_completion: prompt.iter().map(|&token| (token, 0)).collect() })
    }

    /// Counts one more token of the completion.
    pub(super) fn add(&mut self, token: TokenId) {
        *self.num_in_completion.entry(token).or_default() += 1;
    }

    /// Applies the penalties to `logits`, the repetition penalty first.
    pub(super) fn penalize(&self, params: &SamplingParams, logits: &mut [f32]) {
        for (&token, &count) in &self.num_in_completion {
            let Some(logit) = logits.get_mut(token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            if count > 0 {
                *logit -= params.frequency_penalty * count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}
