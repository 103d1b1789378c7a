//! Normalization, activation, rotation and the small operations.

use sconce_kernels::cpu::{
    ActivationDtype, Activations, Compute, Cpu, HeadNorms, KvCache, KvDtype, KvShape, MatrixPart,
    Operands, Output, PackedMatrix, RmsNorm, RopeAndCache, RopeStyle, RopeTable,
};
use sconce_kernels::dtype::Dtype;

use crate::{Random, devices};

pub(crate) const DENSE: Operands = Operands { int8: false, dense: true, bf16: false };

/// Reads activations back by multiplying with the identity.
pub(crate) fn read_back(cpu: &Cpu, x: &Activations, cols: usize) -> Vec<f32> {
    let mut identity = vec![0.0_f32; cols * cols];
    for i in 0..cols {
        identity[i * cols + i] = 1.0;
    }
    let data: Vec<u8> = identity.iter().flat_map(|value| value.to_le_bytes()).collect();
    let part = MatrixPart { dtype: Dtype::F32, rows: cols, cols, data: &data };
    let matrix = PackedMatrix::pack(cpu, &[part], Compute::Int8).unwrap();
    let mut out = vec![0.0; x.num_tokens() * cols];
    cpu.matmul(&matrix, x, Output::Store(&mut out)).unwrap();
    out
}

pub(crate) fn assert_close(given: &[f32], expected: impl Iterator<Item = f64>, tolerance: f64) {
    for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
        let error = (f64::from(*given) - expected).abs();
        assert!(error <= tolerance * expected.abs().max(1.0), "{i}: {given} {expected}");
    }
}

/// The formula.
pub(crate) fn rms_norm<'a>(x: &'a [f32], weight: &'a [f32]) -> impl Iterator<Item = f64> {
    x.chunks(weight.len()).flat_map(move |row| {
        let squares: f64 = row.iter().map(|v| f64::from(*v).powi(2)).sum();
        let scale = 1.0 / (squares / row.len() as f64 + 1e-5).sqrt();
        row.iter().zip(weight).map(move |(v, w)| f64::from(*v) * scale * f64::from(*w))
    })
}

/// The formula; rows of `2 * cols`.
pub(crate) fn silu_mul(x: &[f32], cols: usize) -> impl Iterator<Item = f64> {
    x.chunks(2 * cols).flat_map(move |row| {
        let (gate, up) = row.split_at(cols);
        gate.iter().zip(up).map(|(gate, up)| {
            let gate = f64::from(*gate);
            gate / (1.0 + (-gate).exp()) * f64::from(*up)
        })
    })
}

#[test]
fn rms_norm_matches_its_formula() {
    let mut random = Random(1);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 64), (13, 96), (5, 50)] {
            let (x, weight) = (random.floats(num_tokens * cols), random.floats(cols));
            let mut out = Activations::new(&cpu, num_tokens, cols, DENSE, ActivationDtype::Int8);

            let norm = RmsNorm { weight: &weight, eps: 1e-5 };
            cpu.activations(&x, num_tokens, Some(norm), &mut out).unwrap();

            let given = read_back(&cpu, &out, cols);
            assert_close(&given, rms_norm(&x, &weight), 1e-6);
        }
    }
}

#[test]
fn silu_mul_matches_its_formula_also_far_from_zero() {
    let mut random = Random(2);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 64), (13, 96), (5, 50)] {
            let mut x = random.floats(num_tokens * 2 * cols);
            for (i, value) in x.iter_mut().enumerate() {
                *value *= [1.0, 10.0, 100.0, 1e4][i % 4];
            }
            let mut out = Activations::new(&cpu, num_tokens, cols, DENSE, ActivationDtype::Int8);

            cpu.silu_mul(&x, num_tokens, &mut out).unwrap();

            let given = read_back(&cpu, &out, cols);
            assert_close(&given, silu_mul(&x, cols), 1e-6);
        }
    }
}

fn shape() -> KvShape {
    KvShape { num_layers: 2, num_blocks: 4, block_size: 16, num_kv_heads: 2, head_dim: 32 }
}

#[test]
fn rotation_matches_its_formula_in_both_styles() {
    let mut random = Random(3);
    for cpu in devices() {
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            // 24 of 32 elements turn.
            let inv_freq: Vec<f32> =
                (0..12).map(|i| 10_000_f32.powf(-f32::from(i as u8) / 12.0)).collect();
            let table = RopeTable::new(&inv_freq, 1000, 1.25, style).unwrap();
            let mut kv = KvCache::new(shape(), KvDtype::F32).unwrap();
            let row = (4 + 4) * 32;
            let positions = [0, 7, 999];
            let before = random.floats(3 * row);
            let mut qkv = before.clone();

            let args = RopeAndCache {
                qkv: &mut qkv,
                num_q_heads: 4,
                norms: None,
                positions: &positions,
                table: &table,
                slot_mapping: &[3, 17, 40],
                layer: 1,
            };
            cpu.rope_and_cache(args, &mut kv).unwrap();

            for (token, &position) in positions.iter().enumerate() {
                for head in 0..8 {
                    let range = token * row + head * 32..token * row + head * 32 + 32;
                    let old: Vec<f64> =
                        before[range.clone()].iter().map(|v| f64::from(*v)).collect();
                    let mut expected = old.clone();
                    for i in (0..12).filter(|_| head < 6) {
                        let (a, b) = match style {
                            RopeStyle::Half => (i, i + 12),
                            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
                        };
                        let angle = f64::from(position) * f64::from(inv_freq[i]);
                        let (sin, cos) = angle.sin_cos();
                        expected[a] = 1.25 * (old[a] * cos - old[b] * sin);
                        expected[b] = 1.25 * (old[b] * cos + old[a] * sin);
                    }
                    assert_close(&qkv[range], expected.into_iter(), 1e-6);
                }
            }
        }
    }
}

#[test]
fn heads_are_normed_before_they_turn() {
    let mut random = Random(8);
    for cpu in devices() {
        let table = RopeTable::new(&[0.3; 16], 100, 1.0, RopeStyle::Half).unwrap();
        let (query, key) = (random.floats(32), random.floats(32));
        let before = random.floats(2 * 256);
        let run = |qkv: &mut [f32], norms: Option<HeadNorms<'_>>| {
            let mut kv = KvCache::new(shape(), KvDtype::F32).unwrap();
            let args = RopeAndCache {
                qkv,
                num_q_heads: 4,
                norms,
                positions: &[3, 4],
                table: &table,
                slot_mapping: &[3, 4],
                layer: 0,
            };
            cpu.rope_and_cache(args, &mut kv).is_ok()
        };
        let of = |weight| RmsNorm { weight, eps: 1e-5 };

        let mut given = before.clone();
        assert!(run(&mut given, Some(HeadNorms { query: of(&query), key: of(&key) })));

        let mut expected: Vec<f32> = Vec::new();
        for (head, x) in before.chunks_exact(32).enumerate() {
            let weight = if head % 8 < 4 { &query } else { &key };
            match head % 8 {
                6.. => expected.extend(x),
                _ => expected.extend(rms_norm(x, weight).map(|x| x as f32)),
            }
        }
        assert!(run(&mut expected, None));
        assert_close(&given, expected.iter().map(|x| f64::from(*x)), 1e-6);
        let short = HeadNorms { query: of(&query[..16]), key: of(&key) };
        assert!(!run(&mut given, Some(short)));
    }
}

#[test]
fn gelu_tanh_mul_matches_its_formula_also_far_from_zero() {
    let mut random = Random(9);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 64), (13, 96), (5, 50)] {
            let mut x = random.floats(num_tokens * 2 * cols);
            for (i, value) in x.iter_mut().enumerate() {
                *value *= [1.0, 5.0, 100.0, 1e4][i % 4];
            }
            let mut out = Activations::new(&cpu, num_tokens, cols, DENSE, ActivationDtype::Int8);

            cpu.gelu_tanh_mul(&x, num_tokens, &mut out).unwrap();

            let given = read_back(&cpu, &out, cols);
            let expected = x.chunks_exact(2 * cols).flat_map(|row| {
                let (gates, ups) = row.split_at(cols);
                gates.iter().zip(ups).map(|(gate, up)| {
                    let (gate, up) = (f64::from(*gate), f64::from(*up));
                    let inner = (2.0 / std::f64::consts::PI).sqrt();
                    let inner = inner * (gate + 0.044_715 * gate.powi(3));
                    0.5 * gate * (1.0 + inner.tanh()) * up
                })
            });
            // What rounding the exponent costs.
            assert_close(&given, expected.collect::<Vec<_>>().into_iter(), 1e-5);
        }
    }
}

#[test]
fn rows_are_normed_scaled_capped_and_weighed() {
    let mut random = Random(10);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 40), (3, 5000)] {
            let (x, weight) = (random.floats(num_tokens * cols), random.floats(cols));
            let residual = random.floats(num_tokens * cols);
            let mut given = residual.clone();

            cpu.add_normed(&x, RmsNorm { weight: &weight, eps: 1e-5 }, &mut given).unwrap();

            let sums = rms_norm(&x, &weight).zip(&residual).map(|(x, y)| x + f64::from(*y));
            assert_close(&given, sums.collect::<Vec<_>>().into_iter(), 1e-6);

            let mut given: Vec<f32> = x.iter().map(|x| 90.0 * x).collect();
            let capped = given.iter().map(|x| 30.0 * (f64::from(*x) / 30.0).tanh());
            let capped: Vec<_> = capped.collect();
            cpu.soft_cap(&mut given, 30.0);
            assert_close(&given, capped.into_iter(), 2e-6);

            let mut given = x.clone();
            cpu.scale(&mut given, 3.0);
            assert!(given.iter().zip(&x).all(|(given, x)| *given == 3.0 * x));
        }
        let mut sums = [1.0; 6];
        let rows = [1.0, 2.0, 3.0, 4.0];
        cpu.add_weighted_rows(&rows, (&[2, 0], &[0.5, 2.0]), &mut sums).unwrap();
        assert_eq!(sums, [7.0, 9.0, 1.0, 1.0, 1.5, 2.0]);
        assert!(cpu.add_weighted_rows(&rows, (&[2, 3], &[0.5, 2.0]), &mut sums).is_err());
        assert!(
            cpu.add_normed(&rows, RmsNorm { weight: &[1.0; 3], eps: 0.0 }, &mut [0.0; 4]).is_err()
        );
    }
}

#[test]
fn rope_refuses_what_is_out_of_range() {
    let cpu = &devices()[0];
    let table = RopeTable::new(&[1.0; 16], 100, 1.0, RopeStyle::Half).unwrap();
    let wide = RopeTable::new(&[1.0; 17], 100, 1.0, RopeStyle::Half).unwrap();
    let mut kv = KvCache::new(shape(), KvDtype::F16).unwrap();
    let mut run = |table, qkv: usize, positions: &[u32], slot_mapping: &[u32], layer| {
        let mut qkv = vec![0.0; qkv];
        let args = RopeAndCache {
            qkv: &mut qkv,
            num_q_heads: 4,
            norms: None,
            positions,
            table,
            slot_mapping,
            layer,
        };
        cpu.rope_and_cache(args, &mut kv).is_ok()
    };

    assert!(run(&table, 256, &[99], &[63], 1));
    assert!(!run(&table, 256, &[100], &[63], 1));
    assert!(!run(&table, 256, &[99], &[64], 1));
    assert!(!run(&table, 256, &[99], &[63], 2));
    assert!(!run(&table, 255, &[99], &[63], 1));
    assert!(!run(&table, 256, &[99], &[63, 62], 1));
    assert!(!run(&wide, 256, &[99], &[63], 1));
    assert!(RopeTable::new(&[], 100, 1.0, RopeStyle::Half).is_err());
}

#[test]
fn argmax_takes_the_first_of_equals_and_survives_nan() {
    for cpu in devices() {
        let mut random = Random(4);
        for cols in [1, 15, 16, 100, 4099] {
            let mut logits: Vec<f32> =
                (0..3 * cols).map(|_| (random.below(50) as f32 - 25.0) / 2.0).collect();
            logits[0] = f32::NAN;
            let mut out = [9; 3];

            cpu.argmax(&logits, 3, &mut out).unwrap();

            for (row, &index) in logits.chunks(cols).zip(&out) {
                let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let expected = row.iter().position(|&v| v == largest).unwrap_or(0);
                assert_eq!(index as usize, expected);
            }
        }
        assert!(cpu.argmax(&[1.0; 4], 2, &mut [0; 3]).is_err());
        assert!(cpu.argmax(&[1.0; 5], 2, &mut [0; 2]).is_err());
    }
}

#[test]
fn rows_are_gathered_biased_and_walked() {
    for cpu in devices() {
        let mut out = [0.0; 6];
        cpu.gather_rows(&[0.0, 1.0, 2.0, 3.0], 2, &[1, 0, 1], &mut out).unwrap();
        assert_eq!(out, [2.0, 3.0, 0.0, 1.0, 2.0, 3.0]);
        assert!(cpu.gather_rows(&[0.0; 4], 2, &[2], &mut [0.0; 2]).is_err());

        cpu.add_bias(&mut out, &[10.0, 20.0, 30.0]).unwrap();
        assert_eq!(out, [12.0, 23.0, 30.0, 11.0, 22.0, 33.0]);
        assert!(cpu.add_bias(&mut out, &[0.0; 4]).is_err());

        let mut items: Vec<usize> = vec![1; 1000];
        cpu.parallel(&mut items, |index, item| *item += index);
        assert!(items.iter().enumerate().all(|(index, item)| *item == index + 1));
    }
}
