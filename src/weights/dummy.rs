//! Random weights, for measurements of models whose weights are not at hand. Never zeros: hardware
//! computes those with less power, and so faster.

use half::{bf16, f16};
use siphasher::sip::SipHasher;
use std::hash::{Hash, Hasher};

/// Numbers of a matrix: small enough that activations stay in range over many layers.
pub(super) const AMPLITUDE: f32 = 0.04;

/// A tensor's seed: the same name is the same tensor.
pub(super) fn seed(name: &str) -> u64 {
    let mut hasher = SipHasher::new_with_keys(0, 0);
    name.hash(&mut hasher);
    hasher.finish()
}

/// Fills `out` with the bytes from `offset` on of a tensor of bf16 with so many dimensions. Vectors are
/// near 1, matrices around 0.
pub(super) fn fill(seed: u64, num_dims: usize, offset: usize, out: &mut [u8]) {
    let table = table(num_dims);
    let mut at = offset;
    let mut rest = out;
    while !rest.is_empty() {
        // Eight elements, 16 bytes, of one draw.
        let (group, skip) = (at / 16, at % 16);
        let draw = mix(seed ^ group as u64).to_le_bytes();
        let mut bytes = [0; 16];
        for (pair, index) in bytes.chunks_exact_mut(2).zip(draw) {
            pair.copy_from_slice(&table[usize::from(index)].to_le_bytes());
        }
        let len = rest.len().min(16 - skip);
        let (now, later) = rest.split_at_mut(len);
        now.copy_from_slice(&bytes[skip..skip + len]);
        (at, rest) = (at + len, later);
    }
}

/// As [`fill`], of blocks that begin with a scale of 16 bits and go on with codes: Q4_0, Q8_0.
pub(super) fn fill_blocks(seed: u64, block_bytes: usize, offset: usize, out: &mut [u8]) {
    // Codes reach 8 in four bits and 128 in eight.
    let scale = f16::from_f32(if block_bytes < 32 { AMPLITUDE / 8.0 } else { AMPLITUDE / 128.0 });
    let scale = scale.to_le_bytes();
    let mut draw = (usize::MAX, [0; 8]);
    for (byte, at) in out.iter_mut().zip(offset..) {
        let (group, index) = (at / 8, at % 8);
        if draw.0 != group {
            draw = (group, mix(seed ^ group as u64).to_le_bytes());
        }
        *byte = scale.get(at % block_bytes).copied().unwrap_or(draw.1[index]);
    }
}

/// Bytes of a tensor that a quantized matrix is made of.
#[derive(Clone, Debug)]
pub(super) enum Contents {
    /// Integers, any as likely as any other.
    Codes { seed: u64 },
    /// 8-bit floats of numbers.
    E4M3 { seed: u64 },
    /// These bytes, again and again.
    Repeated(Vec<u8>),
}

impl Contents {
    /// Fills `out` with the bytes from `offset` on.
    pub(super) fn fill(&self, offset: usize, out: &mut [u8]) {
        match self {
            Self::Codes { seed } => fill_codes(*seed, offset, out),
            Self::E4M3 { seed } => {
                fill_codes(*seed, offset, out);
                // The greatest of each sign is no number.
                let codes = out.iter_mut().filter(|code| **code & 127 == 127);
                codes.for_each(|code| *code ^= 1);
            }
            Self::Repeated(bytes) => {
                let from = bytes.iter().cycle().skip(offset % bytes.len().max(1));
                out.iter_mut().zip(from).for_each(|(out, byte)| *out = *byte);
            }
        }
    }
}

fn fill_codes(seed: u64, offset: usize, out: &mut [u8]) {
    let mut draw = (usize::MAX, [0; 8]);
    for (byte, at) in out.iter_mut().zip(offset..) {
        if draw.0 != at / 8 {
            draw = (at / 8, mix(seed ^ (at / 8) as u64).to_le_bytes());
        }
        *byte = draw.1[at % 8];
    }
}

/// Evenly spaced numbers, none of them zero.
fn table(num_dims: usize) -> [bf16; 256] {
    std::array::from_fn(|i| {
        let x = (i as f32 - 127.5) / 127.5;
        bf16::from_f32(if num_dims == 1 { 1.0 + x * AMPLITUDE } else { x * AMPLITUDE })
    })
}

/// SplitMix64 (Steele et al., 2014): a counter becomes random bits.
fn mix(counter: u64) -> u64 {
    let x = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_parts_of_the_whole_and_tensors_differ() {
        let mut whole = [0; 1000];
        fill(seed("a"), 2, 0, &mut whole);

        for (begin, end) in [(0, 1), (7, 40), (16, 32), (993, 1000)] {
            let mut piece = vec![0; end - begin];
            fill(seed("a"), 2, begin, &mut piece);
            assert_eq!(piece, whole[begin..end]);
        }
        let mut other = [0; 1000];
        fill(seed("b"), 2, 0, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn blocks_have_a_scale_and_codes_wherever_a_piece_begins() {
        let mut whole = [0; 340];
        fill_blocks(3, 34, 0, &mut whole);
        let mut piece = [0; 100];
        fill_blocks(3, 34, 50, &mut piece);

        assert_eq!(piece, whole[50..150]);
        let scale = f16::from_le_bytes([whole[34], whole[35]]).to_f32();
        assert!((scale * 128.0 - AMPLITUDE).abs() < 1e-4, "{scale}");
        assert_ne!(whole[2..34], whole[36..68]);
    }

    #[test]
    fn contents_are_the_same_wherever_a_piece_begins_and_floats_are_numbers() {
        let all = [
            Contents::Codes { seed: 1 },
            Contents::E4M3 { seed: 2 },
            Contents::Repeated(vec![1, 2, 3]),
        ];
        for contents in all {
            let mut whole = [0; 1000];
            contents.fill(0, &mut whole);
            let mut piece = [0; 500];
            contents.fill(77, &mut piece);

            assert_eq!(piece, whole[77..577]);
            let has_nan = whole.iter().any(|code| *code & 127 == 127);
            assert_eq!(has_nan, matches!(contents, Contents::Codes { .. }));
        }
    }

    #[test]
    fn matrices_are_around_zero_without_it_and_vectors_near_one() {
        for (num_dims, mean) in [(2, 0.0), (1, 1.0)] {
            let mut bytes = vec![0; 1 << 16];
            fill(7, num_dims, 0, &mut bytes);
            let (pairs, _) = bytes.as_chunks::<2>();
            let numbers = || pairs.iter().map(|pair| bf16::from_le_bytes(*pair).to_f32());

            assert!(numbers().all(|x| x != 0.0 && (x - mean).abs() <= 0.05));
            let given = numbers().sum::<f32>() / pairs.len() as f32;
            assert!((given - mean).abs() < 1e-3, "{given}");
        }
    }
}
