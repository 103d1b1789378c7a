//! How the paged cache stores an element, and what it is multiplied with.

use super::super::super::simd::Simd;
use super::Scores;

/// How the cache stores an element: what one load holds of 16 positions' keys, or of 16 dimensions'
/// values.
pub(super) trait Element {
    /// Dimensions of a key, or positions of a value.
    const TOGETHER: usize;
    /// Bytes of one of its 16 lanes.
    const BYTES: usize;
    type Lanes<S: Simd>: Copy;

    /// # Safety
    /// The instruction set must be there and 16 lanes readable.
    unsafe fn load<S: Simd>(from: *const u8) -> Self::Lanes<S>;
    /// A query's or a weight's lane, for all 16.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn splat<S: Simd>(lane: u32) -> Self::Lanes<S>;
    /// Adds the products.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn add<S: Simd>(sum: S::F, a: Self::Lanes<S>, b: Self::Lanes<S>) -> S::F;
    /// With zeros for all but the first of those that lie together.
    ///
    /// # Safety
    /// The instruction set must be there.
    unsafe fn only_first<S: Simd>(lanes: Self::Lanes<S>) -> Self::Lanes<S>;
    /// The queries, `[head_dim / TOGETHER][M]`.
    fn queries(args: &Scores) -> *const u32;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct BF16;

/// Those that are multiplied as f32.
macro_rules! floats {
    ($element:ident, $bytes:literal, $load:ident) => {
        impl Element for $element {
            const TOGETHER: usize = 1;
            const BYTES: usize = $bytes;
            type Lanes<S: Simd> = S::F;

            #[inline(always)]
            unsafe fn load<S: Simd>(from: *const u8) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::$load(from.cast()) }
            }

            #[inline(always)]
            unsafe fn splat<S: Simd>(lane: u32) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::splat(f32::from_bits(lane)) }
            }

            #[inline(always)]
            unsafe fn add<S: Simd>(sum: S::F, a: S::F, b: S::F) -> S::F {
                // SAFETY: the caller's.
                unsafe { S::fma(a, b, sum) }
            }

            #[inline(always)]
            unsafe fn only_first<S: Simd>(lanes: S::F) -> S::F {
                lanes
            }

            fn queries(args: &Scores) -> *const u32 {
                args.queries.cast()
            }
        }
    };
}

floats!(F32, 4, load);
floats!(F16, 2, load_f16);

impl Element for BF16 {
    const TOGETHER: usize = 2;
    const BYTES: usize = 4;
    type Lanes<S: Simd> = S::I;

    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const u8) -> S::I {
        // SAFETY: the caller's.
        unsafe { S::load_int(from.cast()) }
    }

    #[inline(always)]
    unsafe fn splat<S: Simd>(lane: u32) -> S::I {
        // SAFETY: the caller's.
        unsafe { S::splat_int(lane.cast_signed()) }
    }

    #[inline(always)]
    unsafe fn add<S: Simd>(sum: S::F, a: S::I, b: S::I) -> S::F {
        // SAFETY: the caller's.
        unsafe { S::dot_bf16(sum, a, b) }
    }

    #[inline(always)]
    unsafe fn only_first<S: Simd>(lanes: S::I) -> S::I {
        // SAFETY: the caller's.
        unsafe { S::low_halves(lanes) }
    }

    fn queries(args: &Scores) -> *const u32 {
        args.x.cast()
    }
}
