//! Packing, embedding and multiplication of every element type.

use sconce_kernels::Error;
use sconce_kernels::cpu::{
    ActivationDtype, Activations, Compute, Cpu, MatrixPart, Operands, Output, PackedMatrix,
    ReadBytes,
};
use sconce_kernels::dtype::Dtype;

use crate::reference::{DTYPES, bf16_rounded, dequantize, int8_rounded, random_weights};
use crate::{Random, devices};

const BOTH: Operands = Operands { int8: true, dense: true, bf16: false };

fn is_super_block(dtype: Dtype) -> bool {
    dtype.block_len() == 256
}

/// Whether packing rounds what it multiplies out to half floats: scales of two levels, and zero points
/// times their scales.
fn is_rounded(dtype: Dtype) -> bool {
    is_super_block(dtype) || dtype == Dtype::Int4
}

fn is_plain(dtype: Dtype) -> bool {
    dtype.block_len() == 1
}

/// Whether weights of this type meet activations of bf16.
pub(crate) fn is_bf16(cpu: &Cpu, dtype: Dtype, rounding: ActivationDtype) -> bool {
    dtype == Dtype::BF16 && cpu.isa().rounds_to_bf16(rounding)
}

fn multiply(cpu: &Cpu, matrix: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    multiply_as(ActivationDtype::Int8, cpu, matrix, x)
}

fn multiply_as(dtype: ActivationDtype, cpu: &Cpu, matrix: &PackedMatrix, x: &[f32]) -> Vec<f32> {
    let num_tokens = x.len() / matrix.cols();
    let mut activations =
        Activations::new(cpu, num_tokens, matrix.cols(), matrix.operands(), dtype);
    cpu.activations(x, num_tokens, None, &mut activations).unwrap();
    let mut out = vec![f32::NAN; num_tokens * matrix.rows()];
    cpu.matmul(matrix, &activations, Output::Store(&mut out)).unwrap();
    out
}

/// `(sum, bound)` of a dot product; rounding errors are in proportion to the bound.
fn dot(weights: &[f32], x: &[f32]) -> (f64, f64) {
    let largest = weights.iter().fold(0.0_f64, |a, b| a.max(f64::from(b.abs())));
    let pairs = || weights.iter().zip(x);
    let sum = pairs().map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
    (sum, largest * x.iter().map(|x| f64::from(x.abs())).sum::<f64>())
}

/// Checks the products of tokens of `cols` elements with all weights against plain loops.
pub(crate) fn check_products(weights: &[f32], cols: usize, x: &[f32], out: &[f32], tolerance: f64) {
    for (x, out) in x.chunks(cols).zip(out.chunks(weights.len() / cols)) {
        for (weights, &out) in weights.chunks(cols).zip(out) {
            let (sum, bound) = dot(weights, x);
            let error = (f64::from(out) - sum).abs();
            assert!(error <= tolerance * bound, "{out} {sum}");
        }
    }
}

#[test]
fn embedding_reads_the_packed_weights_back() {
    let mut random = Random(1);
    for cpu in devices() {
        for dtype in DTYPES {
            for compute in [Compute::Int8, Compute::F32] {
                let (rows, cols) = (37, 512);
                let data = random_weights(dtype, rows * cols, &mut random);
                let part = MatrixPart { dtype, rows, cols, data: &data };
                let matrix = PackedMatrix::pack(&cpu, &[part], compute).unwrap();
                let ids = [36, 0, 15, 16, 16, 35];
                let mut out = vec![0.0; ids.len() * cols];

                cpu.embed(&matrix, &ids, &mut out).unwrap();

                let values = dequantize(dtype, &data);
                for (out, &id) in out.chunks(cols).zip(&ids) {
                    let expected = &values[id as usize * cols..][..cols];
                    let rounded = is_rounded(dtype) && compute == Compute::Int8;
                    let tolerance = if rounded { 2e-3 } else { 1e-6 };
                    let largest = values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                    for (out, expected) in out.iter().zip(expected) {
                        let error = (out - expected).abs();
                        assert!(error <= tolerance * largest, "{dtype:?} {out} {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn floats_become_the_nearest_codes() {
    let mut random = Random(9);
    for cpu in devices() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let (rows, cols) = (21, 96);
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let values = dequantize(dtype, &data);
            let x = random.floats(3 * cols);
            for (compute, levels) in [(Compute::Q8, 254.0), (Compute::Q4, 15.0)] {
                let matrix = PackedMatrix::pack(&cpu, &[part], compute).unwrap();
                let mut stored = vec![0.0; rows * cols];
                cpu.embed(&matrix, &(0..rows as u32).collect::<Vec<_>>(), &mut stored).unwrap();

                for (stored, values) in stored.chunks(32).zip(values.chunks(32)) {
                    let largest = values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
                    // Half a step, and what half precision costs scale and minimum.
                    let bound = 2.0 * largest * (0.5 / levels + 1e-3);
                    for (stored, value) in stored.iter().zip(values) {
                        assert!((stored - value).abs() <= bound, "{compute:?} {stored} {value}");
                    }
                }
                let out = multiply(&cpu, &matrix, &x);
                check_products(&stored, cols, &int8_rounded(&x), &out, 2e-6);
            }
        }
    }
}

#[test]
fn a_weight_that_is_no_number_shows_in_quantized_products_too() {
    for cpu in devices() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut weights = [0.5_f32; 64];
            weights[40] = bad;
            let data: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
            let part = MatrixPart { dtype: Dtype::F32, rows: 1, cols: 64, data: &data };
            for compute in [Compute::Q8, Compute::Q4] {
                let matrix = PackedMatrix::pack(&cpu, &[part], compute).unwrap();
                assert!(!multiply(&cpu, &matrix, &[1.0; 64])[0].is_finite(), "{compute:?} {bad}");
            }
        }
    }
}

#[test]
fn products_match_plain_loops_for_every_type_and_batch() {
    let mut random = Random(2);
    for cpu in devices() {
        for dtype in DTYPES {
            for compute in [Compute::Int8, Compute::F32] {
                let rows = 1 + random.below(70);
                let cols = if is_super_block(dtype) { 512 } else { 96 };
                let data = random_weights(dtype, rows * cols, &mut random);
                let part = MatrixPart { dtype, rows, cols, data: &data };
                let matrix = PackedMatrix::pack(&cpu, &[part], compute).unwrap();
                let weights = dequantize(dtype, &data);
                let int8 = compute == Compute::Int8 && !is_plain(dtype);
                let rounded = is_rounded(dtype) && int8;
                let tolerance = if rounded { 2e-3 } else { 2e-6 };
                for num_tokens in [1, 2, 3, 5, 8, 9, 23] {
                    let x = random.floats(num_tokens * cols);

                    let out = multiply(&cpu, &matrix, &x);

                    let bf16 =
                        compute == Compute::Int8 && is_bf16(&cpu, dtype, ActivationDtype::Int8);
                    let x = match () {
                        () if int8 => int8_rounded(&x),
                        () if bf16 => bf16_rounded(&x),
                        () => x,
                    };
                    println!("{} {dtype:?} {num_tokens}", cpu.isa());
                    check_products(&weights, cols, &x, &out, tolerance);
                }
            }
        }
    }
}

#[test]
fn float_matrices_may_have_any_number_of_columns() {
    let mut random = Random(3);
    for cpu in devices() {
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
            let (rows, cols, num_tokens) = (19, 45, 11);
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            let x = random.floats(num_tokens * cols);

            let out = multiply(&cpu, &matrix, &x);

            check_products(&dequantize(dtype, &data), cols, &x, &out, 2e-6);
        }
    }
}

#[test]
fn stacked_parts_of_different_types_give_the_rows_of_each() {
    let mut random = Random(4);
    for cpu in devices() {
        let cols = 256;
        let kinds = [(Dtype::Q4_1, 20), (Dtype::F16, 7), (Dtype::Q6K, 16), (Dtype::Q8_0, 33)];
        let data: Vec<_> = kinds
            .iter()
            .map(|&(dtype, rows)| random_weights(dtype, rows * cols, &mut random))
            .collect();
        let parts: Vec<_> = kinds
            .iter()
            .zip(&data)
            .map(|(&(dtype, rows), data)| MatrixPart { dtype, rows, cols, data })
            .collect();
        let x = random.floats(10 * cols);

        let stacked = PackedMatrix::pack(&cpu, &parts, Compute::Int8).unwrap();
        let out = multiply(&cpu, &stacked, &x);

        assert_eq!((stacked.rows(), stacked.cols(), stacked.operands()), (76, cols, BOTH));
        let mut first = 0;
        for part in parts {
            let alone = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            let expected = multiply(&cpu, &alone, &x);
            for (out, expected) in out.chunks(76).zip(expected.chunks(part.rows)) {
                assert_eq!(&out[first..first + part.rows], expected);
            }
            first += part.rows;
        }
    }
}

#[test]
fn a_token_alone_and_in_a_batch_gives_the_same_bits() {
    let mut random = Random(5);
    for cpu in devices() {
        for dtype in DTYPES {
            let (rows, cols) = (50, 256);
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            let x = random.floats(31 * cols);
            for rounding in [ActivationDtype::Int8, ActivationDtype::Int16] {
                let batch = multiply_as(rounding, &cpu, &matrix, &x);

                for num_tokens in [1, 2, 3, 4, 5, 6, 7, 13] {
                    let first = random.below(31 - num_tokens);
                    let some = &x[first * cols..(first + num_tokens) * cols];
                    let part = multiply_as(rounding, &cpu, &matrix, some);
                    assert_eq!(part, batch[first * rows..(first + num_tokens) * rows], "{dtype:?}");
                }
            }
        }
    }
}

#[test]
fn sixteen_bits_are_near_the_unrounded_product() {
    let mut random = Random(10);
    for cpu in devices() {
        for dtype in DTYPES {
            let rows = 1 + random.below(70);
            let cols = if is_super_block(dtype) { 512 } else { 96 };
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            // As they are stored, so that only the activations are rounded.
            let mut weights = vec![0.0; rows * cols];
            cpu.embed(&matrix, &(0..rows as u32).collect::<Vec<_>>(), &mut weights).unwrap();
            for num_tokens in [1, 2, 3, 4, 5, 8, 9, 23] {
                // Outliers, as models have them, must not drown the others.
                let mut x = random.floats(num_tokens * cols);
                x.iter_mut().step_by(37).for_each(|x| *x *= 10.0);

                let out = multiply_as(ActivationDtype::Int16, &cpu, &matrix, &x);

                println!("{} {dtype:?} {num_tokens}", cpu.isa());
                check_products(&weights, cols, &x, &out, 6e-5);
                if !is_plain(dtype) {
                    let coarse = multiply(&cpu, &matrix, &x);
                    assert!(out.iter().zip(&coarse).any(|(fine, coarse)| fine != coarse));
                }
            }
        }
    }
}

#[test]
fn sixteen_bits_keep_plain_parts_and_what_is_there() {
    let mut random = Random(11);
    for cpu in devices() {
        let (cols, num_tokens) = (64, 7);
        let kinds = [(Dtype::F32, 21), (Dtype::Q8_0, 35)];
        let data = kinds.map(|(dtype, rows)| random_weights(dtype, rows * cols, &mut random));
        let parts = [0, 1].map(|i| {
            let (dtype, rows) = kinds[i];
            MatrixPart { dtype, rows, cols, data: &data[i] }
        });
        let matrix = PackedMatrix::pack(&cpu, &parts, Compute::Int8).unwrap();
        let x = random.floats(num_tokens * cols);
        let before = random.floats(num_tokens * matrix.rows());

        let product = multiply_as(ActivationDtype::Int16, &cpu, &matrix, &x);
        let eight_bits = multiply(&cpu, &matrix, &x);
        let operands = matrix.operands();
        let mut activations =
            Activations::new(&cpu, num_tokens, cols, operands, ActivationDtype::Int16);
        cpu.activations(&x, num_tokens, None, &mut activations).unwrap();
        let mut out = before.clone();
        cpu.matmul(&matrix, &activations, Output::Add(&mut out)).unwrap();

        for ((out, before), product) in out.iter().zip(&before).zip(&product) {
            assert_eq!(*out, before + product);
        }
        for (product, eight_bits) in product.chunks(56).zip(eight_bits.chunks(56)) {
            assert_eq!(product[..21], eight_bits[..21]);
        }
    }
}

#[test]
fn many_long_rows_go_in_chunks() {
    let mut random = Random(7);
    for cpu in devices() {
        for dtype in [Dtype::Q8_0, Dtype::BF16] {
            let (rows, cols, num_tokens) = (20, 8192, 61);
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            let x = random.floats(num_tokens * cols);

            let out = multiply(&cpu, &matrix, &x);

            for (x, out) in x.chunks(cols).zip(out.chunks(rows)) {
                assert_eq!(multiply(&cpu, &matrix, x), out);
            }
        }
    }
}

#[test]
fn a_nan_or_an_infinity_reaches_the_product() {
    let mut random = Random(8);
    for cpu in devices() {
        for dtype in DTYPES {
            let (rows, cols) = (16, 256);
            let data = random_weights(dtype, rows * cols, &mut random);
            let part = MatrixPart { dtype, rows, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
            for value in [f32::NAN, f32::INFINITY] {
                for column in [0, 17, 250] {
                    let mut x = random.floats(2 * cols);
                    x[column] = value;
                    for rounding in [ActivationDtype::Int8, ActivationDtype::Int16] {
                        let out = multiply_as(rounding, &cpu, &matrix, &x);

                        assert!(out[..rows].iter().all(|sum| !sum.is_finite()), "{dtype:?}");
                        assert!(out[rows..].iter().all(|sum| sum.is_finite()), "{dtype:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn add_adds_to_what_is_there() {
    let mut random = Random(6);
    for cpu in devices() {
        let (rows, cols, num_tokens) = (40, 64, 9);
        let data = random_weights(Dtype::Q4_0, rows * cols, &mut random);
        let part = MatrixPart { dtype: Dtype::Q4_0, rows, cols, data: &data };
        let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
        let x = random.floats(num_tokens * cols);
        let before = random.floats(num_tokens * rows);

        let operands = matrix.operands();
        let mut activations =
            Activations::new(&cpu, num_tokens, cols, operands, ActivationDtype::Int8);
        cpu.activations(&x, num_tokens, None, &mut activations).unwrap();
        let mut out = before.clone();
        cpu.matmul(&matrix, &activations, Output::Add(&mut out)).unwrap();

        let product = multiply(&cpu, &matrix, &x);
        for ((out, before), product) in out.iter().zip(&before).zip(&product) {
            assert_eq!(*out, before + product);
        }
    }
}

#[test]
fn extreme_codes_and_activations_do_not_saturate() {
    for cpu in devices() {
        for dtype in [Dtype::Q4_0, Dtype::Q8_0, Dtype::Q5_1, Dtype::Q6K] {
            let cols = 256;
            let mut data = vec![0xff; 16 * cols / dtype.block_len() * dtype.block_bytes()];
            for block in data.chunks_exact_mut(dtype.block_bytes()) {
                let at = if dtype == Dtype::Q6K { 208 } else { 0 };
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
                if dtype == Dtype::Q5_1 {
                    block[2..4].copy_from_slice(&half::f16::from_f32(1.0).to_le_bytes());
                }
                if dtype == Dtype::Q8_0 {
                    block[2..].fill(0x7f);
                }
            }
            let part = MatrixPart { dtype, rows: 16, cols, data: &data };
            let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();

            for value in [1.0, -1.0] {
                let out = multiply(&cpu, &matrix, &vec![value; 3 * cols]);
                let sum: f32 = dequantize(dtype, &data)[..cols].iter().sum();
                for out in out {
                    assert!((out - value * sum).abs() <= 1e-5 * sum.abs(), "{dtype:?} {out} {sum}");
                }
            }
        }
    }
}

/// A file that lost its end.
struct Truncated(Vec<u8>);

impl ReadBytes for Truncated {
    fn num_bytes(&self) -> usize {
        self.0.len() + 1
    }

    fn read_at(&self, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, out)
    }
}

#[test]
fn bytes_that_cannot_be_read_are_an_error() {
    for cpu in devices() {
        let data = Truncated(vec![0; 50 * 34 - 1]);
        let part = MatrixPart { dtype: Dtype::Q8_0, rows: 50, cols: 32, data: &data };
        assert!(matches!(PackedMatrix::pack(&cpu, &[part], Compute::Int8), Err(Error::Read(_))));
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let cpu = &devices()[0];
    let data = vec![0_u8; 18 * 2 * 16];
    let part = MatrixPart { dtype: Dtype::Q4_0, rows: 16, cols: 64, data: &data };
    let pack = |parts: &[MatrixPart<'_>]| PackedMatrix::pack(cpu, parts, Compute::Int8);

    assert!(matches!(pack(&[]), Err(Error::Empty(_))));
    assert!(matches!(pack(&[MatrixPart { cols: 65, ..part }]), Err(Error::NotMultiple { .. })));
    assert!(matches!(pack(&[MatrixPart { cols: 0, ..part }]), Err(Error::NotMultiple { .. })));
    assert!(matches!(pack(&[MatrixPart { rows: 0, ..part }]), Err(Error::NotMultiple { .. })));
    assert!(matches!(pack(&[MatrixPart { rows: 17, ..part }]), Err(Error::Shape { .. })));
    let wider = MatrixPart { rows: 8, cols: 128, ..part };
    assert!(matches!(pack(&[part, wider]), Err(Error::Shape { .. })));

    let matrix = pack(&[part]).unwrap();
    let operands = Operands { int8: false, dense: true, bf16: false };
    let mut dense = Activations::new(cpu, 2, 64, operands, ActivationDtype::Int8);
    cpu.activations(&[0.0; 128], 2, None, &mut dense).unwrap();
    let mut out = [0.0; 32];
    let outcome = cpu.matmul(&matrix, &dense, Output::Store(&mut out));
    assert!(matches!(outcome, Err(Error::Operand)));

    let mut x = Activations::new(cpu, 2, 64, BOTH, ActivationDtype::Int8);
    assert!(cpu.activations(&[0.0; 192], 3, None, &mut x).is_err());
    assert!(cpu.activations(&[0.0; 192], 2, None, &mut x).is_err());
    assert!(cpu.activations(&[], 0, None, &mut x).is_err());
    cpu.activations(&[0.0; 64], 2, None, &mut x).unwrap();
    assert!(cpu.matmul(&matrix, &x, Output::Store(&mut out)).is_err());
    cpu.activations(&[0.0; 128], 2, None, &mut x).unwrap();
    assert!(cpu.matmul(&matrix, &x, Output::Store(&mut out[1..])).is_err());
    assert!(cpu.matmul(&matrix, &x, Output::Store(&mut out)).is_ok());
    assert!(matches!(cpu.embed(&matrix, &[16], &mut [0.0; 64]), Err(Error::OutOfRange { .. })));
    assert!(cpu.embed(&matrix, &[15], &mut [0.0; 63]).is_err());
}

#[test]
fn the_lowest_code_keeps_its_sign_whatever_the_tile() {
    let mut block = [0x80; 34];
    block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
    for cpu in devices() {
        let (rows, cols) = (17, 96);
        let data = block.repeat(rows * cols / 32);
        let part = MatrixPart { dtype: Dtype::Q8_0, rows, cols, data: &data };
        let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
        for num_tokens in 1..=8 {
            for x in [127.0, -127.0] {
                let out = multiply(&cpu, &matrix, &vec![x; num_tokens * cols]);

                assert_eq!(out, vec![-128.0 * x * cols as f32; out.len()]);
            }
        }
    }
}
