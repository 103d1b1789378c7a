//! A step that was begun: what it yields, and what must be remembered of it until then.

use sconce_kernels::cuda::{self, Device, Event, NO_TOKEN, Readback, Slice, TokenScore};

use super::drawing::Drawing;
use super::sampling::{Deferred, Needs};
use super::scores::{self, SCORE};
use crate::engine::plan::{MAX_SCORES, Sampled, Scored, SequenceId, StepPlan};
use crate::runner::Error;
use crate::runner::sampler::Sampler;

/// A step on its way.
pub(super) struct Flight {
    /// `[num_rows]` tokens: of each sample one, and one for each of its drafts.
    tokens: Readback,
    /// `[num_rows]` of [`TokenScore`], where any sample wants it.
    logprobs: Readback,
    /// Of the prompts' tokens that are scored.
    scores: Readback,
    num_rows: usize,
    has_drafts: bool,
    has_logprobs: bool,
    /// Samples that are not drawn yet.
    deferred: Vec<Deferred>,
    times: Option<[Event; 2]>,
}

impl Flight {
    /// Room for so many samples and drafts.
    pub(super) fn new(device: &Device, max_rows: usize) -> Result<Self, cuda::Error> {
        Ok(Self {
            tokens: Readback::new(device, max_rows * 4)?,
            logprobs: Readback::new(device, max_rows * SCORE)?,
            scores: Readback::new(device, MAX_SCORES * SCORE)?,
            num_rows: 0,
            has_drafts: false,
            has_logprobs: false,
            deferred: Vec::new(),
            times: None,
        })
    }

    /// Has the device note when it begins and ends.
    pub(super) fn time(&mut self, device: &Device) -> Result<(), Error> {
        self.times = Some([device.event(true)?, device.event(true)?]);
        Ok(())
    }

    /// The device begins with a step.
    pub(super) fn begin(&mut self, plan: &StepPlan, deferred: &[Deferred]) -> Result<(), Error> {
        let num_drafts: usize = plan.samples.iter().map(|sample| sample.num_drafts as usize).sum();
        self.num_rows = plan.samples.len() + num_drafts;
        self.has_drafts = num_drafts > 0;
        self.has_logprobs = false;
        self.deferred.clear();
        self.deferred.extend_from_slice(deferred);
        self.times.as_mut().map_or(Ok(()), |[begin, _]| Ok(begin.record()?))
    }

    /// The device has drawn all that the step yields, which needed `needs`: begins to read it back.
    pub(super) fn end(
        &mut self,
        device: &Device,
        drawing: &Drawing,
        needs: Needs,
    ) -> Result<(), Error> {
        if let Some([_, end]) = &mut self.times {
            end.record()?;
        }
        if self.num_rows > 0 {
            self.tokens.begin(device, drawing.sampled().at(0, self.num_rows * 4))?;
        }
        self.has_logprobs = needs.logprobs;
        if needs.logprobs {
            let logprobs = drawing.logprobs().at(0, self.num_rows * SCORE);
            self.logprobs.begin(device, logprobs)?;
        }
        Ok(())
    }

    /// Begins to read back what the step scores.
    pub(super) fn read_scores(&mut self, device: &Device, scores: Slice<'_>) -> Result<(), Error> {
        Ok(self.scores.begin(device, scores)?)
    }

    /// Milliseconds from begin to end.
    pub(super) fn ms(&self) -> Result<f32, Error> {
        let Some([begin, end]) = &self.times else { return Ok(0.0) };
        end.wait()?;
        Ok(end.ms_since(begin)?)
    }

    /// Its samples, which a step that is begun before it is finished may carry. `None`: none may be begun.
    pub(super) fn num_samples(&self) -> Option<usize> {
        (!self.has_drafts).then_some(self.num_rows)
    }

    /// Takes the samples that are not drawn yet.
    pub(super) fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Waits for the device's tokens, tells `sampler` of those that count, and appends them: of each sample the
    /// first, and one more for each draft that was right.
    pub(super) fn collect(
        &mut self,
        plan: &StepPlan,
        sampler: &mut Sampler,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), Error> {
        if plan.samples.is_empty() {
            return Ok(());
        }
        let scores = if self.has_logprobs { self.logprobs.wait::<TokenScore>()? } else { &[] };
        let tokens = self.tokens.wait::<u32>()?;
        let mut rows = tokens.iter().zip(scores.iter().map(Some).chain(std::iter::repeat(None)));
        for sample in &plan.samples {
            let drafts = plan.drafts(sample).iter().copied().map(Some).chain([None]);
            let mut counts = true;
            for (draft, (token, score)) in drafts.zip(rows.by_ref()) {
                if counts {
                    let one = settle(sampler, sample.sequence, (*token, score));
                    counts = draft == Some(one.token);
                    sampled.push(one);
                }
            }
        }
        Ok(())
    }

    /// Waits for what the step has scored.
    pub(super) fn scored(&mut self, plan: &StepPlan) -> Result<Vec<Scored>, Error> {
        if plan.scores.is_empty() {
            return Ok(Vec::new());
        }
        Ok(scores::scored(&plan.scores, self.scores.wait::<TokenScore>()?))
    }
}

/// What came of a row: the sampler is told.
fn settle(
    sampler: &mut Sampler,
    id: SequenceId,
    (token, score): (u32, Option<&TokenScore>),
) -> Sampled {
    if token == NO_TOKEN {
        return Sampled { token: 0, logprobs: None, end: Some(sampler.why_none(id)) };
    }
    let wanted = sampler.params(id).and_then(|(params, _)| params.num_logprobs);
    let logprobs = wanted.zip(score).map(|(num, score)| Box::new(scores::logprobs(score, num)));
    Sampled { token, logprobs, end: sampler.learn(id, token) }
}
