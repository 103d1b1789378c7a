//! Attention against a naive loop, and what it promises about batches.

mod case;
mod plan;
mod promises;

use sconce_kernels::cuda::KvDtype;

use self::case::{Case, Sequence};
use super::*;

/// Rows at the edges of blocks (16, 32) and chunks (256).
const LENGTHS: [usize; 9] = [1, 15, 16, 17, 33, 255, 256, 257, 530];

fn decodes(lengths: &[usize]) -> Vec<Sequence> {
    let rows = lengths.iter().enumerate();
    rows.map(|(i, len)| Sequence { seed: i as u64, num_computed: len - 1, num_tokens: 1 }).collect()
}

fn sequences(rows: &[(usize, usize)]) -> Vec<Sequence> {
    let rows = rows.iter().enumerate();
    rows.map(|(i, &(num_computed, num_tokens))| Sequence {
        seed: i as u64,
        num_computed,
        num_tokens,
    })
    .collect()
}

#[test]
fn decode_equals_its_reference_at_the_edges_of_blocks_and_chunks() {
    for float in FLOATS {
        let rows = decodes(&LENGTHS);
        Case { rows, ..Case::new(float) }.check();
    }
}

#[test]
fn decode_equals_its_reference_in_all_shapes() {
    let shapes = [
        ([1, 1], 64, 16),
        ([6, 2], 128, 32),
        ([8, 2], 64, 48),
        ([8, 1], 128, 16),
        ([16, 1], 80, 16),
        ([20, 1], 64, 16),
        ([2, 2], 96, 64),
        ([4, 1], 256, 16),
        ([2, 1], 8, 16),
        ([3, 3], 72, 16),
        ([2, 1], 200, 112),
    ];
    for (float, (heads, head_dim, block_size)) in both(FLOATS, shapes) {
        let rows = decodes(&[1, 40, 300]);
        Case { heads, head_dim, block_size, rows, ..Case::new(float) }.check();
    }
}

#[test]
fn drafts_are_decoded_with_their_token() {
    for (float, heads) in both(FLOATS, [[4, 1], [8, 1], [3, 1]]) {
        let rows = sequences(&[(0, 2), (14, 5), (254, 4), (255, 1), (300, 8)]);
        Case { heads, rows, ..Case::new(float) }.check();
    }
}

#[test]
fn prefill_equals_its_reference() {
    let shapes = [([4, 1], 64), ([3, 3], 128), ([6, 2], 96), ([2, 1], 256), ([1, 1], 72)];
    for (float, (heads, head_dim)) in both(FLOATS, shapes) {
        let rows = sequences(&[(0, 9), (0, 70), (15, 17), (100, 33)]);
        Case { heads, head_dim, rows, ..Case::new(float) }.check();
    }
}

#[test]
fn rows_of_all_kinds_share_a_batch_and_padding_is_left_alone() {
    for float in FLOATS {
        let rows =
            sequences(&[(40, 1), (0, 0), (5, 40), (300, 1), (0, 12), (7, 0), (0, 1), (64, 3)]);
        Case { rows, padding: 5, ..Case::new(float) }.check();
    }
}

#[test]
fn windows_caps_and_sinks_equal_their_reference() {
    let rows = sequences(&[(0, 1), (16, 1), (300, 1), (520, 4), (0, 40), (90, 33)]);
    for float in FLOATS {
        let case = Case { rows: rows.clone(), ..Case::new(float) };
        for window in [1, 16, 50, 260] {
            Case { window: Some(window), ..case.clone() }.check();
        }
        Case { soft_cap: Some(1.5), ..case.clone() }.check();
        Case { has_sinks: true, ..case.clone() }.check();
        Case { window: Some(33), soft_cap: Some(0.7), has_sinks: true, ..case }.check();
    }
}

#[test]
fn caches_of_eight_bits_equal_their_reference() {
    let rows = sequences(&[(0, 1), (40, 1), (300, 1), (260, 3), (0, 20), (50, 33)]);
    for (float, dtype) in both(FLOATS, [KvDtype::Fp8, KvDtype::Int8]) {
        for (heads, head_dim) in [([4, 1], 64), ([6, 2], 128), ([2, 2], 80), ([2, 1], 256)] {
            let case = Case { rows: rows.clone(), heads, head_dim, ..Case::new(float) };
            Case { dtype, ..case }.check();
        }
    }
}

/// All pairs.
fn both<A: Copy, B: Copy, const N: usize, const M: usize>(a: [A; N], b: [B; M]) -> Vec<(A, B)> {
    a.into_iter().flat_map(|a| b.into_iter().map(move |b| (a, b))).collect()
}
