//! What is made of the hidden states of an input: one embedding, or a number for each label.

use sconce_kernels::cpu::{Activations, Cpu, Output, PackedMatrix};

use super::config::ClassifierActivation;
use super::{Linear, Result};
use crate::models::pooling::PoolerConfig;

/// What comes after the last layer.
#[derive(Debug)]
pub(super) enum Head {
    Pool(PoolerConfig),
    Classify(Classifier),
}

/// Two matrices with an activation between them, over the first token's hidden state.
#[derive(Debug)]
pub(super) struct Classifier {
    /// `[hidden_size, hidden_size]`
    pub(super) dense: Linear,
    pub(super) activation: ClassifierActivation,
    /// `[num_labels, hidden_size]`
    pub(super) output: Linear,
}

impl Head {
    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let classifier = match self {
            Self::Pool(_) => None,
            Self::Classify(classifier) => Some(classifier),
        };
        classifier.into_iter().flat_map(|it| [&it.dense.weight, &it.output.weight])
    }
}

impl Classifier {
    /// Appends the logits of each input to `out`.
    ///
    /// `hidden_states`: `[num_tokens, hidden_size]` · `firsts`: `[num_inputs, hidden_size]`, scratch.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        (hidden_states, firsts): (&[f32], &mut [f32]),
        (lens, activations): (&[usize], &mut Activations),
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let num_inputs = lens.len();
        let mut next = 0;
        let starts = lens.iter().map(|len| {
            let start = next;
            next += len;
            start as u32
        });
        let starts: Vec<u32> = starts.collect();
        let hidden = self.dense.bias.len();
        cpu.gather_rows(hidden_states, hidden, &starts, firsts)?;
        cpu.activations(firsts, num_inputs, None, activations)?;
        cpu.matmul(&self.dense.weight, activations, Output::Store(&mut *firsts))?;
        cpu.add_bias(firsts, &self.dense.bias)?;
        match self.activation {
            ClassifierActivation::Tanh => firsts.iter_mut().for_each(|x| *x = x.tanh()),
            ClassifierActivation::Relu => firsts.iter_mut().for_each(|x| *x = x.max(0.0)),
        }
        cpu.activations(firsts, num_inputs, None, activations)?;
        let start = out.len();
        out.resize(start + num_inputs * self.output.bias.len(), 0.0);
        let logits = &mut out[start..];
        cpu.matmul(&self.output.weight, activations, Output::Store(&mut *logits))?;
        cpu.add_bias(logits, &self.output.bias)
    }
}
