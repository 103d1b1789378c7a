//! How to run a model on a GPU. Known also to binaries without kernels, which say that they have none.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::cpu::KvCacheSize;

/// How to run a model.
#[derive(Clone, Debug)]
pub struct GpuOptions {
    /// Threads that read weights.
    pub num_threads: NonZeroUsize,
    /// Type of weights and activations. `None`: the checkpoint's, or bf16 where that has none of 16 bits.
    pub dtype: Option<GpuDtype>,
    /// What weights become that the checkpoint has as floats. `None`: what they are.
    pub quantize: Option<GpuQuantization>,
    /// How the KV cache stores an element.
    pub kv_dtype: GpuKvDtype,
    /// Size of the KV cache. `None`: what [`Self::memory_utilization`] leaves.
    pub kv_cache: Option<KvCacheSize>,
    /// Share of the device's memory that may be used.
    pub memory_utilization: f64,
    /// Tokens per block of the KV cache, a multiple of 16.
    pub block_size: u32,
    /// Most tokens of one step.
    pub max_num_batched_tokens: u32,
    /// Most sequences alive at once.
    pub max_num_seqs: u32,
    /// Most tokens of one sequence. `None`: as many as the model was trained for, or as fit into
    /// the KV cache if that is less.
    pub max_model_len: Option<u32>,
    /// Whether steps that only decode are launched as CUDA graphs.
    pub graphs: bool,
    /// Whether a kernel's blocks are placed while the kernel before still runs, where the GPU can do that:
    /// Hopper and newer.
    pub early_launch: bool,
    /// A file of the algorithms that computed matrix products fastest; those that it does not have are
    /// measured at the start, and added. `None`: the library's choice.
    pub tuning_cache: Option<PathBuf>,
}

impl Default for GpuOptions {
    /// The checkpoint's type, nine tenths of the memory, 2048 tokens and 64 sequences a step.
    fn default() -> Self {
        Self {
            num_threads: NonZeroUsize::MIN,
            dtype: None,
            quantize: None,
            kv_dtype: GpuKvDtype::Auto,
            kv_cache: None,
            memory_utilization: 0.9,
            block_size: 16,
            max_num_batched_tokens: 2048,
            max_num_seqs: 64,
            max_model_len: None,
            graphs: true,
            early_launch: true,
            tuning_cache: None,
        }
    }
}

/// How much memory a model will take on a GPU, and how much that has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuNeeds {
    /// The GPU's name.
    pub name: String,
    /// The weights, within a fifth.
    pub weight_bytes: u64,
    /// Activations, logits and the table of positions, within a fifth.
    pub workspace_bytes: u64,
    /// What is left to graphs and libraries.
    pub reserve_bytes: u64,
    /// A block of the KV cache.
    pub block_bytes: u64,
    /// Blocks that the options ask for, or that are left.
    pub num_blocks: u64,
    /// What the cache stores.
    pub kv_dtype: String,
    /// What the driver says is free.
    pub free_bytes: u64,
    /// What the GPU has.
    pub total_bytes: u64,
    /// What of the free memory may be used for all of it.
    pub available_bytes: u64,
}

/// Type of weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuDtype {
    /// 16 bits, 8 of precision.
    BF16,
    /// 16 bits, 11 of precision.
    F16,
    /// 32 bits.
    F32,
}

/// What weights become that a checkpoint has as floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuQuantization {
    /// 8-bit codes with a scale per 32.
    Q8,
    /// 4-bit codes with a scale and a minimum per 32; the vocabulary in 8 bits.
    Q4,
    /// 8-bit floats with a scale per row, which meet 8-bit activations with a scale per token; the
    /// vocabulary stays floats. Hopper and later.
    Fp8,
}

/// How the KV cache stores an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuKvDtype {
    /// As activations are.
    Auto,
    /// 8-bit floats with 4 bits of exponent.
    Fp8,
    /// 8-bit integers with a scale for each position of a head.
    Int8,
}
