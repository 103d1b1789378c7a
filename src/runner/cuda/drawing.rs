//! All that draws tokens on the device: what stays there of sequences, room to draw in, and what was drawn last,
//! which the next step may begin with.

use sconce_kernels::cuda::{self, Buffer, Device, Sampling, Slice, Stages};

use super::batch::Room;
use super::deferred::{Inbox, Sent};
use super::resident::Resident;
use super::sampling::{Deferred, Needs};
use super::scores::{PromptScores, SCORE};
use crate::engine::plan::{Admission, Sampled, Score, StepPlan};
use crate::runner::sampler::Sampler;
use crate::runner::{Error, ExecutorLimits};

/// The room, and what stays.
pub(super) struct Drawing {
    sampling: Sampling,
    resident: Resident,
    deferred: Inbox,
    scores: PromptScores,
    /// `[max_num_seqs + MAX_DRAFTS]` what the last step sampled.
    sampled: Buffer,
    /// `[max_num_seqs + MAX_DRAFTS]` their log-probabilities, where they are wanted.
    logprobs: Buffer,
}

/// What a step draws from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    /// `[samples]` of rows.
    pub(super) rows: Slice<'a>,
    /// `[logits, vocab_size]`
    pub(super) logits: Slice<'a>,
    /// What all rows add to logits.
    pub(super) biases: Slice<'a>,
    /// What they must not become.
    pub(super) masked: Slice<'a>,
    /// The tokens that were computed.
    pub(super) inputs: Slice<'a>,
}

impl Drawing {
    pub(super) fn new(
        device: &Device,
        limits: &ExecutorLimits,
        room: Room,
    ) -> Result<Self, sconce_kernels::Error> {
        Ok(Self {
            sampling: Sampling::new(device, room.samples, limits.vocab_size as usize)?,
            resident: Resident::new(device, limits)?,
            deferred: Inbox::new(device, limits, room)?,
            scores: PromptScores::new(device)?,
            sampled: device.alloc_zeroed(room.samples * 4)?,
            logprobs: device.alloc_zeroed(room.samples * SCORE)?,
        })
    }

    /// Takes in sequences that are sampled for the first time.
    pub(super) fn admit(&mut self, device: &Device, admitted: &[Admission]) -> Result<(), Error> {
        self.resident.admit(device, admitted)
    }

    /// Takes in what the samples with drafts came to.
    pub(super) fn count_drafted(
        &mut self,
        device: &Device,
        sampled: (&StepPlan, &[Sampled]),
        sampler: &Sampler,
    ) -> Result<(), Error> {
        self.resident.count_drafted(device, sampled, sampler)
    }

    /// Draws a step's tokens.
    pub(super) fn draw(
        &mut self,
        device: &Device,
        source: Source<'_>,
        needs: Needs,
    ) -> Result<(), Error> {
        let Some(stages) = needs.stages else { return Ok(()) };
        let (counts, allowed) = self.resident.parts();
        let (rows, logits) = (source.rows, source.logits);
        self.sampling.sample(
            device,
            cuda::Sample {
                rows,
                logits,
                biases: Some(source.biases).filter(|list| !list.is_empty()),
                masked: Some(source.masked).filter(|list| !list.is_empty()),
                allowed: Some(allowed),
                inputs: Some(source.inputs),
                counts: Some(counts),
                sampled: self.sampled.slice_mut(),
                stages,
            },
        )?;
        if needs.logprobs {
            let (sampled, scores) = (self.sampled.slice(), self.logprobs.slice_mut());
            self.sampling.score(device, cuda::Score { rows, logits, sampled, scores })?;
        }
        Ok(())
    }

    /// Sends samples whose grammars know by now what they allow; `size` says what so many are padded to.
    pub(super) fn send_deferred(
        &mut self,
        device: &Device,
        deferred: (&[Deferred], &Sampler),
        size: impl Fn(usize) -> Option<usize>,
    ) -> Result<Option<Sent>, Error> {
        self.deferred.send(device, deferred, size)
    }

    /// Draws what was sent.
    pub(super) fn draw_deferred(
        &mut self,
        device: &Device,
        sent: &Sent,
        (logits, inputs): (Slice<'_>, Slice<'_>),
    ) -> Result<(), Error> {
        let (lists, needs) = (self.deferred.lists(sent), sent.needs);
        let rows = lists.rows;
        let (counts, _) = self.resident.parts();
        self.sampling.sample(
            device,
            cuda::Sample {
                rows,
                logits,
                biases: Some(lists.biases).filter(|list| !list.is_empty()),
                masked: Some(lists.masked).filter(|list| !list.is_empty()),
                allowed: Some(lists.allowed),
                inputs: Some(inputs),
                counts: Some(counts),
                sampled: self.sampled.slice_mut(),
                stages: needs.stages.unwrap_or(Stages::Greedy),
            },
        )?;
        if needs.logprobs {
            let (sampled, scores) = (self.sampled.slice(), self.logprobs.slice_mut());
            self.sampling.score(device, cuda::Score { rows, logits, sampled, scores })?;
        }
        Ok(())
    }

    /// Sends which of the prompts' tokens are scored, so many at a time.
    pub(super) fn send_scores(
        &mut self,
        device: &Device,
        scores: &[Score],
        max_rows: usize,
    ) -> Result<(), Error> {
        self.scores.send(device, scores, max_rows)
    }

    /// The tokens whose logits the scores from `begin` on need.
    pub(super) fn score_tokens(&self, begin: usize, len: usize) -> Slice<'_> {
        self.scores.tokens(begin, len)
    }

    /// Scores from `begin` on, as many as there are rows of logits.
    pub(super) fn score(
        &mut self,
        device: &Device,
        logits: Slice<'_>,
        (begin, len): (usize, usize),
    ) -> Result<(), Error> {
        let (rows, scores) = self.scores.part(begin, len);
        // Rows give their tokens: what was sampled is not looked at.
        let sampled = self.sampled.slice().at(0, len * 4);
        Ok(self.sampling.score(device, cuda::Score { rows, logits, sampled, scores })?)
    }

    /// The first so many scores.
    pub(super) fn scores(&self, len: usize) -> Slice<'_> {
        self.scores.scores(len)
    }

    /// `[max_num_seqs + MAX_DRAFTS]` what the last step sampled.
    pub(super) fn sampled(&self) -> Slice<'_> {
        self.sampled.slice()
    }

    /// `[max_num_seqs + MAX_DRAFTS]` their log-probabilities.
    pub(super) fn logprobs(&self) -> Slice<'_> {
        self.logprobs.slice()
    }
}
