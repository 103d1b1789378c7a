use std::num::NonZero;

use sconce_kernels::cpu::{Compute, Cpu, Isa, MatrixPart, PackedMatrix};
use sconce_kernels::cuda::{GatherQuantizedRows, LinearQuantized, Matmul, QuantizedMatrix, Write};
use sconce_kernels::dtype::Dtype;

use super::linear::product;
use super::*;

pub(super) const DTYPES: [Dtype; 10] = [
    Dtype::Q4_0,
    Dtype::Q4_1,
    Dtype::Q5_0,
    Dtype::Q5_1,
    Dtype::Q8_0,
    Dtype::Q4K,
    Dtype::Q5K,
    Dtype::Q6K,
    Dtype::Int4,
    Dtype::Int8,
];

/// Rows of random blocks. Scales are such that elements are of the order of one.
pub(super) fn blocks(rng: &mut StdRng, dtype: Dtype, rows: usize, cols: usize) -> Vec<u8> {
    let (places, scale): (&[usize], _) = match dtype {
        Dtype::Q4_0 => (&[0], 0.1),
        Dtype::Q4_1 => (&[0, 2], 0.1),
        Dtype::Q5_0 => (&[0], 0.05),
        Dtype::Q5_1 => (&[0, 2], 0.05),
        Dtype::Q8_0 => (&[0], 0.01),
        Dtype::Q4K => (&[0, 2], 0.002),
        Dtype::Q5K => (&[0, 2], 0.001),
        Dtype::Q6K => (&[208], 0.0003),
        Dtype::Int4 => (&[], 0.1),
        Dtype::Int8 => (&[], 0.01),
        Dtype::Dequantized | Dtype::F32 | Dtype::F16 | Dtype::BF16 => unreachable!("quantised"),
    };
    let num_blocks = rows * cols / dtype.block_len();
    let mut bytes: Vec<u8> = (0..num_blocks * dtype.block_bytes()).map(|_| rng.random()).collect();
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &place in places {
            let scale = f16::from_f32(scale * rng.random_range(-1.0..1.0));
            block[place..place + 2].copy_from_slice(&scale.to_le_bytes());
        }
        if let Dtype::Int4 | Dtype::Int8 = dtype {
            let (zero, most) = if dtype == Dtype::Int4 { (block[4] % 17, 15) } else { (128, 255) };
            let scale = f16::from_f32(scale * rng.random_range(-1.0..1.0)).to_f32();
            block[..4].copy_from_slice(&scale.to_le_bytes());
            block[4..8].copy_from_slice(&u32::from(zero).to_le_bytes());
            block[8..].iter_mut().for_each(|code| *code &= most);
        }
    }
    bytes
}

/// A matrix of random blocks, and its elements as the CPU reads them.
fn matrix(seed: u64, parts: &[(Dtype, usize)], cols: usize) -> (QuantizedMatrix, Vec<f32>) {
    let mut rng = rng(seed);
    let data: Vec<_> =
        parts.iter().map(|(dtype, rows)| blocks(&mut rng, *dtype, *rows, cols)).collect();
    let parts: Vec<_> = parts
        .iter()
        .zip(&data)
        .map(|(&(dtype, rows), data)| MatrixPart { dtype, rows, cols, data })
        .collect();
    let cpu = Cpu::new(NonZero::new(1).unwrap(), Isa::detect()).unwrap();
    let packed = PackedMatrix::pack(&cpu, &parts, Compute::F32).unwrap();
    let ids: Vec<_> = (0..packed.rows() as u32).collect();
    let mut elements = vec![0.0; packed.rows() * cols];
    cpu.embed(&packed, &ids, &mut elements).unwrap();
    (QuantizedMatrix::pack(&device(), &parts).unwrap(), elements)
}

/// What rounding the scales of super-blocks and the output comes to.
pub(super) fn tolerance_of(float: Float) -> f64 {
    tolerance(float).max(1e-3)
}

/// The product of the first rows of `x`, which is filled up to `rows`.
fn multiply(
    matmul: &Matmul,
    w: &QuantizedMatrix,
    x: &[f32],
    (float, y_float): (Float, Float),
    before: Option<&[f32]>,
) -> Vec<f32> {
    let device = device();
    let rows = x.len() / w.k();
    let x = floats(&device, float, x);
    let mut y = match before {
        Some(before) => floats(&device, y_float, before),
        None => poisoned(&device, y_float, rows * w.n()),
    };
    let mut scratch = poisoned(&device, float, 35 * w.k());
    matmul
        .linear_quantized(LinearQuantized {
            float,
            x: x.slice(),
            w,
            y: y.slice_mut(),
            y_float,
            write: if before.is_some() { Write::Add } else { Write::Store },
            rows,
            scratch: scratch.slice_mut(),
        })
        .unwrap();
    values(&device, y_float, y.slice())
}

const TYPES: [(Float, Float); 4] = [
    (Float::F16, Float::F16),
    (Float::BF16, Float::BF16),
    (Float::F16, Float::F32),
    (Float::BF16, Float::F32),
];

#[test]
fn rows_are_read_as_on_the_cpu() {
    let device = device();
    for dtype in DTYPES {
        for (rows, cols) in [(1, 256), (40, dtype.block_len()), (19, 3 * dtype.block_len())] {
            let (table, elements) = matrix(1, &[(dtype, rows)], cols);
            let indices: Vec<_> = (0..rows as u32).rev().chain([rows as u32, u32::MAX]).collect();
            let ids = device.buffer_of(&indices).unwrap();
            for float in FLOATS {
                let mut out = poisoned(&device, float, indices.len() * cols);

                device
                    .gather_quantized_rows(GatherQuantizedRows {
                        table: &table,
                        indices: ids.slice(),
                        float,
                        out: out.slice_mut(),
                    })
                    .unwrap();

                let rows = elements.chunks_exact(cols).rev().flatten().map(|x| f64::from(*x));
                let expected: Vec<_> = rows.chain(vec![0.0; 2 * cols]).collect();
                let what = format!("{dtype:?} as {float:?}, {rows:?} x {cols}", rows = table.n());
                let given = values(&device, float, out.slice());
                assert_near(&given, &expected, tolerance_of(float), &what);
            }
        }
    }
}

#[test]
fn few_tokens_are_multiplied_as_by_reference_and_each_whatever_the_others() {
    let matmul = Matmul::new(&device()).unwrap();
    for dtype in DTYPES {
        let shapes = [(1, dtype.block_len()), (40, 3 * dtype.block_len()), (17, 2304)];
        for (n, k) in shapes {
            let (w, elements) = matrix(2, &[(dtype, n)], k);
            let x = numbers(&mut rng(3), 8 * k);
            for types in TYPES {
                let what = format!("{dtype:?}, {types:?}, {n} x {k}");
                let all = multiply(&matmul, &w, &x, types, None);
                let expected = product(&x, &elements, &[], n, k);
                assert_near(&all, &expected, tolerance_of(types.1), &what);
                for rows in 1..8 {
                    let some = multiply(&matmul, &w, &x[..rows * k], types, None);
                    assert_eq!(some, all[..rows * n], "{rows} tokens, {what}");
                }
                let before = numbers(&mut rng(4), 3 * n);
                let added = multiply(&matmul, &w, &x[..3 * k], types, Some(&before));
                let expected = product(&x[..3 * k], &elements, &before, n, k);
                assert_near(&added, &expected, tolerance_of(types.1), &what);
            }
        }
    }
}

#[test]
fn any_number_of_tokens_is_multiplied_as_by_reference() {
    let matmul = Matmul::new(&device()).unwrap();
    for dtype in DTYPES {
        let shapes = [(9, 72, 256), (16, 40, 512), (17, 8, 1536), (70, 264, 768), (300, 136, 256)];
        for (rows, n, k) in shapes {
            let (w, elements) = matrix(5, &[(dtype, n)], k);
            let x = numbers(&mut rng(6), rows * k);
            let before = numbers(&mut rng(7), rows * n);
            for types in TYPES {
                let what = format!("{dtype:?}, {types:?}, {rows} x {n} x {k}");
                let stored = multiply(&matmul, &w, &x, types, None);
                let added = multiply(&matmul, &w, &x, types, Some(&before));
                let (tolerance, y) = (tolerance_of(types.1), product(&x, &elements, &[], n, k));
                assert_near(&stored, &y, tolerance.max(tolerance_of(types.0)), &what);
                let y = product(&x, &elements, &before, n, k);
                assert_near(&added, &y, tolerance.max(tolerance_of(types.0)), &what);
            }
        }
    }
}

#[test]
fn up_to_64_tokens_the_others_do_not_matter() {
    let matmul = Matmul::new(&device()).unwrap();
    for dtype in [Dtype::Q4K, Dtype::Q5K, Dtype::Q6K] {
        let (n, k) = (200, 1280);
        let (w, elements) = matrix(10, &[(dtype, n)], k);
        let x = numbers(&mut rng(11), 64 * k);
        let all = multiply(&matmul, &w, &x, (Float::BF16, Float::F32), None);
        assert_near(&all, &product(&x, &elements, &[], n, k), tolerance(Float::BF16), "64 tokens");
        for rows in (9..20).chain([31, 32, 33, 48, 63]) {
            let some = multiply(&matmul, &w, &x[..rows * k], (Float::BF16, Float::F32), None);
            assert_eq!(some, all[..rows * n], "{dtype:?}, {rows} tokens");
        }
    }
}

#[test]
fn parts_of_different_types_are_one_matrix() {
    let matmul = Matmul::new(&device()).unwrap();
    let parts = [(Dtype::Q4K, 32), (Dtype::Q4K, 24), (Dtype::Q6K, 24), (Dtype::Q4K, 16)];
    let (w, elements) = matrix(8, &parts, 512);
    assert_eq!((w.n(), w.k()), (96, 512));
    for rows in [1, 5, 20] {
        let x = numbers(&mut rng(9), rows * 512);

        let y = multiply(&matmul, &w, &x, (Float::BF16, Float::F32), None);

        let expected = product(&x, &elements, &[], 96, 512);
        assert_near(&y, &expected, tolerance(Float::BF16), &format!("{rows} tokens"));
    }
}
