//! Packed weights: panels of 16 rows, and within a panel blocks of 32 columns (of floats single columns,
//! of bf16 pairs), so that one vector holds the same column group of 16 rows.
//!
//! In a block, vector `j` holds for each row the four columns `4j..4j+4`; of [`Format::P4`], the
//! low halves are columns `4j..`, the high halves columns `16+4j..`, of `j` in 0..4. So it is of
//! longer codes, whose further bits follow in planes of 64 bytes: of 5 bits one, whose byte `b` has
//! in bit `j` that of byte `b` of vector `j` in 0..8; of 6 bits one for the low and one for the
//! high halves, whose byte `b` has in bits `2j..2j+2` those of vector `j` in 0..4. Then follow 16
//! scales and, where the format has them, 16 minima, as half floats.
//!
//! Formats with scales of two levels have blocks of 256 columns. First come 16 half floats that factors of
//! scales are multiplied with, and 16 for those of minima; then four times the factors of two groups
//! of 32 columns (16 of the scales, and 16 of the minima or of the second scales, of each) and their
//! codes, as above. All is in the order in which it is read, or the processor does not read ahead.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::blocks::{Group, SuperBlock};
use super::simd::LANES;
use crate::dtype::Dtype;

/// Columns of a block.
pub(super) const BLOCK: usize = 32;
pub(super) const P4_BYTES: usize = 256 + 32 + 32;
pub(super) const P8_BYTES: usize = 512 + 32;
/// Where the first plane of a block of 5- or 6-bit codes is.
pub(super) const PLANES: usize = 256;
pub(super) const P5_BYTES: usize = 256 + 64 + 32;
pub(super) const P5_MIN_BYTES: usize = 256 + 64 + 32 + 32;
/// Groups of 32 columns in a block with scales of two levels.
pub(super) const GROUPS: usize = 8;
/// Bytes of the codes of such a group.
pub(super) const P4K_CODES: usize = 256;
pub(super) const P5K_CODES: usize = 256 + 64;
pub(super) const P6K_CODES: usize = 256 + 128;
pub(super) const P4K_BYTES: usize = super_block_bytes(P4K_CODES);
pub(super) const P5K_BYTES: usize = super_block_bytes(P5K_CODES);
pub(super) const P6K_BYTES: usize = super_block_bytes(P6K_CODES);
/// The half floats of a block with scales of two levels.
const WHOLES_BYTES: usize = 2 * 2 * LANES;
/// The factors of two groups.
const FACTORS_BYTES: usize = 2 * 2 * LANES;

const fn super_block_bytes(code_bytes: usize) -> usize {
    WHOLES_BYTES + GROUPS / 2 * (FACTORS_BYTES + 2 * code_bytes)
}

/// Where a group's factors are in a block with scales of two levels.
#[inline(always)]
pub(super) const fn factors_at(code_bytes: usize, group: usize) -> usize {
    WHOLES_BYTES + group / 2 * (FACTORS_BYTES + 2 * code_bytes) + 2 * LANES * (group % 2)
}

/// Where a group's codes are in a block with scales of two levels.
#[inline(always)]
pub(super) const fn codes_at(code_bytes: usize, group: usize) -> usize {
    let pair = WHOLES_BYTES + group / 2 * (FACTORS_BYTES + 2 * code_bytes);
    pair + FACTORS_BYTES + group % 2 * code_bytes
}

/// How a panel stores its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// 4 bits, scale and minimum per 32.
    P4,
    /// 5 bits around 16, scale per 32.
    P5,
    /// 5 bits, scale and minimum per 32.
    P5Min,
    /// 4 bits, scale and minimum per 32 in two levels.
    P4K,
    /// 5 bits, scale and minimum per 32 in two levels.
    P5K,
    /// 6 bits around 32, scale per 16 in two levels.
    P6K,
    /// 8 bits around 128, scale per 32.
    P8,
    F32,
    F16,
    /// Two columns in a lane, the first in its low half.
    BF16,
}

impl Format {
    /// The packed form of a checkpoint's type.
    pub(super) fn of(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Int4 => Self::P4,
            Dtype::Q5_0 => Self::P5,
            Dtype::Q5_1 => Self::P5Min,
            Dtype::Q4K => Self::P4K,
            Dtype::Q5K => Self::P5K,
            Dtype::Q6K => Self::P6K,
            Dtype::Q8_0 | Dtype::Int8 | Dtype::Dequantized => Self::P8,
        }
    }

    /// Whether it multiplies float activations; the others multiply int8.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Columns that are stored together.
    pub(super) fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 => 1,
            Self::BF16 => 2,
            Self::P4 | Self::P5 | Self::P5Min | Self::P8 => BLOCK,
            Self::P4K | Self::P5K | Self::P6K => GROUPS * BLOCK,
        }
    }

    /// Bytes of 16 rows of `block_len` columns.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::P4 => P4_BYTES,
            Self::P5 => P5_BYTES,
            Self::P5Min => P5_MIN_BYTES,
            Self::P4K => P4K_BYTES,
            Self::P5K => P5K_BYTES,
            Self::P6K => P6K_BYTES,
            Self::P8 => P8_BYTES,
            Self::F32 | Self::BF16 => 4 * LANES,
            Self::F16 => 2 * LANES,
        }
    }

    /// Bytes of the codes of 32 columns.
    fn code_bytes(self) -> usize {
        match self {
            Self::P4 | Self::P4K => P4K_CODES,
            Self::P5 | Self::P5Min | Self::P5K => P5K_CODES,
            Self::P6K => P6K_CODES,
            Self::P8 | Self::F32 | Self::F16 | Self::BF16 => 512,
        }
    }

    /// Bytes of a panel of `cols` columns.
    pub(super) fn panel_bytes(self, cols: usize) -> usize {
        cols / self.block_len() * self.block_bytes()
    }

    /// Writes 32 columns of up to 16 rows into a block of zeros, whose scales have one level.
    pub(super) fn put_group(
        self,
        block: &mut [u8],
        num_rows: usize,
        group: impl Fn(usize) -> Group,
    ) {
        let (mut scales, mut minima) = ([0.0; LANES], [0.0; LANES]);
        for row in 0..num_rows {
            let group = group(row);
            self.put_codes(block, row, &group.codes, group.zero);
            scales[row] = group.scales[0];
            minima[row] = group.min - group.scales[0] * f32::from(group.zero);
        }
        let (_, halves) = block.split_at_mut(self.code_bytes());
        for (to, from) in halves.chunks_exact_mut(2 * LANES).zip([scales, minima]) {
            let mut rounded = [f16::ZERO; LANES];
            rounded.convert_from_f32_slice(&from);
            put_halves(to, rounded);
        }
    }

    /// Writes 256 columns of up to 16 rows into a block of zeros, whose scales have two levels.
    pub(super) fn put_super_block(
        self,
        block: &mut [u8],
        num_rows: usize,
        read: impl Fn(usize) -> SuperBlock,
    ) {
        let mut wholes = [[f16::ZERO; LANES]; 2];
        for row in 0..num_rows {
            let from = read(row);
            (wholes[0][row], wholes[1][row]) = (from.scale, from.min);
            for group in 0..GROUPS {
                let codes = &mut block[codes_at(self.code_bytes(), group)..][..self.code_bytes()];
                self.put_codes(codes, row, &from.codes[group], 0);
                let factors = &mut block[factors_at(self.code_bytes(), group)..][..2 * LANES];
                let [first, second] = from.factors[group];
                (factors[row], factors[LANES + row]) = (first as u8, second as u8);
            }
        }
        for (to, from) in block.chunks_exact_mut(2 * LANES).zip(wholes) {
            put_halves(to, from);
        }
    }

    /// Puts a row's codes into a block of zeros.
    fn put_codes(self, block: &mut [u8], row: usize, codes: &[u8; BLOCK], zero: u8) {
        let (fours, _) = codes.as_chunks::<4>();
        let mut put = |at: usize, four: u32| {
            let bytes = &mut block[64 * at + 4 * row..][..4];
            let before = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&(before | four).to_ne_bytes());
        };
        if self == Self::P8 {
            // Offsets reach no further than the code's own byte.
            let offset = u32::from_ne_bytes([128 - zero; 4]);
            for (j, four) in fours.iter().enumerate() {
                put(j, u32::from_ne_bytes(*four) + offset);
            }
            return;
        }
        let bits = |four: u32, mask: u8| four & u32::from_ne_bytes([mask; 4]);
        for (j, four) in fours.iter().enumerate() {
            let four = u32::from_ne_bytes(*four);
            put(j % 4, bits(four, 15) << (j / 4 * 4));
            match self {
                Self::P5 | Self::P5Min | Self::P5K => put(PLANES / 64, bits(four, 16) >> 4 << j),
                Self::P6K => put(PLANES / 64 + j / 4, bits(four, 48) >> 4 << (2 * (j % 4))),
                Self::P4 | Self::P4K | Self::P8 | Self::F32 | Self::F16 | Self::BF16 => {}
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
                    let (elements, _) = block[4 * row..].as_chunks();
                    for (out, element) in out.iter_mut().zip(elements) {
                        *out = bf16::from_le_bytes(*element).to_f32();
                    }
                }
                Self::P4 | Self::P5 | Self::P5Min | Self::P8 => self.read_group(block, row, out),
                Self::P4K | Self::P5K | Self::P6K => self.read_super_block(block, row, out),
            }
        }
    }

    fn read_group(self, block: &[u8], row: usize, out: &mut [f32]) {
        let scale = f16_at(block, self.code_bytes(), row);
        let min = || f16_at(block, self.code_bytes() + 2 * LANES, row);
        for (column, out) in out.iter_mut().enumerate() {
            let code = f32::from(self.code(block, row, column));
            *out = match self {
                Self::P4 | Self::P5Min => code * scale + min(),
                Self::P5 => (code - 16.0) * scale,
                _ => (code - 128.0) * scale,
            };
        }
    }

    fn read_super_block(self, block: &[u8], row: usize, out: &mut [f32]) {
        let (scale, min) = (f16_at(block, 0, row), f16_at(block, 2 * LANES, row));
        for (group, out) in out.chunks_mut(BLOCK).enumerate() {
            let codes = &block[codes_at(self.code_bytes(), group)..][..self.code_bytes()];
            let factors = &block[factors_at(self.code_bytes(), group)..][..2 * LANES];
            let factor = |at: usize| f32::from(factors[at + row] as i8);
            let (first, second) = (factor(0), factor(LANES));
            for (column, out) in out.iter_mut().enumerate() {
                let code = f32::from(self.code(codes, row, column));
                *out = match self {
                    Self::P6K => (code - 32.0) * (if column < 16 { first } else { second } * scale),
                    _ => code * (first * scale) + second * min,
                };
            }
        }
    }

    /// A code of a quantized block.
    fn code(self, block: &[u8], row: usize, column: usize) -> u8 {
        let (j, byte) = (column / 4, 4 * row + column % 4);
        if self == Self::P8 {
            return block[64 * j + byte];
        }
        let low = block[64 * (j % 4) + byte] >> (j / 4 * 4) & 15;
        let plane = |index: usize| block[PLANES + 64 * index + byte];
        let high = match self {
            Self::P5 | Self::P5Min | Self::P5K => plane(0) >> j & 1,
            Self::P6K => plane(j / 4) >> (2 * (j % 4)) & 3,
            Self::P4 | Self::P4K | Self::P8 | Self::F32 | Self::F16 | Self::BF16 => 0,
        };
        low | high << 4
    }
}

fn put_halves(to: &mut [u8], from: [f16; LANES]) {
    for (to, half) in to.as_chunks_mut().0.iter_mut().zip(from) {
        *to = half.to_le_bytes();
    }
}

fn f16_at(block: &[u8], start: usize, row: usize) -> f32 {
    let at = start + 2 * row;
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}
