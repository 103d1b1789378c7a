//! Attention of `M` query rows over one split: at most 256 positions of the paged cache.
//!
//! Scores are sums over the head's dimensions in order, values are summed over the positions in
//! order, each per row: a row's result does not depend on the rows beside it.
#![expect(clippy::needless_range_loop, reason = "a loop over `row` is the unrolled register tile")]

use super::super::panels::{BLOCK, P8_BYTES};
use super::super::simd::{LANES, Simd};
use super::gemm::{self, Tile};

/// Positions of a split; splits start at its multiples.
pub(in super::super) const SPLIT: usize = 256;
/// Blocks of 16 positions in a split.
pub(in super::super) const SPLIT_BLOCKS: usize = SPLIT / LANES;

/// Query rows times the keys of a split.
pub(in super::super) struct Scores {
    /// `[head_dim][M]`, scaled; not read of an 8-bit cache.
    pub queries: *const f32,
    /// The same in 8 bits, for an 8-bit cache; each as a [`Tile`]'s.
    pub x: *const i32,
    pub scales: *const f32,
    pub offsets: *const i32,
    pub head_dim: usize,
    /// Each block's keys, `[head_dim][16]`.
    pub keys: *const [*const u8; SPLIT_BLOCKS],
    pub num_blocks: usize,
    /// Each block's values, to be asked for while the keys are read, if memory has them still.
    pub prefetch: Option<*const [*const u8; SPLIT_BLOCKS]>,
    /// `[M][SPLIT]`; written in whole blocks.
    pub scores: *mut f32,
}

/// One row of scores, made into weights.
pub(in super::super) struct Softmax {
    /// `SPLIT` floats.
    pub scores: *mut f32,
    /// How many positions the row sees.
    pub visible: usize,
    /// How many blocks of 16 to fill; those not visible get weight 0.
    pub num_blocks: usize,
    /// Out: the largest score, and the sum of the weights `exp(score - largest)`.
    pub largest: f32,
    pub sum: f32,
}

/// Weighted sums of the values of a split.
pub(in super::super) struct Mix {
    /// `[M][SPLIT]`
    pub weights: *const f32,
    /// Each block's values, `[16][head_dim]`, and of an 8-bit cache their scales.
    pub values: *const [*const u8; SPLIT_BLOCKS],
    pub num_positions: usize,
    pub head_dim: usize,
    /// `[M][head_dim]`
    pub out: *mut f32,
}

/// How the cache stores an element.
trait Element {
    const BYTES: usize;
    /// # Safety
    /// The instruction set must be there and 16 elements readable.
    unsafe fn load<S: Simd>(from: *const u8) -> S::F;
}

struct F32;
struct F16;

impl Element for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load(from.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::load_f16(from.cast()) }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
unsafe fn scores<S: Simd, const M: usize, E: Element>(args: &Scores) {
    // SAFETY: every access is inside what the caller vouches for.
    unsafe {
        for block in 0..args.num_blocks {
            let keys = (*args.keys)[block];
            if let Some(values) = args.prefetch {
                let next = (*args.keys)[(block + 2).min(args.num_blocks - 1)];
                for line in (0..args.head_dim * LANES * E::BYTES).step_by(64) {
                    S::prefetch(next.wrapping_add(line));
                    S::prefetch((*values)[block].wrapping_add(line));
                }
            }
            let mut sums = [S::splat(0.0); M];
            for dim in 0..args.head_dim {
                let key = E::load::<S>(keys.add(dim * LANES * E::BYTES));
                let queries = args.queries.add(dim * M);
                for row in 0..M {
                    sums[row] = S::fma(S::splat(*queries.add(row)), key, sums[row]);
                }
            }
            for (row, sum) in sums.into_iter().enumerate() {
                S::store(args.scores.add(row * SPLIT + block * LANES), sum);
            }
        }
    }
}

/// The keys of 16 positions are a panel.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn scores_int8<S: Simd, const M: usize>(args: &Scores) {
    let num_groups = args.head_dim / BLOCK;
    // SAFETY: every access is inside what the caller vouches for.
    unsafe {
        for block in 0..args.num_blocks {
            let keys = (*args.keys)[block];
            if let Some(values) = args.prefetch {
                let next = (*args.keys)[(block + 2).min(args.num_blocks - 1)];
                for line in (0..num_groups * P8_BYTES).step_by(64) {
                    S::prefetch(next.wrapping_add(line));
                    S::prefetch((*values)[block].wrapping_add(line));
                }
            }
            gemm::p8_near::<S, M>(&Tile {
                weights: keys,
                num_blocks: num_groups,
                x: args.x,
                scales: args.scales,
                offsets: args.offsets,
                dense: std::ptr::null(),
                out: args.scores.add(block * LANES),
                out_stride: SPLIT,
                accumulate: false,
            });
        }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn mix_int8<S: Simd, const M: usize>(args: &Mix) {
    let num_blocks = args.num_positions.div_ceil(LANES);
    // SAFETY: every access is inside what the caller vouches for; weights are written in whole
    // blocks, with zeros for positions that are not seen.
    unsafe {
        let mut weights = [[0.0; SPLIT]; M];
        for group in 0..args.head_dim / BLOCK {
            for block in 0..num_blocks {
                let scales = (*args.values)[block].add(LANES * args.head_dim).cast::<u16>();
                let scales = S::load_f16(scales.add(group * LANES));
                // A position that nobody sees may hold anything.
                let count = LANES.min(args.num_positions - block * LANES);
                let scales = S::first_or(scales, count, S::splat(0.0));
                for row in 0..M {
                    let weight = S::load(args.weights.add(row * SPLIT + block * LANES));
                    S::store(weights[row].as_mut_ptr().add(block * LANES), S::mul(weight, scales));
                }
            }
            for dim in [group * BLOCK, group * BLOCK + LANES] {
                let mut sums = [S::splat(0.0); M];
                for position in 0..args.num_positions {
                    let row = (*args.values)[position / LANES];
                    let codes = row.add(position % LANES * args.head_dim + dim);
                    let value = S::load_i8(codes.cast());
                    for row in 0..M {
                        let weight = S::splat(*weights[row].as_ptr().add(position));
                        sums[row] = S::fma(weight, value, sums[row]);
                    }
                }
                for (row, sum) in sums.into_iter().enumerate() {
                    S::store(args.out.add(row * args.head_dim + dim), sum);
                }
            }
        }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
unsafe fn mix<S: Simd, const M: usize, E: Element>(args: &Mix) {
    // SAFETY: every access is inside what the caller vouches for.
    unsafe {
        for dim in (0..args.head_dim).step_by(LANES) {
            let mut sums = [S::splat(0.0); M];
            for position in 0..args.num_positions {
                let row = (*args.values)[position / LANES];
                let element = (position % LANES) * args.head_dim + dim;
                let value = E::load::<S>(row.add(element * E::BYTES));
                for row in 0..M {
                    let weight = S::splat(*args.weights.add(row * SPLIT + position));
                    sums[row] = S::fma(weight, value, sums[row]);
                }
            }
            for (row, sum) in sums.into_iter().enumerate() {
                S::store(args.out.add(row * args.head_dim + dim), sum);
            }
        }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn scores_f16<S: Simd, const M: usize>(args: &Scores) {
    // SAFETY: the caller's.
    unsafe { scores::<S, M, F16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn scores_f32<S: Simd, const M: usize>(args: &Scores) {
    // SAFETY: the caller's.
    unsafe { scores::<S, M, F32>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn mix_f16<S: Simd, const M: usize>(args: &Mix) {
    // SAFETY: the caller's.
    unsafe { mix::<S, M, F16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(super) unsafe fn mix_f32<S: Simd, const M: usize>(args: &Mix) {
    // SAFETY: the caller's.
    unsafe { mix::<S, M, F32>(args) }
}

/// # Safety
/// The instruction set must be there and `scores` hold `num_blocks` blocks.
#[inline(always)]
pub(super) unsafe fn softmax<S: Simd>(args: &mut Softmax) {
    // SAFETY: every access is inside what the caller vouches for; a block's visible count is at
    // most 16.
    unsafe {
        let visible_in = |block: usize| args.visible.saturating_sub(block * LANES).min(LANES);
        let lowest = S::splat(f32::NEG_INFINITY);
        let mut largest = lowest;
        for block in 0..args.num_blocks {
            let scores = S::load(args.scores.add(block * LANES));
            largest = S::max(largest, S::first_or(scores, visible_in(block), lowest));
        }
        let largest = S::largest(largest);
        let mut sum = S::splat(0.0);
        for block in 0..args.num_blocks {
            let scores = args.scores.add(block * LANES);
            let weights = S::exp(S::sub(S::load(scores), S::splat(largest)));
            let weights = S::first_or(weights, visible_in(block), S::splat(0.0));
            sum = S::add(sum, weights);
            S::store(scores, weights);
        }
        (args.largest, args.sum) = (largest, S::sum(sum));
    }
}
