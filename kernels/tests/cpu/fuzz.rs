//! Every operation over random shapes and alignments, on every instruction set: results against
//! plain loops, and what lies around an output stays as it was.

use std::sync::LazyLock;

use proptest::prelude::*;
use sconce_kernels::cpu::{
    ActivationDtype, Activations, Compute, Cpu, KvDtype, MatrixPart, Output, PackedMatrix, RmsNorm,
};

use crate::attention::{Heads, attend_at, bound, fill, naive};
use crate::matmul::{check_products, is_bf16};
use crate::reference::{DTYPES, bf16_rounded, int8_rounded, random_weights};
use crate::rows::{DENSE, assert_close, read_back, rms_norm, silu_mul};
use crate::{GUARD, Random, devices, guarded};

static DEVICES: LazyLock<Vec<Cpu>> = LazyLock::new(devices);

/// The same floats at an offset.
fn shifted(values: &[f32], offset: usize) -> Vec<f32> {
    [&vec![GUARD; offset], values].concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..Default::default() })]

    #[test]
    fn products_of_any_shape(
        dtype in prop::sample::select(&DTYPES[..]),
        rows in 1..90_usize,
        num_blocks in 1..9_usize,
        odd_cols in 0..32_usize,
        num_tokens in 1..40_usize,
        offset in 0..17_usize,
        rounding in prop::sample::select(vec![
            ActivationDtype::Mixed,
            ActivationDtype::Int8,
            ActivationDtype::Int16,
        ]),
        seed: u64,
    ) {
        let mut random = Random(seed);
        // Plain floats may have any number of columns.
        let is_plain = dtype.block_len() == 1;
        let cols = num_blocks * dtype.block_len().max(32) - if is_plain { odd_cols } else { 0 };
        let data = random_weights(dtype, rows * cols, &mut random);
        let x = random.floats(num_tokens * cols);
        let before = random.floats(num_tokens * rows);
        for cpu in DEVICES.iter() {
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(cpu, &[part], Compute::Int8).unwrap();
            let ids: Vec<u32> = (0..rows as u32).collect();
            let weights = guarded(rows * cols, offset, |out| cpu.embed(&matrix, &ids, out).unwrap());
            let mut activations =
                Activations::new(cpu, num_tokens, cols, matrix.operands(), rounding);
            let shifted = shifted(&x, offset);
            cpu.activations(&shifted[offset..], num_tokens, None, &mut activations).unwrap();

            let out = guarded(num_tokens * rows, offset, |out| {
                cpu.matmul(&matrix, &activations, Output::Store(out)).unwrap();
            });
            let added = guarded(num_tokens * rows, offset, |out| {
                out.copy_from_slice(&before);
                cpu.matmul(&matrix, &activations, Output::Add(out)).unwrap();
            });

            let (x, tolerance) = match rounding {
                _ if cols % 2 == 0 && is_bf16(cpu, dtype, rounding) => (bf16_rounded(&x), 2e-6),
                _ if is_plain => (x.clone(), 2e-6),
                // Mixed too: without a norm, nothing is an outlier.
                ActivationDtype::Mixed | ActivationDtype::Int8 => (int8_rounded(&x), 2e-6),
                ActivationDtype::Int16 => (x.clone(), 6e-5),
            };
            check_products(&weights, cols, &x, &out, tolerance);
            let sums: Vec<f32> = before.iter().zip(&out).map(|(before, out)| before + out).collect();
            assert_eq!(added, sums);
        }
    }

    #[test]
    fn rows_of_any_length(
        cols in 1..200_usize,
        num_tokens in 1..12_usize,
        offset in 0..17_usize,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let x = random.floats(num_tokens * 2 * cols);
        let weight = random.floats(cols);
        for cpu in DEVICES.iter() {
            let (shifted_x, shifted_weight) = (shifted(&x, offset), shifted(&weight, offset / 2));
            let mut out = Activations::new(cpu, 2 * num_tokens, cols, DENSE, ActivationDtype::Int8);

            cpu.silu_mul(&shifted_x[offset..], num_tokens, &mut out).unwrap();
            assert_close(&read_back(cpu, &out, cols), silu_mul(&x, cols), 1e-6);

            let norm = RmsNorm { weight: &shifted_weight[offset / 2..], eps: 1e-5 };
            cpu.activations(&shifted_x[offset..], 2 * num_tokens, Some(norm), &mut out).unwrap();
            assert_close(&read_back(cpu, &out, cols), rms_norm(&x, &weight), 1e-6);

            let mut largest = vec![0; num_tokens];
            cpu.argmax(&shifted_x[offset..], num_tokens, &mut largest).unwrap();
            for (row, &index) in x.chunks(2 * cols).zip(&largest) {
                let most = row.iter().copied().fold(f32::MIN, f32::max);
                assert_eq!(row.iter().position(|value| *value == most), Some(index as usize));
            }
        }
    }

    #[test]
    fn attention_of_any_shape(
        dtype in prop::sample::select(vec![KvDtype::F16, KvDtype::BF16, KvDtype::F32, KvDtype::Int8]),
        num_kv in 1..4_usize,
        group in 1..9_usize,
        dim in 1..5_usize,
        block in 1..4_usize,
        lens in prop::collection::vec((1..700_usize, 1..40_usize), 1..4),
        offset in 0..17_usize,
    ) {
        let dim = dim * dtype.group();
        let heads = Heads { num_q: num_kv * group, num_kv, dim, block_size: 16 * block };
        for cpu in DEVICES.iter() {
            let each: Vec<_> = lens.iter().map(|(len, _)| *len).collect();
            let (kv, sequences) = fill(cpu, heads, &each, dtype);
            let rows: Vec<_> = (sequences.iter().zip(&lens))
                .map(|(sequence, &(len, num_new))| (sequence, len.saturating_sub(num_new), len))
                .collect();
            let width = heads.num_q * heads.dim;

            let out = attend_at(cpu, heads, &kv, &rows, offset);

            // The first and the last token of each row: plain loops are slow.
            let mut first = 0;
            for (sequence, start, end) in rows {
                for token in [start, end - 1] {
                    let expected = naive(heads, sequence, token, dtype);
                    let given = &out[(first + token - start) * width..][..width];
                    for (given, expected) in given.iter().zip(expected) {
                        let error = (f64::from(*given) - expected).abs();
                        assert!(error < bound(dtype), "{} {given} {expected}", cpu.isa());
                    }
                }
                first += end - start;
            }
        }
    }
}
