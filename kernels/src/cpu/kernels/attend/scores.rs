//! Scores: queries times the keys of a split.
#![expect(clippy::needless_range_loop, reason = "a loop over `row` is the unrolled register tile")]

use super::super::super::panels::{BLOCK, P8_BYTES};
use super::super::super::simd::{LANES, Simd};
use super::super::gemm::{self, Codes, Tile};
use super::elements::{BF16, Element, F16, F32};
use super::{SPLIT, Scores};

/// As many blocks at once as there are registers for their sums: of few rows, one block's would
/// wait for each other.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
unsafe fn scores<S: Simd, const M: usize, E: Element>(args: &Scores) {
    let mut block = 0;
    while block < args.num_blocks {
        let most = (S::SUMS / M).min(args.num_blocks - block);
        // SAFETY: the caller's; there are as many blocks.
        unsafe {
            block += if most >= 4 {
                scores_of_blocks::<S, M, 4, E>(args, block)
            } else if most >= 2 {
                scores_of_blocks::<S, M, 2, E>(args, block)
            } else {
                scores_of_blocks::<S, M, 1, E>(args, block)
            };
        }
    }
}

/// The scores of `B` blocks. Returns `B`.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them; there must
/// be `B` blocks.
#[inline(always)]
unsafe fn scores_of_blocks<S: Simd, const M: usize, const B: usize, E: Element>(
    args: &Scores,
    block: usize,
) -> usize {
    let queries = E::queries(args);
    // SAFETY: every access is inside what the caller vouches for.
    unsafe {
        let keys: [*const u8; B] = std::array::from_fn(|b| (*args.keys)[block + b]);
        for b in 0..B {
            let bytes = args.head_dim / E::TOGETHER * LANES * E::BYTES;
            prefetch::<S>(args, block + b, B.max(2), bytes);
        }
        let mut sums = [[S::splat(0.0); M]; B];
        for step in 0..args.head_dim / E::TOGETHER {
            let keys = keys.map(|keys| keys.wrapping_add(step * LANES * E::BYTES));
            let mut lanes = [E::splat::<S>(0); B];
            for b in 0..B {
                lanes[b] = E::load::<S>(keys[b]);
            }
            for row in 0..M {
                let query = E::splat::<S>(*queries.add(step * M + row));
                for b in 0..B {
                    sums[b][row] = E::add::<S>(sums[b][row], lanes[b], query);
                }
            }
        }
        for (b, sums) in sums.into_iter().enumerate() {
            for (row, sum) in sums.into_iter().enumerate() {
                S::store(args.scores.add(row * SPLIT + (block + b) * LANES), sum);
            }
        }
    }
    B
}

/// Asks for the keys of the block that comes `ahead` blocks later, and for the block's own values.
///
/// # Safety
/// The instruction set must be there and the block among those of the split.
#[inline(always)]
unsafe fn prefetch<S: Simd>(args: &Scores, block: usize, ahead: usize, num_bytes: usize) {
    // SAFETY: the caller's.
    unsafe {
        if let Some(values) = args.prefetch {
            let next = (*args.keys)[(block + ahead).min(args.num_blocks - 1)];
            for line in (0..num_bytes).step_by(64) {
                S::prefetch(next.wrapping_add(line));
                S::prefetch_for_later((*values)[block].wrapping_add(line));
            }
        }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn scores_f16<S: Simd, const M: usize>(args: &Scores) {
    // SAFETY: the caller's.
    unsafe { scores::<S, M, F16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn scores_bf16<S: Simd, const M: usize>(args: &Scores) {
    // SAFETY: the caller's.
    unsafe { scores::<S, M, BF16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn scores_f32<S: Simd, const M: usize>(args: &Scores) {
    // SAFETY: the caller's.
    unsafe { scores::<S, M, F32>(args) }
}

/// The keys of 16 positions are a panel.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn scores_int8<S: Simd, const M: usize>(args: &Scores) {
    let num_groups = args.head_dim / BLOCK;
    // SAFETY: every access is inside what the caller vouches for.
    unsafe {
        for block in 0..args.num_blocks {
            let keys = (*args.keys)[block];
            prefetch::<S>(args, block, 2, num_groups * P8_BYTES);
            let codes = Codes { x: args.x, scales: args.scales, offsets: args.offsets };
            gemm::p8_near::<S, M>(&Tile {
                weights: keys,
                num_blocks: num_groups,
                codes,
                outliers: std::ptr::null(),
                rest: codes,
                dense: std::ptr::null(),
                pairs: std::ptr::null(),
                out: args.scores.add(block * LANES),
                out_stride: SPLIT,
                accumulate: false,
            });
        }
    }
}
