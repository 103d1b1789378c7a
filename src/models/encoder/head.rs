//! What is made of the hidden states of an input: one embedding, or a number for each label.

use sconce_kernels::cpu::{Activations, Cpu, Output, PackedMatrix};

use super::config::Pooling;
use super::{Linear, Result};

/// What comes after the last layer.
#[derive(Debug)]
pub(super) enum Head {
    Pool { pooling: Pooling, normalize: bool },
    Classify(Classifier),
}

/// Two matrices with tanh between them, over the first token's hidden state.
#[derive(Debug)]
pub(super) struct Classifier {
    /// `[hidden_size, hidden_size]`
    pub(super) dense: Linear,
    /// `[num_labels, hidden_size]`
    pub(super) output: Linear,
}

impl Head {
    pub(super) fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let classifier = match self {
            Self::Pool { .. } => None,
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
        firsts.iter_mut().for_each(|x| *x = x.tanh());
        cpu.activations(firsts, num_inputs, None, activations)?;
        let start = out.len();
        out.resize(start + num_inputs * self.output.bias.len(), 0.0);
        let logits = &mut out[start..];
        cpu.matmul(&self.output.weight, activations, Output::Store(&mut *logits))?;
        cpu.add_bias(logits, &self.output.bias)
    }
}

/// Appends one vector per input to `out`.
///
/// `hidden_states`: `[num_tokens, hidden]`.
pub(super) fn pool(
    hidden_states: &[f32],
    hidden: usize,
    lens: &[usize],
    (pooling, normalize): (Pooling, bool),
    out: &mut Vec<f32>,
) {
    let mut rest = hidden_states;
    for len in lens {
        let (rows, others) = rest.split_at(len * hidden);
        rest = others;
        let start = out.len();
        out.extend_from_slice(&rows[..hidden]);
        let vector = &mut out[start..];
        let others = rows.chunks_exact(hidden).skip(1);
        match pooling {
            Pooling::Cls => {}
            Pooling::Max => others.for_each(|row| fold(vector, row, f32::max)),
            Pooling::Mean => {
                others.for_each(|row| fold(vector, row, |sum, x| sum + x));
                vector.iter_mut().for_each(|sum| *sum /= *len as f32);
            }
        }
        if normalize {
            let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
            vector.iter_mut().for_each(|x| *x /= norm);
        }
    }
}

fn fold(vector: &mut [f32], row: &[f32], join: impl Fn(f32, f32) -> f32) {
    for (sum, x) in vector.iter_mut().zip(row) {
        *sum = join(*sum, *x);
    }
}
