//! Decides how many drafts of a sequence's next tokens are worth computing.
//!
//! Drafts pay when enough of them turn out right, and how often they do depends on the text and on
//! the length of the run that was found again. Both are learned from the sequence's own drafts. A
//! sequence whose drafts do not pay is left alone, and tried again ever more rarely.

use super::prompt_lookup::{LENGTHS, PromptLookup, continue_from};
use super::request::TokenId;

/// How many drafts there may be. With the token before them they fill tiles of a matrix product.
const COUNTS: [usize; 2] = [3, 7];

/// What a draft is taken to be worth at first, by the length of the run: the chance that it is
/// right if those before it were.
const FIRST_RATES: [f64; LENGTHS.len()] = [0.5, 0.4, 0.3];

/// Weight of the newest outcome.
const LEARNING_RATE: f64 = 1.0 / 6.0;

/// Estimates err: what is gained must be so many times the price.
const MARGIN: f64 = 1.1;

/// Steps with a match that are let pass before drafts are tried that should not pay.
const MIN_RETRY: u32 = 32;
const MAX_RETRY: u32 = 512;

/// Drafts the next tokens of one sequence.
#[derive(Clone, Debug)]
pub(crate) struct Drafter {
    lookup: PromptLookup,
    rates: [f64; LENGTHS.len()],
    /// The length that the drafts in flight were found by.
    length: usize,
    foreseen: Option<Foreseen>,
    /// Steps with a match since the last drafts.
    num_skipped: u32,
    retry_after: u32,
}

/// What a token that is being sampled is taken to be, as drafts are to follow it.
#[derive(Clone, Copy, Debug)]
struct Foreseen {
    /// Which of the sequence's tokens it is.
    at: usize,
    token: TokenId,
    /// The length that it was found by.
    length: usize,
}

impl Drafter {
    /// A drafter of a sequence of at most `max_len` tokens.
    pub(crate) fn new(max_len: usize) -> Self {
        Self {
            lookup: PromptLookup::new(max_len),
            rates: FIRST_RATES,
            length: 0,
            foreseen: None,
            num_skipped: 0,
            retry_after: MIN_RETRY,
        }
    }

    /// Puts up to `most` drafts of what follows `tokens` into `drafts`. `price` says how many
    /// tokens a number of drafts must bring to be worth it.
    pub(crate) fn propose(
        &mut self,
        tokens: &[TokenId],
        most: usize,
        price: impl Fn(usize) -> f64,
        drafts: &mut Vec<TokenId>,
    ) {
        drafts.clear();
        self.learn_foreseen(tokens);
        let Some(found) = self.lookup.find(tokens) else { return };
        self.length = found.length;
        let count = self.count(found.length, most, price);
        continue_from(tokens, found.next, count, drafts);
    }

    /// Whether the token after `tokens`, which is being sampled, is likely to be one that drafts
    /// which pay can follow. What was said of it is learned from by the next [`Self::propose`].
    pub(crate) fn foresees(
        &mut self,
        tokens: &[TokenId],
        most: usize,
        price: impl Fn(usize) -> f64,
    ) -> bool {
        self.foreseen = None;
        let Some(found) = self.lookup.find(tokens) else { return false };
        if self.count(found.length, most, price) == 0 {
            return false;
        }
        let token = tokens.get(found.next).copied();
        self.foreseen =
            token.map(|token| Foreseen { at: tokens.len(), token, length: found.length });
        self.foreseen.is_some()
    }

    /// How many drafts to compute, of a run of this length.
    fn count(&mut self, length: usize, most: usize, price: impl Fn(usize) -> f64) -> usize {
        let rate = self.rates[length];
        let gain = |count: usize| expected(rate, count) - MARGIN * price(count);
        let counts = COUNTS.map(|count| count.min(most));
        let best = counts.into_iter().max_by(|a, b| gain(*a).total_cmp(&gain(*b))).unwrap_or(0);
        if gain(best) > 0.0 {
            best
        } else if self.num_skipped >= self.retry_after {
            counts[0]
        } else {
            self.num_skipped += 1;
            0
        }
    }

    /// A token that was foreseen and came is as good as a draft that was right; what may follow it
    /// is still to be tried.
    fn learn_foreseen(&mut self, tokens: &[TokenId]) {
        let Some(Foreseen { at, token, length }) = self.foreseen.take() else { return };
        match tokens.get(at) {
            Some(came) if *came == token => self.rates[length] = toward(self.rates[length], 1.0),
            Some(_) => {
                self.length = length;
                self.learn(1, 0);
            }
            None => {}
        }
    }

    /// Learns that so many of the drafts in flight were right.
    pub(crate) fn learn(&mut self, num_drafts: usize, num_accepted: usize) {
        let rate = &mut self.rates[self.length];
        for at in 0..num_drafts.min(num_accepted + 1) {
            *rate = toward(*rate, if at < num_accepted { 1.0 } else { 0.0 });
        }
        if num_accepted > 0 {
            self.retry_after = MIN_RETRY;
        } else if self.num_skipped >= self.retry_after {
            self.retry_after = (2 * self.retry_after).min(MAX_RETRY);
        }
        self.num_skipped = 0;
    }
}

fn toward(rate: f64, outcome: f64) -> f64 {
    rate + LEARNING_RATE * (outcome - rate)
}

/// How many of `count` drafts are right, on average, when the first wrong one ends them.
fn expected(rate: f64, count: usize) -> f64 {
    (1..=count as i32).map(|n| rate.powi(n)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Drafts of 1,000 steps of a text in which `is_right` says how many drafts are.
    fn run(price: f64, num_right: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut drafter = Drafter::new(2000);
        let (mut drafts, mut tokens) = (Vec::new(), vec![1, 2, 3, 1, 2, 3]);
        (0..1000)
            .map(|step| {
                tokens.push(tokens[tokens.len() - 3]);
                drafter.propose(&tokens, 7, |count| price * count as f64, &mut drafts);
                if !drafts.is_empty() {
                    drafter.learn(drafts.len(), num_right(step).min(drafts.len()));
                }
                drafts.len()
            })
            .collect()
    }

    #[test]
    fn drafts_that_are_right_become_as_many_as_may_be() {
        let counts = run(0.1, |_| 7);

        assert!(counts[10..].iter().all(|count| *count == 7), "{counts:?}");
    }

    #[test]
    fn drafts_that_are_wrong_end_and_are_rarely_tried_again() {
        let counts = run(0.1, |_| 0);

        let tail: Vec<_> = counts[100..].iter().filter(|count| **count > 0).collect();
        assert!((2..6).contains(&tail.len()), "{tail:?}");
        assert!(tail.iter().all(|count| **count == 3), "{tail:?}");
    }

    #[test]
    fn a_text_that_begins_to_repeat_is_found_out() {
        let counts = run(0.1, |step| if step < 200 { 0 } else { 7 });

        assert!(counts[150..200].iter().filter(|count| **count > 0).count() <= 1);
        assert!(counts[400..].iter().all(|count| *count == 7));
    }

    #[test]
    fn nothing_is_drafted_where_a_draft_costs_as_much_as_a_token() {
        let counts = run(1.0, |_| 7);

        // But for the tries.
        assert!(counts.iter().filter(|count| **count > 0).count() < 40);
    }

    /// Whether each of 1,000 tokens was waited for, of a text in which `is_right` says whether the
    /// one that was foreseen came.
    fn waits(price: f64, is_right: impl Fn(usize) -> bool) -> Vec<bool> {
        let mut drafter = Drafter::new(2000);
        let (mut drafts, mut tokens) = (Vec::new(), vec![1, 2, 3, 1, 2, 3]);
        let price = |count| price * count as f64;
        (0..1000)
            .map(|step| {
                let waits = drafter.foresees(&tokens, 7, price);
                let next = tokens[tokens.len() - 3];
                if waits && !is_right(step) {
                    let mut wrong = tokens.clone();
                    wrong.push(9);
                    drafter.learn_foreseen(&wrong);
                } else if waits {
                    tokens.push(next);
                    drafter.propose(&tokens, 7, price, &mut drafts);
                    assert!(!drafts.is_empty(), "it was waited for");
                    drafter.learn(drafts.len(), drafts.len());
                }
                waits
            })
            .collect()
    }

    #[test]
    fn what_is_foreseen_and_comes_is_waited_for_and_what_does_not_is_not_for_long() {
        assert!(waits(0.1, |_| true).iter().all(|waits| *waits));

        let tail = waits(0.1, |_| false)[100..].iter().filter(|waits| **waits).count();
        assert!((2..6).contains(&tail), "{tail}");

        let later = waits(0.1, |step| step >= 200);
        assert!(later[400..].iter().all(|waits| *waits));
    }

    #[test]
    fn nothing_is_waited_for_where_a_draft_costs_as_much_as_a_token() {
        let num_waits = waits(1.0, |_| true).iter().filter(|waits| **waits).count();

        // But for the tries.
        assert!(num_waits < 40, "{num_waits}");
    }

    #[test]
    fn no_more_is_drafted_than_there_is_room_for() {
        let mut drafter = Drafter::new(100);
        let mut drafts = Vec::new();
        let tokens = [1, 2, 3, 4, 1, 2, 3, 4];
        for most in 0..=7 {
            drafter.propose(&tokens, most, |_| 0.0, &mut drafts);
            assert!(drafts.len() <= most);
            assert_eq!(drafts.is_empty(), most == 0);
            drafter.learn(drafts.len(), drafts.len());
        }
    }
}
