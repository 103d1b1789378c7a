//! Log-probabilities of the sampled and the likeliest tokens.

use super::candidates::descending;
use super::vector::log_sum_exp;
use crate::engine::plan::{Scored, TokenLogprobs};
use crate::engine::request::TokenId;

/// Room to compute them in.
#[derive(Debug, Default)]
pub(super) struct Logprobs {
    exponentials: Vec<f32>,
    ranks: Vec<u64>,
}

impl Logprobs {
    /// Returns the log-probabilities of `token` and of the `n` likeliest tokens under the softmax
    /// of `logits`. A token whose logit is not a number has probability 0.
    pub(super) fn of(&mut self, logits: &[f32], token: TokenId, n: usize) -> TokenLogprobs {
        let normalizer = log_sum_exp(logits, &mut self.exponentials);
        let logprob = |token: TokenId| {
            let logit = f64::from(logits[token as usize].min(f32::MAX));
            let logprob = logit - normalizer;
            // Also catches a row of nothing but negative infinities.
            if logits[token as usize].is_nan() || logprob.is_nan() {
                f32::NEG_INFINITY
            } else {
                logprob.min(0.0) as f32
            }
        };
        let top = self.top(logits, n).iter().map(|&rank| rank as TokenId);
        TokenLogprobs { top: top.map(|id| (id, logprob(id))).collect(), logprob: logprob(token) }
    }

    /// As [`Self::of`], with the token's rank: 1 for the likeliest.
    pub(super) fn score(&mut self, logits: &[f32], token: TokenId, n: usize) -> Scored {
        let logprobs = self.of(logits, token, n);
        let own = logits[token as usize];
        let rank = 1 + logits.iter().filter(|logit| **logit > own).count() as u32;
        Scored { token, rank, logprobs }
    }

    /// The `n` likeliest tokens, best first, of equal ones the lower ids, in the low halves.
    fn top(&mut self, logits: &[f32], n: usize) -> &[u64] {
        self.ranks.clear();
        if n == 0 {
            return &[];
        }
        self.ranks.extend(logits.iter().enumerate().map(|(id, &logit)| {
            let logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit };
            u64::from(descending(logit)) << 32 | id as u64
        }));
        if n < self.ranks.len() {
            self.ranks.select_nth_unstable(n - 1);
            self.ranks.truncate(n);
        }
        self.ranks.sort_unstable();
        &self.ranks
    }
}
