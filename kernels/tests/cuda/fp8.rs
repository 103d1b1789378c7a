use sconce_kernels::cuda::{Fp8Matrix, LinearToFp8, Matmul, Write};

use super::linear::product;
use super::*;

/// The nearest e4m3 number, of equals the even one.
fn e4m3(x: f64) -> f64 {
    if x == 0.0 {
        return 0.0;
    }
    let exponent = x.abs().log2().floor().max(-6.0);
    let step = (exponent - 3.0).exp2();
    ((x / step).round_ties_even() * step).clamp(-448.0, 448.0)
}

/// Rows as they are after quantising, by reference.
fn quantized(x: &[f32], cols: usize) -> Vec<f32> {
    let rows = x.chunks_exact(cols).flat_map(|row| {
        let greatest = row.iter().fold(0.0, |greatest: f32, x| greatest.max(x.abs()));
        let scale = if greatest > 0.0 { greatest / 448.0 } else { 1.0 };
        let inverse = 1.0 / scale;
        row.iter().map(move |x| (e4m3(f64::from(x * inverse)) * f64::from(scale)) as f32)
    });
    rows.collect()
}

#[test]
fn products_of_8_bit_floats_equal_their_reference() {
    let device = device();
    let matmul = Matmul::new(&device).unwrap();
    for (float, y_float) in
        [(Float::F16, Float::F16), (Float::BF16, Float::BF16), (Float::BF16, Float::F32)]
    {
        for (rows, n, k) in [(1, 16, 16), (9, 48, 272), (33, 32, 1040)] {
            let mut rng = rng(1);
            let (mut x, w) = (numbers(&mut rng, rows * k), numbers(&mut rng, n * k));
            x[..k].fill(0.0);
            let before = numbers(&mut rng, rows * n);
            let (given, weights) = (floats(&device, float, &x), floats(&device, float, &w));
            let w8 = Fp8Matrix::quantize(&device, (float, weights.slice()), (n, k)).unwrap();
            let mut scratch = device.alloc(w8.scratch_bytes(rows)).unwrap();
            for write in [Write::Store, Write::Add] {
                let mut y = match write {
                    Write::Store => poisoned(&device, y_float, rows * n),
                    Write::Add => floats(&device, y_float, &before),
                };

                matmul
                    .linear_fp8(LinearToFp8 {
                        float,
                        x: given.slice(),
                        w: &w8,
                        y: y.slice_mut(),
                        y_float,
                        write,
                        rows,
                        scratch: scratch.slice_mut(),
                    })
                    .unwrap();

                let before: &[f32] = if write == Write::Add { &before } else { &[] };
                let expected = product(&quantized(&x, k), &quantized(&w, k), before, n, k);
                let what = format!("{float:?}, {y_float:?}, {rows} x {n} x {k}, {write:?}");
                let given = values(&device, y_float, y.slice());
                assert_near(&given, &expected, tolerance(y_float), &what);
            }
        }
    }
}
