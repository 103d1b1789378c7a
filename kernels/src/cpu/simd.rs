//! What the kernels need of a vector unit. Every kernel is written once over [`Simd`], in vectors
//! of 16 lanes whatever the register width, and compiled once per instruction set.

mod portable;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::Avx512Vnni;
pub(super) use self::portable::Portable;

/// Lanes of a vector; also the rows of a panel and the positions of a block of keys.
pub(super) const LANES: usize = 16;

/// An instruction set's vectors.
///
/// # Safety
/// All functions need the instruction set; those that take a pointer need it to be valid for as
/// many elements as the name or the count says (16 where none does), in any alignment.
pub(super) trait Simd: Copy + 'static {
    /// 16 floats.
    type F: Copy;
    /// 16 32-bit integers.
    type I: Copy;
    /// 64 bytes: four for each lane.
    type B: Copy;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    /// The first `count` (at most 16) elements; the other lanes are zero.
    unsafe fn load_first(from: *const f32, count: usize) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    unsafe fn store_first(to: *mut f32, value: Self::F, count: usize);
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn load_bf16(from: *const u16) -> Self::F;
    unsafe fn store_f16(to: *mut u16, value: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, in one rounding where the instruction set has it.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    unsafe fn round(value: Self::F) -> Self::F;
    /// 2 to the power of integral lanes in -126..=127.
    unsafe fn pow2(value: Self::F) -> Self::F;
    unsafe fn sum(value: Self::F) -> f32;
    unsafe fn largest(value: Self::F) -> f32;
    /// The first `count` lanes of `value`, then those of `other`.
    unsafe fn first_or(value: Self::F, count: usize, other: Self::F) -> Self::F;

    unsafe fn splat_int(value: i32) -> Self::I;
    /// To the nearest integer, ties to even.
    unsafe fn to_int(value: Self::F) -> Self::I;
    unsafe fn to_float(value: Self::I) -> Self::F;
    unsafe fn sum_int(value: Self::I) -> i32;
    /// Stores each lane, which is within -128..=127, as one byte.
    unsafe fn store_bytes(to: *mut i8, value: Self::I);

    /// Loads 64 bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::B;
    /// Loads 64 bytes and returns their low and their high halves.
    unsafe fn load_nibbles(from: *const u8) -> (Self::B, Self::B);
    /// Adds to each lane the dot product of its four unsigned bytes, all below 128, with the
    /// four signed bytes of `x`.
    unsafe fn dot_small(sum: Self::I, weights: Self::B, x: i32) -> Self::I;
    /// As `dot_small`, for bytes up to 255.
    unsafe fn dot(sum: Self::I, weights: Self::B, x: i32) -> Self::I;

    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(address: *const u8);

    /// `e` to the power of each lane, to about one unit in the last place; lanes are clamped to
    /// the range of normal numbers. The polynomial is that of the Cephes library's `expf`.
    #[inline(always)]
    unsafe fn exp(x: Self::F) -> Self::F {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let x = Self::min(Self::max(x, Self::splat(-87.3)), Self::splat(88.0));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_359_4), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
                p = Self::fma(p, r, Self::splat(c));
            }
            let p = Self::fma(Self::mul(p, r), r, Self::add(r, Self::splat(1.0)));
            Self::mul(p, Self::pow2(n))
        }
    }
}
