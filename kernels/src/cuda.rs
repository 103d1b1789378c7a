//! Kernels for NVIDIA GPUs, and the thin runtime that they are launched by.
//!
//! Everything happens in one stream of one [`Device`], in the order in which it was asked for. Buffers are
//! made when a model is loaded; a step allocates nothing, and may be captured as a [`Graph`].
//!
//! Libraries are loaded when a device is opened, so a binary with these kernels starts everywhere.

mod activation;
mod attention;
mod buffer;
mod device;
mod event;
mod fp8;
mod graph;
mod kv_cache;
mod launch;
mod library;
mod linear;
mod matmul;
mod moe;
mod norm;
mod quantized;
mod rope;
mod rows;
mod sampling;
mod staging;

pub use activation::{Gate, GateMul};
pub use attention::{
    Attention, Plan, PlanGrid, PlanLimits, PlanRow, Scoring, Workspace as AttentionWorkspace,
    prefill_tile,
};
pub use buffer::{Buffer, Plain, Slice, SliceMut, bytes_of};
pub use device::{Device, Properties};
pub use event::{Event, profiler};
pub use fp8::{Fp8Matrix, LinearToFp8};
pub use graph::Graph;
pub use kv_cache::{BlockTables, KvCache, KvDtype, KvSlices, num_bytes};
pub use linear::{Linear, MAX_GEMV_ROWS, Write};
pub use matmul::{LinearFp8, Matmul, NotTuned, Scaling, Tuned};
pub use moe::{ExpertMatrices, MoeCombine, MoeLinear, MoeRoute, MoeTiling};
pub use norm::AddRmsNorm;
pub use quantized::{
    Form, GatherQuantizedRows, LinearQuantized, QuantizedExperts, QuantizedMatrix,
};
pub use rope::{HeadNorms, NO_SLOT, RopeAndCache, RopeTable};
pub use rows::GatherRows;
pub use sampling::{
    AcceptDrafts, Bias, Drafted, Draw, FeedTokens, MAX_TOP_LOGPROBS, Masked, NO_TOKEN, NONE,
    Sample, SampleRow, Sampling, Score, Stages, TokenCounts, TokenScore,
};
pub use staging::{Readback, Staging};

/// Why a GPU cannot be used, or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no driver.
    #[error("no CUDA driver found: libcuda.so.1 is not installed")]
    NoDriver,
    /// The driver finds no such GPU.
    #[error("there is no GPU {ordinal}: the driver finds {count}")]
    NoDevice {
        /// Asked for.
        ordinal: usize,
        /// There are.
        count: usize,
    },
    /// The crate was built where nvcc was not found.
    #[error("this binary was built without nvcc, so it has no GPU kernels")]
    NoKernels,
    /// A library that comes with CUDA is not where it is looked for.
    #[error(
        "{name} was not found in {searched}; CUDA_HOME, LD_LIBRARY_PATH or pip's nvidia packages \
             give it"
    )]
    NoLibrary {
        /// Its file's name.
        name: &'static str,
        /// Folders.
        searched: String,
    },
    /// No kernel has this name.
    #[error("there is no kernel `{0}`")]
    NoKernel(String),
    /// The device has too little memory left.
    #[error("the GPU cannot give {bytes} bytes: {free} of {total} are free")]
    Memory {
        /// Asked for.
        bytes: usize,
        /// Left.
        free: usize,
        /// The device's.
        total: usize,
    },
    /// A call of the driver failed.
    #[error("{call} failed: {name} ({code})")]
    Driver {
        /// What was called.
        call: &'static str,
        /// The error's name.
        name: String,
        /// The error's number.
        code: u32,
    },
    /// A call of cuBLASLt failed.
    #[error("{call} failed with status {status}")]
    Blas {
        /// What was called.
        call: &'static str,
        /// cuBLAS's status.
        status: u32,
    },
}

/// Type of the floats that a kernel computes on. Sums are 32 bits wide whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// 32-bit.
    F32,
    /// 16-bit IEEE.
    F16,
    /// bfloat16.
    BF16,
}

impl Float {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// Elements in 16 bytes, which is what kernels load at once: rows are a multiple of it.
    pub const fn pack(self) -> usize {
        16 / self.size()
    }
}

/// The name of a kernel that is written once per [`Float`].
macro_rules! by_float {
    ($float:expr, $name:literal) => {
        match $float {
            $crate::cuda::Float::F32 => concat!($name, "_f32"),
            $crate::cuda::Float::F16 => concat!($name, "_f16"),
            $crate::cuda::Float::BF16 => concat!($name, "_bf16"),
        }
    };
}
pub(crate) use by_float;

/// The name of a kernel that is written once per pair of a model's [`Float`] and a cache's [`KvDtype`].
macro_rules! by_cache {
    ($float:expr, $dtype:expr, $name:literal) => {
        match ($float, $dtype) {
            ($crate::cuda::Float::F32, $crate::cuda::KvDtype::Float(_)) => {
                concat!($name, "_f32_f32")
            }
            ($crate::cuda::Float::F32, $crate::cuda::KvDtype::Fp8) => concat!($name, "_f32_fp8"),
            ($crate::cuda::Float::F32, $crate::cuda::KvDtype::Int8) => concat!($name, "_f32_int8"),
            ($crate::cuda::Float::F16, $crate::cuda::KvDtype::Float(_)) => {
                concat!($name, "_f16_f16")
            }
            ($crate::cuda::Float::F16, $crate::cuda::KvDtype::Fp8) => concat!($name, "_f16_fp8"),
            ($crate::cuda::Float::F16, $crate::cuda::KvDtype::Int8) => concat!($name, "_f16_int8"),
            ($crate::cuda::Float::BF16, $crate::cuda::KvDtype::Float(_)) => {
                concat!($name, "_bf16_bf16")
            }
            ($crate::cuda::Float::BF16, $crate::cuda::KvDtype::Fp8) => concat!($name, "_bf16_fp8"),
            ($crate::cuda::Float::BF16, $crate::cuda::KvDtype::Int8) => {
                concat!($name, "_bf16_int8")
            }
        }
    };
}
pub(crate) use by_cache;
