//! Packed codes, and the sums of their products.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::Wide;
use super::Ints;

/// Loads 64 bytes.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_bytes(from: *const u8) -> Ints {
    // SAFETY: the caller gives 64 readable bytes.
    unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
}

/// Loads 64 bytes and returns their low and their high halves.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_nibbles(from: *const u8) -> (Ints, Ints) {
    // SAFETY: the caller gives 64 readable bytes.
    let [a, b] =
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] };
    let low = _mm256_set1_epi8(15);
    let high_a = _mm256_and_si256(_mm256_srli_epi16::<4>(a), low);
    let high_b = _mm256_and_si256(_mm256_srli_epi16::<4>(b), low);
    ([_mm256_and_si256(a, low), _mm256_and_si256(b, low)], [high_a, high_b])
}

/// Loads 64 codes of 5 or 6 bits.
///
/// # Safety
/// Both of their parts must be readable.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn load_wide(from: Wide) -> Ints {
    // SAFETY: the caller's.
    let ((low, high), plane) = unsafe { (load_nibbles(from.nibbles), load_bytes(from.plane)) };
    let nibbles = if from.is_high { high } else { low };
    let mask = _mm256_set1_epi8(from.mask);
    let a = _mm256_and_si256(moved(plane[0], from.shift), mask);
    let b = _mm256_and_si256(moved(plane[1], from.shift), mask);
    [_mm256_or_si256(nibbles[0], a), _mm256_or_si256(nibbles[1], b)]
}

/// Pairs of bytes shifted to the left.
#[inline]
#[target_feature(enable = "avx2")]
fn moved(bytes: __m256i, shift: i32) -> __m256i {
    match shift {
        4 => _mm256_slli_epi16::<4>(bytes),
        3 => _mm256_slli_epi16::<3>(bytes),
        2 => _mm256_slli_epi16::<2>(bytes),
        1 => _mm256_slli_epi16::<1>(bytes),
        -1 => _mm256_srli_epi16::<1>(bytes),
        -2 => _mm256_srli_epi16::<2>(bytes),
        -3 => _mm256_srli_epi16::<3>(bytes),
        _ => bytes,
    }
}

/// Adds, for each of `M` tokens, the products of pairs of bytes in 16 bits.
///
/// # Safety
/// `x` must be valid for `M` reads.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn add_pairs<const M: usize>(sums: &mut [Ints; M], codes: Ints, x: *const i32) {
    for (t, sum) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let x = _mm256_set1_epi32(unsafe { *x.add(t) });
        sum[0] = _mm256_add_epi16(sum[0], _mm256_maddubs_epi16(codes[0], x));
        sum[1] = _mm256_add_epi16(sum[1], _mm256_maddubs_epi16(codes[1], x));
    }
}

/// Tells the compiler that the sums are needed now, in registers, and hides from it that what
/// follows is at known addresses. Left alone, it unpacks a whole block's codes first, far more
/// than there are registers, and moves them to the stack and back.
#[inline]
#[target_feature(enable = "avx2")]
#[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through them")]
pub(super) fn settle<const M: usize>(
    sums: &mut [Ints; M],
    codes: &mut *const u8,
    x: &mut *const i32,
) {
    for [a, b] in sums {
        // SAFETY: there are no instructions.
        unsafe {
            asm!(
                "/* {0} {1} {2} {3} */",
                inout(reg) * codes,
                inout(reg) * x,
                inout(ymm_reg) * a,
                inout(ymm_reg) * b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
}

/// Adds pairs of 16-bit lanes to 32-bit ones.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_widened<const M: usize>(dots: &mut [Ints; M], sums: &[Ints; M]) {
    let ones = _mm256_set1_epi16(1);
    for (dot, sum) in dots.iter_mut().zip(sums) {
        dot[0] = _mm256_add_epi32(dot[0], _mm256_madd_epi16(sum[0], ones));
        dot[1] = _mm256_add_epi32(dot[1], _mm256_madd_epi16(sum[1], ones));
    }
}
