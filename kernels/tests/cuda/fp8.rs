use sconce_kernels::cuda::{Fp8Matrix, LinearToFp8, MAX_GEMV_ROWS, Matmul, Scaling, Write};

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

/// Hopper's tensor cores keep 14 bits or so of sums of 8-bit floats (DeepSeek-V3, 2024, section 3.3.2).
fn tolerance_of(float: Float) -> f64 {
    tolerance(float).max(1e-3)
}

/// Few tokens stay as they are.
fn as_multiplied(x: &[f32], rows: usize, quantized: impl Fn(&[f32]) -> Vec<f32>) -> Vec<f32> {
    if rows <= MAX_GEMV_ROWS { x.to_vec() } else { quantized(x) }
}

#[test]
fn products_of_8_bit_floats_equal_their_reference() {
    let device = device();
    let matmul = Matmul::new(&device).unwrap();
    for (float, y_float) in
        [(Float::F16, Float::F16), (Float::BF16, Float::BF16), (Float::BF16, Float::F32)]
    {
        for (rows, n, k) in [(1, 16, 16), (2, 48, 2080), (8, 32, 272), (9, 48, 272), (33, 32, 1040)]
        {
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
                let x = as_multiplied(&x, rows, |x| quantized(x, k));
                let expected = product(&x, &quantized(&w, k), before, n, k);
                let what = format!("{float:?}, {y_float:?}, {rows} x {n} x {k}, {write:?}");
                let given = values(&device, y_float, y.slice());
                assert_near(&given, &expected, tolerance_of(y_float), &what);
            }
        }
    }
}

/// Rows with a scale for each 128 elements, as they are after quantising, by reference.
fn quantized_groups(x: &[f32], cols: usize) -> Vec<f32> {
    x.chunks_exact(cols)
        .flat_map(|row| row.chunks(128).flat_map(|group| quantized(group, group.len())))
        .collect()
}

#[test]
fn products_with_scales_of_blocks_equal_their_reference() {
    let device = device();
    let matmul = Matmul::new(&device).unwrap();
    if !matmul.has_fp8(Scaling::Blocks) {
        println!("skipped: the GPU has no such product");
        return;
    }
    for (float, y_float) in
        [(Float::F16, Float::F16), (Float::BF16, Float::BF16), (Float::BF16, Float::F32)]
    {
        for (n, k) in [(16_usize, 16_usize), (144, 272), (256, 640), (32, 2304)] {
            let mut rng = rng(2);
            let codes: Vec<u8> =
                (0..n * k).map(|_| rng.random::<u8>()).map(|code| code & 0xbf).collect();
            let blocks: Vec<f32> = (0..n.div_ceil(128) * k.div_ceil(128))
                .map(|_| rng.random_range(0.01..0.05))
                .collect();
            let w: Vec<f32> = (0..n * k)
                .map(|at| (at / k / 128 * k.div_ceil(128) + at % k / 128, codes[at]))
                .map(|(block, code)| fp8(code) as f32 * blocks[block])
                .collect();
            let mut matrix = Fp8Matrix::with_blocks(&device, &blocks, (n, k)).unwrap();
            let from = device.buffer_of(&codes).unwrap();
            device.copy(from.slice(), &mut matrix.codes_mut()).unwrap();
            // Multiples of four, and what is padded to one.
            for rows in [1, 2, 3, 4, 5, 8, 11, 33] {
                let mut x = numbers(&mut rng, rows * k);
                x[..k.min(100)].fill(0.0);
                let given = floats(&device, float, &x);
                let mut y = poisoned(&device, y_float, rows * n);
                let mut scratch = device.alloc(matrix.scratch_bytes(rows)).unwrap();

                matmul
                    .linear_fp8(LinearToFp8 {
                        float,
                        x: given.slice(),
                        w: &matrix,
                        y: y.slice_mut(),
                        y_float,
                        write: Write::Store,
                        rows,
                        scratch: scratch.slice_mut(),
                    })
                    .unwrap();

                let x = as_multiplied(&x, rows, |x| quantized_groups(x, k));
                let expected = product(&x, &w, &[], n, k);
                let what = format!("{float:?}, {y_float:?}, {rows} x {n} x {k}");
                let given = values(&device, y_float, y.slice());
                assert_near(&given, &expected, tolerance_of(y_float), &what);
            }
        }
    }
}
