//! A step that was begun: what it yields, and what must be remembered of it until then.

use sconce_kernels::cuda::{self, Device, Event, NO_TOKEN, Readback, Slice, TokenScore};

use super::drawing::Drawing;
use super::sampling::{Deferred, Needs};
use super::scores::{self, SCORE};
use crate::engine::plan::{MAX_SCORES, Sampled, Scored, StepPlan};
use crate::runner::Error;
use crate::runner::sampler::Sampler;

/// A step on its way.
pub(super) struct Flight {
    /// `[num_samples]` tokens.
    tokens: Readback,
    /// `[num_samples]` of [`TokenScore`], where any sample wants it.
    logprobs: Readback,
    /// Of the prompts' tokens that are scored.
    scores: Readback,
    num_samples: usize,
    has_logprobs: bool,
    /// Samples that are not drawn yet.
    deferred: Vec<Deferred>,
    times: Option<[Event; 2]>,
}

impl Flight {
    /// Room for so many samples.
    pub(super) fn new(device: &Device, max_samples: usize) -> Result<Self, cuda::Error> {
        Ok(Self {
            tokens: Readback::new(device, max_samples * 4)?,
            logprobs: Readback::new(device, max_samples * SCORE)?,
            scores: Readback::new(device, MAX_SCORES * SCORE)?,
            num_samples: 0,
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
    pub(super) fn begin(&mut self, num_samples: usize, deferred: &[Deferred]) -> Result<(), Error> {
        self.num_samples = num_samples;
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
        if self.num_samples > 0 {
            self.tokens.begin(device, drawing.sampled().at(0, self.num_samples * 4))?;
        }
        self.has_logprobs = needs.logprobs;
        if needs.logprobs {
            let logprobs = drawing.logprobs().at(0, self.num_samples * SCORE);
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

    /// Samples before this step's that a step after it may carry.
    pub(super) fn num_samples(&self) -> usize {
        self.num_samples
    }

    /// Takes the samples that are not drawn yet.
    pub(super) fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Waits for the device's tokens, tells `sampler` of them, and appends them.
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
        for (i, sample) in plan.samples.iter().enumerate() {
            let id = sample.sequence;
            let token = tokens.get(i).copied().unwrap_or(NO_TOKEN);
            if token == NO_TOKEN {
                let end = Some(sampler.why_none(id));
                sampled.push(Sampled { token: 0, logprobs: None, end });
                continue;
            }
            let wanted = sampler.params(id).and_then(|(params, _)| params.num_logprobs);
            let logprobs =
                wanted.zip(scores.get(i)).map(|(num, score)| scores::logprobs(score, num));
            let end = sampler.learn(id, token);
            sampled.push(Sampled { token, logprobs: logprobs.map(Box::new), end });
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
