//! How a checkpoint stores a tensor's elements: plain floats, GGUF's quantised blocks, or blocks that
//! other checkpoints' codes are brought into while they are read.

/// An element type. Names and block layouts are ggml's, but for the last three, which lie in no file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 4 bits, 6-bit scales and minima per 32 in super-blocks of 256.
    Q4K,
    /// 5 bits, 6-bit scales and minima per 32 in super-blocks of 256.
    Q5K,
    /// 6 bits, 8-bit scales per 16 in super-blocks of 256.
    Q6K,
    /// 4 bits: per 32 a scale (f32), a zero point (u32), and a byte for each code.
    Int4,
    /// 8 bits around 128: per 32 a scale (f32), a zero point (u32, 128), and the codes.
    Int8,
    /// f32, per 32: of 8 bits or fewer in a form that no kernel reads. Packed, it has 8 bits and a
    /// scale per 32.
    Dequantized,
}

impl Dtype {
    /// Elements per block; a row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Int4 | Self::Int8 | Self::Dequantized => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes per block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Int4 | Self::Int8 => 40,
            Self::Dequantized => 128,
        }
    }
}
