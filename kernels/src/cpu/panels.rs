//! Packed weights: panels of 16 rows, and within a panel blocks of 32 columns (dense panels:
//! single columns), so that one vector holds the same column group of 16 rows.
//!
//! In a block, vector `j` holds for each row the four columns `4j..4j+4`; of [`Format::P4`], the
//! low halves are columns `4j..`, the high halves columns `16+4j..`, of `j` in 0..4. Then follow
//! 16 scales and, where the format has them, 16 minima or second scales, as half floats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::blocks::Group;
use super::simd::LANES;
use crate::dtype::Dtype;

/// Columns of a block.
pub(super) const BLOCK: usize = 32;
pub(super) const P4_BYTES: usize = 256 + 32 + 32;
pub(super) const P8_BYTES: usize = 512 + 32;
pub(super) const P8_MIN_BYTES: usize = 512 + 32 + 32;
pub(super) const P8_HALF_BYTES: usize = 512 + 32 + 32;

/// How a panel stores its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 4 bits, scale and minimum per 32.
    P4,
    /// 8 bits around 128, scale per 32.
    P8,
    /// Up to 7 bits in bytes, scale and minimum per 32.
    P8Min,
    /// 8 bits around 128, scale per 16.
    P8Half,
    F32,
    F16,
    BF16,
}

impl Format {
    /// The packed form of a checkpoint's type.
    pub(super) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q4K => Self::P4,
            Dtype::Q5_0 | Dtype::Q8_0 => Self::P8,
            Dtype::Q5_1 | Dtype::Q5K => Self::P8Min,
            Dtype::Q6K => Self::P8Half,
        }
    }

    /// Whether it multiplies f32 activations; the others multiply int8.
    pub(super) fn is_dense(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Columns that are stored together.
    pub(super) fn block_len(self) -> usize {
        if self.is_dense() { 1 } else { BLOCK }
    }

    /// Bytes of 16 rows of `block_len` columns.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::P4 => P4_BYTES,
            Self::P8 => P8_BYTES,
            Self::P8Min => P8_MIN_BYTES,
            Self::P8Half => P8_HALF_BYTES,
            Self::F32 => 4 * LANES,
            Self::F16 | Self::BF16 => 2 * LANES,
        }
    }

    /// Bytes of a panel of `cols` columns.
    pub(super) fn panel_bytes(self, cols: usize) -> usize {
        cols / self.block_len() * self.block_bytes()
    }

    /// Writes 32 columns of up to 16 rows into a quantized block of zeros.
    pub(super) fn put_groups(
        self,
        block: &mut [u8],
        num_rows: usize,
        group: impl Fn(usize) -> Group,
    ) {
        let (mut first, mut second) = ([0.0; LANES], [0.0; LANES]);
        for row in 0..num_rows {
            let group = group(row);
            self.put_codes(block, row, &group);
            first[row] = group.scales[0];
            second[row] = match self {
                Self::P8Half => group.scales[1],
                _ => group.min - group.scales[0] * f32::from(group.zero),
            };
        }
        let (_, halves) = block.split_at_mut(if self == Self::P4 { 256 } else { 512 });
        for (to, from) in halves.chunks_exact_mut(2 * LANES).zip([first, second]) {
            let mut rounded = [f16::ZERO; LANES];
            rounded.convert_from_f32_slice(&from);
            for (to, half) in to.as_chunks_mut().0.iter_mut().zip(rounded) {
                *to = half.to_le_bytes();
            }
        }
    }

    fn put_codes(self, block: &mut [u8], row: usize, group: &Group) {
        let offset = match self {
            Self::P8 | Self::P8Half => 128 - group.zero,
            Self::P4 | Self::P8Min | Self::F32 | Self::F16 | Self::BF16 => 0,
        };
        let (fours, _) = group.codes.as_chunks::<4>();
        let mut put = |j: usize, four: u32| {
            block[64 * j + 4 * row..][..4].copy_from_slice(&four.to_ne_bytes());
        };
        if self == Self::P4 {
            let (low, high) = fours.split_at(4);
            for (j, (low, high)) in low.iter().zip(high).enumerate() {
                // No code has bits beyond its four.
                put(j, u32::from_ne_bytes(*low) | u32::from_ne_bytes(*high) << 4);
            }
        } else {
            for (j, four) in fours.iter().enumerate() {
                let [a, b, c, d] = *four;
                // Offsets reach no further than the code's own byte.
                put(j, u32::from_ne_bytes([a + offset, b + offset, c + offset, d + offset]));
            }
        }
    }

    /// Reads one row's `out.len()` columns back from a panel.
    pub(super) fn read_row(self, panel: &[u8], row: usize, out: &mut [f32]) {
        let blocks = panel.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_mut(self.block_len())) {
            match self {
                Self::F32 => {
                    let bytes = [0, 1, 2, 3].map(|i| block[4 * row + i]);
                    out[0] = f32::from_le_bytes(bytes);
                }
                Self::F16 => out[0] = f16_at(block, 0, row),
                Self::BF16 => {
                    out[0] = bf16::from_le_bytes([block[2 * row], block[2 * row + 1]]).to_f32();
                }
                Self::P4 | Self::P8 | Self::P8Min | Self::P8Half => {
                    self.read_group(block, row, out);
                }
            }
        }
    }

    fn read_group(self, block: &[u8], row: usize, out: &mut [f32]) {
        let scales = if self == Self::P4 { 256 } else { 512 };
        let (first, second) = (f16_at(block, scales, row), || f16_at(block, scales + 32, row));
        for (column, out) in out.iter_mut().enumerate() {
            let (j, byte) = (column / 4, column % 4);
            *out = match self {
                Self::P4 => {
                    let code = block[64 * (j % 4) + 4 * row + byte] >> (column / 16 * 4) & 15;
                    f32::from(code) * first + second()
                }
                Self::P8Min => f32::from(block[64 * j + 4 * row + byte]) * first + second(),
                Self::P8Half | Self::P8 | Self::F32 | Self::F16 | Self::BF16 => {
                    let code = f32::from(block[64 * j + 4 * row + byte]) - 128.0;
                    let is_second = self == Self::P8Half && column >= 16;
                    code * if is_second { second() } else { first }
                }
            };
        }
    }
}

fn f16_at(block: &[u8], start: usize, row: usize) -> f32 {
    let at = start + 2 * row;
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
