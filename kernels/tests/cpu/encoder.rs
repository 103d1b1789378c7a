//! What encoders have of their own, against the formulas.

use sconce_kernels::cpu::{ActivationDtype, Activations, FullAttention, LayerNorm};

use crate::rows::{DENSE, assert_close, read_back};
use crate::{Random, devices};

/// By Simpson's rule.
fn erf(x: f64) -> f64 {
    const STEPS: u32 = 400;
    let (end, sign) = (x.abs().min(6.0), x.signum());
    let h = end / f64::from(STEPS);
    let f = |i: u32| (-(f64::from(i) * h).powi(2)).exp();
    let inner: f64 = (1..STEPS).map(|i| f(i) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
    sign * (f(0) + inner + f(STEPS)) * h / 3.0 * std::f64::consts::FRAC_2_SQRT_PI
}

#[test]
fn gelu_matches_its_formula_also_far_from_zero() {
    let mut random = Random(3);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 64), (13, 96), (5, 50)] {
            let mut x = random.floats(num_tokens * cols);
            for (i, value) in x.iter_mut().enumerate() {
                *value *= [1.0, 3.0, 10.0, 1e4][i % 4];
            }
            let bias = random.floats(cols);
            let mut out = Activations::new(&cpu, num_tokens, cols, DENSE, ActivationDtype::Int8);

            cpu.gelu(&x, num_tokens, &bias, &mut out).unwrap();

            let expected = x.iter().zip(bias.iter().cycle()).map(|(x, bias)| {
                let x = f64::from(x + bias);
                0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
            });
            assert_close(&read_back(&cpu, &out, cols), expected, 1e-6);
        }
    }
}

#[test]
fn layer_norm_matches_its_formula() {
    let mut random = Random(4);
    for cpu in devices() {
        for (num_tokens, cols) in [(1, 64), (300, 96), (5, 50)] {
            let (x, mut residual) =
                (random.floats(num_tokens * cols), random.floats(num_tokens * cols));
            let [linear_bias, weight, bias] = [0; 3].map(|_| random.floats(cols));
            let norm =
                LayerNorm { linear_bias: &linear_bias, weight: &weight, bias: &bias, eps: 1e-12 };
            let sums = x.iter().zip(&residual).zip(linear_bias.iter().cycle());
            let sums: Vec<f64> =
                sums.map(|((x, r), b)| f64::from(*x) + f64::from(*r) + f64::from(*b)).collect();

            cpu.add_layer_norm(&x, norm, &mut residual).unwrap();

            let expected = sums.chunks(cols).flat_map(|row| {
                let mean = row.iter().sum::<f64>() / cols as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
                let scale = 1.0 / (variance + 1e-12).sqrt();
                row.iter()
                    .zip(weight.iter().zip(&bias))
                    .map(move |(x, (w, b))| (x - mean) * scale * f64::from(*w) + f64::from(*b))
                    .collect::<Vec<_>>()
            });
            assert_close(&residual, expected, 2e-6);
        }
    }
}

/// The formula, for one head of one sequence.
fn attend(args: &FullAttention<'_>, first: usize, len: usize, head: usize) -> Vec<Vec<f64>> {
    let width = args.num_heads * args.head_dim;
    let part = |token: usize, which: usize| {
        let start = (first + token) * 3 * width + which * width + head * args.head_dim;
        args.qkv[start..][..args.head_dim].iter().map(|x| f64::from(*x)).collect::<Vec<_>>()
    };
    let row = |query: usize| {
        let scores = (0..len).map(|key| {
            let dot: f64 = part(query, 0).iter().zip(&part(key, 1)).map(|(q, k)| q * k).sum();
            (dot * f64::from(args.scale)).exp()
        });
        let scores: Vec<f64> = scores.collect();
        let sum: f64 = scores.iter().sum();
        let mut mixed = vec![0.0; args.head_dim];
        for (key, score) in scores.iter().enumerate() {
            for (mixed, value) in mixed.iter_mut().zip(part(key, 2)) {
                *mixed += score / sum * value;
            }
        }
        mixed
    };
    (0..len).map(row).collect()
}

#[test]
fn every_token_sees_all_of_its_sequence_and_no_other() {
    let mut random = Random(5);
    for cpu in devices() {
        for (num_heads, head_dim, lens) in
            [(2, 16, &[1, 5, 17][..]), (1, 32, &[33, 2]), (1, 64, &[300])]
        {
            let num_tokens: usize = lens.iter().sum();
            let width = num_heads * head_dim;
            let qkv: Vec<f32> =
                random.floats(num_tokens * 3 * width).iter().map(|x| 3.0 * x).collect();
            let scale = (head_dim as f32).sqrt().recip();
            let args = FullAttention { qkv: &qkv, num_heads, head_dim, scale, lens };
            let mut out = vec![0.0; num_tokens * width];

            cpu.full_attention(args, &mut out).unwrap();

            let mut first = 0;
            for &len in lens {
                for head in 0..num_heads {
                    for (row, expected) in attend(&args, first, len, head).iter().enumerate() {
                        let start = (first + row) * width + head * head_dim;
                        let given = &out[start..][..head_dim];
                        assert_close(given, expected.iter().copied(), 1e-5);
                    }
                }
                first += len;
            }
        }
    }
}

#[test]
fn a_sequence_is_computed_the_same_beside_others() {
    let mut random = Random(6);
    for cpu in devices() {
        let (num_heads, head_dim, lens) = (2, 32, [7, 270, 16]);
        let width = num_heads * head_dim;
        let qkv = random.floats(lens.iter().sum::<usize>() * 3 * width);
        let compute = |qkv: &[f32], lens: &[usize]| {
            let mut out = vec![0.0; qkv.len() / 3];
            let args = FullAttention { qkv, num_heads, head_dim, scale: 0.2, lens };
            cpu.full_attention(args, &mut out).unwrap();
            out
        };

        let together = compute(&qkv, &lens);

        let mut first = 0;
        for len in lens {
            let alone = compute(&qkv[first * 3 * width..][..len * 3 * width], &[len]);
            assert_eq!(alone, together[first * width..][..len * width]);
            first += len;
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let cpu = &devices()[0];
    let qkv = [0.0; 3 * 16];
    let args = FullAttention { qkv: &qkv, num_heads: 1, head_dim: 16, scale: 1.0, lens: &[1] };
    let mut out = [0.0; 16];

    assert!(cpu.full_attention(args, &mut out).is_ok());
    assert!(cpu.full_attention(FullAttention { lens: &[2], ..args }, &mut out).is_err());
    assert!(cpu.full_attention(FullAttention { head_dim: 8, ..args }, &mut out).is_err());
    assert!(cpu.full_attention(args, &mut out[..8]).is_err());
    let (a, b) = ([0.0; 4], [0.0; 3]);
    let norm = LayerNorm { linear_bias: &a, weight: &a, bias: &b, eps: 0.0 };
    assert!(cpu.add_layer_norm(&[0.0; 8], norm, &mut [0.0; 8]).is_err());
    let mut activations = Activations::new(cpu, 1, 4, DENSE, ActivationDtype::Int8);
    assert!(cpu.gelu(&[0.0; 8], 2, &a, &mut activations).is_err());
    assert!(cpu.gelu(&[0.0; 7], 1, &a, &mut activations).is_err());
}
