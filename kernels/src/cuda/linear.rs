//! Multiplying tokens with a matrix of floats: which way is taken, and the kernel for few tokens.

use super::launch::{Arg, Grid};
use super::{Device, Float, Matmul, Slice, SliceMut};
use crate::{Error, check_len, check_multiple};

/// Tokens that [`Device::gemv`] takes at most.
pub const MAX_GEMV_ROWS: usize = 8;
/// What a block of the kernel takes: 16 rows of the matrix, of 32-bit floats two per warp.
const FEATURES: usize = 16;
const THREADS: u32 = 256;

/// What happens to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// It replaces what is there.
    Store,
    /// It is added to what is there.
    Add,
}

/// `y (+)= x · wᵀ`
pub struct Linear<'a> {
    /// Type of `x` and `w`. Sums are of 32 bits.
    pub float: Float,
    /// `[rows, k]`
    pub x: Slice<'a>,
    /// `[n, k]`, which the launch before does not write: reading begins while that still runs.
    pub w: Slice<'a>,
    /// `[rows, n]`
    pub y: SliceMut<'a>,
    /// Type of `y`: that of `x`, or f32.
    pub y_float: Float,
    /// What happens to the product.
    pub write: Write,
    /// Tokens.
    pub rows: usize,
    /// Output features.
    pub n: usize,
    /// Input features, a multiple of [`Float::pack`].
    pub k: usize,
}

impl Linear<'_> {
    pub(super) fn check(&self) -> Result<(), Error> {
        check_multiple("a matrix's columns", self.k, self.float.pack())?;
        check_multiple("a matrix's rows", self.n, 1)?;
        check_len("what is multiplied", self.x.len(), self.rows * self.k * self.float.size())?;
        check_len("a matrix", self.w.len(), self.n * self.k * self.float.size())?;
        check_len("a product", self.y.len(), self.rows * self.n * self.y_float.size())?;
        if self.y_float != self.float && self.y_float != Float::F32 {
            return Err(Error::Operand);
        }
        Ok(())
    }
}

impl Device {
    /// The product of at most [`MAX_GEMV_ROWS`] tokens, as fast as the matrix is read. A token's result is
    /// the same bit for bit, whichever others there are.
    pub fn gemv(&self, args: Linear<'_>) -> Result<(), Error> {
        args.check()?;
        if args.rows > MAX_GEMV_ROWS {
            return Err(Error::OutOfRange {
                what: "the number of tokens",
                index: args.rows,
                limit: MAX_GEMV_ROWS + 1,
            });
        }
        if args.rows == 0 {
            return Ok(());
        }
        let Linear { float, x, w, y, y_float, write, rows, n, k } = args;
        let name = match (float, y_float) {
            (Float::F16, Float::F16) => "gemv_f16",
            (Float::BF16, Float::BF16) => "gemv_bf16",
            (Float::F16, Float::F32) => "gemv_f16_f32",
            (Float::BF16, Float::F32) => "gemv_bf16_f32",
            (Float::F32, _) | (_, Float::F16 | Float::BF16) => "gemv_f32",
        };
        let args = [
            x.into(),
            w.into(),
            Arg::from(&y),
            (rows as i32).into(),
            (n as i32).into(),
            (k as i32).into(),
            i32::from(write == Write::Add).into(),
        ];
        let grid = Grid::line(n.div_ceil(FEATURES), THREADS);
        // SAFETY: the kernel's parameters, with the lengths and types checked above.
        Ok(unsafe { self.launch(name, grid, &args) }?)
    }
}

impl Matmul {
    /// The product, by [`Device::gemv`] or [`Matmul::multiply`]. A token's result is the same bit for bit
    /// among numbers of tokens up to [`MAX_GEMV_ROWS`]; beyond, cuBLASLt orders sums as it likes best for
    /// each number.
    pub fn linear(&self, args: Linear<'_>) -> Result<(), Error> {
        if args.rows <= MAX_GEMV_ROWS { self.device().gemv(args) } else { self.multiply(args) }
    }
}
