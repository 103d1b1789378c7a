//! A step that was begun: what it yields, and what must be remembered of it until then.

use sconce_kernels::cuda::{self, Device, Event, Readback};

use super::sampling::Samples;
use crate::engine::plan::{Sampled, Scored, StepPlan};
use crate::runner::Error;
use crate::runner::input::Input;

/// Comes from the device where nothing is left to sample. The processor's sampler takes the first token
/// then, and so does the device where it carries such a token to the next step.
const NO_TOKEN: u32 = u32::MAX;

/// A step on its way.
pub(super) struct Flight {
    /// `[num_samples]` tokens of those that are the device's.
    pub(super) sampled: Readback,
    pub(super) num_samples: usize,
    /// Each sample's row of logits.
    pub(super) logits_rows: Vec<u32>,
    /// Samples that are the processor's, by index.
    pub(super) on_host: Vec<usize>,
    pub(super) scored: Vec<Scored>,
    times: Option<[Event; 2]>,
}

impl Flight {
    /// Room for so many samples.
    pub(super) fn new(device: &Device, max_samples: usize) -> Result<Self, cuda::Error> {
        Ok(Self {
            sampled: Readback::new(device, max_samples * 4)?,
            num_samples: 0,
            logits_rows: Vec::new(),
            on_host: Vec::new(),
            scored: Vec::new(),
            times: None,
        })
    }

    /// Has the device note when it begins and ends.
    pub(super) fn time(&mut self, device: &Device) -> Result<(), Error> {
        self.times = Some([device.event(true)?, device.event(true)?]);
        Ok(())
    }

    /// The device begins with the step.
    pub(super) fn begin(&mut self) -> Result<(), Error> {
        self.times.as_mut().map_or(Ok(()), |[begin, _]| Ok(begin.record()?))
    }

    /// The device has done the step.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.times.as_mut().map_or(Ok(()), |[_, end]| Ok(end.record()?))
    }

    /// Milliseconds from begin to end.
    pub(super) fn ms(&self) -> Result<f32, Error> {
        let Some([begin, end]) = &self.times else { return Ok(0.0) };
        end.wait()?;
        Ok(end.ms_since(begin)?)
    }

    /// Remembers the step.
    pub(super) fn take_over(&mut self, input: &Input, samples: &Samples) {
        self.num_samples = samples.rows().len();
        self.logits_rows.clone_from(&input.logits_rows);
        self.on_host.clear();
        self.on_host.extend(samples.on_host());
    }

    /// Waits for the device's tokens, and appends them and the processor's, by sample, in their order.
    pub(super) fn collect(
        &mut self,
        plan: &StepPlan,
        on_host: Vec<(usize, Sampled)>,
        sampled: &mut Vec<Sampled>,
    ) -> Result<(), Error> {
        let all_on_host = self.on_host.len() == self.num_samples;
        let tokens = if all_on_host { &[] } else { self.sampled.wait::<u32>()? };
        let mut on_host = on_host.into_iter().peekable();
        for i in 0..plan.samples.len() {
            if on_host.peek().is_none_or(|(next, _)| *next != i) {
                let token = tokens.get(i).copied().ok_or_else(|| {
                    Error::Plan(format!("sample {i} was neither the device's nor the processor's"))
                })?;
                let token = if token == NO_TOKEN { 0 } else { token };
                sampled.push(Sampled { token, logprobs: None, end: None });
            }
            while let Some((_, one)) = on_host.next_if(|(next, _)| *next == i) {
                sampled.push(one);
            }
        }
        Ok(())
    }
}
