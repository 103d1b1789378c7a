//! Kernels over one row: normalization, activation, quantization, the largest element.

use super::super::panels::BLOCK;
use super::super::simd::{LANES, Simd};

/// How many times the mean of a row's squared scales that of an outlier is at least. With 2, a
/// tenth of the blocks are outliers and account for two thirds of what rounding loses.
const OUTLIER_RATIO: f32 = 2.0;

/// Root-mean-square normalization of one row.
pub(in super::super) struct Norm<'a> {
    pub row: &'a [f32],
    /// As long as the row.
    pub weight: &'a [f32],
    pub eps: f32,
}

/// Normalization of one row to mean 0 and variance 1, and what is added to it first.
pub(in super::super) struct LayerNormRow<'a> {
    /// As the three others; the sum of all is normalized.
    pub row: &'a [f32],
    pub residual: &'a [f32],
    pub linear_bias: &'a [f32],
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub eps: f32,
}

/// Where a token's int8 go in its tile; each pointer is at the token's own lane.
pub(in super::super) struct RowSlot {
    /// Tokens in the tile.
    pub width: usize,
    /// `[num_blocks][8][width]`
    pub quants: *mut i32,
    /// `[num_blocks][2][width]`
    pub scales: *mut f32,
    /// `[num_blocks][3][width]`
    pub offsets: *mut i32,
}

/// `out = row / sqrt(mean(row^2) + eps) * weight`.
///
/// # Safety
/// The instruction set must be there; the three slices must be of one length.
#[inline(always)]
pub(super) unsafe fn rms_norm<S: Simd>(args: &Norm<'_>, out: &mut [f32]) {
    let len = out.len();
    // SAFETY: indexes are below the slices' common length.
    unsafe {
        let mut squares = S::splat(0.0);
        for i in (0..len).step_by(LANES) {
            let x = S::load_first(args.row.as_ptr().add(i), LANES.min(len - i));
            squares = S::fma(x, x, squares);
        }
        let scale = 1.0 / (S::sum(squares) / len as f32 + args.eps).sqrt();
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let x = S::load_first(args.row.as_ptr().add(i), count);
            let weight = S::load_first(args.weight.as_ptr().add(i), count);
            let y = S::mul(S::mul(x, S::splat(scale)), weight);
            S::store_first(out.as_mut_ptr().add(i), y, count);
        }
    }
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` of the sum `x` of row, residual
/// and the bias of the matrix that made the row.
///
/// # Safety
/// The instruction set must be there; all slices must be of one length.
#[inline(always)]
pub(super) unsafe fn layer_norm<S: Simd>(args: &LayerNormRow<'_>, out: &mut [f32]) {
    let len = out.len();
    // SAFETY: indexes are below the slices' common length.
    unsafe {
        let mut sums = S::splat(0.0);
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let x = S::load_first(args.row.as_ptr().add(i), count);
            let x = S::add(x, S::load_first(args.residual.as_ptr().add(i), count));
            let x = S::add(x, S::load_first(args.linear_bias.as_ptr().add(i), count));
            sums = S::add(sums, x);
            S::store_first(out.as_mut_ptr().add(i), x, count);
        }
        let mean = S::splat(S::sum(sums) / len as f32);
        let mut squares = S::splat(0.0);
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let x = S::load_first(out.as_ptr().add(i), count);
            // Lanes past the end count nothing.
            let x = S::first_or(S::sub(x, mean), count, S::splat(0.0));
            squares = S::fma(x, x, squares);
        }
        let scale = S::splat(1.0 / (S::sum(squares) / len as f32 + args.eps).sqrt());
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let x = S::load_first(out.as_ptr().add(i), count);
            let weight = S::load_first(args.weight.as_ptr().add(i), count);
            let bias = S::load_first(args.bias.as_ptr().add(i), count);
            let y = S::fma(S::mul(S::sub(x, mean), scale), weight, bias);
            S::store_first(out.as_mut_ptr().add(i), y, count);
        }
    }
}

/// `out = gelu(row + bias)`, with the exact error function: 7.1.26 of Abramowitz & Stegun, right to
/// 1.5e-7.
///
/// # Safety
/// The instruction set must be there; the three slices must be of one length.
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(row: &[f32], bias: &[f32], out: &mut [f32]) {
    let len = out.len();
    // SAFETY: indexes are below the slices' common length.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let x = S::load_first(row.as_ptr().add(i), count);
            let x = S::add(x, S::load_first(bias.as_ptr().add(i), count));
            let magnitude = S::max(S::sub(zero, x), x);
            let z = S::mul(magnitude, S::splat(std::f32::consts::FRAC_1_SQRT_2));
            let t = S::div(one, S::fma(z, S::splat(0.327_591_1), one));
            let mut p = S::splat(1.061_405_4);
            for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
                p = S::fma(p, t, S::splat(c));
            }
            let e = S::exp(S::sub(zero, S::mul(z, z)));
            // The complement of the error function at |x| / sqrt(2), and half of it.
            let half = S::mul(S::mul(S::mul(p, t), e), S::splat(0.5));
            let y = S::sub(S::max(zero, x), S::mul(magnitude, half));
            S::store_first(out.as_mut_ptr().add(i), y, count);
        }
    }
}

/// `out = gate * sigmoid(gate) * up`.
///
/// # Safety
/// The instruction set must be there; the three slices must be of one length.
#[inline(always)]
pub(super) unsafe fn silu_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    let len = out.len();
    // SAFETY: indexes are below the slices' common length.
    unsafe {
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let gate = S::load_first(gate.as_ptr().add(i), count);
            let up = S::load_first(up.as_ptr().add(i), count);
            let e = S::exp(S::sub(S::splat(0.0), gate));
            let silu = S::div(gate, S::add(S::splat(1.0), e));
            S::store_first(out.as_mut_ptr().add(i), S::mul(silu, up), count);
        }
    }
}

/// `out = gelu(gate) * up`, by the approximation with the hyperbolic tangent (Hendrycks and Gimpel,
/// 2016), which is `gate * sigmoid(2 * inner)`.
///
/// # Safety
/// The instruction set must be there; the three slices must be of one length.
#[inline(always)]
pub(super) unsafe fn gelu_tanh_mul<S: Simd>(gate: &[f32], up: &[f32], out: &mut [f32]) {
    /// Twice the square root of 2 / pi.
    const FACTOR: f32 = 1.595_769;
    let len = out.len();
    // SAFETY: indexes are below the slices' common length.
    unsafe {
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let gate = S::load_first(gate.as_ptr().add(i), count);
            let up = S::load_first(up.as_ptr().add(i), count);
            let cubic = S::mul(S::splat(-0.044_715 * FACTOR), S::mul(gate, gate));
            let inner = S::mul(S::add(cubic, S::splat(-FACTOR)), gate);
            let gelu = S::div(gate, S::add(S::splat(1.0), S::exp(inner)));
            S::store_first(out.as_mut_ptr().add(i), S::mul(gelu, up), count);
        }
    }
}

/// `x = cap * tanh(x / cap)`, to a few units in the last place of the cap.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn soft_cap<S: Simd>(cap: f32, x: &mut [f32]) {
    let (len, x) = (x.len(), x.as_mut_ptr());
    // SAFETY: indexes are below the length.
    unsafe {
        let one = S::splat(1.0);
        for i in (0..len).step_by(LANES) {
            let count = LANES.min(len - i);
            let e = S::exp(S::mul(S::load_first(x.add(i), count), S::splat(2.0 / cap)));
            let tanh = S::div(S::sub(e, one), S::add(e, one));
            S::store_first(x.add(i), S::mul(tanh, S::splat(cap)), count);
        }
    }
}

/// Quantizes a row per 32 elements: the largest magnitude becomes 127. A row with an infinity or
/// a NaN gets a NaN for its first scale, and so makes every product NaN. What rounding leaves of
/// each element goes to `rest`, unless that is empty.
///
/// # Safety
/// The instruction set must be there, the row a multiple of 32 long, the slot as large, and `rest`
/// as long or empty.
#[inline(always)]
pub(super) unsafe fn quantize<S: Simd>(row: &[f32], slot: &RowSlot, rest: &mut [f32]) {
    let num_blocks = row.len() / 32;
    // SAFETY: the row has 32 elements per block, the slot and the rest room for each block.
    unsafe {
        let mut differences = S::splat(0.0);
        for first in (0..num_blocks).step_by(LANES) {
            let count = LANES.min(num_blocks - first);
            let mut largest = [0.0; LANES];
            for (block, largest) in (first..first + count).zip(&mut largest) {
                let from = row.as_ptr().add(block * 32);
                let (a, b) = (S::load(from), S::load(from.add(LANES)));
                differences = S::add(differences, S::add(S::sub(a, a), S::sub(b, b)));
                *largest = largest_of::<S>(a, b);
            }
            // Divisions of all at once, since each takes long.
            let scales = largest.map(|largest| largest / 127.0);
            let inverses = scales.map(|scale| if scale > 0.0 { 1.0 / scale } else { 0.0 });
            for (i, (scale, inverse)) in scales.into_iter().zip(inverses).enumerate().take(count) {
                quantize_block::<S>(row, slot, rest, first + i, [scale, inverse]);
            }
        }
        if num_blocks > 0 && S::sum(differences).is_nan() {
            *slot.scales = f32::NAN;
        }
    }
}

/// The largest magnitude of 32 elements.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
unsafe fn largest_of<S: Simd>(a: S::F, b: S::F) -> f32 {
    // SAFETY: the caller's.
    unsafe { S::largest(S::max(magnitude::<S>(a), magnitude::<S>(b))) }
}

/// # Safety
/// The instruction set must be there.
#[inline(always)]
unsafe fn magnitude<S: Simd>(lanes: S::F) -> S::F {
    // SAFETY: the caller's.
    unsafe { S::max(lanes, S::sub(S::splat(0.0), lanes)) }
}

/// The scale above which a block of the row is an outlier.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn outlier_scale<S: Simd>(row: &[f32]) -> f32 {
    let (blocks, _) = row.as_chunks::<BLOCK>();
    let mut squares = 0.0;
    for block in blocks {
        // SAFETY: a block has twice 16 elements.
        let largest = unsafe {
            let from = block.as_ptr();
            largest_of::<S>(S::load(from), S::load(from.add(LANES)))
        };
        squares += largest * largest;
    }
    (OUTLIER_RATIO * squares / blocks.len() as f32).sqrt() / 127.0
}

/// Quantizes a block with its scale, whose inverse comes with it.
///
/// # Safety
/// As for `quantize`; the row must have the block.
#[inline(always)]
unsafe fn quantize_block<S: Simd>(
    row: &[f32],
    slot: &RowSlot,
    rest: &mut [f32],
    block: usize,
    [scale, inverse]: [f32; 2],
) {
    let width = slot.width;
    // SAFETY: the caller's.
    unsafe {
        let from = row.as_ptr().add(block * 32);
        let exact = [S::load(from), S::load(from.add(LANES))];
        let inverse = S::splat(inverse);
        let (a, b) = (S::to_int(S::mul(exact[0], inverse)), S::to_int(S::mul(exact[1], inverse)));
        if !rest.is_empty() {
            let to = rest.as_mut_ptr().add(block * 32);
            let step = S::splat(-scale);
            S::store(to, S::fma(S::to_float(a), step, exact[0]));
            S::store(to.add(LANES), S::fma(S::to_float(b), step, exact[1]));
        }
        let mut bytes = [0_i32; 8];
        S::store_bytes(bytes.as_mut_ptr().cast(), a);
        S::store_bytes(bytes.as_mut_ptr().add(4).cast(), b);
        for (j, four) in bytes.into_iter().enumerate() {
            *slot.quants.add((block * 8 + j) * width) = four;
        }
        let [sum_a, sum_b] = S::sums_int(a, b);
        let sum = sum_a.wrapping_add(sum_b);
        *slot.scales.add(block * 2 * width) = scale;
        *slot.scales.add((block * 2 + 1) * width) = scale * sum as f32;
        for (part, sum) in [sum, sum_a, sum_b].into_iter().enumerate() {
            *slot.offsets.add((block * 3 + part) * width) = sum.wrapping_mul(-128);
        }
    }
}

/// Rounds a row, a multiple of 16 long, to half precision.
///
/// # Safety
/// The instruction set must be there; `to` must be as long as `from`.
#[inline(always)]
pub(super) unsafe fn to_f16<S: Simd>(from: &[f32], to: &mut [u16]) {
    // SAFETY: indexes are below the slices' common length, a multiple of 16.
    unsafe {
        for i in (0..from.len()).step_by(LANES) {
            S::store_f16(to.as_mut_ptr().add(i), S::load(from.as_ptr().add(i)));
        }
    }
}

/// Rounds a row to bf16.
///
/// # Safety
/// The instruction set must be there; `to` must be as long as `from`.
#[inline(always)]
pub(super) unsafe fn to_bf16<S: Simd>(from: &[f32], to: &mut [u16]) {
    let (whole, rest) = from.as_chunks::<LANES>();
    let (to_whole, to_rest) = to.as_chunks_mut::<LANES>();
    for (from, to) in whole.iter().zip(to_whole) {
        // SAFETY: both have 16 elements.
        unsafe { S::store_bf16(to.as_mut_ptr(), S::load(from.as_ptr())) };
    }
    if !rest.is_empty() {
        let mut last = [0; LANES];
        // SAFETY: the first has as many elements as it says, the second 16.
        unsafe { S::store_bf16(last.as_mut_ptr(), S::load_first(rest.as_ptr(), rest.len())) };
        to_rest.copy_from_slice(&last[..rest.len()]);
    }
}

/// The lowest index of the largest element; 0 where every element is NaN.
///
/// # Safety
/// The instruction set must be there.
#[inline(always)]
pub(super) unsafe fn argmax<S: Simd>(row: &[f32]) -> usize {
    let (whole, rest) = row.as_chunks::<LANES>();
    // SAFETY: a chunk has 16 elements. A comparison with NaN keeps the second operand of `max`.
    let mut largest = unsafe {
        let mut largest = [S::splat(f32::NEG_INFINITY); 4];
        for (i, chunk) in whole.iter().enumerate() {
            largest[i % 4] = S::max(S::load(chunk.as_ptr()), largest[i % 4]);
        }
        let [a, b, c, d] = largest;
        S::largest(S::max(S::max(a, b), S::max(c, d)))
    };
    for &value in rest {
        largest = largest.max(value);
    }
    row.iter().position(|&value| value == largest).unwrap_or(0)
}
