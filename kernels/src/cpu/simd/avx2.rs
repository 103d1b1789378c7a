//! 256-bit vectors: two registers each.

use std::arch::x86_64::*;

use super::Simd;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2;

/// The same with the byte dot product.
#[derive(Clone, Copy)]
pub(in super::super) struct AvxVnni;

type Floats = [__m256; 2];
type Ints = [__m256i; 2];

/// All lanes set below `count`, for lanes `first..first + 8`.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(count: usize, first: i32) -> __m256i {
    let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32 - first), lanes)
}

/// The dot products of unsigned bytes below 128: pairs stay below 2^15.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_pairs(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(weights, x);
    _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

/// The dot products of any unsigned bytes, in 16 bits: even bytes, then odd.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_wide(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    let even = _mm256_and_si256(weights, _mm256_set1_epi16(0xff));
    let odd = _mm256_srli_epi16::<8>(weights);
    let x_even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x));
    let x_odd = _mm256_srai_epi16::<8>(x);
    let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, x_even));
    _mm256_add_epi32(sum, _mm256_madd_epi16(odd, x_odd))
}

/// What both sets share: all but the dot products.
macro_rules! common {
    () => {
        type F = Floats;
        type I = Ints;
        type B = Ints;

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn splat(value: f32) -> Floats {
            [_mm256_set1_ps(value); 2]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load(from: *const f32) -> Floats {
            // SAFETY: the caller gives 16 readable floats.
            unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_first(from: *const f32, count: usize) -> Floats {
            // SAFETY: the caller gives `count` readable floats; masked lanes are not read.
            unsafe {
                [
                    _mm256_maskload_ps(from, mask(count, 0)),
                    _mm256_maskload_ps(from.wrapping_add(8), mask(count, 8)),
                ]
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store(to: *mut f32, value: Floats) {
            // SAFETY: the caller gives 16 writable floats.
            unsafe {
                _mm256_storeu_ps(to, value[0]);
                _mm256_storeu_ps(to.add(8), value[1]);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store_first(to: *mut f32, value: Floats, count: usize) {
            // SAFETY: the caller gives `count` writable floats; masked lanes are not written.
            unsafe {
                _mm256_maskstore_ps(to, mask(count, 0), value[0]);
                _mm256_maskstore_ps(to.wrapping_add(8), mask(count, 8), value[1]);
            }
        }

        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn load_f16(from: *const u16) -> Floats {
            // SAFETY: the caller gives 16 readable half floats.
            unsafe {
                [
                    _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
                ]
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_bf16(from: *const u16) -> Floats {
            // SAFETY: the caller gives 16 readable half floats.
            let low = unsafe { _mm_loadu_si128(from.cast()) };
            // SAFETY: as above.
            let high = unsafe { _mm_loadu_si128(from.add(8).cast()) };
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low))),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high))),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn store_f16(to: *mut u16, value: Floats) {
            const MODE: i32 = _MM_FROUND_TO_NEAREST_INT;
            // SAFETY: the caller gives room for 16 half floats.
            unsafe {
                _mm_storeu_si128(to.cast(), _mm256_cvtps_ph::<MODE>(value[0]));
                _mm_storeu_si128(to.add(8).cast(), _mm256_cvtps_ph::<MODE>(value[1]));
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn add(a: Floats, b: Floats) -> Floats {
            [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn sub(a: Floats, b: Floats) -> Floats {
            [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn mul(a: Floats, b: Floats) -> Floats {
            [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn div(a: Floats, b: Floats) -> Floats {
            [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn max(a: Floats, b: Floats) -> Floats {
            [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn min(a: Floats, b: Floats) -> Floats {
            [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn round(value: Floats) -> Floats {
            const MODE: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
            [_mm256_round_ps::<MODE>(value[0]), _mm256_round_ps::<MODE>(value[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn pow2(value: Floats) -> Floats {
            let bias = _mm256_set1_epi32(127);
            let exponents = [
                _mm256_add_epi32(_mm256_cvtps_epi32(value[0]), bias),
                _mm256_add_epi32(_mm256_cvtps_epi32(value[1]), bias),
            ];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponents[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponents[1])),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn sum(value: Floats) -> f32 {
            let v = _mm256_add_ps(value[0], value[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn largest(value: Floats) -> f32 {
            let v = _mm256_max_ps(value[0], value[1]);
            let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn first_or(value: Floats, count: usize, other: Floats) -> Floats {
            [
                _mm256_blendv_ps(other[0], value[0], _mm256_castsi256_ps(mask(count, 0))),
                _mm256_blendv_ps(other[1], value[1], _mm256_castsi256_ps(mask(count, 8))),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn splat_int(value: i32) -> Ints {
            [_mm256_set1_epi32(value); 2]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn to_int(value: Floats) -> Ints {
            [_mm256_cvtps_epi32(value[0]), _mm256_cvtps_epi32(value[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn to_float(value: Ints) -> Floats {
            [_mm256_cvtepi32_ps(value[0]), _mm256_cvtepi32_ps(value[1])]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn sum_int(value: Ints) -> i32 {
            let v = _mm256_add_epi32(value[0], value[1]);
            let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
            let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b00_00_11_10>(v));
            _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b01>(v)))
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn store_bytes(to: *mut i8, value: Ints) {
            // Packing works within 128-bit halves, hence the permutation.
            let words = _mm256_packs_epi32(value[0], value[1]);
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packs_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            // SAFETY: the caller gives 16 writable bytes.
            unsafe { _mm_storeu_si128(to.cast(), bytes) }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_bytes(from: *const u8) -> Ints {
            // SAFETY: the caller gives 64 readable bytes.
            unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_nibbles(from: *const u8) -> (Ints, Ints) {
            // SAFETY: the caller gives 64 readable bytes.
            let [a, b] = unsafe {
                [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
            };
            let low = _mm256_set1_epi8(15);
            let high_a = _mm256_and_si256(_mm256_srli_epi16::<4>(a), low);
            let high_b = _mm256_and_si256(_mm256_srli_epi16::<4>(b), low);
            ([_mm256_and_si256(a, low), _mm256_and_si256(b, low)], [high_a, high_b])
        }

        #[inline(always)]
        unsafe fn prefetch(address: *const u8) {
            // SAFETY: a prefetch of an invalid address does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    };
}

impl Simd for Avx2 {
    common!();

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot_small(sum: Ints, weights: Ints, x: i32) -> Ints {
        let x = _mm256_set1_epi32(x);
        [dot_pairs(sum[0], weights[0], x), dot_pairs(sum[1], weights[1], x)]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dot(sum: Ints, weights: Ints, x: i32) -> Ints {
        let x = _mm256_set1_epi32(x);
        [dot_wide(sum[0], weights[0], x), dot_wide(sum[1], weights[1], x)]
    }
}

impl Simd for AvxVnni {
    common!();

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn dot_small(sum: Ints, weights: Ints, x: i32) -> Ints {
        let x = _mm256_set1_epi32(x);
        [
            _mm256_dpbusd_avx_epi32(sum[0], weights[0], x),
            _mm256_dpbusd_avx_epi32(sum[1], weights[1], x),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn dot(sum: Ints, weights: Ints, x: i32) -> Ints {
        let x = _mm256_set1_epi32(x);
        [
            _mm256_dpbusd_avx_epi32(sum[0], weights[0], x),
            _mm256_dpbusd_avx_epi32(sum[1], weights[1], x),
        ]
    }
}
