//! Matrices of 8-bit floats, and products of them with tokens that are made the same on the way.

use super::launch::{Arg, Grid};
use super::{Buffer, Device, Float, LinearFp8, Matmul, Scaling, Slice, SliceMut, Write, by_float};
use crate::{Error, check_len, check_multiple};

/// A weight matrix `[n, k]` of e4m3 numbers with a scale per row.
pub struct Fp8Matrix {
    codes: Buffer,
    scales: Buffer,
    n: usize,
    k: usize,
}

/// Arguments of [`Matmul::linear_fp8`].
pub struct LinearToFp8<'a> {
    /// Type of `x`.
    pub float: Float,
    /// `[rows, k]`
    pub x: Slice<'a>,
    /// `[n, k]`
    pub w: &'a Fp8Matrix,
    /// `[rows, n]`
    pub y: SliceMut<'a>,
    /// Type of `y`.
    pub y_float: Float,
    /// What happens to the product.
    pub write: Write,
    /// Tokens.
    pub rows: usize,
    /// Room for the tokens in 8 bits: [`Fp8Matrix::scratch_bytes`] of as many.
    pub scratch: SliceMut<'a>,
}

impl Fp8Matrix {
    /// Quantises a matrix of floats that is on the device. `n` and `k` are multiples of 16.
    pub fn quantize(
        device: &Device,
        (float, w): (Float, Slice<'_>),
        (n, k): (usize, usize),
    ) -> Result<Self, Error> {
        check_multiple("a matrix's rows", n, 16)?;
        check_multiple("a matrix's columns", k, 16)?;
        check_len("a matrix", w.len(), n * k * float.size())?;
        let (codes, scales) = (device.alloc(n * k)?, device.alloc(4 * n)?);
        let mut matrix = Self { codes, scales, n, k };
        let (codes, scales) = (matrix.codes.slice_mut(), matrix.scales.slice_mut());
        device.quantize_fp8((float, w), &codes, &scales, k)?;
        Ok(matrix)
    }

    /// Room for a matrix that a checkpoint has in 8 bits already, with its rows' scales: the codes are to
    /// be copied to [`Self::codes_mut`]. `k`, and how many scales there are, are multiples of 16.
    pub fn with_scales(device: &Device, scales: &[f32], k: usize) -> Result<Self, Error> {
        let n = scales.len();
        check_multiple("a matrix's rows", n, 16)?;
        check_multiple("a matrix's columns", k, 16)?;
        Ok(Self { codes: device.alloc(n * k)?, scales: device.buffer_of(scales)?, n, k })
    }

    /// `[n, k]`, a byte each.
    pub fn codes_mut(&mut self) -> SliceMut<'_> {
        self.codes.slice_mut()
    }

    /// Bytes of codes and scales.
    pub fn num_bytes(&self) -> usize {
        self.codes.len() + self.scales.len()
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes that a product of so many tokens needs besides.
    pub fn scratch_bytes(&self, rows: usize) -> usize {
        rows * self.k + 4 * rows
    }
}

impl Device {
    /// Rows of `cols` elements, as codes and a scale each.
    fn quantize_fp8(
        &self,
        (float, x): (Float, Slice<'_>),
        codes: &SliceMut<'_>,
        scales: &SliceMut<'_>,
        cols: usize,
    ) -> Result<(), Error> {
        check_multiple("a row's length", cols, 8)?;
        let rows = scales.len() / 4;
        check_len("what is quantised", x.len(), rows * cols * float.size())?;
        check_len("codes of 8 bits", codes.len(), rows * cols)?;
        let args = [x.into(), Arg::from(codes), Arg::from(scales), (cols as i32).into()];
        let threads = (cols / 8).next_multiple_of(32).clamp(64, 512) as u32;
        let name = by_float!(float, "quantize_fp8");
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, Grid::line(rows, threads), &args) }?)
    }
}

impl Matmul {
    /// Makes the tokens 8 bits wide, each with a scale, and multiplies them (Hopper and later).
    pub fn linear_fp8(&self, args: LinearToFp8<'_>) -> Result<(), Error> {
        let LinearToFp8 { float, x, w, y, y_float, write, rows, scratch } = args;
        check_len("the scratch memory", scratch.len(), w.scratch_bytes(rows))?;
        let (codes, scales) = scratch.split_at(rows * w.k);
        self.device().quantize_fp8((float, x), &codes, &scales, w.k)?;
        self.multiply_fp8(LinearFp8 {
            scaling: Scaling::Row,
            x: codes.as_slice(),
            x_scales: scales.as_slice(),
            w: w.codes.slice(),
            w_scales: w.scales.slice(),
            y,
            y_float,
            write,
            rows,
            n: w.n,
            k: w.k,
        })
    }
}
