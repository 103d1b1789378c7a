//! Computes what the engine planned. Tensors, no queues.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod device;
pub mod encoder;
pub mod gpu_options;
pub mod hash;
pub(crate) mod input;
pub mod limits;
pub(crate) mod memory;
mod needs;
pub mod pooled;
pub mod sampler;

use sconce_kernels::cpu::Isa;

use crate::engine::embed::EmbedBatch;
use crate::engine::plan::{Sampled, Scored, StepPlan};

/// Runs steps: a model on a device, or the hash model.
pub trait Executor: Send {
    /// The cache and the limits that the scheduler plans for.
    fn limits(&self) -> ExecutorLimits;

    /// Steps that may be begun before the first of them is finished: 1, or 2. With 2, a plan may
    /// have [`StepPlan::carried`] tokens; one with drafts is begun when none is in flight, and
    /// finished before another is begun.
    fn depth(&self) -> usize {
        1
    }

    /// Begins to compute `plan`: after the steps begun before it, whatever they write and sample.
    ///
    /// An error is fatal for the worker: what a request can cause was refused before.
    fn begin(&mut self, plan: &StepPlan) -> Result<(), Error>;

    /// Waits for the end of the earliest step begun and not finished, whose plan is `plan`, and
    /// appends what [`StepPlan::samples`] asks for to `sampled`. Errors are fatal, as in
    /// [`Self::begin`].
    fn finish(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error>;

    /// Takes what [`StepPlan::scores`] of the step finished last asked for.
    fn take_scored(&mut self) -> Vec<Scored>;

    /// Computes a step by itself.
    fn forward(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        self.begin(plan)?;
        self.finish(plan, sampled)
    }
}

/// Computes vectors: an encoder, or a decoder whose hidden states are pooled.
pub trait Embedder: Send {
    /// The limits that are planned for.
    fn limits(&self) -> EmbedderLimits;

    /// Numbers that come of one input.
    fn num_outputs(&self) -> usize;

    /// The instruction set in use.
    fn isa(&self) -> Isa;

    /// Bytes of the packed weights.
    fn weight_bytes(&self) -> usize;

    /// Appends what comes of each input of the batch to `out`: `[num_inputs, num_outputs]`. It is
    /// the same bit for bit whatever else is in the batch.
    ///
    /// An error is fatal for the worker: what a request can cause was refused before.
    fn forward(&mut self, batch: &EmbedBatch, out: &mut Vec<f32>) -> Result<(), Error>;
}

/// What an embedder has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedderLimits {
    /// Most tokens of one input.
    pub max_model_len: u32,
    /// Most tokens of one step; at least as many as one input may have.
    pub max_num_batched_tokens: u32,
    /// Tokens that have an embedding.
    pub vocab_size: u32,
}

impl EmbedderLimits {
    /// Says how the batch breaks the limits, if it does.
    fn check(self, batch: &EmbedBatch) -> Result<(), Error> {
        let (given, limit) = (batch.token_ids.len(), self.max_num_batched_tokens as usize);
        if given > limit {
            return Err(Error::Plan(format!("{given} tokens, at most {limit}")));
        }
        let longest = batch.lens.iter().max().copied().unwrap_or(0);
        if longest > self.max_model_len as usize || batch.lens.contains(&0) {
            return Err(Error::Plan(format!("an input of {longest} tokens or of none")));
        }
        Ok(())
    }
}

/// What an executor has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExecutorLimits {
    /// Tokens per KV-cache block.
    pub block_size: u32,
    /// Blocks in the KV cache.
    pub num_blocks: u32,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Most sequences alive (admitted and not released) at once.
    pub max_num_seqs: u32,
    /// Most tokens of one sequence.
    pub max_model_len: u32,
    /// Width of the logits.
    pub vocab_size: u32,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The plan breaks the executor's limits: a bug in the scheduler.
    #[error("the plan breaks the executor's limits: {0}")]
    Plan(String),
    /// A kernel refused its arguments: a bug in the runner.
    #[error("a kernel refused its arguments")]
    Kernel(#[from] sconce_kernels::Error),
}
