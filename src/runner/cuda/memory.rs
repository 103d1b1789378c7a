//! How large the KV cache is made: what weights and buffers leave of the device's memory.

use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{self, Device, KvDtype, Plan};

use super::LoadError;
use super::decoder::Decoder;
use super::drawing::Drawing;
use super::sizes::{plan_limits, room};
use crate::engine::plan::MAX_DRAFTS;
use crate::models::config::DecoderConfig;
use crate::runner::ExecutorLimits;
use crate::runner::cpu::KvCacheSize;
use crate::runner::gpu_options::GpuOptions;
use crate::runner::limits;

/// Left for graphs, and for what libraries take when they are first used.
pub(super) const RESERVE: u64 = 256 << 20;

/// What the size follows from.
pub(super) struct Sizing<'a> {
    pub(super) device: &'a Device,
    pub(super) config: &'a DecoderConfig,
    pub(super) options: &'a GpuOptions,
    /// The limits, were the cache as large as can be.
    pub(super) most: ExecutorLimits,
}

impl Sizing<'_> {
    /// Blocks of the cache, whose shape is that of one block, beside a decoder that is loaded.
    pub(super) fn num_blocks(
        &self,
        decoder: &Decoder,
        (block, dtype): (KvShape, KvDtype),
    ) -> Result<u32, LoadError> {
        let block_size = self.options.block_size;
        let block_bytes = cuda::num_bytes(&block, dtype).map_or(u64::MAX, |bytes| bytes as u64);
        let num_blocks = match self.options.kv_cache {
            Some(KvCacheSize::Blocks(num_blocks)) => u64::from(num_blocks),
            Some(KvCacheSize::Bytes(bytes)) => bytes / block_bytes,
            None => {
                let left = self.left(decoder, block)?;
                // More than all sequences can fill is of use to the prefix cache alone, and numbers of
                // slots have 32 bits.
                let most = u64::from(u32::MAX / block_size);
                let num_blocks = (left / block_bytes).min(most);
                let wanted = self.options.max_model_len.unwrap_or(block_size);
                let needed = u64::from(wanted.div_ceil(block_size)) * block_bytes;
                if num_blocks * block_bytes < needed {
                    return Err(LoadError::NoRoom { left, needed });
                }
                num_blocks
            }
        };
        Ok(limits::check_blocks(num_blocks, block_size)?)
    }

    /// Bytes that are left beside the buffers of a step, of which the largest is made and given back: what
    /// the device then says is free includes what it takes to account for memory.
    fn left(&self, decoder: &Decoder, block: KvShape) -> Result<u64, LoadError> {
        let max_tokens = self.most.max_num_batched_tokens as usize;
        let max_logits = self.most.max_num_seqs as usize + MAX_DRAFTS;
        // As if each sequence had one chunk: chunks of more follow from the cache's size, and are small
        // beside it.
        let few = ExecutorLimits { num_blocks: 1, ..self.most };
        let plan = Plan::new(plan_limits(self.config, &few))?;
        let workspace = decoder.workspace(max_tokens, max_logits, (&plan, &block))?;
        let drawing = Drawing::new(self.device, &self.most, room(&self.most, 0))?;
        let (free, total) = self.device.memory()?;
        drop((workspace, drawing));
        Ok(for_cache(free as u64, total as u64, self.options.memory_utilization))
    }
}

/// Bytes of a cache, of those that the device says are free.
pub(super) fn for_cache(free: u64, total: u64, utilization: f64) -> u64 {
    let kept = (total as f64 * (1.0 - utilization)) as u64;
    let free = free.saturating_sub(kept + RESERVE);
    // Partial results of attention: two floats of a head, and a head, per 256 positions of each.
    let partials = free / 64;
    free - partials
}
