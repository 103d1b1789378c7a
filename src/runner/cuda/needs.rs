//! How much memory a model will take on a GPU, of its shape alone, and how much there is.

use sconce_kernels::cuda::{self, Device, Float};
use sconce_kernels::dtype::Dtype;

use super::memory::{RESERVE, for_cache};
use super::sizes::{asked, float, kv_dtype, kv_shape};
use super::{CudaRunner, LoadError};
use crate::engine::plan::MAX_DRAFTS;
use crate::models::config::DecoderConfig;
use crate::runner::cpu::KvCacheSize;
use crate::runner::gpu_options::{GpuNeeds, GpuOptions, GpuQuantization};
use crate::runner::limits::LimitError;
use crate::weights::Checkpoint;

/// What a row of the vocabulary takes per sequence where tokens are drawn: counts, what is allowed, and
/// lists that are sorted.
const DRAWING_BYTES: u64 = 12;

impl CudaRunner {
    /// What [`Self::load`] will take of the device, whether or not it is there.
    pub(crate) fn needs_of(
        device: &Device,
        checkpoint: &Checkpoint,
        options: &GpuOptions,
    ) -> Result<GpuNeeds, LoadError> {
        let config = checkpoint.config();
        if let Some(given) = options.max_model_len
            && given as usize > config.max_position_embeddings
        {
            let limit = config.max_position_embeddings;
            return Err(LimitError::ModelLen { given, limit }.into());
        }
        let most = asked(options).limits(config, u32::MAX / options.block_size.max(1))?;
        let float = float(checkpoint, options.dtype);
        let dtype = kv_dtype(options, float);
        let block = cuda::num_bytes(&kv_shape(config, options), dtype);
        let block_bytes = block.map_or(u64::MAX, |bytes| bytes as u64);
        let weight_bytes = weight_bytes(checkpoint, float, options.quantize);
        let workspace_bytes = workspace_bytes(config, options, float.size() as u64)
            .saturating_add(rope_bytes(config, u64::from(most.max_model_len)));
        let (free, total) = device.memory()?;
        // The reserve is part of what is needed.
        let available_bytes =
            for_cache(free as u64, total as u64, options.memory_utilization) + RESERVE;
        let taken = weight_bytes.saturating_add(workspace_bytes).saturating_add(RESERVE);
        let num_blocks = match options.kv_cache {
            Some(KvCacheSize::Blocks(num_blocks)) => u64::from(num_blocks),
            Some(KvCacheSize::Bytes(bytes)) => bytes / block_bytes.max(1),
            None => available_bytes.saturating_sub(taken) / block_bytes.max(1),
        };
        let kv_dtype = format!("{dtype:?}").to_lowercase();
        Ok(GpuNeeds {
            name: device.properties().name.clone(),
            weight_bytes,
            workspace_bytes,
            reserve_bytes: RESERVE,
            block_bytes,
            num_blocks,
            kv_dtype,
            free_bytes: free as u64,
            total_bytes: total as u64,
            available_bytes,
        })
    }
}

/// Matrices as they will lie in the device's memory; vectors are few.
fn weight_bytes(checkpoint: &Checkpoint, float: Float, quantize: Option<GpuQuantization>) -> u64 {
    // Codes with a scale per 32: five bits, or nine.
    let (w4, w8) = (|num: u64| num / 8 * 5, |num: u64| num / 8 * 9);
    let bytes = checkpoint.sizes().map(|(dtype, num_elements)| {
        let num = num_elements as u64;
        let as_floats = num * float.size() as u64;
        if float == Float::F32 {
            return as_floats;
        }
        match (dtype, quantize) {
            (dtype, None) if dtype.block_len() == 1 => as_floats,
            (dtype, Some(GpuQuantization::Q4)) if dtype.block_len() == 1 => w4(num),
            (dtype, Some(GpuQuantization::Q8)) if dtype.block_len() == 1 => w8(num),
            (dtype, Some(GpuQuantization::Fp8)) if dtype.block_len() == 1 => num,
            (Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q4K | Dtype::Int4, _) => w4(num),
            _ => w8(num),
        }
    });
    bytes.sum()
}

/// Activations, logits, and what tokens are drawn with.
fn workspace_bytes(config: &DecoderConfig, options: &GpuOptions, size: u64) -> u64 {
    let tokens = u64::from(options.max_num_batched_tokens);
    let rows = u64::from(options.max_num_seqs) + MAX_DRAFTS as u64;
    let [hidden, qkv, q, inner, vocab] = [
        config.hidden_size,
        config.qkv_size(),
        config.q_size(),
        config.intermediate_size,
        config.vocab_size,
    ]
    .map(|width| width as u64);
    let chosen = config.variant.experts.map_or(0, |experts| experts.num_experts_per_tok as u64);
    let of_token = 3 * hidden + qkv + q + 3 * inner * chosen.max(1) + chosen * hidden;
    let activations = tokens * of_token * size;
    let logits = rows * (vocab * 4 + hidden * size);
    let drawing = u64::from(options.max_num_seqs) * vocab * DRAWING_BYTES;
    activations + logits + drawing + super::decoder::SCRATCH_BYTES as u64
}

/// A cosine and a sine of each rotated pair.
fn rope_bytes(config: &DecoderConfig, positions: u64) -> u64 {
    let rotated = config.rope.dim + config.sliding_rope().map_or(0, |rope| rope.dim);
    positions.saturating_mul(4 * rotated as u64)
}
