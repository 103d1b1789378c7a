//! A step's samples as the device reads them, and which of them it can't be told of yet.
//!
//! All tokens are the device's to draw. It is told of a sample with the step's other numbers, but where a
//! grammar says what may come next: that follows from the token before, which a step in flight may still
//! sample. Such samples are *deferred*: the model computes their logits with everybody's, and they are drawn
//! when the token before is known.
//!
//! A sample with drafts has a row for each of them too, which is drawn as if the drafts before it had been
//! sampled; how many count is for the host to say.

use sconce_kernels::cuda::{Bias, Draw, Masked, NONE, SampleRow, Stages};

use crate::engine::plan::{Sample, StepPlan};
use crate::engine::request::{SamplingParams, TokenId};
use crate::runner::Error;
use crate::runner::input::Input;
use crate::runner::sampler::Sampler;
use crate::runner::sampler::on_device::LastToken;

/// What samples need of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Needs {
    /// `None`: there are no samples.
    pub(super) stages: Option<Stages>,
    /// Whether any of them wants log-probabilities.
    pub(super) logprobs: bool,
}

impl Needs {
    /// What both need.
    pub(super) fn and(self, other: Self) -> Self {
        let stages = self.stages.max(other.stages);
        Self { stages, logprobs: self.logprobs || other.logprobs }
    }
}

/// A sample that is drawn when the token before it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deferred {
    pub(super) sample: Sample,
    /// Which of the step's rows it is.
    pub(super) index: u32,
    pub(super) logits_row: u32,
}

/// A row of a sample: its first, or one that follows drafts.
#[derive(Clone, Copy)]
struct Row<'a> {
    sample: &'a Sample,
    last: LastToken,
    /// Those before it.
    drafts: &'a [TokenId],
}

/// Samples, as the device reads them.
#[derive(Debug, Default)]
pub(super) struct Samples {
    rows: Vec<SampleRow>,
    biases: Vec<Bias>,
    masked: Vec<Masked>,
    needs: Needs,
    deferred: Vec<Deferred>,
}

/// Whether a sequence's tokens must be counted.
pub(super) fn has_penalty(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.frequency_penalty != 0.0
        || params.presence_penalty != 0.0
}

impl Samples {
    /// Takes over the plan's samples: a row for each and for each of its drafts, idle where it is deferred.
    pub(super) fn fill(
        &mut self,
        plan: &StepPlan,
        input: &Input,
        sampler: &Sampler,
    ) -> Result<(), Error> {
        self.clear();
        self.deferred.clear();
        // Both are in the order of the plan's rows, but for forks, none of whose tokens is carried.
        let mut carried = plan.carried.iter().map(|carry| carry.token_index).peekable();
        for (sample, &logits_row) in plan.samples.iter().zip(&input.logits_rows) {
            while carried.next_if(|token| *token < sample.token_index).is_some() {}
            let last = match carried.peek() {
                Some(token) if *token == sample.token_index => LastToken::Awaited,
                Some(_) | None => LastToken::Known,
            };
            if sampler.has_grammar(sample.sequence) {
                if sample.num_drafts > 0 {
                    let id = sample.sequence.0;
                    return Err(Error::Plan(format!("sequence {id} has a grammar and drafts")));
                }
                let index = self.rows.len() as u32;
                self.rows.push(SampleRow::default());
                self.deferred.push(Deferred { sample: *sample, index, logits_row });
                continue;
            }
            let (allowed_row, drafts) = (sample.sequence.0, plan.drafts(sample));
            for (num, logits_row) in (0..=drafts.len()).zip(logits_row..) {
                let row = Row { sample, last, drafts: &drafts[..num] };
                self.push(row, Place { logits_row, allowed_row, target: NONE }, sampler)?;
            }
        }
        Ok(())
    }

    /// Empties the rows and what they refer to.
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.biases.clear();
        self.masked.clear();
        self.needs = Needs::default();
    }

    /// Adds a deferred sample, whose allowed tokens are a row of a list of its own.
    pub(super) fn push_deferred(
        &mut self,
        deferred: &Deferred,
        allowed_row: u32,
        sampler: &Sampler,
    ) -> Result<(), Error> {
        let Deferred { sample, index, logits_row } = deferred;
        let place = Place { logits_row: *logits_row, allowed_row, target: *index };
        let row = Row { sample, last: LastToken::Known, drafts: &[] };
        self.push(row, place, sampler)
    }

    fn push(&mut self, of: Row<'_>, place: Place, sampler: &Sampler) -> Result<(), Error> {
        let (sample, num_before) = (of.sample, of.drafts.len() as u32);
        let id = sample.sequence;
        let Some((params, index)) = sampler.params(id) else {
            return Err(Error::Plan(format!("sequence {} is sampled and was not admitted", id.0)));
        };
        let position = sample.position + num_before;
        let (mut row, stages) = row_of(params, (position, index), place.logits_row);
        self.needs.stages = self.needs.stages.max(Some(stages));
        row.flags |= SampleRow::FALLS_BACK;
        (row.input, row.target) = (sample.token_index + num_before, place.target);
        if !params.allowed_token_ids.is_empty() || params.grammar.is_some() {
            row.allowed_row = place.allowed_row;
        }
        if has_penalty(params) {
            // Which drafts are right, and so what is sampled, the host will know, and count.
            if sample.num_drafts == 0 {
                row.flags |= SampleRow::COUNTED;
            }
            (row.counts_slot, row.num_uncounted) = (id.0, num_before);
            row.repetition_penalty = params.repetition_penalty;
            row.frequency_penalty = params.frequency_penalty;
            row.presence_penalty = params.presence_penalty;
        }
        if let Some(num_logprobs) = params.num_logprobs {
            row.flags |= SampleRow::LOGPROBS;
            row.num_logprobs = num_logprobs;
            self.needs.logprobs = true;
        }
        self.push_lists(of, &mut row, sampler);
        let is_adjusted = row.num_biases + row.num_masked > 0
            || row.allowed_row != NONE
            || row.counts_slot != NONE;
        if is_adjusted {
            row.flags |= SampleRow::ADJUSTED;
        }
        self.rows.push(row);
        Ok(())
    }

    /// Biases, end tokens that may not come yet, and ends of bad words.
    fn push_lists(&mut self, of: Row<'_>, row: &mut SampleRow, sampler: &Sampler) {
        let Row { sample, last, drafts } = of;
        let Some((params, _)) = sampler.params(sample.sequence) else { return };
        row.first_masked = self.masked.len() as u32;
        (row.first_bias, row.num_biases) = match self.rows.last() {
            // The rows of a sample share them.
            Some(before) if !drafts.is_empty() => (before.first_bias, before.num_biases),
            Some(_) | None => self.push_biases(params),
        };
        if sample.num_generated + (drafts.len() as u32) < params.min_tokens {
            let eos = if params.ignore_eos { &[] } else { sampler.eos_token_ids() };
            let ends = eos.iter().chain(&params.stop_token_ids);
            self.masked.extend(ends.map(|token| Masked::always(*token)));
        }
        row.num_ends = self.masked.len() as u32 - row.first_masked;
        sampler.bad_ends(sample.sequence, (last, drafts), |end| {
            self.masked.push(Masked { token: end.token, after: end.after.unwrap_or(NONE) });
        });
        row.num_masked = self.masked.len() as u32 - row.first_masked;
    }

    /// Where in the list they begin, and how many they are.
    fn push_biases(&mut self, params: &SamplingParams) -> (u32, u32) {
        let first = self.biases.len();
        let biases = params.logit_bias.iter().map(|&(token, bias)| Bias { token, bias });
        self.biases.extend(biases);
        // Stable: a token's biases are added in their order.
        self.biases[first..].sort_by_key(|bias| bias.token);
        (first as u32, (self.biases.len() - first) as u32)
    }

    pub(super) fn rows(&self) -> &[SampleRow] {
        &self.rows
    }

    pub(super) fn biases(&self) -> &[Bias] {
        &self.biases
    }

    pub(super) fn masked(&self) -> &[Masked] {
        &self.masked
    }

    pub(super) fn needs(&self) -> Needs {
        self.needs
    }

    /// Samples whose rows are idle.
    pub(super) fn deferred(&self) -> &[Deferred] {
        &self.deferred
    }
}

/// Where a sample's row finds things.
#[derive(Clone, Copy)]
struct Place {
    logits_row: u32,
    allowed_row: u32,
    target: u32,
}

/// How a token is drawn.
fn row_of(
    params: &SamplingParams,
    (position, index): (u32, u32),
    logits_row: u32,
) -> (SampleRow, Stages) {
    let SamplingParams { temperature, top_k, top_p, typical_p, min_p, seed, .. } = *params;
    if temperature <= 0.0 {
        return (SampleRow::greedy(logits_row), Stages::Greedy);
    }
    let draw = Draw { temperature, top_k, top_p, typical_p, min_p, seed, index, position };
    let stages = if typical_p < 1.0 {
        Stages::Typical
    } else if top_k.is_some() || top_p < 1.0 {
        Stages::Filters
    } else {
        Stages::Draws
    };
    (SampleRow::draw(logits_row, draw), stages)
}
