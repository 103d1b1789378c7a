//! Steps that engines take: forks, copies, and logits looked at.

use sconce::engine::plan::{BlockCopy, Sample, Sampled};

use sconce::runner::Executor;
use sconce::runner::cpu::CpuRunner;

use super::harness::{Harness, Sequence};

/// An executor whose last step's logits can be looked at: `[num_rows, vocab_size]`.
pub(crate) trait Runner: Executor {
    fn logits(&mut self) -> Vec<f32>;
}

impl Runner for CpuRunner {
    fn logits(&mut self) -> Vec<f32> {
        self.last_logits().to_vec()
    }
}

impl<R: Runner> Harness<R> {
    /// Starts a sequence that begins as `other` and holds its blocks.
    pub(crate) fn fork(&mut self, other: &Sequence) -> Sequence {
        Sequence { id: self.sequence(&other.tokens).id, ..other.clone() }
    }

    /// Gives `sequence` its own copy of one of its blocks, in the next step.
    pub(crate) fn copy_on_write(&mut self, sequence: &mut Sequence, index: usize) {
        let from = std::mem::replace(&mut sequence.blocks[index], self.block());
        self.plan.copies.push(BlockCopy { from, to: sequence.blocks[index] });
    }

    /// Computes some tokens more of each sequence, and samples after each. Returns the logits of
    /// each one's last token, and what was sampled.
    pub(crate) fn step(
        &mut self,
        batch: &mut [(&mut Sequence, usize)],
    ) -> (Vec<Vec<f32>>, Vec<Sampled>) {
        let sampled = self.advance(batch);
        let vocab_size = self.runner.limits().vocab_size as usize;
        (self.runner.logits().chunks(vocab_size).map(<[f32]>::to_vec).collect(), sampled)
    }

    /// Computes a prompt and samples the first token of `n` completions from its last logits.
    pub(crate) fn step_shared(&mut self, prompt: &[u32], n: u32) -> (Vec<Vec<f32>>, Vec<Sampled>) {
        let mut first = self.sequence(prompt);
        let others: Vec<_> = (1..n).map(|_| self.fork(&first)).collect();
        let token_index = prompt.len() as u32 - 1;
        self.plan.samples.extend(others.iter().map(|other| Sample {
            sequence: other.id,
            token_index,
            position: prompt.len() as u32,
            num_generated: 0,
            num_drafts: 0,
        }));
        self.step(&mut [(&mut first, prompt.len())])
    }
}
