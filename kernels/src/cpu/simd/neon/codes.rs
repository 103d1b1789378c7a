//! Packed codes, and the sums of their products.

use std::arch::aarch64::*;
use std::arch::asm;

use super::super::Wide;
use super::{Codes, Ints};

/// Loads 64 codes around 128, less 128.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_centered(from: *const u8) -> Codes {
    let mut codes = [vdupq_n_s8(0); 4];
    for (part, codes) in codes.iter_mut().enumerate() {
        // SAFETY: the caller gives 64 readable bytes.
        let bytes = unsafe { vld1q_u8(from.add(16 * part)) };
        *codes = vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80)));
    }
    codes
}

/// Loads 64 codes of 5 or 6 bits.
///
/// # Safety
/// Both of their parts must be readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_wide(from: Wide) -> Codes {
    // SAFETY: the caller's.
    let (low, high) = unsafe { load_nibbles(from.nibbles) };
    let mut codes = if from.is_high { high } else { low };
    // To the right where it is negative.
    let shift = vdupq_n_s8(from.shift as i8);
    for (part, codes) in codes.iter_mut().enumerate() {
        // SAFETY: as above.
        let plane = unsafe { vld1q_u8(from.plane.add(16 * part)) };
        let bits = vandq_s8(vreinterpretq_s8_u8(vshlq_u8(plane, shift)), vdupq_n_s8(from.mask));
        *codes = vorrq_s8(*codes, bits);
    }
    codes
}

/// Loads 64 bytes and returns their low and their high halves.
///
/// # Safety
/// They must be readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_nibbles(from: *const u8) -> (Codes, Codes) {
    let (mut low, mut high) = ([vdupq_n_s8(0); 4], [vdupq_n_s8(0); 4]);
    for part in 0..4 {
        // SAFETY: the caller gives 64 readable bytes.
        let bytes = unsafe { vld1q_u8(from.add(16 * part)) };
        low[part] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
        high[part] = vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes));
    }
    (low, high)
}

/// Loads the four bytes of each of `M` tokens, one token a lane.
///
/// # Safety
/// `x` must be valid for `M` reads.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_tokens<const M: usize>(x: *const i32) -> int32x4_t {
    const { assert!(M >= 1 && M <= 4, "a register holds four tokens") };
    let zero = vdup_n_s32(0);
    // SAFETY: the caller gives `M` tokens.
    unsafe {
        match M {
            1 => vcombine_s32(vset_lane_s32::<0>(*x, zero), zero),
            2 => vcombine_s32(vld1_s32(x), zero),
            3 => vcombine_s32(vld1_s32(x), vset_lane_s32::<0>(*x.add(2), zero)),
            _ => vld1q_s32(x),
        }
    }
}

/// Adds to each token's sums the dot products of its four bytes with those of every lane.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(super) fn add_dots<const M: usize>(dots: &mut [Ints; M], codes: Codes, x: int32x4_t) {
    add_token::<0, M>(dots, codes, x);
    add_token::<1, M>(dots, codes, x);
    add_token::<2, M>(dots, codes, x);
    add_token::<3, M>(dots, codes, x);
}

/// The token of lane `T`, if there is one.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_token<const T: usize, const M: usize>(dots: &mut [Ints; M], codes: Codes, x: int32x4_t) {
    if T < M {
        for (sum, codes) in dots[T].iter_mut().zip(codes) {
            *sum = sdot::<T>(*sum, codes, x);
        }
    }
}

/// Adds to each lane the dot product of its four bytes with those of lane `T` of `x`. The
/// standard library's function for it is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot<const T: usize>(mut sum: int32x4_t, codes: int8x16_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes only its registers.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            x = in(vreg) x,
            lane = const T,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sum
}
