//! What the kernels need of a vector unit. Every kernel is written once over [`Simd`], in vectors
//! of 16 lanes whatever the register width, and compiled once per instruction set.

mod portable;

use super::panels::PLANES;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::{Avx512Bf16, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
pub(super) use self::neon::NeonDotprod;
pub(super) use self::portable::Portable;

/// Lanes of a vector; also the rows of a panel and the positions of a block of keys.
pub(super) const LANES: usize = 16;

/// An instruction set's vectors.
///
/// # Safety
/// All functions need the instruction set; those that take a pointer need it to be valid for as
/// many elements as the name or the count says (16 where none does), in any alignment.
pub(super) trait Simd: Copy + 'static {
    /// Sums that there are registers for, beside what is added to them.
    const SUMS: usize;
    /// 16 floats.
    type F: Copy;
    /// 16 32-bit integers.
    type I: Copy;

    unsafe fn splat(value: f32) -> Self::F;
    unsafe fn load(from: *const f32) -> Self::F;
    /// The first `count` (at most 16) elements; the other lanes are zero.
    unsafe fn load_first(from: *const f32, count: usize) -> Self::F;
    unsafe fn store(to: *mut f32, value: Self::F);
    unsafe fn store_first(to: *mut f32, value: Self::F, count: usize);
    unsafe fn load_f16(from: *const u16) -> Self::F;
    unsafe fn load_i8(from: *const i8) -> Self::F;
    unsafe fn store_f16(to: *mut u16, value: Self::F);
    /// Rounds to the nearest, ties to even. Numbers below the normal ones may become zero.
    unsafe fn store_bf16(to: *mut u16, value: Self::F);
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// Where either lane is NaN, that of `b`; so too `min`.
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
    unsafe fn load_int(from: *const i32) -> Self::I;
    /// Adds the products of pairs of bf16, the first of which is the low half of its lane. Numbers
    /// below the normal ones may count as zero.
    unsafe fn dot_bf16(sum: Self::F, a: Self::I, b: Self::I) -> Self::F;
    /// The first bf16 of each pair, and the second.
    unsafe fn split_bf16(pairs: Self::I) -> [Self::F; 2];
    /// The pairs with zeros for their second halves.
    unsafe fn low_halves(pairs: Self::I) -> Self::I;
    /// To the nearest integer, ties to even.
    unsafe fn to_int(value: Self::F) -> Self::I;
    unsafe fn to_float(value: Self::I) -> Self::F;
    unsafe fn sum_int(value: Self::I) -> i32;
    /// The sums of both.
    #[inline(always)]
    unsafe fn sums_int(a: Self::I, b: Self::I) -> [i32; 2] {
        // SAFETY: the caller has the instruction set.
        unsafe { [Self::sum_int(a), Self::sum_int(b)] }
    }
    /// Stores each lane, which is within -128..=127, as one byte.
    unsafe fn store_bytes(to: *mut i8, value: Self::I);

    /// Of a block of 4-bit codes (256 bytes; the high halves are the columns from 16 on), the dot
    /// products with `M` tokens, whose bytes are `[8][M]`.
    unsafe fn dots_nibbles<const M: usize>(codes: *const u8, x: *const i32) -> [Self::I; M];
    /// Adds to `sums` as `dots_nibbles`, of a block of 5-bit codes (256 bytes and a plane).
    unsafe fn dots_fives<const M: usize>(
        codes: *const u8,
        x: *const i32,
        sums: [Self::I; M],
    ) -> [Self::I; M];
    /// Adds to `sums` the dot products of one half of the columns of a block of 6-bit codes (256
    /// bytes and two planes) with `M` tokens, whose bytes are all but -128. `x` is that of the
    /// whole block.
    unsafe fn dots_sixes<const HALF: usize, const M: usize>(
        codes: *const u8,
        x: *const i32,
        sums: [Self::I; M],
    ) -> [Self::I; M];
    /// The dot products of a block of 512 bytes of codes around 128, less 128, with `M` tokens,
    /// whose bytes, all but -128, are `[8][M]`. `offsets`: -128 times the sum of each token's.
    unsafe fn dots_centered<const M: usize>(
        codes: *const u8,
        x: *const i32,
        offsets: *const i32,
    ) -> [Self::I; M];

    /// Asks for the cache line of an address, which need not be valid.
    unsafe fn prefetch(address: *const u8);
    /// The same, to be used later: it need not get nearer than the second-level cache.
    unsafe fn prefetch_for_later(address: *const u8);

    /// `e` to the power of each lane, to about one unit in the last place; lanes are clamped to
    /// the range of normal numbers. The polynomial is that of the Cephes library's `expf`.
    #[inline(always)]
    unsafe fn exp(x: Self::F) -> Self::F {
        // SAFETY: the caller has the instruction set.
        unsafe {
            // A comparison with NaN gives the second operand, so that NaN stays NaN.
            let x = Self::min(Self::splat(88.0), Self::max(Self::splat(-87.3), x));
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

    /// `e` to the power of lanes that are at most 0, to one part in 16,000, for what is rounded to
    /// bf16 afterwards: the first terms of the series of 2 to the power of what rounding leaves.
    #[inline(always)]
    unsafe fn exp_coarse(x: Self::F) -> Self::F {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let x = Self::mul(x, Self::splat(std::f32::consts::LOG2_E));
            // A comparison with NaN gives the second operand, so that NaN stays NaN.
            let x = Self::max(Self::splat(-126.0), x);
            let n = Self::round(x);
            let r = Self::sub(x, n);
            let mut p = Self::splat(9.618_129e-3);
            for c in [5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::pow2(n))
        }
    }
}

/// Where 64 codes of 5 or 6 bits are. All but the pointers is known to the compiler.
#[derive(Clone, Copy)]
struct Wide {
    /// 64 bytes, in the halves of which the codes' low bits are.
    nibbles: *const u8,
    /// Whether in the high halves.
    is_high: bool,
    /// 64 bytes with the codes' other bits.
    plane: *const u8,
    /// How far to the left those are to be moved, at least -3 and at most 4, to be where they
    /// belong.
    shift: i32,
    /// Where they belong.
    mask: i8,
}

impl Wide {
    /// Group `j` of a block of 5-bit codes.
    #[inline(always)]
    fn five(codes: *const u8, j: usize) -> Self {
        Self {
            nibbles: codes.wrapping_add(64 * (j % 4)),
            is_high: j >= 4,
            plane: codes.wrapping_add(PLANES),
            shift: 4 - j as i32,
            mask: 0x10,
        }
    }

    /// Group `j` (of four) of one half of a block of 6-bit codes.
    #[inline(always)]
    fn six(codes: *const u8, half: usize, j: usize) -> Self {
        Self {
            nibbles: codes.wrapping_add(64 * j),
            is_high: half == 1,
            plane: codes.wrapping_add(PLANES + 64 * half),
            shift: 4 - 2 * j as i32,
            mask: 0x30,
        }
    }
}

/// The dot products of an instruction set that has an instruction for them.
///
/// # Safety
/// As for [`Simd`].
trait ByteDot: Simd {
    /// 64 bytes: four for each lane.
    type B: Copy;

    /// Loads 64 bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::B;
    /// Loads 64 bytes and returns their low and their high halves.
    unsafe fn load_nibbles(from: *const u8) -> (Self::B, Self::B);
    /// Loads 64 codes of 5 or 6 bits.
    unsafe fn load_wide(from: Wide) -> Self::B;
    /// Adds to each lane the dot product of its four unsigned bytes with the four signed bytes
    /// of `x`.
    unsafe fn dot(sum: Self::I, codes: Self::B, x: i32) -> Self::I;
}

/// The functions of [`Simd`] made of [`ByteDot`].
macro_rules! dots {
    () => {
        #[inline(always)]
        unsafe fn dots_nibbles<const M: usize>(codes: *const u8, x: *const i32) -> [Self::I; M] {
            // SAFETY: the caller has the instruction set and gives a whole block and its tokens.
            unsafe {
                let mut dots = [Self::splat_int(0); M];
                for j in 0..4 {
                    let (low, high) = Self::load_nibbles(codes.add(64 * j));
                    for (t, dot) in dots.iter_mut().enumerate() {
                        *dot = Self::dot(*dot, low, *x.add(j * M + t));
                    }
                    for (t, dot) in dots.iter_mut().enumerate() {
                        *dot = Self::dot(*dot, high, *x.add((j + 4) * M + t));
                    }
                }
                dots
            }
        }

        #[inline(always)]
        unsafe fn dots_fives<const M: usize>(
            codes: *const u8,
            x: *const i32,
            mut sums: [Self::I; M],
        ) -> [Self::I; M] {
            for j in 0..8 {
                // SAFETY: as above.
                unsafe {
                    let codes = Self::load_wide(Wide::five(codes, j));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = Self::dot(*sum, codes, *x.add(j * M + t));
                    }
                }
            }
            sums
        }

        #[inline(always)]
        unsafe fn dots_sixes<const HALF: usize, const M: usize>(
            codes: *const u8,
            x: *const i32,
            mut sums: [Self::I; M],
        ) -> [Self::I; M] {
            for j in 0..4 {
                // SAFETY: as above.
                unsafe {
                    let codes = Self::load_wide(Wide::six(codes, HALF, j));
                    for (t, sum) in sums.iter_mut().enumerate() {
                        *sum = Self::dot(*sum, codes, *x.add((4 * HALF + j) * M + t));
                    }
                }
            }
            sums
        }

        #[inline(always)]
        unsafe fn dots_centered<const M: usize>(
            codes: *const u8,
            x: *const i32,
            offsets: *const i32,
        ) -> [Self::I; M] {
            // SAFETY: the caller has the instruction set and gives the codes and their tokens.
            unsafe {
                let mut dots = [Self::splat_int(0); M];
                for (t, dot) in dots.iter_mut().enumerate() {
                    *dot = Self::splat_int(*offsets.add(t));
                }
                for j in 0..8 {
                    let codes = Self::load_bytes(codes.add(64 * j));
                    for (t, dot) in dots.iter_mut().enumerate() {
                        *dot = Self::dot(*dot, codes, *x.add(j * M + t));
                    }
                }
                dots
            }
        }
    };
}
use dots;

#[cfg(test)]
mod tests;
