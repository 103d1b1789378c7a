//! What a runner's options come to: types, limits, and the most that a step is given.

use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{self, Float, KvDtype, PlanLimits};

use super::batch::Room;
use crate::engine::plan::MAX_DRAFTS;
use crate::models::config::DecoderConfig;
use crate::runner::ExecutorLimits;
use crate::runner::gpu_options::{GpuDtype, GpuKvDtype, GpuOptions};
use crate::runner::limits::Asked;
use crate::weights::Checkpoint;

/// What was asked for.
pub(super) fn asked(options: &GpuOptions) -> Asked {
    Asked {
        block_size: options.block_size,
        max_num_batched_tokens: options.max_num_batched_tokens,
        max_num_seqs: options.max_num_seqs,
        max_model_len: options.max_model_len,
    }
}

pub(super) fn float(checkpoint: &Checkpoint, dtype: Option<GpuDtype>) -> Float {
    match dtype {
        Some(GpuDtype::BF16) => Float::BF16,
        Some(GpuDtype::F16) => Float::F16,
        Some(GpuDtype::F32) => Float::F32,
        None if checkpoint.is_f16() => Float::F16,
        None => Float::BF16,
    }
}

pub(super) fn kv_dtype(options: &GpuOptions, float: Float) -> KvDtype {
    match options.kv_dtype {
        GpuKvDtype::Auto => KvDtype::Float(float),
        GpuKvDtype::Fp8 => KvDtype::Fp8,
        GpuKvDtype::Int8 => KvDtype::Int8,
    }
}

pub(super) fn kv_shape(config: &DecoderConfig, options: &GpuOptions) -> KvShape {
    KvShape {
        num_layers: config.num_hidden_layers,
        num_blocks: 1,
        block_size: options.block_size as usize,
        num_kv_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
    }
}

pub(super) fn plan_limits(config: &DecoderConfig, limits: &ExecutorLimits) -> PlanLimits {
    let capacity = limits.num_blocks as usize * limits.block_size as usize;
    let longest = limits.max_num_seqs as usize * limits.max_model_len as usize;
    PlanLimits {
        group: config.num_attention_heads / config.num_key_value_heads,
        max_rows: limits.max_num_seqs as usize,
        max_tokens: limits.max_num_batched_tokens as usize,
        max_chunks: capacity.min(longest).div_ceil(256) + limits.max_num_seqs as usize,
        prefill_tile: cuda::prefill_tile(config.head_dim),
    }
}

/// The most that a step is given.
pub(super) fn room(limits: &ExecutorLimits, num_columns: usize) -> Room {
    let (seqs, tokens) = (limits.max_num_seqs as usize, limits.max_num_batched_tokens as usize);
    Room {
        tokens,
        logits: seqs + MAX_DRAFTS,
        updates: seqs * num_columns,
        copies: seqs,
        samples: seqs + MAX_DRAFTS,
        // Or of a single request that is not from a router.
        biases: seqs * MAX_BIASES + limits.vocab_size as usize,
        masked: (seqs + MAX_DRAFTS) * MAX_MASKED + limits.vocab_size as usize,
    }
}

/// As many as routers let a request have.
const MAX_BIASES: usize = 1024;
const MAX_MASKED: usize = 512;
