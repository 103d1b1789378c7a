//! How much memory a model will take on the processor, of its shape alone.

use sconce_kernels::cpu::Compute;

use super::cpu::{CpuRunner, LoadError, RunnerOptions, kv_shape};
use super::limits::LimitError;
use crate::engine::plan::MAX_DRAFTS;
use crate::models::decoder::Decoder;
use crate::models::load;
use crate::weights::Checkpoint;

/// How much memory a model will take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    /// The packed weights, within a fifth.
    pub(crate) weight_bytes: u64,
    /// Activations, logits and the table of positions, at most.
    pub(crate) workspace_bytes: u64,
    /// A block of the KV cache.
    pub(crate) block_bytes: u64,
    /// Blocks that the options ask for.
    pub(crate) num_blocks: u64,
}

impl CpuRunner {
    /// What [`Self::load`] will take, whether or not it is there.
    pub(crate) fn needs_of(
        checkpoint: &Checkpoint,
        options: &RunnerOptions,
    ) -> Result<Needs, LoadError> {
        let config = checkpoint.config();
        load::check_quantizes(checkpoint, options.compute)?;
        let shape = kv_shape(config, options)?;
        let num_blocks = shape.num_blocks as u64;
        let one = sconce_kernels::cpu::KvShape { num_blocks: 1, ..shape };
        let block_bytes = one.num_bytes(options.kv_dtype).map_or(u64::MAX, |bytes| bytes as u64);
        let tokens = u64::from(options.max_num_batched_tokens);
        let rows = u64::from(options.max_num_seqs) + MAX_DRAFTS as u64;
        let has_floats = options.compute == Compute::F32
            // What chooses them is multiplied with 32-bit floats.
            || config.variant.experts.is_some()
            || options.compute == Compute::Int8 && checkpoint.has_float_matrices();
        let trained = config.max_position_embeddings as u64;
        let positions = options.max_model_len.map_or(trained, u64::from);
        if let Some(given) = options.max_model_len.filter(|given| u64::from(*given) > trained) {
            let limit = config.max_position_embeddings;
            return Err(LimitError::ModelLen { given, limit }.into());
        }
        let workspace = Decoder::workspace_bytes(config, tokens, rows, has_floats);
        // A cosine and a sine of each rotated pair.
        let rotated = config.rope.dim + config.sliding_rope().map_or(0, |rope| rope.dim);
        let rope = positions.saturating_mul(4 * rotated as u64);
        Ok(Needs {
            weight_bytes: load::packed_bytes(checkpoint, options.compute),
            workspace_bytes: workspace.saturating_add(rope),
            block_bytes,
            num_blocks,
        })
    }
}
