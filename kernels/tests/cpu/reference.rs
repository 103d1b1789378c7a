//! Random checkpoint bytes of every type, and their values, written from the block structures of
//! ggml's `ggml-common.h`.

use half::{bf16, f16};
use sconce_kernels::dtype::Dtype;

use crate::Random;

pub(crate) const DTYPES: [Dtype; 13] = [
    Dtype::F32,
    Dtype::F16,
    Dtype::BF16,
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q4K,
    Dtype::Q5K,
    Dtype::Q6K,
    Dtype::Int4,
    Dtype::Int8,
];

/// Random elements: bytes, with the half-float fields set to plausible numbers.
pub(crate) fn random_weights(dtype: Dtype, num_elements: usize, random: &mut Random) -> Vec<u8> {
    let num_blocks = num_elements / dtype.block_len();
    let mut bytes = random.bytes(num_blocks * dtype.block_bytes());
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        let halves: &[usize] = match dtype {
            Dtype::F32 => {
                block.copy_from_slice(&random.float().to_le_bytes());
                &[]
            }
            Dtype::BF16 => {
                block.copy_from_slice(&bf16::from_f32(random.float()).to_le_bytes());
                &[]
            }
            Dtype::F16 | Dtype::Q4_0 | Dtype::Q5_0 | Dtype::Q8_0 => &[0],
            Dtype::Q4_1 | Dtype::Q5_1 | Dtype::Q4K | Dtype::Q5K => &[0, 2],
            Dtype::Q6K => &[208],
            Dtype::Int4 | Dtype::Int8 => {
                let is_4_bits = dtype == Dtype::Int4;
                let scale = f16::from_f32(random.float() * 0.01).to_f32();
                let zero = if is_4_bits { u32::from(block[4] % 17) } else { 128 };
                block[..4].copy_from_slice(&scale.to_le_bytes());
                block[4..8].copy_from_slice(&zero.to_le_bytes());
                block[8..].iter_mut().for_each(|code| *code &= if is_4_bits { 15 } else { 255 });
                &[]
            }
            Dtype::Dequantized => {
                for element in block.chunks_exact_mut(4) {
                    element.copy_from_slice(&random.float().to_le_bytes());
                }
                &[]
            }
        };
        for &at in halves {
            let scale = if dtype == Dtype::F16 { 1.0 } else { 0.01 };
            let value = f16::from_f32(random.float() * scale);
            block[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

/// Their values.
pub(crate) fn dequantize(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(dtype.block_bytes()).flat_map(|block| block_values(dtype, block)).collect()
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn block_values(dtype: Dtype, block: &[u8]) -> Vec<f32> {
    match dtype {
        Dtype::F32 => vec![f32::from_le_bytes(block.try_into().unwrap())],
        Dtype::F16 => vec![half_at(block, 0)],
        Dtype::BF16 => vec![bf16::from_le_bytes([block[0], block[1]]).to_f32()],
        Dtype::Q4_0 => small(block, 2, None, |d, _, q| d * (q as f32 - 8.0)),
        Dtype::Q4_1 => small(block, 4, None, |d, m, q| d * q as f32 + m),
        Dtype::Q5_0 => small(block, 6, Some(2), |d, _, q| d * (q as f32 - 16.0)),
        Dtype::Q5_1 => small(block, 8, Some(4), |d, m, q| d * q as f32 + m),
        Dtype::Q8_0 => block[2..].iter().map(|&q| half_at(block, 0) * f32::from(q as i8)).collect(),
        Dtype::Q4K => super_block(block, None, &block[16..144]),
        Dtype::Q5K => super_block(block, Some(&block[16..48]), &block[48..176]),
        Dtype::Q6K => six(block),
        Dtype::Int4 | Dtype::Int8 => {
            let scale = f32::from_le_bytes(block[..4].try_into().unwrap());
            let zero = f32::from(block[4]);
            block[8..].iter().map(|&code| (f32::from(code) - zero) * scale).collect()
        }
        Dtype::Dequantized => {
            let (elements, _) = block.as_chunks();
            elements.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        }
    }
}

/// The types with 32 elements: nibbles at `nibbles`, fifth bits at `fifth`.
fn small(
    block: &[u8],
    nibbles: usize,
    fifth: Option<usize>,
    value: impl Fn(f32, f32, u32) -> f32,
) -> Vec<f32> {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let mut out = vec![0.0; 32];
    for j in 0..16 {
        let (mut low, mut high) =
            (u32::from(block[nibbles + j] & 0x0f), u32::from(block[nibbles + j] >> 4));
        if let Some(at) = fifth {
            let bits = u32::from_le_bytes(block[at..at + 4].try_into().unwrap());
            low |= (bits >> j & 1) << 4;
            high |= (bits >> (j + 16) & 1) << 4;
        }
        out[j] = value(d, m, low);
        out[j + 16] = value(d, m, high);
    }
    out
}

/// `Q4_K` and `Q5_K`: eight groups of 32, in pairs that share their bytes.
fn super_block(block: &[u8], fifth: Option<&[u8]>, nibbles: &[u8]) -> Vec<f32> {
    let (d, d_min) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    let mut out = Vec::new();
    for group in 0..8 {
        let (scale, min) = if group < 4 {
            (packed[group] & 63, packed[group + 4] & 63)
        } else {
            (
                (packed[group + 4] & 0x0f) | ((packed[group - 4] >> 6) << 4),
                (packed[group + 4] >> 4) | ((packed[group] >> 6) << 4),
            )
        };
        for i in 0..32 {
            let byte = nibbles[group / 2 * 32 + i];
            let mut q = if group % 2 == 0 { byte & 0x0f } else { byte >> 4 };
            if fifth.is_some_and(|bits| bits[i] & (1 << group) != 0) {
                q += 16;
            }
            out.push(d * f32::from(scale) * f32::from(q) - d_min * f32::from(min));
        }
    }
    out
}

/// `Q6_K`: two halves of 128.
fn six(block: &[u8]) -> Vec<f32> {
    let d = half_at(block, 208);
    let mut out = vec![0.0; 256];
    for half in 0..2 {
        let low = &block[64 * half..64 * half + 64];
        let high = &block[128 + 32 * half..160 + 32 * half];
        let scales = &block[192 + 8 * half..200 + 8 * half];
        for l in 0..32 {
            let codes = [
                (low[l] & 0x0f) | (high[l] & 3) << 4,
                (low[l + 32] & 0x0f) | (high[l] >> 2 & 3) << 4,
                (low[l] >> 4) | (high[l] >> 4 & 3) << 4,
                (low[l + 32] >> 4) | (high[l] >> 6) << 4,
            ];
            for (quarter, code) in codes.into_iter().enumerate() {
                let scale = f32::from(scales[l / 16 + 2 * quarter] as i8);
                out[128 * half + 32 * quarter + l] = d * scale * (f32::from(code) - 32.0);
            }
        }
    }
    out
}

/// Rounds activations as an int8 multiplication does: per 32, the largest magnitude is 127.
pub(crate) fn int8_rounded(x: &[f32]) -> Vec<f32> {
    let mut out = Vec::new();
    for block in x.chunks(32) {
        let largest = block.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        out.extend(block.iter().map(|v| (v * inverse).round_ties_even() * scale));
    }
    out
}

/// Rounds activations as a multiplication with bf16 may.
pub(crate) fn bf16_rounded(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect()
}
