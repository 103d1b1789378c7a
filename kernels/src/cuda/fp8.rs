//! Matrices of 8-bit floats, and products of them with tokens that are made the same on the way.

use super::launch::{Arg, Grid};
use super::matmul::BLOCK;
use super::{
    Buffer, Device, Float, LinearFp8, MAX_GEMV_ROWS, Matmul, Scaling, Slice, SliceMut, Write,
    by_float,
};
use crate::{Error, check_len, check_multiple};

/// A weight matrix `[n, k]` of e4m3 numbers with a scale per row, or per square of 128 by 128.
pub struct Fp8Matrix {
    codes: Buffer,
    scales: Buffer,
    scaling: Scaling,
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
        let mut matrix = Self { codes, scales, scaling: Scaling::Row, n, k };
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
        let (codes, scales) = (device.alloc(n * k)?, device.buffer_of(scales)?);
        Ok(Self { codes, scales, scaling: Scaling::Row, n, k })
    }

    /// As [`Self::with_scales`], with a scale per square of 128 by 128 elements: `[ceil(n / 128), ceil(k / 128)]`.
    pub fn with_blocks(
        device: &Device,
        scales: &[f32],
        (n, k): (usize, usize),
    ) -> Result<Self, Error> {
        check_multiple("a matrix's rows", n, 16)?;
        check_multiple("a matrix's columns", k, 16)?;
        let (rows, cols) = (n.div_ceil(BLOCK), k.div_ceil(BLOCK));
        check_len("scales of blocks", scales.len(), rows * cols)?;
        let width = cols.next_multiple_of(4);
        let mut padded = vec![0.0_f32; rows * width];
        for (to, from) in padded.chunks_exact_mut(width).zip(scales.chunks_exact(cols)) {
            to[..cols].copy_from_slice(from);
        }
        let (codes, scales) = (device.alloc(n * k)?, device.buffer_of(&padded)?);
        Ok(Self { codes, scales, scaling: Scaling::Blocks, n, k })
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
        match self.scaling {
            Scaling::Tensor | Scaling::Row => rows * self.k + 4 * rows,
            Scaling::Blocks => {
                self.quantized_bytes(rows / ROWS * ROWS)
                    + self.quantized_bytes(ROWS)
                    + self.tail_bytes()
            }
        }
    }

    /// Of so many tokens, a multiple of [`ROWS`]: their codes and scales of blocks.
    fn quantized_bytes(&self, rows: usize) -> usize {
        rows * self.k + 4 * Scaling::Blocks.num_x_scales(rows, self.k)
    }

    /// Of a product of [`ROWS`] tokens.
    fn tail_bytes(&self) -> usize {
        ROWS * self.n * 4
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

/// Products with scales of blocks are of a multiple of so many tokens.
const ROWS: usize = 4;

impl Device {
    /// Rows of `cols` elements, as codes and a scale for each 128 of a row's: `scales` has those of as many rows as
    /// `codes`, which are zeros beyond those that there are.
    fn quantize_fp8_groups(
        &self,
        (float, x): (Float, Slice<'_>),
        codes: &SliceMut<'_>,
        scales: &SliceMut<'_>,
        cols: usize,
    ) -> Result<(), Error> {
        check_multiple("a row's length", cols, 16)?;
        let (rows, padded) = (x.len() / (cols * float.size()), codes.len() / cols);
        check_len("what is quantised", x.len(), rows * cols * float.size())?;
        check_len("codes of 8 bits", codes.len(), padded * cols)?;
        check_len("scales of 8 bits", scales.len(), 4 * cols.div_ceil(BLOCK) * padded)?;
        let args = [
            x.into(),
            Arg::from(codes),
            Arg::from(scales),
            (rows as i32).into(),
            (cols as i32).into(),
        ];
        let threads = (cols / 8).next_multiple_of(32).clamp(64, 512) as u32;
        let name = by_float!(float, "quantize_fp8_groups");
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, Grid::line(padded, threads), &args) }?)
    }
}

/// Rows of the matrix that a block of the kernel for few tokens takes, and its threads.
const FEATURES: usize = 16;
const THREADS: u32 = 256;

impl Device {
    /// The product of at most [`MAX_GEMV_ROWS`] tokens of 16 bits, as fast as the matrix is read.
    fn fp8_gemv(&self, args: &LinearToFp8<'_>) -> Result<(), Error> {
        let LinearToFp8 { float, x, w, ref y, y_float, write, rows, .. } = *args;
        check_len("what is multiplied", x.len(), rows * w.k * float.size())?;
        check_len("a product", y.len(), rows * w.n * y_float.size())?;
        if write == Write::Add && w.scaling == Scaling::Blocks {
            return Err(Error::Operand);
        }
        if rows == 0 {
            return Ok(());
        }
        let name = match (w.scaling, float, y_float) {
            (Scaling::Row, Float::F16, Float::F16) => "fp8_gemv_rows_f16",
            (Scaling::Row, Float::BF16, Float::BF16) => "fp8_gemv_rows_bf16",
            (Scaling::Row, Float::F16, Float::F32) => "fp8_gemv_rows_f16_f32",
            (Scaling::Row, Float::BF16, Float::F32) => "fp8_gemv_rows_bf16_f32",
            (Scaling::Blocks, Float::F16, Float::F16) => "fp8_gemv_squares_f16",
            (Scaling::Blocks, Float::BF16, Float::BF16) => "fp8_gemv_squares_bf16",
            (Scaling::Blocks, Float::F16, Float::F32) => "fp8_gemv_squares_f16_f32",
            (Scaling::Blocks, Float::BF16, Float::F32) => "fp8_gemv_squares_bf16_f32",
            _ => return Err(Error::Operand),
        };
        let width = w.k.div_ceil(BLOCK).next_multiple_of(4);
        let list = [
            x.into(),
            w.codes.slice().into(),
            w.scales.slice().into(),
            Arg::from(y),
            (rows as i32).into(),
            (w.n as i32).into(),
            (w.k as i32).into(),
            (width as i32).into(),
            i32::from(write == Write::Add).into(),
        ];
        // SAFETY: the kernel's parameters, with the lengths and types checked above and in `Fp8Matrix`.
        Ok(unsafe { self.launch(name, Grid::line(w.n.div_ceil(FEATURES), THREADS), &list) }?)
    }
}

impl Matmul {
    /// Makes the tokens 8 bits wide, with a scale each, or one for each 128 of their elements if that is how the
    /// matrix is scaled, and multiplies them (Hopper and later). Up to [`MAX_GEMV_ROWS`] tokens of 16 bits stay as
    /// they are, since there the reading of the matrix is all that counts: a token's result is the same bit for bit
    /// among numbers of tokens up to that. Products of a matrix with scales of blocks are stored, not added.
    pub fn linear_fp8(&self, args: LinearToFp8<'_>) -> Result<(), Error> {
        if args.rows <= MAX_GEMV_ROWS && args.float != Float::F32 {
            return self.device().fp8_gemv(&args);
        }
        match args.w.scaling {
            Scaling::Tensor | Scaling::Row => self.linear_fp8_rows(args),
            Scaling::Blocks => self.linear_fp8_blocks(args),
        }
    }

    fn linear_fp8_rows(&self, args: LinearToFp8<'_>) -> Result<(), Error> {
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

    /// Those of the tokens that are a multiple of four, and then the others, padded.
    fn linear_fp8_blocks(&self, args: LinearToFp8<'_>) -> Result<(), Error> {
        let LinearToFp8 { float, x, w, y, y_float, write, rows, scratch } = args;
        check_len("the scratch memory", scratch.len(), w.scratch_bytes(rows))?;
        check_len("what is multiplied", x.len(), rows * w.k * float.size())?;
        check_len("a product", y.len(), rows * w.n * y_float.size())?;
        if write == Write::Add {
            return Err(Error::Operand);
        }
        let (main, tail) = (rows / ROWS * ROWS, rows % ROWS);
        let (of_main, of_tail) = scratch.split_at(w.quantized_bytes(main));
        let (to_main, mut to_tail) = y.split_at(main * w.n * y_float.size());
        let (x_main, x_tail) = (x.at(0, main * w.k * float.size()), main * w.k * float.size());
        if main > 0 {
            self.multiply_blocks((float, x_main), w, (to_main, y_float), of_main)?;
        }
        if tail > 0 {
            let x_tail = x.at(x_tail, tail * w.k * float.size());
            let (quantized, product) = of_tail.split_at(w.quantized_bytes(ROWS));
            let (mut product, _) = product.split_at(ROWS * w.n * y_float.size());
            self.multiply_blocks((float, x_tail), w, (product.reborrow(), y_float), quantized)?;
            let from = product.as_slice().at(0, tail * w.n * y_float.size());
            self.device().copy(from, &mut to_tail)?;
        }
        Ok(())
    }

    /// The product of tokens, padded to as many as `quantized` has room for, which `y` has too.
    fn multiply_blocks(
        &self,
        x: (Float, Slice<'_>),
        w: &Fp8Matrix,
        (y, y_float): (SliceMut<'_>, Float),
        quantized: SliceMut<'_>,
    ) -> Result<(), Error> {
        let rows = y.len() / (w.n * y_float.size());
        let (codes, scales) = quantized.split_at(rows * w.k);
        self.device().quantize_fp8_groups(x, &codes, &scales, w.k)?;
        self.multiply_fp8(LinearFp8 {
            scaling: Scaling::Blocks,
            x: codes.as_slice(),
            x_scales: scales.as_slice(),
            w: w.codes.slice(),
            w_scales: w.scales.slice(),
            y,
            y_float,
            write: Write::Store,
            rows,
            n: w.n,
            k: w.k,
        })
    }
}
