//! 512-bit vectors: one register each.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{ByteDot, Simd, Wide, dots};

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512Vnni;

/// The same with the dot product of bf16.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512Bf16;

#[inline]
fn first(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
}

/// Pairs of bytes shifted to the left.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn moved(bytes: __m512i, shift: i32) -> __m512i {
    match shift {
        4 => _mm512_slli_epi16::<4>(bytes),
        3 => _mm512_slli_epi16::<3>(bytes),
        2 => _mm512_slli_epi16::<2>(bytes),
        1 => _mm512_slli_epi16::<1>(bytes),
        -1 => _mm512_srli_epi16::<1>(bytes),
        -2 => _mm512_srli_epi16::<2>(bytes),
        -3 => _mm512_srli_epi16::<3>(bytes),
        _ => bytes,
    }
}

/// What both sets share: all but what is done to bf16.
macro_rules! common {
    () => {
        const SUMS: usize = 24;
        type F = __m512;
        type I = __m512i;

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn splat(value: f32) -> __m512 {
            _mm512_set1_ps(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: the caller gives 16 readable floats.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_first(from: *const f32, count: usize) -> __m512 {
            // SAFETY: the caller gives `count` readable floats; masked lanes are not read.
            unsafe { _mm512_maskz_loadu_ps(first(count), from) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store(to: *mut f32, value: __m512) {
            // SAFETY: the caller gives 16 writable floats.
            unsafe { _mm512_storeu_ps(to, value) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_first(to: *mut f32, value: __m512, count: usize) {
            // SAFETY: the caller gives `count` writable floats; masked lanes are not written.
            unsafe { _mm512_mask_storeu_ps(to, first(count), value) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_f16(from: *const u16) -> __m512 {
            // SAFETY: the caller gives 16 readable half floats.
            _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_i8(from: *const i8) -> __m512 {
            // SAFETY: the caller gives 16 readable bytes.
            let bytes = unsafe { _mm_loadu_si128(from.cast()) };
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_f16(to: *mut u16, value: __m512) {
            let bits = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value);
            // SAFETY: the caller gives room for 16 half floats.
            unsafe { _mm256_storeu_si256(to.cast(), bits) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            _mm512_add_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            _mm512_sub_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            _mm512_mul_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            _mm512_div_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            _mm512_max_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            _mm512_min_ps(a, b)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            _mm512_fmadd_ps(a, b, c)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn round(value: __m512) -> __m512 {
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn pow2(value: __m512) -> __m512 {
            _mm512_scalef_ps(_mm512_set1_ps(1.0), value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn sum(value: __m512) -> f32 {
            _mm512_reduce_add_ps(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn largest(value: __m512) -> f32 {
            _mm512_reduce_max_ps(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn first_or(value: __m512, count: usize, other: __m512) -> __m512 {
            _mm512_mask_mov_ps(other, first(count), value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn splat_int(value: i32) -> __m512i {
            _mm512_set1_epi32(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn to_int(value: __m512) -> __m512i {
            _mm512_cvtps_epi32(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn to_float(value: __m512i) -> __m512 {
            _mm512_cvtepi32_ps(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn sum_int(value: __m512i) -> i32 {
            _mm512_reduce_add_epi32(value)
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn store_bytes(to: *mut i8, value: __m512i) {
            // SAFETY: the caller gives 16 writable bytes.
            unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(value)) }
        }

        #[inline(always)]
        unsafe fn prefetch(address: *const u8) {
            // SAFETY: a prefetch of an invalid address does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }

        #[inline(always)]
        unsafe fn prefetch_for_later(address: *const u8) {
            // SAFETY: a prefetch of an invalid address does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_int(from: *const i32) -> __m512i {
            // SAFETY: the caller gives 16 readable integers.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn sums_int(a: __m512i, b: __m512i) -> [i32; 2] {
            // Quarters of a in the lower half, of b in the upper.
            let low = _mm512_shuffle_i64x2::<0b01_00_01_00>(a, b);
            let high = _mm512_shuffle_i64x2::<0b11_10_11_10>(a, b);
            let sum = _mm512_add_epi32(low, high);
            let sum = _mm512_add_epi32(sum, _mm512_shuffle_i64x2::<0b10_11_00_01>(sum, sum));
            let sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32::<0b01_00_11_10>(sum));
            let sum = _mm512_add_epi32(sum, _mm512_shuffle_epi32::<0b10_11_00_01>(sum));
            let upper = _mm512_extracti64x4_epi64::<1>(sum);
            [_mm512_cvtsi512_si32(sum), _mm256_cvtsi256_si32(upper)]
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn split_bf16(pairs: __m512i) -> [__m512; 2] {
            let high = _mm512_set1_epi32(-0x1_0000);
            [
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)),
                _mm512_castsi512_ps(_mm512_and_si512(pairs, high)),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn low_halves(pairs: __m512i) -> __m512i {
            _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff))
        }

        dots!();
    };
}

macro_rules! byte_dot {
    () => {
        type B = __m512i;

        #[inline]
        #[target_feature(enable = "avx512f")]
        unsafe fn load_bytes(from: *const u8) -> __m512i {
            // SAFETY: the caller gives 64 readable bytes.
            unsafe { _mm512_loadu_si512(from.cast()) }
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn load_nibbles(from: *const u8) -> (__m512i, __m512i) {
            // SAFETY: the caller gives 64 readable bytes.
            let bytes = unsafe { _mm512_loadu_si512(from.cast()) };
            let low = _mm512_set1_epi8(15);
            (_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low))
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw")]
        unsafe fn load_wide(from: Wide) -> __m512i {
            // SAFETY: the caller gives 64 readable bytes at both.
            let (bytes, plane) = unsafe {
                (_mm512_loadu_si512(from.nibbles.cast()), _mm512_loadu_si512(from.plane.cast()))
            };
            let bytes = if from.is_high { _mm512_srli_epi16::<4>(bytes) } else { bytes };
            let low = _mm512_and_si512(bytes, _mm512_set1_epi8(15));
            // The first, or both of the others.
            _mm512_ternarylogic_epi32::<0b1111_1000>(
                low,
                moved(plane, from.shift),
                _mm512_set1_epi8(from.mask),
            )
        }

        #[inline]
        #[target_feature(enable = "avx512f,avx512vnni")]
        unsafe fn dot(sum: __m512i, weights: __m512i, x: i32) -> __m512i {
            _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(x))
        }
    };
}

impl Simd for Avx512Vnni {
    common!();

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn store_bf16(to: *mut u16, value: __m512) {
        let bits = _mm512_castps_si512(value);
        // To the nearest, ties to even: half of a last place, less one bit if that is even already.
        let even = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
        // A NaN must not be rounded to infinity.
        let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
        let quiet = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000));
        let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(quiet));
        // SAFETY: the caller gives room for 16 half floats.
        unsafe { _mm256_storeu_si256(to.cast(), halves) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn dot_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: the caller has the instruction set.
        let ([low_a, high_a], [low_b, high_b]) =
            unsafe { (Self::split_bf16(a), Self::split_bf16(b)) };
        _mm512_fmadd_ps(high_a, high_b, _mm512_fmadd_ps(low_a, low_b, sum))
    }
}

impl ByteDot for Avx512Vnni {
    byte_dot!();
}

impl Simd for Avx512Bf16 {
    common!();

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn store_bf16(to: *mut u16, value: __m512) {
        let halves = _mm512_cvtneps_pbh(value);
        // SAFETY: the caller gives room for 16 half floats, and that is what the vector is made of.
        unsafe { to.cast::<__m256bh>().write_unaligned(halves) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn dot_bf16(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: both are 512 bits, of which any are a value.
        let a = unsafe { transmute::<__m512i, __m512bh>(a) };
        // SAFETY: as above.
        let b = unsafe { transmute::<__m512i, __m512bh>(b) };
        _mm512_dpbf16_ps(sum, a, b)
    }
}

impl ByteDot for Avx512Bf16 {
    byte_dot!();
}
