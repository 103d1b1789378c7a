//! 128-bit vectors of AArch64: four registers each.
//!
//! The dot product is of signed bytes. Codes below 128 are the same signed; of codes around 128,
//! flipping the top bit takes the 128 away, so that no offset is left to add.
//!
//! There is no kernel for the 2x2 products of `smmla`. It needs eight columns of two rows in a
//! register where a panel has four columns of four rows: sorting them, and the results, takes back
//! most of what it saves.

mod codes;

use std::arch::aarch64::*;
use std::arch::asm;

use self::codes::{add_dots, load_centered, load_nibbles, load_tokens, load_wide};
use super::{LANES, Simd, Wide};

/// NEON and its dot product.
#[derive(Clone, Copy)]
pub(in super::super) struct NeonDotprod;

type Floats = [float32x4_t; 4];
type Ints = [int32x4_t; 4];
/// 64 bytes: four for each lane.
type Codes = [int8x16_t; 4];

/// The lanes' own numbers.
static NUMBERS: [u32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

// The functions below are loops and not `map`: a closure would be compiled without the
// instruction set.

impl Simd for NeonDotprod {
    const SUMS: usize = 5;
    type F = Floats;
    type I = Ints;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat(value: f32) -> Floats {
        [vdupq_n_f32(value); 4]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller gives 16 readable floats.
        unsafe {
            [
                vld1q_f32(from),
                vld1q_f32(from.add(4)),
                vld1q_f32(from.add(8)),
                vld1q_f32(from.add(12)),
            ]
        }
    }

    /// NEON has no masks for memory: a row's last, shorter vector goes through the stack.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_first(from: *const f32, count: usize) -> Floats {
        if count == LANES {
            // SAFETY: the caller gives 16 readable floats.
            return unsafe { Self::load(from) };
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller gives `count` readable floats, at most 16.
        unsafe {
            from.copy_to_nonoverlapping(lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store(to: *mut f32, value: Floats) {
        for (part, value) in value.into_iter().enumerate() {
            // SAFETY: the caller gives 16 writable floats.
            unsafe { vst1q_f32(to.add(4 * part), value) }
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_first(to: *mut f32, value: Floats, count: usize) {
        if count == LANES {
            // SAFETY: the caller gives 16 writable floats.
            return unsafe { Self::store(to, value) };
        }
        let mut lanes = [0.0; LANES];
        // SAFETY: the caller gives `count` writable floats, at most 16.
        unsafe {
            Self::store(lanes.as_mut_ptr(), value);
            lanes.as_ptr().copy_to_nonoverlapping(to, count);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_f16(from: *const u16) -> Floats {
        // SAFETY: the caller gives 16 readable half floats.
        let [a, b] = unsafe { [vld1q_u16(from), vld1q_u16(from.add(8))] };
        let (a, b) = (vreinterpretq_f16_u16(a), vreinterpretq_f16_u16(b));
        [
            vcvt_f32_f16(vget_low_f16(a)),
            vcvt_high_f32_f16(a),
            vcvt_f32_f16(vget_low_f16(b)),
            vcvt_high_f32_f16(b),
        ]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_i8(from: *const i8) -> Floats {
        // SAFETY: the caller gives 16 readable bytes.
        let bytes = unsafe { vld1q_s8(from) };
        let (a, b) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
        [
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(a))),
            vcvtq_f32_s32(vmovl_high_s16(a)),
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(b))),
            vcvtq_f32_s32(vmovl_high_s16(b)),
        ]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_f16(to: *mut u16, value: Floats) {
        let low = vcvt_high_f16_f32(vcvt_f16_f32(value[0]), value[1]);
        let high = vcvt_high_f16_f32(vcvt_f16_f32(value[2]), value[3]);
        // SAFETY: the caller gives room for 16 half floats.
        unsafe {
            vst1q_u16(to, vreinterpretq_u16_f16(low));
            vst1q_u16(to.add(8), vreinterpretq_u16_f16(high));
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn add(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vaddq_f32(*a, b);
        }
        a
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sub(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vsubq_f32(*a, b);
        }
        a
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn mul(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vmulq_f32(*a, b);
        }
        a
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn div(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vdivq_f32(*a, b);
        }
        a
    }

    /// A comparison and a selection: `fmax` would give NaN for NaN in `a`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn max(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vbslq_f32(vcgtq_f32(*a, b), *a, b);
        }
        a
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn min(mut a: Floats, b: Floats) -> Floats {
        for (a, b) in a.iter_mut().zip(b) {
            *a = vbslq_f32(vcltq_f32(*a, b), *a, b);
        }
        a
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn fma(a: Floats, b: Floats, mut c: Floats) -> Floats {
        for part in 0..4 {
            c[part] = vfmaq_f32(c[part], a[part], b[part]);
        }
        c
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn round(mut value: Floats) -> Floats {
        for value in &mut value {
            *value = vrndnq_f32(*value);
        }
        value
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pow2(mut value: Floats) -> Floats {
        for value in &mut value {
            let exponents = vaddq_s32(vcvtq_s32_f32(*value), vdupq_n_s32(127));
            *value = vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponents));
        }
        value
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum(value: Floats) -> f32 {
        let [a, b, c, d] = value;
        vaddvq_f32(vaddq_f32(vaddq_f32(a, b), vaddq_f32(c, d)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn largest(value: Floats) -> f32 {
        let [a, b, c, d] = value;
        vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn first_or(mut value: Floats, count: usize, other: Floats) -> Floats {
        let count = vdupq_n_u32(count as u32);
        for (part, (value, other)) in value.iter_mut().zip(other).enumerate() {
            // SAFETY: the table has four elements for each part.
            let lanes = unsafe { vld1q_u32(NUMBERS.as_ptr().add(4 * part)) };
            *value = vbslq_f32(vcltq_u32(lanes, count), *value, other);
        }
        value
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_bf16(to: *mut u16, value: Floats) {
        for (part, value) in value.into_iter().enumerate() {
            let bits = vreinterpretq_u32_f32(value);
            // To the nearest, ties to even: half of a last place, less one bit if that is even
            // already.
            let even = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
            let rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), even);
            // A NaN must not be rounded to infinity.
            let quiet = vorrq_u32(bits, vdupq_n_u32(0x40_0000));
            let halves = vbslq_u32(vceqq_f32(value, value), rounded, quiet);
            // SAFETY: the caller gives room for 16 half floats.
            unsafe { vst1_u16(to.add(4 * part), vshrn_n_u32::<16>(halves)) };
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_int(from: *const i32) -> Ints {
        // SAFETY: the caller gives 16 readable integers.
        unsafe {
            [
                vld1q_s32(from),
                vld1q_s32(from.add(4)),
                vld1q_s32(from.add(8)),
                vld1q_s32(from.add(12)),
            ]
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn dot_bf16(mut sum: Floats, a: Ints, b: Ints) -> Floats {
        // SAFETY: the caller has the instruction set.
        let ([low_a, high_a], [low_b, high_b]) =
            unsafe { (Self::split_bf16(a), Self::split_bf16(b)) };
        for (i, sum) in sum.iter_mut().enumerate() {
            *sum = vfmaq_f32(vfmaq_f32(*sum, low_a[i], low_b[i]), high_a[i], high_b[i]);
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn split_bf16(pairs: Ints) -> [Floats; 2] {
        let high = vdupq_n_s32(-0x1_0000);
        [
            pairs.map(|pairs| vreinterpretq_f32_s32(vshlq_n_s32::<16>(pairs))),
            pairs.map(|pairs| vreinterpretq_f32_s32(vandq_s32(pairs, high))),
        ]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn low_halves(mut pairs: Ints) -> Ints {
        for pairs in &mut pairs {
            *pairs = vandq_s32(*pairs, vdupq_n_s32(0xffff));
        }
        pairs
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn splat_int(value: i32) -> Ints {
        [vdupq_n_s32(value); 4]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn to_int(value: Floats) -> Ints {
        let [a, b, c, d] = value;
        [vcvtnq_s32_f32(a), vcvtnq_s32_f32(b), vcvtnq_s32_f32(c), vcvtnq_s32_f32(d)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn to_float(value: Ints) -> Floats {
        let [a, b, c, d] = value;
        [vcvtq_f32_s32(a), vcvtq_f32_s32(b), vcvtq_f32_s32(c), vcvtq_f32_s32(d)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn sum_int(value: Ints) -> i32 {
        let [a, b, c, d] = value;
        vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn store_bytes(to: *mut i8, value: Ints) {
        let [a, b, c, d] = value;
        let low = vmovn_high_s32(vmovn_s32(a), b);
        let high = vmovn_high_s32(vmovn_s32(c), d);
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { vst1q_s8(to, vmovn_high_s16(vmovn_s16(low), high)) }
    }

    // The loops have no instruction set of their own: that would forbid `inline(always)`, and the
    // compiler would call them once per block.

    #[inline(always)]
    unsafe fn dots_nibbles<const M: usize>(codes: *const u8, x: *const i32) -> [Ints; M] {
        // SAFETY: the caller has the instruction set and gives 256 bytes and the tokens of 8
        // groups.
        unsafe {
            let mut dots = [Self::splat_int(0); M];
            for j in 0..4 {
                let (low, high) = load_nibbles(codes.add(64 * j));
                add_dots(&mut dots, low, load_tokens::<M>(x.add(j * M)));
                add_dots(&mut dots, high, load_tokens::<M>(x.add((j + 4) * M)));
            }
            dots
        }
    }

    #[inline(always)]
    unsafe fn dots_fives<const M: usize>(
        codes: *const u8,
        x: *const i32,
        mut sums: [Ints; M],
    ) -> [Ints; M] {
        for j in 0..8 {
            // SAFETY: the caller has the instruction set and gives a whole block and the tokens
            // of 8 groups.
            unsafe {
                let codes = load_wide(Wide::five(codes, j));
                add_dots(&mut sums, codes, load_tokens::<M>(x.add(j * M)));
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn dots_sixes<const HALF: usize, const M: usize>(
        codes: *const u8,
        x: *const i32,
        mut sums: [Ints; M],
    ) -> [Ints; M] {
        for j in 0..4 {
            // SAFETY: as above.
            unsafe {
                let codes = load_wide(Wide::six(codes, HALF, j));
                add_dots(&mut sums, codes, load_tokens::<M>(x.add((4 * HALF + j) * M)));
            }
        }
        sums
    }

    #[inline(always)]
    unsafe fn dots_centered<const M: usize>(
        codes: *const u8,
        x: *const i32,
        _offsets: *const i32,
    ) -> [Ints; M] {
        // SAFETY: the caller has the instruction set.
        let mut dots = unsafe { [Self::splat_int(0); M] };
        for j in 0..8 {
            // SAFETY: the caller has the instruction set and gives 512 bytes and the tokens of 8
            // groups.
            unsafe {
                let codes = load_centered(codes.add(64 * j));
                add_dots(&mut dots, codes, load_tokens::<M>(x.add(j * M)));
            }
        }
        dots
    }

    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through it")]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: a prefetch of an invalid address does nothing.
        unsafe {
            asm!(
                "prfm pldl1keep, [{}]",
                in(reg) address,
                options(nomem, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    #[expect(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through it")]
    unsafe fn prefetch_for_later(address: *const u8) {
        // SAFETY: a prefetch of an invalid address does nothing.
        unsafe {
            asm!(
                "prfm pldl2keep, [{}]",
                in(reg) address,
                options(nomem, nostack, preserves_flags)
            );
        }
    }
}
