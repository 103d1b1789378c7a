//! Elements of any type as the floats of a device.

use std::io;

use half::{bf16, f16};
use sconce_kernels::cpu::{MatrixPart, dequantize};
use sconce_kernels::cuda::Float;
use sconce_kernels::dtype::Dtype;

/// Reads the rows from `first` on that fill `out`, as `float`.
pub(super) fn make_rows(
    part: MatrixPart<'_>,
    first: usize,
    float: Float,
    out: &mut [u8],
) -> io::Result<()> {
    let MatrixPart { dtype, cols, data, .. } = part;
    let file_bytes = cols / dtype.block_len() * dtype.block_bytes();
    if dtype == of_float(float) {
        return data.read_at(first * file_bytes, out);
    }
    let rows = out.len() / (cols * float.size());
    let mut bytes = vec![0; rows * file_bytes];
    data.read_at(first * file_bytes, &mut bytes)?;
    let mut elements = vec![0.0; cols];
    for (row, out) in bytes.chunks_exact(file_bytes).zip(out.chunks_exact_mut(cols * float.size()))
    {
        dequantize(dtype, row, &mut elements);
        write_floats(float, &elements, out);
    }
    Ok(())
}

fn of_float(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::BF16 => Dtype::BF16,
    }
}

/// Writes floats, rounded to `float`, as the device reads them.
pub(super) fn write_floats(float: Float, elements: &[f32], out: &mut [u8]) {
    match float {
        Float::F32 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = x.to_le_bytes();
            }
        }
        Float::F16 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<2>().0) {
                *out = f16::from_f32(*x).to_le_bytes();
            }
        }
        Float::BF16 => {
            for (x, out) in elements.iter().zip(out.as_chunks_mut::<2>().0) {
                *out = bf16::from_f32(*x).to_le_bytes();
            }
        }
    }
}
