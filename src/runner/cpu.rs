//! A model on the processor: packed weights, the KV cache, the buffers of a step, and the sampler.

use std::num::NonZeroUsize;

use sconce_kernels::cpu::{ActivationDtype, Compute, Cpu, Isa, KvCache, KvDtype, KvShape};

use super::input::Input;
use super::limits::{self, Asked, LimitError};
use super::sampler::{Logits, Sampler};
use super::{Error, Executor, ExecutorLimits, memory};
use crate::engine::plan::{MAX_DRAFTS, Sampled, Scored, StepPlan};
use crate::models::config::DecoderConfig;
use crate::models::decoder::{Decoder, Device, Workspace};
use crate::models::load;
use crate::weights::Checkpoint;

/// How to run a model.
#[derive(Clone, Debug)]
pub struct RunnerOptions {
    /// Threads that compute, the caller's among them.
    pub num_threads: NonZeroUsize,
    /// `None`: the best that the processor has.
    pub isa: Option<Isa>,
    /// What matrix multiplications compute in.
    pub compute: Compute,
    /// Whether [`CpuRunner::last_logits`] has all rows, also those of which only the likeliest token
    /// is wanted.
    pub keep_logits: bool,
    /// How activations are rounded that meet quantized weights.
    pub activation_dtype: ActivationDtype,
    /// How the KV cache stores an element.
    pub kv_dtype: KvDtype,
    /// Size of the KV cache.
    pub kv_cache: KvCacheSize,
    /// Tokens per block of the KV cache, a multiple of 16.
    pub block_size: u32,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Most sequences alive at once.
    pub max_num_seqs: u32,
    /// Most tokens of one sequence. `None`: as many as the model was trained for, or as fit into
    /// the KV cache if that is less.
    pub max_model_len: Option<u32>,
}

/// Size of a KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvCacheSize {
    /// So many blocks.
    Blocks(u32),
    /// As many whole blocks as fit into so many bytes.
    Bytes(u64),
}

impl Default for RunnerOptions {
    /// One thread, mixed activations, a half-precision cache of 512 MiB, 2048 tokens and 64 sequences a step.
    fn default() -> Self {
        Self {
            num_threads: NonZeroUsize::MIN,
            isa: None,
            compute: Compute::Int8,
            keep_logits: false,
            activation_dtype: ActivationDtype::Mixed,
            kv_dtype: KvDtype::F16,
            kv_cache: KvCacheSize::Bytes(512 << 20),
            block_size: 16,
            max_num_batched_tokens: 2048,
            max_num_seqs: 64,
            max_model_len: None,
        }
    }
}

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The weights are not what the shape asks for.
    #[error("the checkpoint cannot be loaded")]
    Weights(#[from] load::Error),
    /// The device or a buffer could not be made, or a shape is none that the kernels take.
    #[error("the processor cannot run this model")]
    Kernel(#[from] sconce_kernels::Error),
    /// A limit that is impossible.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The KV cache's type stores more elements together than a head has.
    #[error(
        "this type of KV cache needs heads of a multiple of {group} elements, and the model's have \
         {head_dim}: choose another"
    )]
    HeadDim {
        /// What the type needs.
        group: usize,
        /// What the model has.
        head_dim: usize,
    },
    /// The machine does not have the memory.
    #[error("{what} needs {needed} bytes, and {available} bytes of memory are available")]
    Memory {
        /// What it is for.
        what: &'static str,
        /// Bytes asked for.
        needed: u64,
        /// Bytes that the system can give.
        available: u64,
    },
}

/// Runs a decoder on the processor.
pub struct CpuRunner {
    cpu: Cpu,
    decoder: Decoder,
    kv: KvCache,
    workspace: Workspace,
    input: Input,
    sampler: Sampler,
    scored: Vec<Scored>,
    limits: ExecutorLimits,
    keep_logits: bool,
}

impl CpuRunner {
    /// Packs the checkpoint's weights for this processor and allocates all that a step needs.
    pub fn load(checkpoint: &Checkpoint, options: &RunnerOptions) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let shape = kv_shape(config, options)?;
        let limits = Self::limits_of(config, options)?;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let cpu = Cpu::new(options.num_threads, isa)?;
        let needed = load::packed_bytes(checkpoint, options.compute);
        check_memory("the model's weights", needed)?;
        let max_positions = limits.max_model_len as usize;
        let decoder = load::decoder(&cpu, checkpoint, options.compute, max_positions)?;
        let kv_bytes = shape.num_bytes(options.kv_dtype).map_or(u64::MAX, |bytes| bytes as u64);
        check_memory("the KV cache", kv_bytes)?;
        let kv = KvCache::new(shape, options.kv_dtype)?;
        let max_tokens = limits.max_num_batched_tokens as usize;
        let max_logits_rows = limits.max_num_seqs as usize + MAX_DRAFTS;
        let workspace =
            decoder.workspace(&cpu, max_tokens, max_logits_rows, options.activation_dtype);
        let sampler = Sampler::new(checkpoint.eos_token_ids().to_vec(), cpu.num_threads());
        let (input, scored) = (Input::default(), Vec::new());
        Ok(Self {
            cpu,
            decoder,
            kv,
            workspace,
            input,
            sampler,
            scored,
            limits,
            keep_logits: options.keep_logits,
        })
    }

    /// What a model will take once it is loaded.
    pub fn limits_of(
        config: &DecoderConfig,
        options: &RunnerOptions,
    ) -> Result<ExecutorLimits, LoadError> {
        let asked = Asked {
            block_size: options.block_size,
            max_num_batched_tokens: options.max_num_batched_tokens,
            max_num_seqs: options.max_num_seqs,
            max_model_len: options.max_model_len,
        };
        let num_blocks = kv_shape(config, options)?.num_blocks as u32;
        Ok(asked.limits(config, num_blocks)?)
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        self.decoder.config()
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    /// Bytes of the packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.decoder.num_bytes()
    }

    /// Bytes of the whole KV cache. Memory is committed when a block is first written.
    pub fn kv_bytes(&self) -> usize {
        self.kv.shape().num_bytes(self.kv.dtype()).unwrap_or(usize::MAX)
    }

    /// The last step's logits as the model gave them: `[num_rows, vocab_size]`, one row for each
    /// distinct [`Sample::token_index`](crate::engine::plan::Sample::token_index) and each of its
    /// drafts, in the order in which the plan's samples first named them. Where the plan has scores,
    /// these have taken their place; where only a row's likeliest token was wanted and
    /// [`RunnerOptions::keep_logits`] was not set, the row is whatever it was before.
    pub fn last_logits(&self) -> &[f32] {
        let num_rows = self.input.logits_tokens.len();
        self.workspace.logits(num_rows, self.limits.vocab_size as usize)
    }
}

impl CpuRunner {
    /// Scores in as many passes over the vocabulary as there is room for logits.
    fn score(&mut self, plan: &StepPlan) -> Result<(), Error> {
        let max_rows = self.limits.max_num_seqs as usize + MAX_DRAFTS;
        let vocab_size = self.limits.vocab_size as usize;
        for scores in plan.scores.chunks(max_rows) {
            let tokens: Vec<_> = scores.iter().map(|score| score.token_index).collect();
            let Self { cpu, kv, workspace, .. } = self;
            let device = Device { cpu, kv, workspace };
            self.decoder.project_to_vocabulary(device, self.input.num_tokens, (&tokens, &[]))?;
            let logits = self.workspace.logits(scores.len(), vocab_size);
            self.sampler.score(&self.cpu, (scores, vocab_size), logits, &mut self.scored);
        }
        Ok(())
    }
}

impl Executor for CpuRunner {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn begin(&mut self, plan: &StepPlan) -> Result<(), Error> {
        self.input.fill(plan, &self.limits)?;
        self.sampler.update(plan)?;
        let (alive, limit) = (self.sampler.num_sequences(), self.limits.max_num_seqs as usize);
        if alive > limit {
            return Err(Error::Plan(format!("{alive} sequences are alive, at most {limit}")));
        }
        if !self.keep_logits {
            self.sampler.find_greedy_rows(plan, &mut self.input);
        }
        Ok(())
    }

    fn finish(&mut self, plan: &StepPlan, sampled: &mut Vec<Sampled>) -> Result<(), Error> {
        self.cpu.copy_blocks(&mut self.kv, &self.input.copies)?;
        if plan.rows.is_empty() {
            return Ok(());
        }
        let Self { cpu, kv, workspace, .. } = self;
        self.decoder.forward(Device { cpu, kv, workspace }, plan, &self.input)?;
        let vocab_size = self.limits.vocab_size as usize;
        let logits = Logits {
            values: self.workspace.logits(self.input.logits_tokens.len(), vocab_size),
            vocab_size,
            rows: &self.input.logits_rows,
            argmax: self.workspace.argmax(),
        };
        self.sampler.sample(&self.cpu, plan, logits, sampled)?;
        self.score(plan)
    }

    fn take_scored(&mut self) -> Vec<Scored> {
        std::mem::take(&mut self.scored)
    }
}

pub(super) fn kv_shape(
    config: &DecoderConfig,
    options: &RunnerOptions,
) -> Result<KvShape, LoadError> {
    let mut shape = KvShape {
        num_layers: config.num_hidden_layers,
        num_blocks: 1,
        block_size: options.block_size as usize,
        num_kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
    };
    let (group, head_dim) = (options.kv_dtype.group(), shape.head_dim);
    if !head_dim.is_multiple_of(group) {
        return Err(LoadError::HeadDim { group, head_dim });
    }
    let num_blocks = match options.kv_cache {
        KvCacheSize::Blocks(num_blocks) => u64::from(num_blocks),
        KvCacheSize::Bytes(bytes) => {
            let block = shape.num_bytes(options.kv_dtype).map_or(u64::MAX, |bytes| bytes as u64);
            bytes.checked_div(block).unwrap_or(0)
        }
    };
    shape.num_blocks = limits::check_blocks(num_blocks, options.block_size)? as usize;
    Ok(shape)
}

pub(super) fn check_memory(what: &'static str, needed: u64) -> Result<(), LoadError> {
    match memory::available_bytes() {
        Some(available) if available < needed => Err(LoadError::Memory { what, needed, available }),
        Some(_) | None => Ok(()),
    }
}
