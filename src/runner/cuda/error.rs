//! Why a GPU cannot run a model.

use std::io;
use std::path::PathBuf;

use sconce_kernels::cuda;

use crate::runner::Error;
use crate::runner::limits::LimitError;
use crate::weights;

/// Why a model cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The weights are not what the shape asks for.
    #[error("the checkpoint cannot be loaded")]
    Weights(#[from] weights::Error),
    /// A tensor cannot be read.
    #[error("cannot read the weights")]
    Read(#[source] io::Error),
    /// Quantization was asked for and there is nothing that it applies to.
    #[error("there is nothing to quantize: the file's weights are quantized already")]
    NothingToQuantize,
    /// 8-bit floats were asked for of a mixture of experts.
    #[error("experts are not multiplied as 8-bit floats on a GPU: quantize to q8 or q4 instead")]
    Fp8Experts,
    /// 8-bit floats were asked for.
    #[error("this GPU does not multiply 8-bit floats with a scale per row: quantize to q8 instead")]
    NoFp8,
    /// A limit that is impossible.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The GPU refused or failed.
    #[error("the GPU cannot run this model")]
    Kernel(#[from] sconce_kernels::Error),
    /// The file of algorithms cannot be read or written.
    #[error("--tuning-cache: the file of algorithms {path} cannot be used")]
    Tuning {
        /// Where it is.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread that loads panicked.
    #[error("loading the weights panicked")]
    Panicked,
    /// A step of nothing but padding could not be computed.
    #[error("the GPU cannot compute a first step")]
    FirstStep(#[source] Error),
    /// The weights leave no room for the KV cache.
    #[error(
        "the weights and buffers leave {left} bytes of the GPU's memory for the KV cache, and it needs \
         {needed} at least: raise --gpu-memory-utilization, or lower --max-model-len, \
         --max-num-batched-tokens or --max-num-seqs"
    )]
    NoRoom {
        /// Bytes.
        left: u64,
        /// Bytes.
        needed: u64,
    },
}

impl From<cuda::Error> for LoadError {
    fn from(error: cuda::Error) -> Self {
        Self::Kernel(error.into())
    }
}
