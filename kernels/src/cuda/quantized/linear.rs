//! Multiplying tokens with a quantised matrix, and looking rows of one up.

use super::gemm::MAX_GEMM_ROWS;
use super::layout::{TILE_COLS, TILE_ROWS};
use super::{Form, GatherQuantizedRows, Piece, QuantizedMatrix};
use crate::cuda::launch::{Arg, Grid};
use crate::cuda::matmul::Columns;
use crate::cuda::{Device, Float, MAX_GEMV_ROWS, Matmul, Slice, SliceMut, Write};
use crate::{Error, check_len, check_multiple};

/// Warps of a block of most kernels here, each of which takes a tile.
const WARPS: usize = 8;
const THREADS: u32 = 32 * WARPS as u32;

/// Warps of a block of the kernel for few tokens, and the rows of tiles that it takes.
const GEMV_WARPS: usize = 16;
const ROW_TILES: usize = 2;

/// Tiles of each row that a warp of it has room for.
fn gemv_stages(form: Form) -> usize {
    match form {
        Form::W4 => 4,
        Form::W8 | Form::W8Halves => 2,
    }
}

/// `y (+)= x · wᵀ`, `w` being quantised.
pub struct LinearQuantized<'a> {
    /// Type of `x`: 16 bits wide. Sums are of 32 bits.
    pub float: Float,
    /// `[rows, k]`
    pub x: Slice<'a>,
    /// `[n, k]`
    pub w: &'a QuantizedMatrix,
    /// `[rows, n]`
    pub y: SliceMut<'a>,
    /// Type of `y`: that of `x`, or f32.
    pub y_float: Float,
    /// What happens to the product.
    pub write: Write,
    /// Tokens.
    pub rows: usize,
    /// Room for rows of `w` as floats, where there are many tokens: the more at once, the better, but at
    /// least 16.
    pub scratch: SliceMut<'a>,
}

/// The name of a kernel that is written once per form.
macro_rules! by_form {
    ($form:expr, $before:literal, $($after:literal),+) => {
        match $form {
            Form::W4 => concat!($before, "w4", $($after),+),
            Form::W8 => concat!($before, "w8", $($after),+),
            Form::W8Halves => concat!($before, "w8_halves", $($after),+),
        }
    };
}
pub(super) use by_form;

/// The blocks of the kernel for few tokens that multiply `n` rows.
fn gemv_grid(form: Form, n: usize) -> Grid {
    let shared_bytes = GEMV_WARPS * gemv_stages(form) * ROW_TILES * form.tile_bytes();
    Grid {
        shared_bytes: shared_bytes as u32,
        ..Grid::line(n.div_ceil(ROW_TILES * TILE_ROWS), 32 * GEMV_WARPS as u32)
    }
}

/// The kernel of pairs of 16-bit floats, in tiles of [`MAX_GEMV_ROWS`], that multiplies `n` rows of each
/// expert's matrix, and its blocks for each tile.
pub(super) fn moe_gemv(form: Form, float: Float, n: usize) -> (&'static str, Grid) {
    let name = match float {
        Float::F16 => by_form!(form, "moe_gemv_", "_f16"),
        Float::BF16 | Float::F32 => by_form!(form, "moe_gemv_", "_bf16"),
    };
    (name, gemv_grid(form, n))
}

impl LinearQuantized<'_> {
    fn check(&self) -> Result<(), Error> {
        let (n, k) = (self.w.n, self.w.k);
        check_len("what is multiplied", self.x.len(), self.rows * k * self.float.size())?;
        check_len("a product", self.y.len(), self.rows * n * self.y_float.size())?;
        if self.float == Float::F32 || ![self.float, Float::F32].contains(&self.y_float) {
            return Err(Error::Operand);
        }
        Ok(())
    }

    /// The columns of `y` that a row of `w` and those after it make.
    pub(super) fn y_from(&mut self, row: usize) -> SliceMut<'_> {
        let begin = row * self.y_float.size();
        let len = self.y.len() - begin;
        self.y.reborrow().at(begin, len)
    }
}

impl Device {
    /// Copies `out[i] = table[indices[i]]`, for as many rows as there are indices.
    pub fn gather_quantized_rows(&self, args: GatherQuantizedRows<'_>) -> Result<(), Error> {
        let GatherQuantizedRows { table, indices, float, out } = args;
        let [piece] = table.pieces.as_slice() else { return Err(Error::Operand) };
        check_multiple("the indices' bytes", indices.len(), 4)?;
        let num = indices.len() / 4;
        check_len("the rows that are gathered", out.len(), num * table.k * float.size())?;
        let name = match float {
            Float::F32 => by_form!(piece.form, "gather_quantized_", "_f32"),
            Float::F16 => by_form!(piece.form, "gather_quantized_", "_f16"),
            Float::BF16 => by_form!(piece.form, "gather_quantized_", "_bf16"),
        };
        let args = [
            piece.tiles.slice().into(),
            indices.into(),
            Arg::from(&out),
            (piece.n as i32).into(),
            (table.k as i32).into(),
        ];
        // SAFETY: the kernel's parameters, with the lengths checked above; it checks the indices.
        Ok(unsafe { self.launch(name, Grid::line(num, THREADS), &args) }?)
    }

    /// Writes rows `first` and on of a piece as floats: as many as `out` holds, or the rest.
    fn dequantize(
        &self,
        piece: &Piece,
        (first, num, k): (usize, usize, usize),
        float: Float,
        out: &SliceMut<'_>,
    ) -> Result<(), Error> {
        check_len("a dequantised matrix", out.len(), num * k * float.size())?;
        let tiles = k.div_ceil(TILE_COLS);
        let skipped = first / TILE_ROWS * tiles * piece.form.tile_bytes();
        let name = match float {
            Float::F32 => by_form!(piece.form, "dequantize_", "_f32"),
            Float::F16 => by_form!(piece.form, "dequantize_", "_f16"),
            Float::BF16 => by_form!(piece.form, "dequantize_", "_bf16"),
        };
        let args = [
            piece.tiles.slice().at(skipped, piece.tiles.len() - skipped).into(),
            Arg::from(out),
            (num as i32).into(),
            (k as i32).into(),
        ];
        let mut grid = Grid::line(tiles.div_ceil(WARPS), THREADS);
        grid.blocks[1] = num.div_ceil(TILE_ROWS) as u32;
        // SAFETY: the kernel's parameters; the piece has the rows, and `out` the length checked above.
        Ok(unsafe { self.launch(name, grid, &args) }?)
    }

    /// The product with one piece, of at most [`MAX_GEMV_ROWS`] tokens.
    fn quantized_gemv(&self, args: &mut LinearQuantized<'_>, piece: &Piece) -> Result<(), Error> {
        let name = match (args.float, args.y_float) {
            (Float::F16, Float::F16) => by_form!(piece.form, "gemv_", "_f16"),
            (Float::F16, _) => by_form!(piece.form, "gemv_", "_f16_f32"),
            (_, Float::F32) => by_form!(piece.form, "gemv_", "_bf16_f32"),
            (_, Float::F16 | Float::BF16) => by_form!(piece.form, "gemv_", "_bf16"),
        };
        let (n, k, rows, write) = (args.w.n, args.w.k, args.rows, args.write);
        let args = [
            args.x.into(),
            piece.tiles.slice().into(),
            Arg::from(&args.y_from(piece.first_row)),
            (rows as i32).into(),
            (piece.n as i32).into(),
            (k as i32).into(),
            (n as i32).into(),
            i32::from(write == Write::Add).into(),
        ];
        // SAFETY: the kernel's parameters, of lengths that the caller checked; a piece's rows are columns
        // of `y`.
        Ok(unsafe { self.launch(name, gemv_grid(piece.form, piece.n), &args) }?)
    }
}

impl Matmul {
    /// The product of any number of tokens. A token's result is the same bit for bit among numbers of
    /// tokens up to [`MAX_GEMV_ROWS`], and among those from there to 64.
    pub fn linear_quantized(&self, mut args: LinearQuantized<'_>) -> Result<(), Error> {
        args.check()?;
        if args.rows == 0 {
            return Ok(());
        }
        for piece in &args.w.pieces {
            if args.rows <= MAX_GEMV_ROWS {
                self.device().quantized_gemv(&mut args, piece)?;
            } else if args.rows <= MAX_GEMM_ROWS {
                self.quantized_gemm(&mut args, piece)?;
            } else {
                self.dequantize_and_multiply(&mut args, piece)?;
            }
        }
        Ok(())
    }

    /// So many rows at a time as there is room for.
    fn dequantize_and_multiply(
        &self,
        args: &mut LinearQuantized<'_>,
        piece: &Piece,
    ) -> Result<(), Error> {
        let (n, k, float) = (args.w.n, args.w.k, args.float);
        let room = args.scratch.len() / (k * float.size()) / TILE_ROWS * TILE_ROWS;
        check_multiple("the rows that the scratch memory has room for", room, TILE_ROWS)?;
        for first in (0..piece.n).step_by(room) {
            let num = room.min(piece.n - first);
            let w = args.scratch.reborrow().at(0, num * k * float.size());
            self.device().dequantize(piece, (first, num, k), float, &w)?;
            let w = w.as_slice().pointer();
            self.multiply_columns(&Columns {
                float,
                x: args.x.pointer(),
                w,
                y: args.y_from(piece.first_row + first).pointer(),
                y_float: args.y_float,
                write: args.write,
                rows: args.rows,
                n: num,
                k,
                stride: n,
            })?;
        }
        Ok(())
    }
}
