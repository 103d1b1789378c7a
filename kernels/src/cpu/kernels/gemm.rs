//! Matrix times a tile of tokens: one panel of 16 rows, all columns, `M` tokens at once.
//!
//! Sums run over the columns in order, per token, whatever `M` is, so a token's result does not
//! depend on its neighbors.
#![expect(clippy::needless_range_loop, reason = "a loop over `t` is the unrolled register tile")]

use super::super::panels::{
    GROUPS, P4_BYTES, P4K_BYTES, P4K_CODES, P5_BYTES, P5_MIN_BYTES, P5K_BYTES, P5K_CODES,
    P6K_BYTES, P6K_CODES, P8_BYTES, PLANES, codes_at, factors_at,
};
use super::super::simd::{LANES, Simd};

/// How many groups of 32 columns ahead weights are asked for: far enough for DRAM, near enough to stay
/// in L1.
const PREFETCH_GROUPS: usize = 8;
/// How many bytes ahead those of bf16.
const PREFETCH_BYTES: usize = 4096;

/// A panel, a tile of `M` tokens, and where the 16 x `M` results go.
pub(in super::super) struct Tile {
    /// The panel: `num_blocks` blocks of 16 rows, or dense columns of 16 rows.
    pub weights: *const u8,
    /// Blocks of 32 columns or of 256, as the format has them, or columns of a panel of floats, or pairs.
    pub num_blocks: usize,
    pub codes: Codes,
    /// `[columns / 32]`: of which groups `rest` has what rounding has left. Null: of none.
    pub outliers: *const bool,
    pub rest: Codes,
    /// `[columns][M]`, for a panel of floats.
    pub dense: *const f32,
    /// `[columns / 2][M]`: two bf16 each, for one of bf16.
    pub pairs: *const i32,
    /// `[M]` rows, `out_stride` floats apart, of 16 floats.
    pub out: *mut f32,
    pub out_stride: usize,
    /// Whether to add to `out`.
    pub accumulate: bool,
}

/// A tile's tokens as integers, in groups of 32.
#[derive(Clone, Copy)]
pub(in super::super) struct Codes {
    /// `[columns / 32][8][M]`: four int8 each.
    pub x: *const i32,
    /// `[columns / 32][2][M]`: the scale, and the scale times the sum of the int8.
    pub scales: *const f32,
    /// `[columns / 32][3][M]`: -128 times the sum of all, of the first and of the last 16 int8.
    pub offsets: *const i32,
}

impl Codes {
    /// From a group on, of a tile of `width`.
    #[inline(always)]
    pub(in super::super) fn at_group(self, group: usize, width: usize) -> Self {
        Self {
            x: self.x.wrapping_add(8 * group * width),
            scales: self.scales.wrapping_add(2 * group * width),
            offsets: self.offsets.wrapping_add(3 * group * width),
        }
    }
}

/// # Safety
/// The tile's output must be writable for `M` rows of 16.
#[inline(always)]
unsafe fn finish<S: Simd, const M: usize>(tile: &Tile, sums: [S::F; M]) {
    // SAFETY: the caller's.
    unsafe {
        for (t, sum) in sums.into_iter().enumerate() {
            let out = tile.out.add(t * tile.out_stride);
            let sum = if tile.accumulate { S::add(sum, S::load(out)) } else { sum };
            S::store(out, sum);
        }
    }
}

/// Asks for a group's share of a block ahead.
///
/// # Safety
/// As for any prefetch, none: the address need not be valid.
#[inline(always)]
unsafe fn prefetch<S: Simd, B: Block>(block: *const u8, group: usize) {
    let ahead = block.wrapping_add(PREFETCH_GROUPS / B::GROUPS * B::BYTES);
    // As many for each, so that the loop is unrolled: the last ones may be of the block behind it.
    let num_lines = B::BYTES.div_ceil(64 * B::GROUPS);
    let ahead = ahead.wrapping_add(64 * num_lines * group);
    for line in 0..num_lines {
        // SAFETY: the caller has the instruction set.
        unsafe { S::prefetch(ahead.wrapping_add(64 * line)) };
    }
}

/// How a panel stores columns of codes.
trait Block {
    /// Groups of 32 columns in a block.
    const GROUPS: usize = 1;
    const BYTES: usize;
    /// Whether weights are asked for ahead for a single token too. Codes that take many instructions
    /// to unpack keep the processor from seeing far enough itself; with others it reads ahead better.
    const ASKS_ALONE: bool = false;
    /// Adds the products of a group with `M` tokens.
    ///
    /// # Safety
    /// The instruction set must be there, the block readable, and of the tokens the group's.
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        group: usize,
        x: Codes,
    );
}

/// All of a panel's blocks, and those groups with outliers once more with what rounding has left.
///
/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
unsafe fn blocks<S: Simd, const M: usize, B: Block, const AHEAD: bool>(tile: &Tile) {
    // SAFETY: every access is inside the panel and the tile, whose sizes the caller vouches for.
    unsafe {
        let (mut w, mut x) = (tile.weights, tile.codes);
        let mut sums = [S::splat(0.0); M];
        for block in 0..tile.num_blocks {
            for group in 0..B::GROUPS {
                if AHEAD && (M > 1 || B::ASKS_ALONE) {
                    prefetch::<S, B>(w, group);
                }
                B::add::<S, M>(&mut sums, w, group, x);
                let index = block * B::GROUPS + group;
                if !tile.outliers.is_null() && *tile.outliers.add(index) {
                    B::add::<S, M>(&mut sums, w, group, tile.rest.at_group(index, M));
                }
                x = x.at_group(1, M);
            }
            w = w.add(B::BYTES);
        }
        finish::<S, M>(tile, sums);
    }
}

struct P4;
struct P5;
struct P5Min;
struct P4K;
struct P5K;
struct P6K;
struct P8;

impl Block for P4 {
    const BYTES: usize = P4_BYTES;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        _group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let dots = S::dots_nibbles::<M>(w, x.x);
            add_scaled::<S, M>(sums, dots, S::load_f16(w.add(256).cast()), x.scales);
            add_minima::<S, M>(sums, S::load_f16(w.add(288).cast()), x.scales);
        }
    }
}

impl Block for P5 {
    const BYTES: usize = P5_BYTES;
    const ASKS_ALONE: bool = true;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        _group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            // An eighth of what is for codes around 128.
            let dots = S::dots_fives::<M>(w, x.x, start::<S, M, 3>(x.offsets));
            add_scaled::<S, M>(sums, dots, S::load_f16(w.add(PLANES + 64).cast()), x.scales);
        }
    }
}

impl Block for P5Min {
    const BYTES: usize = P5_MIN_BYTES;
    const ASKS_ALONE: bool = true;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        _group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let dots = S::dots_fives::<M>(w, x.x, [S::splat_int(0); M]);
            add_scaled::<S, M>(sums, dots, S::load_f16(w.add(PLANES + 64).cast()), x.scales);
            add_minima::<S, M>(sums, S::load_f16(w.add(PLANES + 96).cast()), x.scales);
        }
    }
}

impl Block for P4K {
    const GROUPS: usize = GROUPS;
    const BYTES: usize = P4K_BYTES;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let dots = S::dots_nibbles::<M>(w.add(codes_at(P4K_CODES, group)), x.x);
            let factors = w.add(factors_at(P4K_CODES, group));
            add_scaled::<S, M>(sums, dots, scale::<S>(factors, w), x.scales);
            add_minima::<S, M>(sums, scale::<S>(factors.add(LANES), w.add(2 * LANES)), x.scales);
        }
    }
}

impl Block for P5K {
    const GROUPS: usize = GROUPS;
    const BYTES: usize = P5K_BYTES;
    const ASKS_ALONE: bool = true;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let dots =
                S::dots_fives::<M>(w.add(codes_at(P5K_CODES, group)), x.x, [S::splat_int(0); M]);
            let factors = w.add(factors_at(P5K_CODES, group));
            add_scaled::<S, M>(sums, dots, scale::<S>(factors, w), x.scales);
            add_minima::<S, M>(sums, scale::<S>(factors.add(LANES), w.add(2 * LANES)), x.scales);
        }
    }
}

impl Block for P6K {
    const GROUPS: usize = GROUPS;
    const BYTES: usize = P6K_BYTES;
    const ASKS_ALONE: bool = true;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let codes = w.add(codes_at(P6K_CODES, group));
            let factors = w.add(factors_at(P6K_CODES, group));
            let dots = S::dots_sixes::<0, M>(codes, x.x, start::<S, M, 2>(x.offsets.add(M)));
            add_scaled::<S, M>(sums, dots, scale::<S>(factors, w), x.scales);
            let dots = S::dots_sixes::<1, M>(codes, x.x, start::<S, M, 2>(x.offsets.add(2 * M)));
            add_scaled::<S, M>(sums, dots, scale::<S>(factors.add(LANES), w), x.scales);
        }
    }
}

impl Block for P8 {
    const BYTES: usize = P8_BYTES;
    #[inline(always)]
    unsafe fn add<S: Simd, const M: usize>(
        sums: &mut [S::F; M],
        w: *const u8,
        _group: usize,
        x: Codes,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let dots = S::dots_centered::<M>(w, x.x, x.offsets);
            add_scaled::<S, M>(sums, dots, S::load_f16(w.add(512).cast()), x.scales);
        }
    }
}

/// A kernel for each way to store codes.
macro_rules! quantized {
    ($($(#[$doc:meta])* $name:ident: $block:ident,)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Safety
            /// The instruction set must be there and the tile's pointers valid for its sizes.
            #[inline(always)]
            pub(super) unsafe fn $name<S: Simd, const M: usize>(tile: &Tile) {
                // SAFETY: the caller's.
                unsafe { blocks::<S, M, $block, true>(tile) }
            }
        )*
    };
}

quantized! {
    /// 4-bit codes, a scale and a minimum per 32.
    p4: P4,
    /// 5-bit codes around 16, a scale per 32.
    p5: P5,
    /// 5-bit codes, a scale and a minimum per 32.
    p5_min: P5Min,
    /// 4-bit codes, a scale and a minimum per 32 in two levels.
    p4k: P4K,
    /// 5-bit codes, a scale and a minimum per 32 in two levels.
    p5k: P5K,
    /// 6-bit codes around 32, a scale per 16 in two levels.
    p6k: P6K,
    /// 8-bit codes around 128, a scale per 32.
    p8: P8,
}

/// As `p8`, of a panel that is not followed by others.
///
/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
pub(super) unsafe fn p8_near<S: Simd, const M: usize>(tile: &Tile) {
    // SAFETY: the caller's.
    unsafe { blocks::<S, M, P8, false>(tile) }
}

/// What the dot products of codes around `128 >> SHIFT` begin with.
///
/// # Safety
/// The instruction set must be there and `M` offsets readable.
#[inline(always)]
unsafe fn start<S: Simd, const M: usize, const SHIFT: i32>(offsets: *const i32) -> [S::I; M] {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [S::splat_int(0); M];
        for t in 0..M {
            sums[t] = S::splat_int(*offsets.add(t) >> SHIFT);
        }
        sums
    }
}

/// A group's scales or minima of 16 rows: factors times what they all have.
///
/// # Safety
/// The instruction set must be there and 16 of both readable.
#[inline(always)]
unsafe fn scale<S: Simd>(factors: *const u8, wholes: *const u8) -> S::F {
    // SAFETY: the caller's.
    unsafe { S::mul(S::load_i8(factors.cast()), S::load_f16(wholes.cast())) }
}

/// Adds dot products times the weights' and each token's scale.
///
/// # Safety
/// The instruction set must be there and `M` scales readable.
#[inline(always)]
unsafe fn add_scaled<S: Simd, const M: usize>(
    sums: &mut [S::F; M],
    dots: [S::I; M],
    scale: S::F,
    scales: *const f32,
) {
    for t in 0..M {
        // SAFETY: the caller's.
        unsafe {
            let scale = S::mul(scale, S::splat(*scales.add(t)));
            sums[t] = S::fma(S::to_float(dots[t]), scale, sums[t]);
        }
    }
}

/// Adds the weights' minimum times the scaled sum of each token's codes.
///
/// # Safety
/// The instruction set must be there and twice `M` scales readable.
#[inline(always)]
unsafe fn add_minima<S: Simd, const M: usize>(sums: &mut [S::F; M], min: S::F, scales: *const f32) {
    for t in 0..M {
        // SAFETY: the caller's.
        unsafe { sums[t] = S::fma(min, S::splat(*scales.add(M + t)), sums[t]) };
    }
}

/// How a dense panel stores an element.
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
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
unsafe fn dense<S: Simd, const M: usize, E: Element>(tile: &Tile) {
    // SAFETY: every access is inside the panel and the tile, whose sizes the caller vouches for.
    unsafe {
        let mut sums = [S::splat(0.0); M];
        for column in 0..tile.num_blocks {
            let w = E::load::<S>(tile.weights.add(column * LANES * E::BYTES));
            let x = tile.dense.add(column * M);
            for t in 0..M {
                sums[t] = S::fma(w, S::splat(*x.add(t)), sums[t]);
            }
        }
        finish::<S, M>(tile, sums);
    }
}

/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
pub(super) unsafe fn f32<S: Simd, const M: usize>(tile: &Tile) {
    // SAFETY: the caller's.
    unsafe { dense::<S, M, F32>(tile) }
}

/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
pub(super) unsafe fn f16<S: Simd, const M: usize>(tile: &Tile) {
    // SAFETY: the caller's.
    unsafe { dense::<S, M, F16>(tile) }
}

/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
pub(super) unsafe fn bf16<S: Simd, const M: usize>(tile: &Tile) {
    // SAFETY: every access is inside the panel and the tile, whose sizes the caller vouches for.
    unsafe {
        let mut sums = [S::splat(0.0); M];
        for pair in 0..tile.num_blocks {
            let [low, high] = S::split_bf16(S::load_int(tile.weights.add(pair * 4 * LANES).cast()));
            let x = tile.dense.add(2 * pair * M);
            for t in 0..M {
                sums[t] = S::fma(low, S::splat(*x.add(t)), sums[t]);
                sums[t] = S::fma(high, S::splat(*x.add(M + t)), sums[t]);
            }
        }
        finish::<S, M>(tile, sums);
    }
}

/// Of bf16 with bf16, by the dot product of pairs. The sums of even and of odd pairs are apart, or each
/// product of a single token would wait for the one before.
///
/// # Safety
/// The instruction set must be there and the tile's pointers valid for its sizes.
#[inline(always)]
pub(super) unsafe fn bf16_pairs<S: Simd, const M: usize>(tile: &Tile) {
    // SAFETY: as above.
    unsafe {
        let (mut even, mut odd) = ([S::splat(0.0); M], [S::splat(0.0); M]);
        for pair in (1..tile.num_blocks).step_by(2) {
            add_pair::<S, M>(&mut even, tile, pair - 1);
            add_pair::<S, M>(&mut odd, tile, pair);
        }
        if tile.num_blocks % 2 == 1 {
            add_pair::<S, M>(&mut even, tile, tile.num_blocks - 1);
        }
        for t in 0..M {
            even[t] = S::add(even[t], odd[t]);
        }
        finish::<S, M>(tile, even);
    }
}

/// # Safety
/// The instruction set must be there, and the pair in the tile and its panel.
#[inline(always)]
unsafe fn add_pair<S: Simd, const M: usize>(sums: &mut [S::F; M], tile: &Tile, pair: usize) {
    // SAFETY: the caller's; a prefetch may be of any address.
    unsafe {
        let w = tile.weights.add(pair * 4 * LANES);
        if M > 1 {
            S::prefetch(w.wrapping_add(PREFETCH_BYTES));
        }
        let (w, x) = (S::load_int(w.cast()), tile.pairs.add(pair * M));
        for t in 0..M {
            sums[t] = S::dot_bf16(sums[t], w, S::splat_int(*x.add(t)));
        }
    }
}
