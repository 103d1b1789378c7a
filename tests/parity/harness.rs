//! Drives an executor without an engine: sequences with their own blocks, and plans written out.

use std::sync::Arc;

use sconce::engine::plan::{
    Admission, BlockId, Row, Sample, Sampled, SequenceId, StepPlan, TableUpdate,
};
use sconce::engine::request::SamplingParams;
use sconce::runner::Executor;
use sconce::runner::cpu::CpuRunner;

/// A runner, and which of its sequences and blocks are taken.
pub(crate) struct Harness<R = CpuRunner> {
    pub(crate) runner: R,
    /// How new sequences are sampled; greedily at first.
    pub(crate) sampling: SamplingParams,
    pub(crate) plan: StepPlan,
    num_sequences: u32,
    num_blocks: u32,
    /// Block tables as executors know them that keep their own.
    tables: Vec<Vec<BlockId>>,
}

/// Tokens, how many of them are in the cache, and where.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) tokens: Vec<u32>,
    pub(crate) num_computed: usize,
    pub(crate) blocks: Vec<BlockId>,
}

impl<R: Executor> Harness<R> {
    pub(crate) fn new(runner: R) -> Self {
        let (sampling, plan) = (SamplingParams::default(), StepPlan::default());
        let tables = Vec::new();
        Self { runner, sampling, plan, num_sequences: 0, num_blocks: 0, tables }
    }

    /// Starts a sequence.
    pub(crate) fn sequence(&mut self, prompt: &[u32]) -> Sequence {
        let id = SequenceId(self.num_sequences);
        self.num_sequences += 1;
        self.plan.admitted.push(Admission {
            sequence: id,
            index: 0,
            sampling: Arc::new(self.sampling.clone()),
            prompt: prompt.into(),
        });
        Sequence { id, tokens: prompt.to_vec(), num_computed: 0, blocks: Vec::new() }
    }

    fn push_table_updates(&mut self, sequence: &Sequence) {
        let row = sequence.id.0 as usize;
        self.tables.resize(self.tables.len().max(row + 1), Vec::new());
        let table = &mut self.tables[row];
        for (column, &block) in (0..).zip(&sequence.blocks) {
            if table.get(column as usize) != Some(&block) {
                self.plan.table_updates.push(TableUpdate { sequence: sequence.id, column, block });
            }
        }
        table.clone_from(&sequence.blocks);
    }

    /// Takes a block.
    pub(crate) fn block(&mut self) -> BlockId {
        self.num_blocks += 1;
        BlockId(self.num_blocks - 1)
    }

    /// Ends all sequences and takes all blocks back, in the next step.
    pub(crate) fn clear(&mut self) {
        self.plan.released.extend((0..self.num_sequences).map(SequenceId));
        (self.num_sequences, self.num_blocks) = (0, 0);
    }

    /// Computes some tokens more of each sequence, and samples after each.
    pub(crate) fn advance(&mut self, batch: &mut [(&mut Sequence, usize)]) -> Vec<Sampled> {
        self.push_rows(batch);
        let mut sampled = Vec::new();
        self.runner.forward(&self.plan, &mut sampled).expect("the plan keeps the limits");
        self.plan.clear();
        sampled
    }

    /// Plans to compute some tokens more of each sequence, and to sample after each.
    pub(crate) fn push_rows(&mut self, batch: &mut [(&mut Sequence, usize)]) {
        let block_size = self.runner.limits().block_size as usize;
        for (sequence, num_new) in batch.iter_mut() {
            let end = sequence.num_computed + *num_new;
            while sequence.blocks.len() * block_size < end {
                sequence.blocks.push(self.block());
            }
            self.push_table_updates(sequence);
            self.plan.push_row(sequence, end, block_size);
            sequence.num_computed = end;
        }
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
            num_drafts: 0,
        });
    }
}
