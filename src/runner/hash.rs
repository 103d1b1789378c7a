//! A model without arithmetic: the oracle for everything around a model.
use std::sync::Arc;
use crate::engine::plan::{Row, Sampled, StepPlan};
use crate::engine::request::{Request, SamplingParams, TokenId};
use crate::runner::{Error, Executor, ExecutorLimits};
/// The hash model, its cache, and its sampler.
#[derive(Debug)]
pub struct HashModel { limits: ExecutorLimits, eos: TokenId, entries: Vec<u64>, sequences: Vec<Option<(u64, Arc<SamplingParams>)>>, digests: Vec<u64> }
fn mix(a: u64, b: u64) -> u64 {
    let mut x = (a ^ b.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 29; x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9); x ^ (x >> 32)
}
fn entry(before: u64, token: TokenId, position: u32, salt: u128) -> u64 {
    mix(mix(before, u64::from(token) << 32 | u64::from(position)), mix(salt as u64, (salt >> 64) as u64))
}
fn seed_of(sampling: &SamplingParams, index: u32) -> u64 { if sampling.temperature == 0.0 { 0 } else { mix(sampling.seed, u64::from(index) + 1) } }
impl HashModel {
    /// x
    pub fn new(limits: ExecutorLimits, eos: TokenId) -> Self {
        Self { limits, eos, entries: vec![0; limits.num_blocks as usize * limits.block_size as usize], sequences: (0..limits.max_num_seqs).map(|_| None).collect(), digests: Vec::new() }
    }
    fn token(&self, digest: u64, seed: u64, sampling: &SamplingParams, generated: u32) -> TokenId {
        let draw = mix(digest, seed);
        if draw % 32 == 0 && generated >= sampling.min_tokens { return self.eos; }
        let token = (draw >> 8) as u32 % self.limits.vocab_size;
        if token == self.eos { (token + 1) % self.limits.vocab_size } else { token }
    }
    /// x
    pub fn expected(&self, request: &Request, index: u32) -> Vec<TokenId> {
        let sampling = &request.sampling; let seed = seed_of(sampling, index);
        let (mut before, mut digest) = (0, 0); let mut tokens = request.prompt.clone(); let mut completion = Vec::new(); let mut position = 0;
        loop {
            while position < tokens.len() { before = entry(before, tokens[position], position as u32, request.cache_salt); digest = mix(digest, before); position += 1; }
            let token = self.token(digest, seed, sampling, completion.len() as u32);
            tokens.push(token); completion.push(token);
            if (token == self.eos && !sampling.ignore_eos) || completion.len() >= sampling.max_tokens as usize || tokens.len() >= self.limits.max_model_len as usize { return completion; }
        }
    }
    fn slot(&self, plan: &StepPlan, row: &Row, position: usize) -> Result<usize, Error> {
        let size = self.limits.block_size as usize;
        plan.block_tables[row.blocks.start as usize..row.blocks.end as usize].get(position / size).map(|b| b.0 as usize * size + position % size).filter(|s| *s < self.entries.len()).ok_or_else(|| Error::Plan(format!("position {position} has no block")))
    }
    fn row(&mut self, plan: &StepPlan, row: &Row) -> Result<(), Error> {
        let (mut before, mut digest) = (0, 0);
        for position in 0..row.num_computed as usize { before = self.entries[self.slot(plan, row, position)?]; digest = mix(digest, before); }
        for at in row.tokens.clone() {
            let at = at as usize; let position = plan.positions[at];
            before = entry(before, plan.token_ids[at], position, row.cache_salt);
            let slot = self.slot(plan, row, position as usize)?;
            assert_eq!(slot, plan.slot_mapping[at] as usize);
            self.entries[slot] = before; digest = mix(digest, before); self.digests[at] = digest;
        }
        Ok(())
    }
}
impl Executor for HashModel {
    fn limits(&self) -> ExecutorLimits { self.limits }
    fn forward(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        for id in &plan.released { self.sequences[id.0 as usize] = None; }
        for new in &plan.admitted { self.sequences[new.sequence.0 as usize] = Some((seed_of(&new.sampling, new.index), Arc::clone(&new.sampling))); }
        let size = self.limits.block_size as usize;
        for copy in &plan.copies { let from = copy.from.0 as usize * size; self.entries.copy_within(from..from + size, copy.to.0 as usize * size); }
        self.digests.clear(); self.digests.resize(plan.token_ids.len(), 0);
        for row in &plan.rows { self.row(plan, row)?; }
        for sample in &plan.samples {
            let (seed, sampling) = self.sequences[sample.sequence.0 as usize].as_ref().expect("admitted");
            let token = self.token(self.digests[sample.token_index as usize], *seed, sampling, sample.num_generated);
            sampled.push(Sampled { token, logprobs: None });
        }
        Ok(())
    }
}
