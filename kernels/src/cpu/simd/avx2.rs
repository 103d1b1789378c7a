//! 256-bit vectors: two registers each.

mod codes;

use std::arch::x86_64::*;

use self::codes::{add_pairs, add_widened, load_bytes, load_nibbles, load_wide, settle};
use super::{ByteDot, Simd, Wide, dots};

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

/// What both sets share: all but the dot products.
macro_rules! common {
    () => {
        const SUMS: usize = 5;
        type F = Floats;
        type I = Ints;

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
        unsafe fn load_i8(from: *const i8) -> Floats {
            // SAFETY: the caller gives 16 readable bytes.
            let bytes = unsafe { _mm_loadu_si128(from.cast()) };
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
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
        unsafe fn store_bf16(to: *mut u16, value: Floats) {
            for (part, value) in value.into_iter().enumerate() {
                // SAFETY: the caller gives room for 16 half floats.
                unsafe { _mm_storeu_si128(to.add(8 * part).cast(), to_bf16(value)) };
            }
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn load_int(from: *const i32) -> Ints {
            // SAFETY: the caller gives 16 readable integers.
            unsafe { load_bytes(from.cast()) }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma")]
        unsafe fn dot_bf16(mut sum: Floats, a: Ints, b: Ints) -> Floats {
            // SAFETY: the caller has the instruction set.
            let [low_a, high_a] = unsafe { Self::split_bf16(a) };
            // SAFETY: as above.
            let [low_b, high_b] = unsafe { Self::split_bf16(b) };
            for (i, sum) in sum.iter_mut().enumerate() {
                *sum = _mm256_fmadd_ps(low_a[i], low_b[i], *sum);
                *sum = _mm256_fmadd_ps(high_a[i], high_b[i], *sum);
            }
            sum
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn split_bf16(pairs: Ints) -> [Floats; 2] {
            let high = _mm256_set1_epi32(-0x1_0000);
            [
                pairs.map(|pairs| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs))),
                pairs.map(|pairs| _mm256_castsi256_ps(_mm256_and_si256(pairs, high))),
            ]
        }

        #[inline]
        #[target_feature(enable = "avx2")]
        unsafe fn low_halves(pairs: Ints) -> Ints {
            let low = _mm256_set1_epi32(0xffff);
            [_mm256_and_si256(pairs[0], low), _mm256_and_si256(pairs[1], low)]
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
    };
}

/// Rounds to bf16.
#[inline]
#[target_feature(enable = "avx2")]
fn to_bf16(value: __m256) -> __m128i {
    let bits = _mm256_castps_si256(value);
    // To the nearest, ties to even: half of a last place, less one bit if that is even already.
    let even = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even);
    // A NaN must not be rounded to infinity.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
    let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(value, value));
    let halves = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, is_nan));
    // Packing works within 128-bit halves, hence the permutation.
    let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(halves, halves));
    _mm256_castsi256_si128(packed)
}

impl Simd for Avx2 {
    common!();

    // Those below add products of bytes in 16 bits as long as they fit, which halves the
    // multiplications.

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots_nibbles<const M: usize>(codes: *const u8, x: *const i32) -> [Ints; M] {
        let mut sums = [[_mm256_setzero_si256(); 2]; M];
        let (mut codes, mut x) = (codes, x);
        for j in 0..4 {
            // SAFETY: the caller gives 256 bytes and the tokens of 8 groups.
            unsafe {
                let (low, high) = load_nibbles(codes.add(64 * j));
                add_pairs(&mut sums, low, x.add(j * M));
                add_pairs(&mut sums, high, x.add((j + 4) * M));
            }
            settle(&mut sums, &mut codes, &mut x);
        }
        // At most 8 * 2 * 15 * 128, below 2^15.
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        add_widened(&mut dots, &sums);
        dots
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots_fives<const M: usize>(
        codes: *const u8,
        x: *const i32,
        mut sums: [Ints; M],
    ) -> [Ints; M] {
        let (mut codes, mut x) = (codes, x);
        for four in [0, 4] {
            let mut pairs = [[_mm256_setzero_si256(); 2]; M];
            for j in four..four + 4 {
                // SAFETY: the caller gives a whole block and the tokens of 8 groups.
                unsafe { add_pairs(&mut pairs, load_wide(Wide::five(codes, j)), x.add(j * M)) };
                settle(&mut pairs, &mut codes, &mut x);
            }
            // At most 4 * 2 * 31 * 128, below 2^15.
            add_widened(&mut sums, &pairs);
        }
        sums
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots_sixes<const HALF: usize, const M: usize>(
        codes: *const u8,
        x: *const i32,
        mut sums: [Ints; M],
    ) -> [Ints; M] {
        let (mut codes, mut x) = (codes, x);
        for two in [0, 2] {
            let mut pairs = [[_mm256_setzero_si256(); 2]; M];
            for j in two..two + 2 {
                // SAFETY: the caller gives a whole block and the tokens of 8 groups.
                unsafe {
                    let x = x.add((4 * HALF + j) * M);
                    add_pairs(&mut pairs, load_wide(Wide::six(codes, HALF, j)), x);
                }
                settle(&mut pairs, &mut codes, &mut x);
            }
            // At most 2 * 2 * 63 * 127, below 2^15.
            add_widened(&mut sums, &pairs);
        }
        sums
    }

    /// The magnitudes of the codes times the tokens with the codes' signs: at most 2 * 128 * 127,
    /// below 2^15.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn dots_centered<const M: usize>(
        codes: *const u8,
        x: *const i32,
        _offsets: *const i32,
    ) -> [Ints; M] {
        let (ones, middle) = (_mm256_set1_epi16(1), _mm256_set1_epi8(-128));
        let mut dots = [[_mm256_setzero_si256(); 2]; M];
        for j in 0..8 {
            // SAFETY: the caller gives 512 bytes and the tokens of 8 groups.
            let [a, b] = unsafe { load_bytes(codes.add(64 * j)) };
            let (a, b) = (_mm256_xor_si256(a, middle), _mm256_xor_si256(b, middle));
            let (size_a, size_b) = (_mm256_abs_epi8(a), _mm256_abs_epi8(b));
            for (t, dot) in dots.iter_mut().enumerate() {
                // SAFETY: as above.
                let x = _mm256_set1_epi32(unsafe { *x.add(j * M + t) });
                let pairs = _mm256_maddubs_epi16(size_a, _mm256_sign_epi8(x, a));
                dot[0] = _mm256_add_epi32(dot[0], _mm256_madd_epi16(pairs, ones));
                let pairs = _mm256_maddubs_epi16(size_b, _mm256_sign_epi8(x, b));
                dot[1] = _mm256_add_epi32(dot[1], _mm256_madd_epi16(pairs, ones));
            }
        }
        dots
    }
}

impl Simd for AvxVnni {
    common!();
    dots!();
}

impl ByteDot for AvxVnni {
    type B = Ints;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_bytes(from: *const u8) -> Ints {
        // SAFETY: the caller's.
        unsafe { load_bytes(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_nibbles(from: *const u8) -> (Ints, Ints) {
        // SAFETY: the caller's.
        unsafe { load_nibbles(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_wide(from: Wide) -> Ints {
        // SAFETY: the caller's.
        unsafe { load_wide(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn dot(sum: Ints, codes: Ints, x: i32) -> Ints {
        let x = _mm256_set1_epi32(x);
        [_mm256_dpbusd_avx_epi32(sum[0], codes[0], x), _mm256_dpbusd_avx_epi32(sum[1], codes[1], x)]
    }
}
