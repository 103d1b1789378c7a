//! Which samples the device draws by itself, and what it must know of them.
//!
//! It takes what most requests ask for. Grammars and the other things that depend on the text so far are
//! the processor's, and so are drafts; so is a sample of which the device finds nothing left.

use sconce_kernels::cuda::{Bias, Draw, SampleRow, Stages};

use crate::engine::plan::{Sample, StepPlan};
use crate::engine::request::SamplingParams;
use crate::runner::input::Input;
use crate::runner::sampler::Sampler;

/// Whether the device can sample for a sequence with such parameters.
pub(super) fn is_on_device(params: &SamplingParams) -> bool {
    params.grammar.is_none()
        && params.allowed_token_ids.is_empty()
        && params.bad_words.is_empty()
        && params.num_logprobs.is_none()
        && params.typical_p >= 1.0
        && params.repetition_penalty == 1.0
        && params.frequency_penalty == 0.0
        && params.presence_penalty == 0.0
}

/// A step's samples, as the device reads them.
#[derive(Debug, Default)]
pub(super) struct Samples {
    /// One per sample of the plan; idle where the processor samples.
    rows: Vec<SampleRow>,
    biases: Vec<Bias>,
    masked: Vec<u32>,
    stages: Option<Stages>,
    /// Samples that are the processor's.
    on_host: Vec<usize>,
}

impl Samples {
    /// Takes over the plan's samples.
    pub(super) fn fill(&mut self, plan: &StepPlan, input: &Input, sampler: &Sampler) {
        self.rows.clear();
        self.biases.clear();
        self.masked.clear();
        self.on_host.clear();
        self.stages = None;
        for (i, (sample, logits_row)) in plan.samples.iter().zip(&input.logits_rows).enumerate() {
            match sampler.params(sample.sequence) {
                Some((params, index)) if sample.num_drafts == 0 && is_on_device(params) => {
                    self.push((sample, *logits_row), (params, index), sampler.eos_token_ids());
                }
                Some(_) | None => {
                    self.rows.push(SampleRow::default());
                    self.on_host.push(i);
                }
            }
        }
    }

    fn push(
        &mut self,
        (sample, logits_row): (&Sample, u32),
        (params, index): (&SamplingParams, u32),
        eos_token_ids: &[u32],
    ) {
        let Sample { position, .. } = *sample;
        let SamplingParams { temperature, top_k, top_p, min_p, seed, .. } = *params;
        let (mut row, stages) = if temperature > 0.0 {
            let draw = Draw { temperature, top_k, top_p, min_p, seed, index, position };
            let filters = top_k.is_some() || top_p < 1.0;
            let stages = if filters { Stages::Filters } else { Stages::Draws };
            (SampleRow::draw(logits_row, draw), stages)
        } else {
            (SampleRow::greedy(logits_row), Stages::Greedy)
        };
        self.stages = self.stages.max(Some(stages));
        (row.first_bias, row.first_masked) = (self.biases.len() as u32, self.masked.len() as u32);
        let biases = params.logit_bias.iter().map(|&(token, bias)| Bias { token, bias });
        self.biases.extend(biases);
        self.biases[row.first_bias as usize..].sort_by_key(|bias| bias.token);
        if sample.num_generated < params.min_tokens {
            let eos = if params.ignore_eos { &[] } else { eos_token_ids };
            self.masked.extend(eos.iter().chain(&params.stop_token_ids));
        }
        row.num_biases = self.biases.len() as u32 - row.first_bias;
        row.num_masked = self.masked.len() as u32 - row.first_masked;
        if row.num_biases + row.num_masked > 0 {
            row.flags |= SampleRow::ADJUSTED;
        }
        self.rows.push(row);
    }

    pub(super) fn rows(&self) -> &[SampleRow] {
        &self.rows
    }

    pub(super) fn biases(&self) -> &[Bias] {
        &self.biases
    }

    pub(super) fn masked(&self) -> &[u32] {
        &self.masked
    }

    /// What the device's samples need. `None`: it has none.
    pub(super) fn stages(&self) -> Option<Stages> {
        self.stages
    }

    /// Samples that are the processor's, by index.
    pub(super) fn on_host(&self) -> &[usize] {
        &self.on_host
    }
}
