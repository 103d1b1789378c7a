//! A decoder on the processor whose hidden states are pooled into embeddings.
//!
//! Every input is computed whole in one step, so keys and values are needed only while their layer
//! is computed: the cache is one layer, in 32-bit floats, which all layers use in turn.

use sconce_kernels::cpu::{Cpu, Isa, KvCache, KvDtype, KvShape};

use super::cpu::{LoadError, RunnerOptions, check_memory};
use super::encoder::max_model_len;
use super::input::Input;
use super::{Embedder, EmbedderLimits, Error, ExecutorLimits};
use crate::engine::embed::{EmbedBatch, MAX_BATCH_INPUTS};
use crate::engine::plan::{BlockId, Row, SequenceId, StepPlan};
use crate::models::decoder::{Decoder, Device, Workspace};
use crate::models::load;
use crate::models::pooling::PoolerConfig;
use crate::weights::Checkpoint;

const BLOCK_SIZE: u32 = 16;

/// Most tokens of an input, unless said otherwise. Models of longer contexts would need buffers for
/// as many tokens, and OpenAI's take no more.
const DEFAULT_MAX_MODEL_LEN: usize = 8192;

/// Runs a decoder on the processor, up to its last norm.
pub struct PooledRunner {
    cpu: Cpu,
    decoder: Decoder,
    pooler: PoolerConfig,
    kv: KvCache,
    workspace: Workspace,
    plan: StepPlan,
    input: Input,
    limits: EmbedderLimits,
}

impl PooledRunner {
    /// Packs the checkpoint's weights for this processor and allocates all that a step needs.
    pub fn load(
        checkpoint: &Checkpoint,
        pooler: PoolerConfig,
        options: &RunnerOptions,
    ) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let limits = Self::limits_of(checkpoint, options)?;
        let cpu = Cpu::new(options.num_threads, options.isa.unwrap_or_else(Isa::detect))?;
        let needed = load::packed_bytes(checkpoint, options.compute);
        check_memory("the model's weights", needed)?;
        let max_positions = limits.max_model_len as usize;
        let decoder = load::headless(&cpu, checkpoint, options.compute, max_positions)?;
        let shape = KvShape {
            num_layers: 1,
            num_blocks: num_blocks(limits) as usize,
            block_size: BLOCK_SIZE as usize,
            num_kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        };
        let kv = KvCache::new(shape, KvDtype::F32)?;
        let max_tokens = limits.max_num_batched_tokens as usize;
        let workspace = decoder.workspace(&cpu, max_tokens, 0, options.activation_dtype);
        let (plan, input) = (StepPlan::default(), Input::default());
        Ok(Self { cpu, decoder, pooler, kv, workspace, plan, input, limits })
    }

    /// What a model will take once it is loaded.
    pub fn limits_of(
        checkpoint: &Checkpoint,
        options: &RunnerOptions,
    ) -> Result<EmbedderLimits, LoadError> {
        let config = checkpoint.config();
        let num_positions = config.max_position_embeddings;
        let usual = checkpoint.max_seq_length().unwrap_or(DEFAULT_MAX_MODEL_LEN).max(1);
        let max_model_len = max_model_len(options, num_positions)?;
        let max_model_len = max_model_len.unwrap_or(usual.min(num_positions) as u32);
        Ok(EmbedderLimits {
            max_model_len,
            max_num_batched_tokens: options.max_num_batched_tokens.max(max_model_len),
            vocab_size: config.vocab_size as u32,
        })
    }

    /// Plans each input as a sequence of its own, on blocks of its own.
    fn plan(&mut self, batch: &EmbedBatch) {
        let plan = &mut self.plan;
        plan.rows.clear();
        plan.positions.clear();
        plan.slot_mapping.clear();
        plan.block_tables.clear();
        plan.token_ids.clone_from(&batch.token_ids);
        let mut next_token = 0;
        for (sequence, len) in (0..).map(SequenceId).zip(&batch.lens) {
            let len = *len as u32;
            let first_block = plan.block_tables.len() as u32;
            let end_block = first_block + len.div_ceil(BLOCK_SIZE);
            plan.block_tables.extend((first_block..end_block).map(BlockId));
            plan.positions.extend(0..len);
            plan.slot_mapping.extend((first_block * BLOCK_SIZE..).take(len as usize));
            plan.rows.push(Row {
                sequence,
                tokens: next_token..next_token + len,
                num_computed: 0,
                blocks: first_block..end_block,
                cache_salt: 0,
            });
            next_token += len;
        }
    }
}

impl Embedder for PooledRunner {
    fn limits(&self) -> EmbedderLimits {
        self.limits
    }

    fn num_outputs(&self) -> usize {
        self.decoder.config().hidden_size
    }

    fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    fn weight_bytes(&self) -> usize {
        self.decoder.num_bytes()
    }

    fn forward(&mut self, batch: &EmbedBatch, out: &mut Vec<f32>) -> Result<(), Error> {
        self.limits.check(batch)?;
        self.plan(batch);
        let limits = ExecutorLimits {
            block_size: BLOCK_SIZE,
            num_blocks: num_blocks(self.limits),
            max_num_batched_tokens: self.limits.max_num_batched_tokens,
            max_num_seqs: MAX_BATCH_INPUTS as u32,
            max_model_len: self.limits.max_model_len,
            vocab_size: self.limits.vocab_size,
        };
        self.input.fill(&self.plan, &limits)?;
        let Self { cpu, decoder, kv, workspace, .. } = self;
        let hidden = decoder.config().hidden_size;
        let device = Device { cpu, kv, workspace };
        let hidden_states = decoder.hidden_states(device, &self.plan, &self.input)?;
        self.pooler.pool(hidden_states, hidden, &batch.lens, out);
        Ok(())
    }
}

/// Enough for a batch, where each input's last block may have one token.
fn num_blocks(limits: EmbedderLimits) -> u32 {
    limits.max_num_batched_tokens / BLOCK_SIZE + MAX_BATCH_INPUTS as u32
}
