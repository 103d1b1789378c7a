//! The vectors as arrays: the reference for the others, and what other processors run.

use half::{bf16, f16};

use super::{ByteDot, LANES, Simd, Wide, dots};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(in super::super) struct Portable;

type Floats = [f32; LANES];

#[inline(always)]
fn map2(a: Floats, b: Floats, f: impl Fn(f32, f32) -> f32) -> Floats {
    let mut out = a;
    for (out, b) in out.iter_mut().zip(b) {
        *out = f(*out, b);
    }
    out
}

impl Simd for Portable {
    const SUMS: usize = 1;
    type F = Floats;
    type I = [i32; LANES];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Floats {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Floats {
        // SAFETY: the caller gives 16 readable floats.
        unsafe { from.cast::<Floats>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Floats {
        let mut out = [0.0; LANES];
        // SAFETY: the caller gives `count` readable floats, at most 16.
        unsafe { from.copy_to_nonoverlapping(out.as_mut_ptr(), count) };
        out
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Floats) {
        // SAFETY: the caller gives 16 writable floats.
        unsafe { to.cast::<Floats>().write_unaligned(value) };
    }

    #[inline(always)]
    unsafe fn store_first(to: *mut f32, value: Floats, count: usize) {
        // SAFETY: the caller gives `count` writable floats, at most 16.
        unsafe { value.as_ptr().copy_to_nonoverlapping(to, count) };
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> Floats {
        // SAFETY: the caller gives 16 readable half floats.
        let bits = unsafe { from.cast::<[u16; LANES]>().read_unaligned() };
        bits.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> [f32; LANES] {
        // SAFETY: the caller gives 16 readable bytes.
        unsafe { from.cast::<[i8; LANES]>().read_unaligned() }.map(f32::from)
    }

    #[inline(always)]
    unsafe fn store_f16(to: *mut u16, value: Floats) {
        let bits = value.map(|value| f16::from_f32(value).to_bits());
        // SAFETY: the caller gives room for 16 half floats.
        unsafe { to.cast::<[u16; LANES]>().write_unaligned(bits) };
    }

    #[inline(always)]
    unsafe fn add(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| a + b)
    }

    #[inline(always)]
    unsafe fn sub(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn mul(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn div(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| a / b)
    }

    #[inline(always)]
    unsafe fn max(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    unsafe fn min(a: Floats, b: Floats) -> Floats {
        map2(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    unsafe fn fma(a: Floats, b: Floats, c: Floats) -> Floats {
        let mut out = c;
        for lane in 0..LANES {
            out[lane] += a[lane] * b[lane];
        }
        out
    }

    #[inline(always)]
    unsafe fn round(value: Floats) -> Floats {
        // Adding and taking away 1.5 * 2^23 rounds what is below 2^22; larger values are rare
        // enough for the library's function.
        const MAGIC: f32 = 12_582_912.0;
        value.map(|v| if v.abs() < 4_194_304.0 { (v + MAGIC) - MAGIC } else { v.round_ties_even() })
    }

    #[inline(always)]
    unsafe fn pow2(value: Floats) -> Floats {
        value.map(|v| f32::from_bits((v as i32).wrapping_add(127).cast_unsigned() << 23))
    }

    #[inline(always)]
    unsafe fn sum(value: Floats) -> f32 {
        let mut v = value;
        for half in [8, 4, 2, 1] {
            for lane in 0..half {
                v[lane] += v[lane + half];
            }
        }
        v[0]
    }

    #[inline(always)]
    unsafe fn largest(value: Floats) -> f32 {
        value.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }

    #[inline(always)]
    unsafe fn first_or(value: Floats, count: usize, other: Floats) -> Floats {
        let mut out = other;
        out[..count].copy_from_slice(&value[..count]);
        out
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut u16, value: Floats) {
        // SAFETY: the caller gives room for 16 half floats.
        unsafe {
            to.cast::<[u16; LANES]>().write_unaligned(value.map(|v| bf16::from_f32(v).to_bits()));
        }
    }

    #[inline(always)]
    unsafe fn load_int(from: *const i32) -> [i32; LANES] {
        // SAFETY: the caller gives 16 readable integers.
        unsafe { from.cast::<[i32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn dot_bf16(sum: Floats, a: [i32; LANES], b: [i32; LANES]) -> Floats {
        // SAFETY: this needs no instruction set.
        let ([low_a, high_a], [low_b, high_b]) =
            unsafe { (Self::split_bf16(a), Self::split_bf16(b)) };
        std::array::from_fn(|lane| {
            sum[lane] + low_a[lane] * low_b[lane] + high_a[lane] * high_b[lane]
        })
    }

    #[inline(always)]
    unsafe fn split_bf16(pairs: [i32; LANES]) -> [Floats; 2] {
        let bits = pairs.map(i32::cast_unsigned);
        [
            bits.map(|bits| f32::from_bits(bits << 16)),
            bits.map(|bits| f32::from_bits(bits & 0xffff_0000)),
        ]
    }

    #[inline(always)]
    unsafe fn low_halves(pairs: [i32; LANES]) -> [i32; LANES] {
        pairs.map(|pair| pair & 0xffff)
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> [i32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    unsafe fn to_int(value: Floats) -> [i32; LANES] {
        // SAFETY: nothing is needed for plain Rust.
        unsafe { Self::round(value) }.map(|v| v as i32)
    }

    #[inline(always)]
    unsafe fn to_float(value: [i32; LANES]) -> Floats {
        value.map(|v| v as f32)
    }

    #[inline(always)]
    unsafe fn sum_int(value: [i32; LANES]) -> i32 {
        value.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn store_bytes(to: *mut i8, value: [i32; LANES]) {
        // SAFETY: the caller gives 16 writable bytes.
        unsafe { to.cast::<[i8; LANES]>().write_unaligned(value.map(|v| v as i8)) };
    }

    #[inline(always)]
    unsafe fn prefetch(_address: *const u8) {}

    #[inline(always)]
    unsafe fn prefetch_for_later(_address: *const u8) {}

    dots!();
}

impl ByteDot for Portable {
    type B = [u8; 64];

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [u8; 64] {
        // SAFETY: the caller gives 64 readable bytes.
        unsafe { from.cast::<[u8; 64]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_nibbles(from: *const u8) -> ([u8; 64], [u8; 64]) {
        // SAFETY: the caller gives 64 readable bytes.
        let bytes = unsafe { Self::load_bytes(from) };
        (bytes.map(|byte| byte & 15), bytes.map(|byte| byte >> 4))
    }

    #[inline(always)]
    unsafe fn load_wide(from: Wide) -> [u8; 64] {
        // SAFETY: the caller gives 64 readable bytes at both.
        let (mut codes, plane) = unsafe {
            let (low, high) = Self::load_nibbles(from.nibbles);
            (if from.is_high { high } else { low }, Self::load_bytes(from.plane))
        };
        for (code, high) in codes.iter_mut().zip(plane) {
            let high = i32::from(high) << (from.shift + 3) >> 3;
            *code |= high as u8 & from.mask as u8;
        }
        codes
    }

    #[inline(always)]
    unsafe fn dot(sum: [i32; LANES], weights: [u8; 64], x: i32) -> [i32; LANES] {
        let x = x.to_le_bytes().map(|byte| i32::from(byte as i8));
        let mut out = sum;
        for (out, w) in out.iter_mut().zip(weights.as_chunks::<4>().0) {
            let dot: i32 = w.iter().zip(x).map(|(&w, x)| i32::from(w) * x).sum();
            *out = out.wrapping_add(dot);
        }
        out
    }
}
