//! The blocks that checkpoints store quantized weights in, read as groups of 32 elements.

use half::{bf16, f16};

use super::panels::{BLOCK, GROUPS};
use crate::dtype::Dtype;

/// 32 elements: `(code - zero) * scale + min`, the first 16 with the first scale.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub codes: [u8; BLOCK],
    pub zero: u8,
    pub scales: [f32; 2],
    pub min: f32,
}

impl Group {
    fn new(codes: [u8; BLOCK], zero: u8, scale: f32, min: f32) -> Self {
        Self { codes, zero, scales: [scale; 2], min }
    }

    /// The nearest 8-bit codes, the largest magnitude as 127.
    pub(crate) fn q8(elements: &[f32; BLOCK]) -> Self {
        let largest = elements.iter().fold(0.0_f32, |largest, x| larger(x.abs(), largest));
        let scale = f16::from_f32(largest / 127.0).to_f32();
        let code = |x: f32| ((x / scale).round().clamp(-127.0, 127.0) + 128.0) as u8;
        let codes = elements.map(|x| if scale == 0.0 { 128 } else { code(x) });
        Self::new(codes, 128, scale, 0.0)
    }

    /// The nearest 4-bit codes from the least element to the greatest.
    pub(crate) fn q4(elements: &[f32; BLOCK]) -> Self {
        let least = elements.iter().fold(f32::INFINITY, |least, x| -larger(-x, -least));
        let greatest = elements.iter().fold(f32::NEG_INFINITY, |most, x| larger(*x, most));
        let min = f16::from_f32(least).to_f32();
        let scale = f16::from_f32((greatest - min) / 15.0).to_f32();
        let code = |x: f32| ((x - min) / scale).round().clamp(0.0, 15.0) as u8;
        let codes = elements.map(|x| if scale == 0.0 { 0 } else { code(x) });
        Self::new(codes, 0, scale, min)
    }

    /// Writes the elements as floats.
    pub(crate) fn dequantize(&self, out: &mut [f32]) {
        for (i, (out, &code)) in out.iter_mut().zip(&self.codes).enumerate() {
            let code = f32::from(i16::from(code) - i16::from(self.zero));
            *out = code * self.scales[i / 16] + self.min;
        }
    }
}

/// 256 elements whose scales have two levels: `code * factor * scale`, and `+ factor * min` or of
/// codes around a zero.
#[derive(Clone, Debug)]
pub(crate) struct SuperBlock {
    pub codes: [[u8; BLOCK]; GROUPS],
    /// Of each group: of its scale and its minimum, or of the scales of its first and its last 16.
    pub factors: [[i8; 2]; GROUPS],
    pub scale: f16,
    pub min: f16,
}

/// Reads a super-block of a row of `Q4K`, `Q5K` or `Q6K`.
pub(crate) fn super_block(dtype: Dtype, row: &[u8], index: usize) -> SuperBlock {
    let block = &row[index * dtype.block_bytes()..][..dtype.block_bytes()];
    let groups: [usize; GROUPS] = std::array::from_fn(|group| group);
    let codes = groups.map(|group| self::group(dtype, block, group).codes);
    if dtype == Dtype::Q6K {
        let factors = groups.map(|group| [0, 1].map(|i| block[192 + 2 * group + i] as i8));
        return SuperBlock { codes, factors, scale: half_at(block, 208), min: f16::ZERO };
    }
    let factors = groups.map(|group| k_factors(block, group).map(|factor| factor as i8));
    SuperBlock { codes, factors, scale: half_at(block, 0), min: -half_at(block, 2) }
}

/// Writes elements of any type as floats; `bytes` holds as many as `out` has room for, in whole blocks.
///
/// # Panics
///
/// When the lengths do not fit.
pub fn dequantize(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    let expected = out.len() / dtype.block_len() * dtype.block_bytes();
    assert!(bytes.len() == expected && out.len().is_multiple_of(dtype.block_len()));
    match dtype {
        Dtype::F32 | Dtype::Dequantized => {
            let (quads, _) = bytes.as_chunks::<4>();
            out.iter_mut().zip(quads).for_each(|(x, quad)| *x = f32::from_le_bytes(*quad));
        }
        Dtype::F16 | Dtype::BF16 => {
            let (pairs, _) = bytes.as_chunks::<2>();
            for (x, pair) in out.iter_mut().zip(pairs) {
                *x = match dtype {
                    Dtype::F16 => f16::from_le_bytes(*pair).to_f32(),
                    _ => bf16::from_le_bytes(*pair).to_f32(),
                };
            }
        }
        _ => {
            for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
                group(dtype, bytes, index).dequantize(out);
            }
        }
    }
}

/// The larger one, or NaN if either is none: a weight that is no number must show.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// Reads the group that starts at element `32 * index` of a row of quantized blocks.
pub(crate) fn group(dtype: Dtype, row: &[u8], index: usize) -> Group {
    let groups_per_block = (dtype.block_len() / BLOCK).max(1);
    let start = index / groups_per_block * dtype.block_bytes();
    let block = &row[start..start + dtype.block_bytes()];
    let index = index % groups_per_block;
    match dtype {
        Dtype::Q4_0 => Group::new(nibbles(bytes(block, 2)), 8, f16_at(block, 0), 0.0),
        Dtype::Q4_1 => Group::new(nibbles(bytes(block, 4)), 0, f16_at(block, 0), f16_at(block, 2)),
        Dtype::Q5_0 => Group::new(fifths(bytes(block, 2)), 16, f16_at(block, 0), 0.0),
        Dtype::Q5_1 => Group::new(fifths(bytes(block, 4)), 0, f16_at(block, 0), f16_at(block, 2)),
        Dtype::Q8_0 => {
            let mut codes = *bytes::<BLOCK>(block, 2);
            for code in &mut codes {
                *code ^= 128;
            }
            Group::new(codes, 128, f16_at(block, 0), 0.0)
        }
        Dtype::Q4K => {
            let (scale, min) = k_scale(block, index);
            Group::new(k_nibbles(bytes(block, 16 + index / 2 * BLOCK), index), 0, scale, min)
        }
        Dtype::Q5K => {
            let (scale, min) = k_scale(block, index);
            let mut codes = k_nibbles(bytes(block, 48 + index / 2 * BLOCK), index);
            for (code, high) in codes.iter_mut().zip(bytes::<BLOCK>(block, 16)) {
                *code |= (high >> index & 1) << 4;
            }
            Group::new(codes, 0, scale, min)
        }
        Dtype::Q6K => q6k(block, index),
        Dtype::Int4 | Dtype::Int8 => {
            let scale = f32::from_le_bytes(*bytes(block, 0));
            Group::new(*bytes(block, 8), block[4], scale, 0.0)
        }
        Dtype::Dequantized => {
            let mut elements = [0.0; BLOCK];
            dequantize(dtype, block, &mut elements);
            Group::q8(&elements)
        }
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => {
            unreachable!("a plain float is in no group")
        }
    }
}

/// Writes a row of any type as floats.
pub(crate) fn dequantize_row(dtype: Dtype, row: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F32 | Dtype::Dequantized => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                *out = f32::from_le_bytes(*bytes);
            }
        }
        Dtype::F16 => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                *out = f16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::BF16 => {
            for (out, bytes) in out.iter_mut().zip(row.as_chunks().0) {
                *out = bf16::from_le_bytes(*bytes).to_f32();
            }
        }
        Dtype::Q4_0
        | Dtype::Q4_1
        | Dtype::Q5_0
        | Dtype::Q5_1
        | Dtype::Q8_0
        | Dtype::Q4K
        | Dtype::Q5K
        | Dtype::Q6K
        | Dtype::Int4
        | Dtype::Int8 => {
            for (index, out) in out.chunks_mut(BLOCK).enumerate() {
                group(dtype, row, index).dequantize(out);
            }
        }
    }
}

fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    half_at(bytes, at).to_f32()
}

/// `N` bytes of a block: of a length that the compiler knows, it makes vectors of the loops here.
fn bytes<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    let Some(bytes) = block[at..].first_chunk() else { unreachable!("a block is whole") };
    bytes
}

/// 16 bytes: elements 0..16 in the low halves, 16..32 in the high halves.
fn nibbles(bytes: &[u8; BLOCK / 2]) -> [u8; BLOCK] {
    let mut codes = [0; BLOCK];
    let (low, high) = codes.split_at_mut(BLOCK / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
    codes
}

/// Four bytes with the fifth bit of each element, then the nibbles.
fn fifths(block: &[u8; 4 + BLOCK / 2]) -> [u8; BLOCK] {
    let high = u32::from_le_bytes(*bytes(block, 0));
    let mut codes = nibbles(bytes(block, 4));
    for (i, code) in codes.iter_mut().enumerate() {
        *code |= ((high >> i & 1) << 4) as u8;
    }
    codes
}

/// Two groups share 32 bytes: the even one has the low halves.
fn k_nibbles(pair: &[u8; BLOCK], index: usize) -> [u8; BLOCK] {
    let shift = index % 2 * 4;
    let mut codes = *pair;
    for code in &mut codes {
        *code = *code >> shift & 15;
    }
    codes
}

/// A group's scale and (negative) minimum: two half floats times 6-bit factors.
fn k_scale(block: &[u8], index: usize) -> (f32, f32) {
    let [scale, min] = k_factors(block, index).map(f32::from);
    (f16_at(block, 0) * scale, -(f16_at(block, 2) * min))
}

/// The factors of a group's scale and minimum: twelve bytes hold eight pairs of 6 bits.
fn k_factors(block: &[u8], index: usize) -> [u8; 2] {
    let packed = &block[4..16];
    if index < 4 {
        return [packed[index] & 63, packed[index + 4] & 63];
    }
    let (low, scale_high, min_high) = (packed[index + 4], packed[index - 4], packed[index]);
    [low & 15 | scale_high >> 6 << 4, low >> 4 | min_high >> 6 << 4]
}

/// 128 bytes of low halves, 64 of high quarters, 16 signed scales, one half float.
fn q6k(block: &[u8], index: usize) -> Group {
    let (half, quarter) = (index / 4, index % 4);
    let low = bytes::<BLOCK>(block, 64 * half + 32 * (quarter % 2));
    let high = bytes::<BLOCK>(block, 128 + 32 * half);
    let (low_shift, high_shift) = (quarter / 2 * 4, 2 * quarter);
    let mut codes = [0; BLOCK];
    for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
        *code = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
    }
    let scale = f16_at(block, 208);
    let scales = [0, 1].map(|i| scale * f32::from(block[192 + 2 * index + i] as i8));
    Group { codes, zero: 32, scales, min: 0.0 }
}
