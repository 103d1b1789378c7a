//! What a step costs, learned from the steps before it, and how much of one is left to give out.
//!
//! A step's time is modeled as linear in its tokens (matrix products) and in the pairs of a token
//! and one that it attends to (attention). Both rates are fitted by least squares, old steps
//! counting less and less.

use std::time::Duration;

/// Tokens of prompts that a step computes at least, and at most until a step has told what a token
/// costs: a large model on a slow machine takes seconds for a hundred.
pub(super) const MIN_CHUNK: usize = 16;

/// Weight of all earlier steps when one is added.
const DECAY: f64 = 0.9;

/// Pulls the price of a pair to zero until steps have differed enough to tell it.
const RIDGE: f64 = 1e-3;

/// Tokens, and pairs of a token and one that it attends to, itself among them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    tokens: f64,
    pairs: f64,
}

impl Work {
    /// Of a row with so many new tokens after so many computed ones.
    pub(super) fn of_row(num_tokens: usize, num_computed: usize) -> Self {
        let (new, before) = (num_tokens as f64, num_computed as f64);
        Self { tokens: new, pairs: new * before + new * (new + 1.0) / 2.0 }
    }
}

impl std::iter::Sum for Work {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::default(), |sum, row| Self {
            tokens: sum.tokens + row.tokens,
            pairs: sum.pairs + row.pairs,
        })
    }
}

/// Seconds per token, and per pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rates {
    token: f64,
    pair: f64,
}

impl Rates {
    fn seconds(self, work: Work) -> f64 {
        self.token * work.tokens + self.pair * work.pairs
    }

    /// How many tokens after `num_computed` others are computed in so many seconds.
    fn tokens_in(self, seconds: f64, num_computed: usize) -> usize {
        // The root of `pair / 2 * n^2 + linear * n = seconds`, written so that `pair` may be zero.
        let linear = self.token + self.pair * (num_computed as f64 + 0.5);
        let seconds = seconds.max(0.0);
        let root = (linear * linear + 2.0 * self.pair * seconds).sqrt();
        (2.0 * seconds / (linear + root)).round() as usize
    }
}

/// The rates, and the sums that they are fitted from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StepCost {
    tokens_tokens: f64,
    tokens_pairs: f64,
    pairs_pairs: f64,
    tokens_seconds: f64,
    pairs_seconds: f64,
    rates: Option<Rates>,
}

impl StepCost {
    /// Learns from a step. Of small ones nothing can be learned about large ones.
    pub(super) fn observe(&mut self, work: Work, took: Duration) {
        let seconds = took.as_secs_f64();
        if work.tokens < MIN_CHUNK as f64 || seconds == 0.0 {
            return;
        }
        let add = |sum: &mut f64, product: f64| *sum = DECAY * *sum + product;
        add(&mut self.tokens_tokens, work.tokens * work.tokens);
        add(&mut self.tokens_pairs, work.tokens * work.pairs);
        add(&mut self.pairs_pairs, work.pairs * work.pairs);
        add(&mut self.tokens_seconds, work.tokens * seconds);
        add(&mut self.pairs_seconds, work.pairs * seconds);
        self.rates = Some(self.fit());
    }

    /// Solves the normal equations. Neither rate is negative.
    fn fit(&self) -> Rates {
        let pairs_pairs = (1.0 + RIDGE) * self.pairs_pairs;
        let determinant = self.tokens_tokens * pairs_pairs - self.tokens_pairs * self.tokens_pairs;
        let token = (self.tokens_seconds * pairs_pairs - self.pairs_seconds * self.tokens_pairs)
            / determinant;
        let pair = (self.pairs_seconds * self.tokens_tokens
            - self.tokens_seconds * self.tokens_pairs)
            / determinant;
        if pair <= 0.0 {
            Rates { token: self.tokens_seconds / self.tokens_tokens, pair: 0.0 }
        } else if token <= 0.0 {
            Rates { token: 0.0, pair: self.pairs_seconds / self.pairs_pairs }
        } else {
            Rates { token, pair }
        }
    }

    /// What a step of at most so many tokens and so long has to give out.
    pub(super) fn budget(&self, max_tokens: usize, time: Duration) -> Budget {
        let seconds = time.as_secs_f64();
        Budget { tokens: max_tokens, seconds, minimum: MIN_CHUNK, rates: self.rates }
    }
}

/// What is left of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    tokens: usize,
    seconds: f64,
    /// Tokens that are given out whatever they cost: however slow the model is, prompts go on.
    minimum: usize,
    rates: Option<Rates>,
}

impl Budget {
    /// Tokens that a sequence may compute, of `num_pending` after `num_computed`.
    pub(super) fn chunk(&self, num_pending: usize, num_computed: usize) -> usize {
        let fits = self.rates.map_or(0, |rates| rates.tokens_in(self.seconds, num_computed));
        num_pending.min(self.tokens).min(fits.max(self.minimum))
    }

    pub(super) fn is_spent(&self) -> bool {
        self.chunk(1, 0) == 0
    }

    /// Takes a stream's next token off.
    pub(super) fn spend_decode(&mut self, num_computed: usize) {
        self.tokens = self.tokens.saturating_sub(1);
        self.spend_time(Work::of_row(1, num_computed));
    }

    /// Whether so many drafts after `num_computed` tokens fit into what is left.
    pub(super) fn has_room(&self, num_drafts: usize, num_computed: usize) -> bool {
        let work = Work::of_row(num_drafts, num_computed);
        num_drafts <= self.tokens
            && self.rates.is_none_or(|rates| rates.seconds(work) <= self.seconds)
    }

    /// Takes a sequence's drafts off.
    pub(super) fn spend_drafts(&mut self, num_drafts: usize, num_computed: usize) {
        self.tokens = self.tokens.saturating_sub(num_drafts);
        self.spend_time(Work::of_row(num_drafts, num_computed));
    }

    /// Takes a chunk of a prompt off.
    pub(super) fn spend_chunk(&mut self, num_tokens: usize, num_computed: usize) {
        self.tokens = self.tokens.saturating_sub(num_tokens);
        self.minimum = self.minimum.saturating_sub(num_tokens);
        self.spend_time(Work::of_row(num_tokens, num_computed));
    }

    fn spend_time(&mut self, work: Work) {
        self.seconds -= self.rates.map_or(0.0, |rates| rates.seconds(work));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Has seen a prompt of 1,000 tokens in chunks of 100.
    fn learned(token: f64, pair: f64) -> StepCost {
        let mut cost = StepCost::default();
        for start in (0..1000).step_by(100) {
            let work = Work::of_row(100, start);
            cost.observe(work, Duration::from_secs_f64(Rates { token, pair }.seconds(work)));
        }
        cost
    }

    proptest! {
        #[test]
        fn a_chunk_takes_the_time_that_it_may(
            token in 1e-5..1e-2_f64, pair in 0.0..1e-5_f64, before in 0..4000_usize,
        ) {
            let rates = Rates { token, pair };
            let seconds = |num_tokens| rates.seconds(Work::of_row(num_tokens, before));
            let budget = learned(token, pair).budget(1 << 20, Duration::from_secs(1));
            let chunk = budget.chunk(1 << 20, before);

            if chunk > MIN_CHUNK {
                prop_assert!(seconds(chunk) < 1.05, "{chunk} tokens take {} s", seconds(chunk));
                prop_assert!(seconds(chunk + 1) > 0.95, "{chunk} tokens take {} s", seconds(chunk));
            } else {
                prop_assert!(seconds(MIN_CHUNK + 1) > 0.95);
            }
        }
    }

    #[test]
    fn one_step_tells_the_price_of_a_token() {
        let mut cost = StepCost::default();
        cost.observe(Work::of_row(MIN_CHUNK, 0), Duration::from_millis(16));

        assert_eq!(cost.budget(1000, Duration::from_millis(101)).chunk(1000, 0), 101);
    }

    #[test]
    fn small_steps_tell_nothing() {
        let mut cost = StepCost::default();
        cost.observe(Work::of_row(1, 5000), Duration::from_secs(1));

        assert!(cost.rates.is_none());
    }

    #[test]
    fn the_minimum_is_given_out_once() {
        let mut budget = StepCost::default().budget(1000, Duration::from_secs(1));

        assert_eq!(budget.chunk(10, 0), 10);
        budget.spend_chunk(10, 0);
        assert_eq!(budget.chunk(100, 0), MIN_CHUNK - 10);
        budget.spend_chunk(MIN_CHUNK - 10, 0);
        assert!(budget.is_spent());
    }
}
