//! The values of a split, times the weights.
#![expect(clippy::needless_range_loop, reason = "a loop over `row` is the unrolled register tile")]

use super::super::super::panels::BLOCK;
use super::super::super::simd::{LANES, Simd};
use super::elements::{BF16, Element, F16, F32};
use super::{Mix, SPLIT};

/// As many vectors of dimensions at once as there are registers for their sums.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
unsafe fn mix<S: Simd, const M: usize, E: Element>(args: &Mix) {
    let mut dim = 0;
    while dim < args.head_dim {
        let most = (S::SUMS / M).min((args.head_dim - dim) / LANES);
        // SAFETY: the caller's; there are as many dimensions.
        unsafe {
            dim += if most >= 4 {
                mix_dims::<S, M, 4, E>(args, dim)
            } else if most >= 2 {
                mix_dims::<S, M, 2, E>(args, dim)
            } else {
                mix_dims::<S, M, 1, E>(args, dim)
            };
        }
    }
}

/// `D` vectors of dimensions from `dim` on. Returns how many dimensions that are.
///
/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them; there must
/// be as many dimensions.
#[inline(always)]
unsafe fn mix_dims<S: Simd, const M: usize, const D: usize, E: Element>(
    args: &Mix,
    dim: usize,
) -> usize {
    let num_steps = args.num_positions / E::TOGETHER;
    // SAFETY: every access is inside what the caller vouches for; weights are written in whole
    // blocks, with zeros for positions that are not seen.
    unsafe {
        let mut sums = [[S::splat(0.0); M]; D];
        let next = if dim == 0 { args.prefetch } else { None };
        for step in 0..num_steps {
            if let Some(keys) = next {
                // As much of them as there is of values.
                let steps = LANES / E::TOGETHER;
                let bytes = args.head_dim * E::BYTES;
                let from = (*keys)[step / steps].wrapping_add(step % steps * bytes);
                for line in (0..bytes).step_by(64) {
                    S::prefetch_for_later(from.wrapping_add(line));
                }
            }
            let lanes = values::<S, D, E>(args, step, dim);
            add_weighted::<S, M, D, E>(args, step, lanes, &mut sums);
        }
        if num_steps * E::TOGETHER < args.num_positions {
            let mut lanes = values::<S, D, E>(args, num_steps, dim);
            for lanes in &mut lanes {
                // A position that nobody sees may hold anything.
                *lanes = E::only_first::<S>(*lanes);
            }
            add_weighted::<S, M, D, E>(args, num_steps, lanes, &mut sums);
        }
        for (d, sums) in sums.into_iter().enumerate() {
            for (row, sum) in sums.into_iter().enumerate() {
                S::store(args.out.add(row * args.head_dim + dim + d * LANES), sum);
            }
        }
    }
    D * LANES
}

/// The values of a step's positions.
///
/// # Safety
/// The instruction set must be there; the block and the dimensions must be.
#[inline(always)]
unsafe fn values<S: Simd, const D: usize, E: Element>(
    args: &Mix,
    step: usize,
    dim: usize,
) -> [E::Lanes<S>; D] {
    let steps = LANES / E::TOGETHER;
    // SAFETY: the caller's.
    unsafe {
        let row = (*args.values)[step / steps]
            .wrapping_add((step % steps * args.head_dim + dim) * E::BYTES);
        let mut lanes = [E::splat::<S>(0); D];
        for d in 0..D {
            lanes[d] = E::load::<S>(row.wrapping_add(d * LANES * E::BYTES));
        }
        lanes
    }
}

/// Adds a step's values times each row's weights.
///
/// # Safety
/// The instruction set must be there and the step have weights.
#[inline(always)]
unsafe fn add_weighted<S: Simd, const M: usize, const D: usize, E: Element>(
    args: &Mix,
    step: usize,
    lanes: [E::Lanes<S>; D],
    sums: &mut [[S::F; M]; D],
) {
    for row in 0..M {
        // SAFETY: the caller's.
        unsafe {
            let weight = *args.weights.cast::<u32>().add(row * SPLIT + step);
            let weight = E::splat::<S>(weight);
            for d in 0..D {
                sums[d][row] = E::add::<S>(sums[d][row], weight, lanes[d]);
            }
        }
    }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn mix_f16<S: Simd, const M: usize>(args: &Mix) {
    // SAFETY: the caller's.
    unsafe { mix::<S, M, F16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn mix_bf16<S: Simd, const M: usize>(args: &Mix) {
    // SAFETY: the caller's.
    unsafe { mix::<S, M, BF16>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn mix_f32<S: Simd, const M: usize>(args: &Mix) {
    // SAFETY: the caller's.
    unsafe { mix::<S, M, F32>(args) }
}

/// # Safety
/// The instruction set must be there and the pointers valid for the sizes beside them.
#[inline(always)]
pub(in super::super) unsafe fn mix_int8<S: Simd, const M: usize>(args: &Mix) {
    let num_blocks = args.num_positions.div_ceil(LANES);
    // SAFETY: every access is inside what the caller vouches for; weights are written in whole
    // blocks, with zeros for positions that are not seen.
    unsafe {
        let mut weights = [[0.0; SPLIT]; M];
        for group in 0..args.head_dim / BLOCK {
            for block in 0..num_blocks {
                let scales = (*args.values)[block].add(LANES * args.head_dim).cast::<u16>();
                let scales = S::load_f16(scales.add(group * LANES));
                // A position that nobody sees may hold anything.
                let count = LANES.min(args.num_positions - block * LANES);
                let scales = S::first_or(scales, count, S::splat(0.0));
                for row in 0..M {
                    let weight = S::load(args.weights.add(row * SPLIT + block * LANES));
                    S::store(weights[row].as_mut_ptr().add(block * LANES), S::mul(weight, scales));
                }
            }
            for dim in [group * BLOCK, group * BLOCK + LANES] {
                let mut sums = [S::splat(0.0); M];
                for position in 0..args.num_positions {
                    let row = (*args.values)[position / LANES];
                    let codes = row.add(position % LANES * args.head_dim + dim);
                    let value = S::load_i8(codes.cast());
                    for row in 0..M {
                        let weight = S::splat(*weights[row].as_ptr().add(position));
                        sums[row] = S::fma(weight, value, sums[row]);
                    }
                }
                for (row, sum) in sums.into_iter().enumerate() {
                    S::store(args.out.add(row * args.head_dim + dim), sum);
                }
            }
        }
    }
}
