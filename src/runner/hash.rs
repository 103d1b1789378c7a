//! A model without arithmetic: the oracle for everything around a model.
//!
//! The "KV entry" of a token is a hash of the entry before it, the token, its position and the
//! salt, stored in a pool through the block tables that the scheduler planned; the next token is a
//! function of all entries read back. Any stale, leaked, wrongly shared or early-freed block
//! changes every later token, and [`HashModel::expected`] says in a few lines, without a pool, what
//! the right ones are.

use std::sync::Arc;

use crate::engine::plan::{Row, Sampled, Scored, SequenceId, StepPlan, TokenLogprobs};
use crate::engine::request::{Request, SamplingParams, TokenId};
use crate::runner::{Error, Executor, ExecutorLimits};

mod in_flight;

use in_flight::InFlight;

/// One token in so many ends a completion.
const EOS_EVERY: u64 = 32;

/// The hash model, its cache, and its sampler.
#[derive(Debug)]
pub struct HashModel {
    limits: ExecutorLimits,
    eos: TokenId,
    /// `[num_blocks * block_size]` KV entries by slot.
    entries: Vec<u64>,
    /// Seeds and parameters of live sequences.
    sequences: Vec<Option<(u64, Arc<SamplingParams>)>>,
    /// Steps that may be begun before the first is finished.
    depth: usize,
    in_flight: InFlight,
    /// What the last step sampled, by sample.
    last_sampled: Vec<TokenId>,
    /// `[num_tokens]` of the step: its tokens, those among them that were carried.
    token_ids: Vec<TokenId>,
    /// `[num_tokens]` of the step: a digest of all entries up to each token.
    digests: Vec<u64>,
    scored: Vec<Scored>,
}

impl HashModel {
    /// A model with a cache of `limits.num_blocks` blocks and one end token.
    pub fn new(limits: ExecutorLimits, eos: TokenId) -> Self {
        Self {
            limits,
            eos,
            entries: vec![0; limits.num_blocks as usize * limits.block_size as usize],
            sequences: (0..limits.max_num_seqs).map(|_| None).collect(),
            depth: 1,
            in_flight: InFlight::default(),
            last_sampled: Vec::new(),
            token_ids: Vec::new(),
            digests: Vec::new(),
            scored: Vec::new(),
        }
    }

    /// The same model with so many steps in flight. It computes a step when it is finished: what
    /// was given away before is lost by then.
    pub fn with_depth(self, depth: usize) -> Self {
        Self { depth, ..self }
    }

    /// The completion of `request` with this index, worked out without a pool.
    pub fn expected(&self, request: &Request, index: u32) -> Vec<TokenId> {
        let sampling = &request.sampling;
        let seed = seed_of(sampling, index);
        let (mut before, mut digest, mut position) = (0, 0, 0);
        let mut tokens = request.prompt.clone();
        let mut completion = Vec::new();
        loop {
            while position < tokens.len() {
                before = entry(before, tokens[position], position as u32, request.cache_salt);
                digest = mix(digest, before);
                position += 1;
            }
            let token = self.next_token(digest, seed, sampling, completion.len() as u32);
            tokens.push(token);
            completion.push(token);
            let stops = (token == self.eos && !sampling.ignore_eos)
                || sampling.stop_token_ids.contains(&token);
            if stops
                || completion.len() >= sampling.max_tokens as usize
                || tokens.len() >= self.limits.max_model_len as usize
            {
                return completion;
            }
        }
    }

    /// How likely each token of the prompt is from the second on, worked out without a pool.
    pub fn expected_scores(&self, request: &Request) -> Vec<Scored> {
        let (mut before, mut digest) = (0, 0);
        let tokens = request.prompt.iter().zip(request.prompt.iter().skip(1));
        let scores = (0..).zip(tokens).map(|(position, (token, next))| {
            before = entry(before, *token, position, request.cache_salt);
            digest = mix(digest, before);
            score(digest, *next, request.sampling.num_prompt_logprobs.unwrap_or(0))
        });
        scores.collect()
    }

    /// The token that follows what `digest` stands for.
    fn next_token(
        &self,
        digest: u64,
        seed: u64,
        sampling: &SamplingParams,
        num_generated: u32,
    ) -> TokenId {
        let draw = mix(digest, seed);
        let may_end = num_generated >= sampling.min_tokens;
        if may_end && draw.is_multiple_of(EOS_EVERY) {
            return self.eos;
        }
        let mut token = (draw >> 8) as u32 % self.limits.vocab_size;
        while token == self.eos || (!may_end && sampling.stop_token_ids.contains(&token)) {
            token = (token + 1) % self.limits.vocab_size;
        }
        token
    }

    /// Where the row's block table says that a position is.
    fn slot(&self, plan: &StepPlan, row: &Row, position: usize) -> Result<usize, Error> {
        let size = self.limits.block_size as usize;
        plan.block_tables[row.blocks.start as usize..row.blocks.end as usize]
            .get(position / size)
            .map(|block| block.0 as usize * size + position % size)
            .filter(|slot| *slot < self.entries.len())
            .ok_or_else(|| Error::Plan(format!("position {position} has no block")))
    }

    /// Reads back everything computed before, and writes the new tokens' entries.
    fn compute(&mut self, plan: &StepPlan, row: &Row) -> Result<(), Error> {
        let (mut before, mut digest) = (0, 0);
        for position in 0..row.num_computed as usize {
            before = self.entries[self.slot(plan, row, position)?];
            digest = mix(digest, before);
        }
        for at in row.tokens.clone() {
            let at = at as usize;
            let position = plan.positions[at];
            let slot = self.slot(plan, row, position as usize)?;
            if slot != plan.slot_mapping[at] as usize {
                return Err(Error::Plan(format!("slot of token {at} is not in its block table")));
            }
            before = entry(before, self.token_ids[at], position, row.cache_salt);
            self.entries[slot] = before;
            digest = mix(digest, before);
            self.digests[at] = digest;
        }
        Ok(())
    }

    /// Puts the tokens that were carried where they belong.
    fn carry(&mut self, plan: &StepPlan) -> Result<(), Error> {
        self.token_ids.clone_from(&plan.token_ids);
        for carry in &plan.carried {
            let token = self.last_sampled.get(carry.sample as usize);
            let place = self.token_ids.get_mut(carry.token_index as usize);
            let (Some(token), Some(place)) = (token, place) else {
                return Err(Error::Plan(format!("nothing was sampled for {carry:?}")));
            };
            *place = *token;
        }
        Ok(())
    }

    fn sequence(
        &mut self,
        id: SequenceId,
    ) -> Result<&mut Option<(u64, Arc<SamplingParams>)>, Error> {
        self.sequences
            .get_mut(id.0 as usize)
            .ok_or_else(|| Error::Plan(format!("there is no sequence {}", id.0)))
    }
}

impl Executor for HashModel {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn depth(&self) -> usize {
        self.depth
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<(), Error> {
        self.in_flight.begin(plan, self.depth).map_err(Error::Plan)
    }

    fn finish(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        self.in_flight.finish(plan).map_err(Error::Plan)?;
        for id in &plan.released {
            *self.sequence(*id)? = None;
        }
        for new in &plan.admitted {
            let state = (seed_of(&new.sampling, new.index), Arc::clone(&new.sampling));
            *self.sequence(new.sequence)? = Some(state);
        }
        self.carry(plan)?;
        self.last_sampled.clear();
        let size = self.limits.block_size as usize;
        for copy in &plan.copies {
            let from = copy.from.0 as usize * size;
            self.entries.copy_within(from..from + size, copy.to.0 as usize * size);
        }
        self.digests.clear();
        self.digests.resize(plan.token_ids.len(), 0);
        for row in &plan.rows {
            self.compute(plan, row)?;
        }
        for sample in &plan.samples {
            let Some((seed, sampling)) = self.sequence(sample.sequence)?.clone() else {
                return Err(Error::Plan(format!("{:?} is not admitted", sample.sequence)));
            };
            let first = sampled.len();
            let drafts = plan.drafts(sample).iter().copied().map(Some).chain([None]);
            for (ahead, draft) in (0..).zip(drafts) {
                let digest = self.digests[(sample.token_index + ahead) as usize];
                let token = self.next_token(digest, seed, &sampling, sample.num_generated + ahead);
                let logprobs = sampling
                    .num_logprobs
                    .map(|_| Box::new(TokenLogprobs { logprob: 0.0, top: vec![(token, 0.0)] }));
                sampled.push(Sampled { token, logprobs, end: None });
                if draft != Some(token) {
                    break;
                }
            }
            self.last_sampled.push(sampled[first].token);
        }
        for one in &plan.scores {
            let digest = self.digests[one.token_index as usize];
            self.scored.push(score(digest, one.token, one.num_logprobs));
        }
        Ok(())
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        std::mem::take(&mut self.scored)
    }
}

/// How likely a token is after what `digest` stands for.
fn score(digest: u64, token: TokenId, num_logprobs: u32) -> Scored {
    let draw = (mix(digest, token.into()) >> 16) as u16;
    let logprob = -f32::from(draw) / 4096.0;
    let top = (0..num_logprobs.min(1)).map(|_| (token, logprob)).collect();
    let logprobs = TokenLogprobs { logprob, top };
    Scored { token, rank: 1 + u32::from(draw), logprobs }
}

fn mix(a: u64, b: u64) -> u64 {
    let mut x = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^ (x >> 32)
}

fn entry(before: u64, token: TokenId, position: u32, salt: u128) -> u64 {
    let salt = mix(salt as u64, (salt >> 64) as u64);
    mix(mix(before, (u64::from(token) << 32) | u64::from(position)), salt)
}

/// Greedy completions ignore the seed, as greedy sampling does.
fn seed_of(sampling: &SamplingParams, index: u32) -> u64 {
    if sampling.temperature == 0.0 { 0 } else { mix(sampling.seed, u64::from(index) + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_completions_depend_on_every_part_of_a_request() {
        let limits = ExecutorLimits {
            block_size: 4,
            num_blocks: 8,
            max_num_batched_tokens: 32,
            max_num_seqs: 2,
            max_model_len: 32,
            vocab_size: 1000,
        };
        let model = HashModel::new(limits, 0);
        let sampling = SamplingParams {
            max_tokens: 8,
            temperature: 1.0,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let request = Request {
            prompt: vec![1, 2, 3],
            n: 1,
            sampling,
            cache_salt: 0,
            priority: 0,
            report_progress: false,
        };
        let base = model.expected(&request, 0);

        let mut other = request.clone();
        other.prompt[0] = 9;
        assert_ne!(model.expected(&other, 0), base);
        other = request.clone();
        other.cache_salt = 1;
        assert_ne!(model.expected(&other, 0), base);
        other = request.clone();
        other.sampling.seed = 1;
        assert_ne!(model.expected(&other, 0), base);
        assert_ne!(model.expected(&request, 1), base);
        assert_eq!(model.expected(&request, 0), base);
    }
}
