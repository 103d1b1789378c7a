//! Computes what the engine planned. Tensors, no queues.

pub mod cpu;
pub mod encoder;
pub mod hash;
pub(crate) mod input;
mod memory;
pub mod sampler;

use crate::engine::plan::{Sampled, Scored, StepPlan};

/// Runs steps: a model on a device, or the hash model.
pub trait Executor: Send {
    /// The cache and the limits that the scheduler plans for.
    fn limits(&self) -> ExecutorLimits;

    /// Computes `plan` and appends what [`StepPlan::samples`] asks for to `sampled`.
    ///
    /// An error is fatal for the worker: what a request can cause was refused before.
    fn forward(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error>;

    /// Takes what [`StepPlan::scores`] of the last step asked for.
    fn take_scored(&mut self) -> Vec<Scored>;
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
