//! Chooses the next token of each sequence from the model's logits.
//!
//! The order is vLLM's: log-probabilities of the model's own distribution; then end tokens are
//! masked until `min_tokens`, logit biases added, and penalties applied (repetition, frequency,
//! presence). What would complete a bad word is masked then, and last what the grammar or the request
//! does not allow. Greedy sampling takes the likeliest of what results. Otherwise temperature, min-p,
//! top-k, top-p and, which vLLM has not, typical-p follow, each on what its predecessors left,
//! renormalized.
//!
//! A draw is a pure function of the logits, the request's seed, the completion's index and the
//! token's position, so that a stream goes on identically wherever it is taken up, and drafts that
//! are right change nothing but the time it takes.
//!
//! Logits that are not numbers never win. When nothing is left, because all is masked or nothing
//! was a number, the likeliest allowed token of the model's own distribution is taken, or the first
//! that is allowed. Where that would complete a bad word too, the completion ends.

mod bad_words;
mod candidates;
mod constraint;
#[cfg(test)]
mod constraint_tests;
mod logprobs;
#[cfg(feature = "cuda")]
pub(crate) mod on_device;
mod philox;
mod token_counts;
mod vector;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sconce_kernels::cpu::{Argmax, Cpu};

use self::bad_words::BadWords;
use self::candidates::Candidates;
use self::constraint::{Constraint, Mask};
use self::logprobs::Logprobs;
use self::token_counts::TokenCounts;
use crate::engine::plan::{
    Admission, ConstraintEnd, Sample, Sampled, Score, Scored, SequenceId, StepPlan,
};
use crate::engine::request::{SamplingParams, TokenId};
use crate::grammar::Ahead;
use crate::runner::Error;
use crate::runner::input::Input;

/// The live sequences' sampling states, and room to sample in.
#[derive(Debug)]
pub struct Sampler {
    /// The model's own end tokens.
    eos_token_ids: Vec<TokenId>,
    sequences: HashMap<SequenceId, SequenceState>,
    workers: Vec<Worker>,
    /// What all workers have sampled, by sample.
    gathered: Vec<(usize, Sampled)>,
    /// Finds what grammars allow next while the model computes.
    ahead: Ahead,
    step: u64,
    /// Whether sequences with penalties have their tokens counted here.
    counts_tokens: bool,
}

/// Sampled from: a `[num_rows, vocab_size]` matrix, and which row each sample uses.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    /// Row-major.
    pub values: &'a [f32],
    /// Width of a row.
    pub vocab_size: usize,
    /// One per sample, of its first token; its drafts' rows follow. Samples may share a row.
    pub rows: &'a [u32],
    /// One per row, or none. Where it is wanted, it takes the row's place.
    pub argmax: &'a [Argmax],
}

/// What a token is chosen by.
#[derive(Clone, Copy)]
enum RowLogits<'a> {
    /// `[vocab_size]`
    All(&'a [f32]),
    /// Nothing but the likeliest token is wanted.
    Likeliest(TokenId),
}

impl<'a> Logits<'a> {
    /// The rows from one on.
    fn rows_from(&self, first: usize) -> impl Iterator<Item = RowLogits<'a>> + use<'a> {
        let (argmax, vocab_size) = (self.argmax, self.vocab_size);
        let rows = self.values[first * vocab_size..].chunks_exact(vocab_size);
        (first..).zip(rows).map(move |(row, logits)| match argmax.get(row) {
            // As of a row of logits none of which is a number.
            Some(argmax) if argmax.is_wanted() => RowLogits::Likeliest(argmax.row().unwrap_or(0)),
            _ => RowLogits::All(logits),
        })
    }
}

/// What sampling a sequence needs beside the logits, from admission to release.
#[derive(Debug)]
struct SequenceState {
    params: Arc<SamplingParams>,
    /// Which of its request's completions it is.
    index: u32,
    /// Kept only when a penalty needs them.
    token_counts: Option<TokenCounts>,
    bad_words: Option<BadWords>,
    constraint: Option<Constraint>,
    /// The last step that sampled it, to find one that does so twice.
    sampled_in: u64,
}

/// One thread's room, and what it has sampled.
#[derive(Debug, Default)]
struct Worker {
    scratch: Scratch,
    sampled: Vec<(usize, Sampled)>,
    scored: Vec<(usize, Scored)>,
}

#[derive(Debug, Default)]
struct Scratch {
    adjusted: Vec<f32>,
    candidates: Candidates,
    logprobs: Logprobs,
}

impl Sampler {
    /// Makes a sampler of a model that ends its completions with any of `eos_token_ids`, for up
    /// to `num_threads` threads.
    pub fn new(eos_token_ids: Vec<TokenId>, num_threads: usize) -> Self {
        let workers = (0..num_threads.max(1)).map(|_| Worker::default()).collect();
        let sequences = HashMap::new();
        let (gathered, ahead) = (Vec::new(), Ahead::default());
        let (step, counts_tokens) = (0, true);
        Self { eos_token_ids, sequences, workers, gathered, ahead, step, counts_tokens }
    }

    /// Sequences admitted and not released.
    pub fn num_sequences(&self) -> usize {
        self.sequences.len()
    }

    /// Forgets the plan's released sequences, also ones never admitted, and learns its admitted
    /// ones.
    pub fn update(&mut self, plan: &StepPlan) -> Result<(), Error> {
        for sequence in &plan.released {
            self.sequences.remove(sequence);
        }
        for admission in &plan.admitted {
            let state = if self.counts_tokens {
                SequenceState::new(admission)
            } else {
                SequenceState::uncounted(admission)
            };
            if self.sequences.insert(admission.sequence, state).is_some() {
                let SequenceId(id) = admission.sequence;
                return Err(Error::Plan(format!("sequence {id} is admitted and alive already")));
            }
        }
        Ok(())
    }

    /// Finds the rows of logits of which nothing is wanted but the likeliest token. A plan that
    /// does not fit is for [`Self::sample`] to refuse.
    pub(crate) fn find_greedy_rows(&self, plan: &StepPlan, input: &mut Input) {
        let Input { logits_tokens, logits_rows, greedy_rows, .. } = input;
        greedy_rows.clear();
        greedy_rows.resize(logits_tokens.len(), true);
        for (sample, &first) in plan.samples.iter().zip(&*logits_rows) {
            let state = self.sequences.get(&sample.sequence);
            let is_greedy = |state| One::new(state, &self.eos_token_ids, *sample).is_greedy();
            if !state.is_some_and(is_greedy) {
                let end = (first + sample.num_drafts) as usize;
                greedy_rows[first as usize..=end].fill(false);
            }
        }
    }

    /// Samples what the plan asks for and appends it to `sampled`, on `cpu`'s threads.
    pub fn sample(
        &mut self,
        cpu: &Cpu,
        plan: &StepPlan,
        logits: Logits<'_>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), Error> {
        self.check(&plan.samples, logits)?;
        let next = AtomicUsize::new(0);
        let (sequences, eos_token_ids) = (&self.sequences, &self.eos_token_ids);
        let num_workers = self.workers.len().min(plan.samples.len());
        cpu.parallel(&mut self.workers[..num_workers], |_, worker| {
            while let Some((i, sample)) = take(&next, &plan.samples) {
                let one = One::new(&sequences[&sample.sequence], eos_token_ids, *sample);
                let rows = logits.rows_from(logits.rows[i] as usize);
                one.sample_all(rows, plan.drafts(sample), &mut worker.scratch, |sampled| {
                    worker.sampled.push((i, sampled));
                });
            }
        });
        self.collect(&plan.samples, sampled);
        Ok(())
    }

    /// Appends how likely each token was to `scored`. `logits`: `[num_scores, vocab_size]`.
    pub fn score(
        &mut self,
        cpu: &Cpu,
        (scores, vocab_size): (&[Score], usize),
        logits: &[f32],
        scored: &mut Vec<Scored>,
    ) {
        let next = AtomicUsize::new(0);
        let num_workers = self.workers.len().min(scores.len());
        cpu.parallel(&mut self.workers[..num_workers], |_, worker| {
            while let Some((i, score)) = take(&next, scores) {
                let row = &logits[i * vocab_size..][..vocab_size];
                let num_logprobs = score.num_logprobs as usize;
                let one = worker.scratch.logprobs.score(row, score.token, num_logprobs);
                worker.scored.push((i, one));
            }
        });
        let mut gathered: Vec<_> =
            self.workers.iter_mut().flat_map(|worker| worker.scored.drain(..)).collect();
        gathered.sort_by_key(|(i, _)| *i);
        scored.extend(gathered.into_iter().map(|(_, one)| one));
    }

    fn check(&mut self, samples: &[Sample], logits: Logits<'_>) -> Result<(), Error> {
        self.step += 1;
        let num_rows = logits.values.len() / logits.vocab_size.max(1);
        let ends_beyond =
            |(row, sample): (&u32, &Sample)| (row + sample.num_drafts) as usize >= num_rows;
        if logits.rows.len() != samples.len() || logits.rows.iter().zip(samples).any(ends_beyond) {
            return Err(Error::Plan("samples do not fit the rows of logits".into()));
        }
        for sample in samples {
            let SequenceId(id) = sample.sequence;
            let Some(state) = self.sequences.get_mut(&sample.sequence) else {
                return Err(Error::Plan(format!("sequence {id} is sampled and was not admitted")));
            };
            if std::mem::replace(&mut state.sampled_in, self.step) == self.step {
                return Err(Error::Plan(format!("sequence {id} is sampled twice in a step")));
            }
        }
        Ok(())
    }

    /// Appends what the workers sampled to `sampled`, in the order of `samples`, and counts it.
    fn collect(&mut self, samples: &[Sample], sampled: &mut Vec<Sampled>) {
        for worker in &mut self.workers {
            self.gathered.append(&mut worker.sampled);
        }
        // Stable: a sample's tokens stay in order.
        self.gathered.sort_by_key(|(i, _)| *i);
        for (i, one) in self.gathered.drain(..) {
            if let Some(state) = self.sequences.get_mut(&samples[i].sequence) {
                if let Some(counts) = &mut state.token_counts {
                    counts.add(one.token);
                }
                if let Some(words) = &mut state.bad_words {
                    words.add(one.token);
                }
                if let Some(Constraint::Grammar(walk)) = &state.constraint {
                    self.ahead.prepare(walk);
                }
            }
            sampled.push(one);
        }
    }
}

/// Takes the next one that no thread has taken.
fn take<'a, T>(next: &AtomicUsize, all: &'a [T]) -> Option<(usize, &'a T)> {
    let i = next.fetch_add(1, Ordering::Relaxed);
    all.get(i).map(|one| (i, one))
}

impl SequenceState {
    fn new(admission: &Admission) -> Self {
        let token_counts = TokenCounts::needed_by(&admission.sampling, &admission.prompt);
        Self { token_counts, ..Self::uncounted(admission) }
    }

    fn uncounted(admission: &Admission) -> Self {
        Self {
            params: Arc::clone(&admission.sampling),
            index: admission.index,
            token_counts: None,
            bad_words: BadWords::needed_by(&admission.sampling),
            constraint: Constraint::needed_by(&admission.sampling),
            sampled_in: 0,
        }
    }
}

/// One token to sample, and what decides it.
struct One<'a> {
    state: &'a SequenceState,
    token_counts: Option<Cow<'a, TokenCounts>>,
    bad_words: Option<Cow<'a, BadWords>>,
    eos_token_ids: &'a [TokenId],
    sample: Sample,
}

impl<'a> One<'a> {
    fn new(state: &'a SequenceState, eos_token_ids: &'a [TokenId], sample: Sample) -> Self {
        let token_counts = state.token_counts.as_ref().map(Cow::Borrowed);
        let bad_words = state.bad_words.as_ref().map(Cow::Borrowed);
        Self { state, token_counts, bad_words, eos_token_ids, sample }
    }

    /// Samples from the first of `rows`, and from the next for as long as the draft for it is what
    /// was sampled.
    fn sample_all<'l>(
        mut self,
        rows: impl Iterator<Item = RowLogits<'l>>,
        drafts: &[TokenId],
        scratch: &mut Scratch,
        mut push: impl FnMut(Sampled),
    ) {
        let drafts = drafts.iter().copied().map(Some).chain([None]);
        let mut constraint = self.state.constraint.as_ref().map(Constraint::begin);
        for (logits, draft) in rows.zip(drafts) {
            let mask = constraint.as_mut().map_or(Ok(None), |constraint| constraint.mask());
            let is_exhausted = mask.is_err();
            let mut sampled = match logits {
                RowLogits::All(logits) => self.sample((logits, mask.unwrap_or_default()), scratch),
                RowLogits::Likeliest(token) => Sampled { token, logprobs: None, end: None },
            };
            sampled.end = match &mut constraint {
                _ if is_exhausted => Some(ConstraintEnd::Exhausted),
                _ if sampled.end.is_some() => sampled.end,
                Some(constraint) => constraint.accept(sampled.token),
                None => None,
            };
            let token = sampled.token;
            push(sampled);
            if draft != Some(token) {
                return;
            }
            self.sample.position += 1;
            self.sample.num_generated += 1;
            if let Some(counts) = &mut self.token_counts {
                counts.to_mut().add(token);
            }
            if let Some(words) = &mut self.bad_words {
                words.to_mut().add(token);
            }
        }
    }

    /// `logits`: `[vocab_size]`, as the model gave them.
    fn sample(&self, (logits, mask): (&[f32], Option<Mask<'_>>), scratch: &mut Scratch) -> Sampled {
        let Some(token) = self.token((logits, mask), scratch) else {
            return Sampled { token: 0, logprobs: None, end: Some(ConstraintEnd::BadWord) };
        };
        let logprobs = self
            .state
            .params
            .num_logprobs
            .map(|n| Box::new(scratch.logprobs.of(logits, token, n as usize)));
        Sampled { token, logprobs, end: None }
    }

    /// `None`: bad words leave none.
    fn token(
        &self,
        (logits, mask): (&[f32], Option<Mask<'_>>),
        scratch: &mut Scratch,
    ) -> Option<TokenId> {
        let adjusted = if self.adjusts() || mask.is_some() {
            scratch.adjusted.clear();
            scratch.adjusted.extend_from_slice(logits);
            self.adjust(&mut scratch.adjusted);
            if let Some(mask) = mask {
                mask.apply(&mut scratch.adjusted);
            }
            &scratch.adjusted
        } else {
            logits
        };
        let chosen = if self.state.params.temperature > 0.0 {
            self.draw(adjusted, &mut scratch.candidates)
        } else {
            vector::argmax(adjusted)
        };
        chosen.or_else(|| self.likeliest((logits, mask), &mut scratch.adjusted))
    }

    /// The likeliest allowed token of the model's own distribution, or the first that is allowed.
    fn likeliest(
        &self,
        (logits, mask): (&[f32], Option<Mask<'_>>),
        scratch: &mut Vec<f32>,
    ) -> Option<TokenId> {
        scratch.clear();
        scratch.extend_from_slice(logits);
        self.forbid(mask, scratch);
        vector::argmax(scratch).or_else(|| {
            scratch.fill(0.0);
            self.forbid(mask, scratch);
            scratch.iter().position(|logit| *logit == 0.0).map(|token| token as TokenId)
        })
    }

    fn forbid(&self, mask: Option<Mask<'_>>, logits: &mut [f32]) {
        if let Some(words) = &self.bad_words {
            words.mask(logits);
        }
        if let Some(mask) = mask {
            mask.apply(logits);
        }
    }

    /// Whether nothing decides but which logit is the greatest.
    fn is_greedy(&self) -> bool {
        let SamplingParams { temperature, num_logprobs, .. } = &*self.state.params;
        let is_drawn = *temperature > 0.0;
        !is_drawn && num_logprobs.is_none() && self.state.constraint.is_none() && !self.adjusts()
    }

    fn adjusts(&self) -> bool {
        self.masks_end_tokens()
            || !self.state.params.logit_bias.is_empty()
            || self.token_counts.is_some()
            || self.bad_words.is_some()
    }

    fn masks_end_tokens(&self) -> bool {
        self.sample.num_generated < self.state.params.min_tokens
    }

    /// Tokens outside the vocabulary, which no sequence can gain, are passed over.
    fn adjust(&self, logits: &mut [f32]) {
        let params = &*self.state.params;
        for &(token, bias) in &params.logit_bias {
            if let Some(logit) = logits.get_mut(token as usize) {
                *logit += bias;
            }
        }
        if let Some(counts) = &self.token_counts {
            counts.penalize(params, logits);
        }
        if let Some(words) = &self.bad_words {
            words.mask(logits);
        }
        if self.masks_end_tokens() {
            let eos: &[TokenId] = if params.ignore_eos { &[] } else { self.eos_token_ids };
            for &token in eos.iter().chain(&params.stop_token_ids) {
                if let Some(logit) = logits.get_mut(token as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
    }

    fn draw(&self, logits: &[f32], candidates: &mut Candidates) -> Option<TokenId> {
        let params = &*self.state.params;
        filter(params, logits, candidates);
        candidates.draw(philox::uniform(params.seed, self.state.index, self.sample.position))
    }
}

/// Leaves the tokens that may be drawn in `candidates`, weighed.
fn filter(params: &SamplingParams, logits: &[f32], candidates: &mut Candidates) {
    let minimum = if params.min_p > 0.0 {
        // p / p_max >= min_p, without the exponentials.
        vector::max(logits).min(f32::MAX) + params.temperature * params.min_p.ln()
    } else {
        f32::MIN
    };
    candidates.collect(logits, minimum);
    if let Some(k) = params.top_k {
        candidates.keep_top_k(k as usize);
    }
    candidates.weigh(params.temperature);
    if params.top_p < 1.0 {
        candidates.keep_top_p(params.top_p, params.temperature);
    }
    if params.typical_p < 1.0 {
        candidates.keep_typical(params.typical_p);
    }
}

#[cfg(test)]
mod tests;
