//! Drives an executor without an engine: sequences with their own blocks, and plans written out.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use sconce::engine::plan::{
    Admission, BlockCopy, BlockId, Row, Sample, Sampled, SequenceId, StepPlan,
};
use sconce::engine::request::SamplingParams;
use sconce::runner::Executor;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Compute, KvDtype};

use super::tiny;

/// The real model, named by the environment; says so when there is none.
pub(crate) fn real_model() -> Option<PathBuf> {
    let path = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from);
    if path.is_none() {
        println!("skipped: SCONCE_TEST_MODEL names no model");
    }
    path
}

/// Options of a small batch; exact, or as served.
pub(crate) fn options(compute: Compute) -> RunnerOptions {
    RunnerOptions {
        num_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        compute,
        kv_dtype: match compute {
            Compute::Int8 => KvDtype::F16,
            Compute::F32 => KvDtype::F32,
        },
        max_num_batched_tokens: 512,
        max_num_seqs: 32,
        ..RunnerOptions::default()
    }
}

/// Runs `check` on the tiny model and, when there is one, on the real model as served.
pub(crate) fn each_model(check: impl Fn(&mut Harness)) {
    check(&mut tiny::harness());
    if let Some(path) = real_model() {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let runner = CpuRunner::load(&checkpoint, &options(Compute::Int8)).unwrap();
        check(&mut Harness::new(runner));
    }
}

/// A runner, and which of its sequences and blocks are taken.
pub(crate) struct Harness {
    pub(crate) runner: CpuRunner,
    num_sequences: u32,
    num_blocks: u32,
    plan: StepPlan,
}

/// Tokens, how many of them are in the cache, and where.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    id: SequenceId,
    pub(crate) tokens: Vec<u32>,
    pub(crate) num_computed: usize,
    pub(crate) blocks: Vec<BlockId>,
}

impl Harness {
    pub(crate) fn new(runner: CpuRunner) -> Self {
        Self { runner, num_sequences: 0, num_blocks: 0, plan: StepPlan::default() }
    }

    /// Starts a greedy sequence.
    pub(crate) fn sequence(&mut self, prompt: &[u32]) -> Sequence {
        let id = SequenceId(self.num_sequences);
        self.num_sequences += 1;
        self.plan.admitted.push(Admission {
            sequence: id,
            index: 0,
            sampling: Arc::new(SamplingParams::default()),
            prompt: prompt.into(),
        });
        Sequence { id, tokens: prompt.to_vec(), num_computed: 0, blocks: Vec::new() }
    }

    /// Starts a sequence that begins as `other` and holds its blocks.
    pub(crate) fn fork(&mut self, other: &Sequence) -> Sequence {
        Sequence { id: self.sequence(&other.tokens).id, ..other.clone() }
    }

    /// Gives `sequence` its own copy of one of its blocks, in the next step.
    pub(crate) fn copy_on_write(&mut self, sequence: &mut Sequence, index: usize) {
        let from = std::mem::replace(&mut sequence.blocks[index], self.block());
        self.plan.copies.push(BlockCopy { from, to: sequence.blocks[index] });
    }

    fn block(&mut self) -> BlockId {
        self.num_blocks += 1;
        BlockId(self.num_blocks - 1)
    }

    /// Ends all sequences and takes all blocks back, in the next step.
    pub(crate) fn clear(&mut self) {
        self.plan.released.extend((0..self.num_sequences).map(SequenceId));
        (self.num_sequences, self.num_blocks) = (0, 0);
    }

    /// Computes some tokens more of each sequence, and samples after each. Returns the logits of
    /// each one's last token, and what was sampled.
    pub(crate) fn step(
        &mut self,
        batch: &mut [(&mut Sequence, usize)],
    ) -> (Vec<Vec<f32>>, Vec<Sampled>) {
        let block_size = self.runner.limits().block_size as usize;
        for (sequence, num_new) in batch.iter_mut() {
            let end = sequence.num_computed + *num_new;
            while sequence.blocks.len() * block_size < end {
                sequence.blocks.push(self.block());
            }
            self.plan.push_row(sequence, end, block_size);
            sequence.num_computed = end;
        }
        let mut sampled = Vec::new();
        self.runner.forward(&self.plan, &mut sampled).unwrap();
        self.plan.clear();
        let vocab_size = self.runner.limits().vocab_size as usize;
        (self.runner.last_logits().chunks(vocab_size).map(<[f32]>::to_vec).collect(), sampled)
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
        }));
        self.step(&mut [(&mut first, prompt.len())])
    }

    /// Continues a prompt; returns the completion and the logits that each token was taken from.
    pub(crate) fn greedy(
        &mut self,
        prompt: &[u32],
        num_tokens: usize,
    ) -> (Vec<u32>, Vec<Vec<f32>>) {
        let mut sequence = self.sequence(prompt);
        let mut rows = Vec::new();
        for _ in 0..num_tokens {
            let num_new = sequence.tokens.len() - sequence.num_computed;
            let (mut logits, sampled) = self.step(&mut [(&mut sequence, num_new)]);
            sequence.tokens.push(sampled[0].token);
            rows.append(&mut logits);
        }
        self.clear();
        (sequence.tokens[prompt.len()..].to_vec(), rows)
    }
}

trait PushRow {
    fn push_row(&mut self, sequence: &Sequence, end: usize, block_size: usize);
}

impl PushRow for StepPlan {
    fn push_row(&mut self, sequence: &Sequence, end: usize, block_size: usize) {
        let (first_token, first_block) = (self.token_ids.len() as u32, self.block_tables.len());
        for position in sequence.num_computed..end {
            self.token_ids.push(sequence.tokens[position]);
            self.positions.push(position as u32);
            let BlockId(block) = sequence.blocks[position / block_size];
            self.slot_mapping.push((block as usize * block_size + position % block_size) as u32);
        }
        self.block_tables.extend(&sequence.blocks[..end.div_ceil(block_size)]);
        self.rows.push(Row {
            sequence: sequence.id,
            tokens: first_token..self.token_ids.len() as u32,
            num_computed: sequence.num_computed as u32,
            blocks: first_block as u32..self.block_tables.len() as u32,
            cache_salt: 0,
        });
        self.samples.push(Sample {
            sequence: sequence.id,
            token_index: self.token_ids.len() as u32 - 1,
            position: end as u32,
            num_generated: 0,
        });
    }
}
