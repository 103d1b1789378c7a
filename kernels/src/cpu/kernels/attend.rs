//! Attention of `M` query rows over one split: at most 256 positions of the paged cache.
//!
//! Scores are sums over the head's dimensions in order, values are summed over the positions in
//! order, each per row: a row's result does not depend on the rows beside it.

mod elements;
mod mix;
mod scores;

pub(super) use self::mix::{mix_bf16, mix_f16, mix_f32, mix_int8};
pub(super) use self::scores::{scores_bf16, scores_f16, scores_f32, scores_int8};
use super::super::simd::{LANES, Simd};

/// Positions of a split; splits start at its multiples.
pub(in super::super) const SPLIT: usize = 256;
/// Blocks of 16 positions in a split.
pub(in super::super) const SPLIT_BLOCKS: usize = SPLIT / LANES;

/// Query rows times the keys of a split.
pub(in super::super) struct Scores {
    /// `[head_dim][M]`, scaled, for a cache of f16 or f32.
    pub queries: *const f32,
    /// The same for a cache of bf16, pairs of dimensions `[head_dim / 2][M]`, or of 8 bits, each of
    /// the three as a [`Tile`]'s.
    pub x: *const i32,
    pub scales: *const f32,
    pub offsets: *const i32,
    pub head_dim: usize,
    /// Each block's keys, `[head_dim][16]`, of bf16 `[head_dim / 2][16][2]`.
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
    /// Whether the weights become bf16, in the first half of the scores' place.
    pub to_bf16: bool,
    /// The first position that the row sees.
    pub first: usize,
    /// One past the last, not before the first.
    pub visible: usize,
    /// How many blocks of 16 to fill; those not visible get weight 0.
    pub num_blocks: usize,
    /// Out: the largest score, and the sum of the weights `exp(score - largest)`.
    pub largest: f32,
    pub sum: f32,
}

/// Weighted sums of the values of a split.
pub(in super::super) struct Mix {
    /// `[M][SPLIT]`, for a cache of bf16 each row bf16 in its first half.
    pub weights: *const f32,
    /// Each block's values, `[16][head_dim]`, and of an 8-bit cache their scales; of bf16
    /// `[8][head_dim][2]`.
    pub values: *const [*const u8; SPLIT_BLOCKS],
    pub num_positions: usize,
    pub head_dim: usize,
    /// The keys that are read next, to be asked for meanwhile.
    pub prefetch: Option<*const [*const u8; SPLIT_BLOCKS]>,
    /// `[M][head_dim]`
    pub out: *mut f32,
}

/// # Safety
/// The instruction set must be there and `scores` hold `num_blocks` blocks.
#[inline(always)]
pub(super) unsafe fn softmax<S: Simd>(args: &mut Softmax) {
    let Softmax { scores, first, visible, num_blocks, .. } = *args;
    let first_block = first / LANES;
    let num_full = (visible / LANES).min(num_blocks);
    // Of the block that ends it.
    let in_last = if num_full < num_blocks { visible % LANES } else { 0 };
    // SAFETY: every access is inside what the caller vouches for; what is written in halves
    // replaces scores that have been read.
    unsafe {
        let zero = S::splat(0.0);
        let lowest = S::splat(f32::NEG_INFINITY);
        let mut largest = lowest;
        for block in first_block..num_full {
            let scores = S::load(scores.add(block * LANES));
            largest = S::max(largest, unless_before::<S>(block, first, scores, lowest));
        }
        if in_last > 0 {
            let scores = S::load(scores.add(num_full * LANES));
            let scores = unless_before::<S>(num_full, first, scores, lowest);
            largest = S::max(largest, S::first_or(scores, in_last, lowest));
        }
        let largest = S::largest(largest);
        let mut sum = zero;
        for block in 0..first_block {
            put_weights::<S>(args, block, zero);
        }
        for block in first_block..num_full {
            let weights = weights::<S>(args, block, largest);
            let weights = unless_before::<S>(block, first, weights, zero);
            sum = S::add(sum, weights);
            put_weights::<S>(args, block, weights);
        }
        let mut block = num_full;
        if in_last > 0 {
            let weights = weights::<S>(args, block, largest);
            let weights = unless_before::<S>(block, first, weights, zero);
            let weights = S::first_or(weights, in_last, zero);
            sum = S::add(sum, weights);
            put_weights::<S>(args, block, weights);
            block += 1;
        }
        for block in block..num_blocks {
            put_weights::<S>(args, block, zero);
        }
        (args.largest, args.sum) = (largest, S::sum(sum));
    }
}

/// A block's lanes from position `first` on, and `other` for those before.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
unsafe fn unless_before<S: Simd>(block: usize, first: usize, lanes: S::F, other: S::F) -> S::F {
    // SAFETY: the caller's.
    if block == first / LANES { unsafe { S::first_or(other, first % LANES, lanes) } } else { lanes }
}

/// # Safety
/// The instruction set must be there and the block among the scores.
#[inline(always)]
unsafe fn weights<S: Simd>(args: &Softmax, block: usize, largest: f32) -> S::F {
    // SAFETY: the caller's.
    unsafe {
        let difference = S::sub(S::load(args.scores.add(block * LANES)), S::splat(largest));
        if args.to_bf16 { S::exp_coarse(difference) } else { S::exp(difference) }
    }
}

/// # Safety
/// The instruction set must be there and the block among the scores; of bf16, the blocks before it
/// must have been read.
#[inline(always)]
unsafe fn put_weights<S: Simd>(args: &Softmax, block: usize, weights: S::F) {
    // SAFETY: the caller's; a block's halves end before its scores do.
    unsafe {
        if args.to_bf16 {
            S::store_bf16(args.scores.cast::<u16>().add(block * LANES), weights);
        } else {
            S::store(args.scores.add(block * LANES), weights);
        }
    }
}
