//! Which kernels compute attention by tensor cores, and what they ask for.

use super::super::kv_cache::UNIT;
use super::super::{Device, Float, KvDtype, by_cache};
use super::prefill_tile;

/// Warps of a block.
const WARPS: usize = 4;

/// The kernels for one model.
pub(super) struct TensorKernels {
    /// Name, and bytes of shared memory.
    pub(super) decode: (&'static str, u32),
    /// Name, and bytes of shared memory.
    pub(super) prefill: (&'static str, u32),
    /// Blocks of the decode kernel that run at once.
    pub(super) decodes_per_processor: usize,
}

impl TensorKernels {
    /// None where the model is f32, heads are not whole pieces of 16 bytes in the cache, or the device has
    /// too little shared memory.
    pub(super) fn of(
        device: &Device,
        float: Float,
        dtype: KvDtype,
        head_dim: usize,
    ) -> Option<Self> {
        if float == Float::F32 || !(head_dim * dtype.size()).is_multiple_of(16) {
            return None;
        }
        let dim = Dim::of(head_dim);
        let (decode, prefill) = dim.names(float, dtype);
        let kernels = Self {
            decode: (decode, dim.decode_bytes(dtype)),
            prefill: (prefill, dim.prefill_bytes(dtype)),
            decodes_per_processor: if dim == Dim::D256 { 1 } else { 2 },
        };
        let wanted = kernels.decode.1.max(kernels.prefill.1) + STATIC_BYTES;
        (wanted <= device.properties().shared_bytes).then_some(kernels)
    }
}

/// Shared memory that the decode kernel has beside.
const STATIC_BYTES: u32 = 512;

/// The dimensions that kernels are compiled for: shorter heads are filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dim {
    D64,
    D128,
    D256,
}

impl Dim {
    fn of(head_dim: usize) -> Self {
        match head_dim {
            ..=64 => Self::D64,
            65..=128 => Self::D128,
            _ => Self::D256,
        }
    }

    /// The decode kernel, the prefill kernel.
    fn names(self, float: Float, dtype: KvDtype) -> (&'static str, &'static str) {
        match self {
            Self::D64 => (
                by_cache!(float, dtype, "attention_decode_64"),
                by_cache!(float, dtype, "attention_prefill_64"),
            ),
            Self::D128 => (
                by_cache!(float, dtype, "attention_decode_128"),
                by_cache!(float, dtype, "attention_prefill_128"),
            ),
            Self::D256 => (
                by_cache!(float, dtype, "attention_decode_256"),
                by_cache!(float, dtype, "attention_prefill_256"),
            ),
        }
    }

    fn len(self) -> usize {
        match self {
            Self::D64 => 64,
            Self::D128 => 128,
            Self::D256 => 256,
        }
    }

    /// Bytes of a unit's keys.
    fn unit_bytes(self, dtype: KvDtype) -> usize {
        UNIT * self.len() * dtype.size()
    }

    /// As `Ring` in `attention_decode.cu`.
    fn decode_bytes(self, dtype: KvDtype) -> u32 {
        let unit = self.unit_bytes(dtype);
        let stages = match unit {
            ..=1024 => 6,
            1025..=2048 => 5,
            _ => 3,
        };
        (WARPS * stages * 2 * (unit + UNIT * dtype.scale_size())) as u32
    }

    /// As `Stages` in `attention_prefill.cu`, two of keys and two of values, and the queries.
    fn prefill_bytes(self, dtype: KvDtype) -> u32 {
        let units = if self.len() * 2 <= 128 * dtype.size() { 4 } else { 2 };
        let stages = 2 * 2 * units * (self.unit_bytes(dtype) + UNIT * dtype.scale_size());
        let queries = prefill_tile(self.len()) * self.len() * size_of::<u16>();
        (stages + queries) as u32
    }
}
