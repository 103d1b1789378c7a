//! Rows whose outliers have 16 bits, and the greatest product of a token.

use sconce_kernels::Error;
use sconce_kernels::cpu::{
    ActivationDtype, Activations, Argmax, Compute, Cpu, MatrixPart, Output, PackedMatrix, RmsNorm,
};
use sconce_kernels::dtype::Dtype;

use crate::reference::{DTYPES, random_weights};
use crate::{Random, devices};

const COLS: usize = 512;
const BLOCK: usize = 32;

fn matrix(cpu: &Cpu, dtype: Dtype, rows: usize, random: &mut Random) -> PackedMatrix {
    let data = random_weights(dtype, rows * COLS, random);
    let part = MatrixPart { dtype, rows, cols: COLS, data: &data };
    PackedMatrix::pack(cpu, &[part], Compute::Int8).unwrap()
}

/// Tokens of which every third has no outlier, and the others have one in a block of their own and
/// one in a block that all have in common.
fn tokens(num_tokens: usize, random: &mut Random) -> Vec<f32> {
    let mut x = random.floats(num_tokens * COLS);
    for (token, x) in x.chunks_exact_mut(COLS).enumerate() {
        if token % 3 != 2 {
            x[5 * BLOCK + 3] = 40.0;
            x[token % 16 * BLOCK + 7] = -30.0;
        }
    }
    x
}

fn normalized(
    cpu: &Cpu,
    dtype: ActivationDtype,
    matrix: &PackedMatrix,
    (x, weight): (&[f32], &[f32]),
) -> Activations {
    let num_tokens = x.len() / COLS;
    let mut activations = Activations::new(cpu, num_tokens, COLS, matrix.operands(), dtype);
    let norm = RmsNorm { weight, eps: 1e-5 };
    cpu.activations(x, num_tokens, Some(norm), &mut activations).unwrap();
    activations
}

fn multiply(cpu: &Cpu, matrix: &PackedMatrix, activations: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; activations.num_tokens() * matrix.rows()];
    cpu.matmul(matrix, activations, Output::Store(&mut out)).unwrap();
    out
}

/// The mean square of what two differ by, token by token.
fn errors(a: &[f32], b: &[f32], rows: usize) -> Vec<f64> {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let mean = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(square).sum::<f64>() / rows as f64;
    a.chunks(rows).zip(b.chunks(rows)).map(mean).collect()
}

#[test]
fn outliers_lose_no_more_than_others() {
    const ROWS: usize = 80;
    let mut random = Random(21);
    let weight: Vec<f32> = random.floats(COLS).iter().map(|w| 1.5 + w / 2.0).collect();
    for cpu in devices() {
        for dtype in DTYPES.into_iter().filter(|dtype| dtype.block_len() > 1) {
            let matrix = matrix(&cpu, dtype, ROWS, &mut random);
            let x = tokens(21, &mut random);
            let product =
                |dtype| multiply(&cpu, &matrix, &normalized(&cpu, dtype, &matrix, (&x, &weight)));

            let exact = product(ActivationDtype::Int16);
            let int8 = errors(&product(ActivationDtype::Int8), &exact, ROWS);
            let mixed = errors(&product(ActivationDtype::Mixed), &exact, ROWS);

            for (token, (int8, mixed)) in int8.iter().zip(&mixed).enumerate() {
                match token % 3 {
                    2 => assert_eq!(mixed, int8, "{dtype:?} {token}"),
                    _ => assert!(5.0 * mixed < *int8, "{dtype:?} {token}: {mixed:e} {int8:e}"),
                }
            }
        }
    }
}

#[test]
fn outliers_of_neighbors_change_nothing() {
    let mut random = Random(22);
    let weight = random.floats(COLS);
    for cpu in devices() {
        for dtype in DTYPES {
            let matrix = matrix(&cpu, dtype, 50, &mut random);
            let x = tokens(31, &mut random);
            let product = |x: &[f32]| {
                let of_x = normalized(&cpu, ActivationDtype::Mixed, &matrix, (x, &weight));
                multiply(&cpu, &matrix, &of_x)
            };
            let batch = product(&x);

            for num_tokens in [1, 2, 3, 4, 5, 7, 8, 13] {
                let first = random.below(31 - num_tokens);
                let some = product(&x[first * COLS..(first + num_tokens) * COLS]);
                let expected = &batch[first * 50..(first + num_tokens) * 50];
                assert!(some.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

#[test]
fn outliers_of_the_row_before_are_forgotten() {
    let mut random = Random(23);
    let weight = random.floats(COLS);
    for cpu in devices() {
        let matrix = matrix(&cpu, Dtype::Q4_1, 40, &mut random);
        let x = tokens(9, &mut random);
        let calm = random.floats(9 * COLS);
        let mut used = normalized(&cpu, ActivationDtype::Mixed, &matrix, (&x, &weight));
        cpu.activations(&calm, 9, None, &mut used).unwrap();

        let mut fresh = Activations::new(&cpu, 9, COLS, matrix.operands(), ActivationDtype::Mixed);
        cpu.activations(&calm, 9, None, &mut fresh).unwrap();

        assert_eq!(multiply(&cpu, &matrix, &used), multiply(&cpu, &matrix, &fresh));
    }
}

#[test]
fn a_nan_or_an_infinity_beside_outliers_reaches_the_product() {
    let mut random = Random(24);
    let weight = vec![1.0; COLS];
    for cpu in devices() {
        let matrix = matrix(&cpu, Dtype::Q8_0, 16, &mut random);
        for value in [f32::NAN, f32::INFINITY] {
            let mut x = tokens(2, &mut random);
            x[100] = value;
            let of_x = normalized(&cpu, ActivationDtype::Mixed, &matrix, (&x, &weight));

            let out = multiply(&cpu, &matrix, &of_x);

            assert!(out[..16].iter().all(|sum| !sum.is_finite()));
            assert!(out[16..].iter().all(|sum| sum.is_finite()));
        }
    }
}

#[test]
fn the_greatest_product_takes_the_place_of_all() {
    const ROWS: usize = 1003;
    let mut random = Random(25);
    let weight = random.floats(COLS);
    for cpu in devices() {
        for dtype in [Dtype::Q8_0, Dtype::Q4_1, Dtype::BF16] {
            for rounding in [ActivationDtype::Mixed, ActivationDtype::Int16] {
                let matrix = matrix(&cpu, dtype, ROWS, &mut random);
                let x = tokens(19, &mut random);
                let of_x = normalized(&cpu, rounding, &matrix, (&x, &weight));
                let all = multiply(&cpu, &matrix, &of_x);
                let argmax: Vec<_> =
                    (0..19).map(|token| Argmax::new(token < 8 || token % 2 == 0)).collect();

                let mut out = vec![7.0; 19 * ROWS];
                cpu.matmul(&matrix, &of_x, Output::StoreOrArgmax(&mut out, &argmax)).unwrap();

                for ((argmax, out), all) in
                    argmax.iter().zip(out.chunks(ROWS)).zip(all.chunks(ROWS))
                {
                    if argmax.is_wanted() {
                        let greatest = all.iter().copied().fold(f32::MIN, f32::max);
                        let row = all.iter().position(|product| *product == greatest).unwrap();
                        assert_eq!(argmax.row(), Some(row as u32));
                        assert!(out.iter().all(|product| *product == 7.0), "nothing is stored");
                    } else {
                        assert_eq!(argmax.row(), None);
                        assert_eq!(out, all);
                    }
                }
            }
        }
    }
}

#[test]
fn of_equal_products_the_first_is_the_greatest() {
    for cpu in devices() {
        let data = vec![0_u8; 2000 * COLS * 4];
        let part = MatrixPart { dtype: Dtype::F32, rows: 2000, cols: COLS, data: &data };
        let matrix = PackedMatrix::pack(&cpu, &[part], Compute::Int8).unwrap();
        let x = normalized(
            &cpu,
            ActivationDtype::Mixed,
            &matrix,
            (&Random(26).floats(3 * COLS), &vec![1.0; COLS]),
        );
        let argmax = [true, true, true].map(Argmax::new);
        let mut out = vec![0.0; 3 * 2000];

        cpu.matmul(&matrix, &x, Output::StoreOrArgmax(&mut out, &argmax)).unwrap();

        assert!(argmax.iter().all(|argmax| argmax.row() == Some(0)));
        let refused = cpu.matmul(&matrix, &x, Output::StoreOrArgmax(&mut out, &argmax[..2]));
        assert!(matches!(refused, Err(Error::Shape { expected: 3, given: 2, .. })));
    }
}
