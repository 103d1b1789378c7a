//! What the device keeps of sequences for as long as they live: the tokens that penalties count, and those that
//! a request allows. Both have a place for every sequence, named by its id, and are filled at its admission;
//! tokens are counted as they are drawn, whether the host knows them yet or not, but for those that drafts
//! turned out to be.

use sconce_kernels::cuda::{Buffer, Device, Slice, Staging, TokenCounts, bytes_of};

use super::sampling::has_penalty;
use crate::engine::plan::{Admission, Sampled, StepPlan};
use crate::runner::sampler::Sampler;
use crate::runner::{Error, ExecutorLimits};

/// Words that are sent at once, at least: the prompts of some admissions.
const MIN_ROOM: usize = 1 << 16;

/// The places, and what fills them.
pub(super) struct Resident {
    counts: TokenCounts,
    /// `[max_num_seqs, num_words]`
    allowed: Buffer,
    /// Of a row of allowed tokens: a bit for each token.
    num_words: usize,
    inbox: Buffer,
    staging: Staging,
    /// What is sent next, and whose it is.
    words: Vec<u32>,
    parts: Vec<Part>,
}

/// Words of what is sent.
struct Part {
    place: usize,
    begin: usize,
    len: usize,
    what: What,
}

enum What {
    Prompt,
    Completion,
    Allowed,
}

impl Resident {
    pub(super) fn new(
        device: &Device,
        limits: &ExecutorLimits,
    ) -> Result<Self, sconce_kernels::Error> {
        let (seqs, vocab) = (limits.max_num_seqs as usize, limits.vocab_size as usize);
        let num_words = vocab.div_ceil(32);
        let room = MIN_ROOM.max(limits.max_model_len as usize).max(num_words);
        Ok(Self {
            counts: TokenCounts::new(device, seqs, vocab)?,
            allowed: device.alloc(seqs * num_words * 4)?,
            num_words,
            inbox: device.alloc(room * 4)?,
            staging: Staging::new(device, room * 4)?,
            words: Vec::with_capacity(room),
            parts: Vec::new(),
        })
    }

    /// Fills the places of sequences that are sampled for the first time.
    pub(super) fn admit(&mut self, device: &Device, admitted: &[Admission]) -> Result<(), Error> {
        for admission in admitted {
            let (place, sampling) = (admission.sequence.0 as usize, &*admission.sampling);
            if has_penalty(sampling) {
                self.counts.clear(device, place)?;
            }
            // The others count the completion alone.
            if sampling.repetition_penalty != 1.0 {
                let mut tokens = admission.prompt.to_vec();
                tokens.sort_unstable();
                tokens.dedup();
                self.push(device, (place, What::Prompt), &tokens)?;
            }
            if !sampling.allowed_token_ids.is_empty() && sampling.grammar.is_none() {
                let bits = bits_of(&sampling.allowed_token_ids, self.num_words);
                self.push(device, (place, What::Allowed), &bits)?;
            }
        }
        self.flush(device)
    }

    /// Counts what the samples with drafts came to, which no row has counted.
    pub(super) fn count_drafted(
        &mut self,
        device: &Device,
        (plan, sampled): (&StepPlan, &[Sampled]),
        sampler: &Sampler,
    ) -> Result<(), Error> {
        let mut rest = sampled;
        for sample in &plan.samples {
            let (own, others) = rest.split_at(plan.num_sampled(sample, rest).min(rest.len()));
            rest = others;
            let counts = sampler.params(sample.sequence).is_some_and(|(it, _)| has_penalty(it));
            if sample.num_drafts > 0 && counts {
                let tokens: Vec<_> = own.iter().map(|one| one.token).collect();
                self.push(device, (sample.sequence.0 as usize, What::Completion), &tokens)?;
            }
        }
        self.flush(device)
    }

    fn push(
        &mut self,
        device: &Device,
        (place, what): (usize, What),
        words: &[u32],
    ) -> Result<(), Error> {
        if self.words.len() + words.len() > self.inbox.len() / 4 {
            self.flush(device)?;
        }
        self.parts.push(Part { place, begin: self.words.len(), len: words.len(), what });
        self.words.extend_from_slice(words);
        Ok(())
    }

    fn flush(&mut self, device: &Device) -> Result<(), Error> {
        if self.words.is_empty() {
            return Ok(());
        }
        let bytes = bytes_of(&self.words);
        self.staging.begin()?[..bytes.len()].copy_from_slice(bytes);
        self.staging.send(device, &self.inbox.slice_mut().at(0, bytes.len()))?;
        for Part { place, begin, len, what } in self.parts.drain(..) {
            let words = self.inbox.slice().at(begin * 4, len * 4);
            match what {
                What::Prompt => self.counts.add_prompt(device, place, words)?,
                What::Completion => self.counts.add_completion(device, place, words)?,
                What::Allowed => {
                    let row = self.num_words * 4;
                    device.copy(words, &mut self.allowed.slice_mut().at(place * row, row))?;
                }
            }
        }
        self.words.clear();
        Ok(())
    }

    /// Counts of the sequences with penalties, and `[max_num_seqs, ceil(vocab / 32)]` bits of allowed tokens.
    pub(super) fn parts(&mut self) -> (&mut TokenCounts, Slice<'_>) {
        (&mut self.counts, self.allowed.slice())
    }
}

/// A bit for each token, the lowest first, in so many words.
fn bits_of(tokens: &[u32], num_words: usize) -> Vec<u32> {
    let mut bits = vec![0; num_words];
    for token in tokens {
        if let Some(word) = bits.get_mut(*token as usize / 32) {
            *word |= 1 << (token % 32);
        }
    }
    bits
}
