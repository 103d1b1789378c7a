//! Drafts of tokens to come: where they pay, and what becomes of them.
//!
//! Drafts take what a step has left: of the token budget and of its time, and blocks that nobody
//! else of the step asked for. Whatever blocks they got and did not fill are given back when the
//! step has ended, so between steps a sequence holds what it would hold without drafts.
//!
//! Where steps are planned ahead, drafts need a pause: what they follow must be known, and so must
//! what became of them before the next step is planned. So a step with drafts is alone in flight,
//! and where what is being sampled is likely to be followed by drafts that pay, its end is awaited.
//! The times that prices are made of have that pause in them.

use super::step::Census;
use super::*;
use crate::engine::drafter::Drafter;
use crate::engine::plan::MAX_DRAFTS;

/// With more sequences that decode, a step is bound by its arithmetic, and drafts do not pay.
const MAX_DRAFTING_SEQS: usize = 8;

/// Most tokens of a step that has drafts.
const MAX_TOKENS: usize = MAX_DRAFTING_SEQS + MAX_DRAFTS;

/// Tokens that each draft of a sequence may be forbidden to be, where steps are planned ahead.
const MAX_FORBIDDEN: usize = 256;

/// What a token that was never part of a step of this size is taken to add to the step's time:
/// little, so that it is tried.
const FIRST_SHARE: f64 = 0.05;

/// Weight of the newest step.
const LEARNING_RATE: f64 = 0.2;

/// Steps after which a time is forgotten, so that one measured at a bad moment is tried again.
const MEMORY: u64 = 256;

/// What steps take that only decode, by their number of tokens.
///
/// A table and not a line: matrix products compute tiles of tokens, and one token more costs
/// nothing within a tile and a whole one beyond.
#[derive(Clone, Debug)]
pub(super) struct DecodeCost {
    /// `[MAX_TOKENS + 1]`
    times: Vec<Option<Time>>,
    num_steps: u64,
}

#[derive(Clone, Copy, Debug)]
struct Time {
    seconds: f64,
    seen: u64,
}

impl Default for DecodeCost {
    fn default() -> Self {
        Self { times: vec![None; MAX_TOKENS + 1], num_steps: 0 }
    }
}

impl DecodeCost {
    /// Learns from a step, if all of its tokens were decoded or drafts.
    pub(super) fn observe(&mut self, plan: &StepPlan, took: Duration) {
        let num_decoded: usize = plan.samples.iter().map(|s| 1 + s.num_drafts as usize).sum();
        let num_tokens = plan.token_ids.len();
        if num_tokens > MAX_TOKENS || num_decoded != num_tokens {
            return;
        }
        self.num_steps += 1;
        let (num_steps, took) = (self.num_steps, took.as_secs_f64());
        let seconds = self.known(num_tokens).map_or(took, |known| {
            // A step that was interrupted says little.
            known + LEARNING_RATE * (took.min(2.0 * known) - known)
        });
        self.times[num_tokens] = Some(Time { seconds, seen: num_steps });
    }

    fn known(&self, num_tokens: usize) -> Option<f64> {
        let time = (*self.times.get(num_tokens)?)?;
        (self.num_steps - time.seen < MEMORY).then_some(time.seconds)
    }

    /// What was measured, or a little more than the largest smaller step that was.
    fn seconds(&self, num_tokens: usize) -> Option<f64> {
        (1..=num_tokens).rev().find_map(|smaller| {
            let added = (num_tokens - smaller) as f64;
            Some(self.known(smaller)? * (1.0 + FIRST_SHARE * added))
        })
    }

    /// How many tokens must be gained to make up for the time that `num_drafts` more tokens add to
    /// a step of `num_tokens`, of which `num_seqs` are not drafts.
    fn price(&self, num_seqs: usize, num_tokens: usize, num_drafts: usize) -> Option<f64> {
        let per_token = self.known(num_seqs)? / num_seqs as f64;
        let added = self.seconds(num_tokens + num_drafts)? - self.seconds(num_tokens)?;
        Some(added.max(0.0) / per_token)
    }
}

impl Scheduler {
    /// Whether so many decoding sequences may have drafts.
    pub(super) fn may_draft(&self, num_decoding: usize) -> bool {
        self.config.speculation == Speculation::PromptLookup
            && self.num_in_flight == 0
            && num_decoding <= MAX_DRAFTING_SEQS
    }

    /// Whether nothing should be planned before the step in flight is committed: it has drafts, or
    /// what it samples is likely to be followed by some.
    pub(super) fn waits_for_drafts(&mut self, census: Census) -> bool {
        if self.has_drafts_in_flight {
            return true;
        }
        let num_seqs = census.num_decoding;
        let others = census.num_prefilling + census.num_preempted + self.waiting.len();
        if self.config.speculation == Speculation::Off || num_seqs > MAX_DRAFTING_SEQS || others > 0
        {
            return false;
        }
        (0..self.order.len()).any(|at| self.foresees_drafts(self.order[at], num_seqs))
    }

    /// Whether a sequence's next token, which is being sampled, is likely to be followed by drafts.
    fn foresees_drafts(&mut self, slot: u32, num_seqs: usize) -> bool {
        let Some(sequence) = &mut self.slots[slot as usize] else { return false };
        let awaits_one = sequence.state == State::Running && sequence.num_unknown == 1;
        if !awaits_one || !may_have_drafts(sequence, self.config.depth) {
            return false;
        }
        let (max_len, cost) = (sequence.max_len, &self.decode_cost);
        if cost.known(num_seqs).is_none() {
            return false;
        }
        let most = (max_len - 1).saturating_sub(sequence.tokens.len()).min(MAX_DRAFTS);
        let drafter = sequence.drafter.get_or_insert_with(|| Box::new(Drafter::new(max_len)));
        let price = |count| cost.price(num_seqs, num_seqs, count).unwrap_or(f64::INFINITY);
        drafter.foresees(&sequence.tokens[..sequence.tokens.len() - 1], most, price)
    }

    /// Adds the rows that waited, with as many drafts as pay and fit.
    pub(super) fn plan_drafts(&mut self, plan: &mut StepPlan, budget: &mut Budget) {
        let (mut slots, mut drafts) =
            (std::mem::take(&mut self.drafting), std::mem::take(&mut self.drafts));
        let (num_seqs, mut num_drafts) = (slots.len(), 0);
        for slot in slots.drain(..) {
            let most = self.most_drafts(slot, budget).min(MAX_DRAFTS - num_drafts);
            drafts.clear();
            if most > 0 && self.decode_cost.known(num_seqs).is_some() {
                self.draft(slot, most, (num_seqs, num_seqs + num_drafts), &mut drafts);
            }
            if !drafts.is_empty() && !self.reserve(slot, 1 + drafts.len(), plan) {
                drafts.clear();
            }
            if let Some(sequence) = &self.slots[slot as usize] {
                budget.spend_drafts(drafts.len(), sequence.num_computed + 1);
            }
            num_drafts += drafts.len();
            self.push_row(slot, 1, &drafts, plan);
        }
        self.stats.num_draft_tokens += num_drafts as u64;
        self.has_drafts_in_flight = num_drafts > 0;
        (self.drafting, self.drafts) = (slots, drafts);
    }

    /// As many as end before the longest that the sequence may become, fit into the step, and
    /// leave a free block to every other sequence.
    fn most_drafts(&self, slot: u32, budget: &Budget) -> usize {
        let Some(sequence) = &self.slots[slot as usize] else { return 0 };
        if !may_have_drafts(sequence, self.config.depth) {
            return 0;
        }
        let spare = self.pool.num_free().saturating_sub(self.order.len());
        let room = (sequence.blocks.len() + spare) * self.pool.block_size();
        let most = (sequence.max_len - 1).min(room).saturating_sub(sequence.tokens.len());
        (0..=most.min(MAX_DRAFTS))
            .rev()
            .find(|count| budget.has_room(*count, sequence.num_computed + 1))
            .unwrap_or(0)
    }

    fn draft(
        &mut self,
        slot: u32,
        most: usize,
        (num_seqs, num_tokens): (usize, usize),
        drafts: &mut Vec<TokenId>,
    ) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        let max_len = sequence.max_len;
        let drafter = sequence.drafter.get_or_insert_with(|| Box::new(Drafter::new(max_len)));
        let cost = &self.decode_cost;
        let price = |count| cost.price(num_seqs, num_tokens, count).unwrap_or(f64::INFINITY);
        drafter.propose(&sequence.tokens, most, price, drafts);
        // What follows an end is never sampled.
        let sampling = &sequence.sampling;
        let ends = |token: &TokenId| {
            (!sampling.ignore_eos && self.config.eos_token_ids.contains(token))
                || sampling.stop_token_ids.contains(token)
        };
        if let Some(end) = drafts.iter().position(ends) {
            drafts.truncate(end);
        }
    }

    /// Appends a token, and one more for each draft that was right. The sequence may end before
    /// the last.
    pub(super) fn append_all(&mut self, sample: &Sample, run: impl Iterator<Item = Sampled>) {
        let slot = sample.sequence.0;
        let mut num_accepted = 0;
        for (at, sampled) in run.enumerate() {
            // All of the run is taken: what follows it is another sequence's.
            let Some(sequence) = &mut self.slots[slot as usize] else { continue };
            if sequence.has_ended() {
                continue;
            }
            if at > 0 {
                // The token before this one was a draft: its keys and values are computed.
                sequence.num_computed += 1;
                num_accepted = at;
                let num_landed = sequence.num_computed;
                self.index_blocks(slot, num_landed);
            }
            self.append(slot, sampled);
        }
        if sample.num_drafts > 0 {
            self.stats.num_accepted_tokens += num_accepted as u64;
            self.settle(slot, sample.num_drafts as usize, num_accepted);
        }
    }

    /// Learns from what became of drafts, and gives back the blocks that they did not fill.
    fn settle(&mut self, slot: u32, num_drafts: usize, num_accepted: usize) {
        let Some(sequence) = &mut self.slots[slot as usize] else { return };
        if let Some(drafter) = &mut sequence.drafter {
            drafter.learn(num_drafts, num_accepted);
        }
        let needed = (sequence.num_computed + 1).div_ceil(self.pool.block_size());
        if needed < sequence.blocks.len() {
            self.pool.release(&sequence.blocks[needed..]);
            sequence.blocks.truncate(needed);
            sequence.num_tabled = sequence.num_tabled.min(needed);
        }
    }
}

/// Completions that fork off share the row's blocks. And a device that samples by itself has what a
/// grammar allows after one token, not after several, and of each draft a list of what it must not be.
fn may_have_drafts(sequence: &Sequence, depth: usize) -> bool {
    let sampling = &sequence.sampling;
    let num_forbidden = sampling.bad_words.len() + sampling.stop_token_ids.len();
    let may_on_device = sampling.grammar.is_none() && num_forbidden <= MAX_FORBIDDEN;
    sequence.num_forks == 0 && (depth == 1 || may_on_device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::plan::SequenceId;

    /// The plan of a step that decodes one sequence with so many drafts.
    fn plan(num_drafts: u32) -> StepPlan {
        let sequence = SequenceId(0);
        StepPlan {
            token_ids: vec![0; num_drafts as usize + 1],
            samples: vec![Sample {
                sequence,
                token_index: 0,
                position: 1,
                num_generated: 0,
                num_drafts,
            }],
            ..StepPlan::default()
        }
    }

    #[test]
    fn a_price_is_what_was_measured_and_low_where_nothing_was() {
        let mut cost = DecodeCost::default();
        assert_eq!(cost.price(1, 1, 3), None);

        cost.observe(&plan(0), Duration::from_millis(10));
        let guess = cost.price(1, 1, 3).unwrap();
        assert!(guess > 0.1 && guess < 0.2, "{guess}");

        cost.observe(&plan(3), Duration::from_millis(25));
        let measured = cost.price(1, 1, 3).unwrap();
        assert!((measured - 1.5).abs() < 1e-9, "{measured}");
    }

    #[test]
    fn an_old_time_is_measured_again() {
        let mut cost = DecodeCost::default();
        cost.observe(&plan(3), Duration::from_secs(1));
        for _ in 0..MEMORY {
            cost.observe(&plan(0), Duration::from_millis(10));
        }

        assert!(cost.price(1, 1, 3).unwrap() < 0.2);
    }
}
