//! The right-hand side of a matrix multiplication: tokens, normalized or activated, in the tiles
//! that the kernels read, as int8 or f32 or both.

use std::cell::RefCell;
use std::ops::BitOr;

use super::Cpu;
use super::kernels::rows::{Norm, RowSlot};
use super::panels::BLOCK;
use super::shared::SharedMut;
use crate::{Error, check_len, check_multiple};

/// The forms in which matrices read activations. Join those of all the matrices of a model with
/// `|` to make the [`Activations`] for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    /// int8 with a scale per 32 elements, for quantized weights.
    pub int8: bool,
    /// f32, for plain float weights and exact mode.
    pub dense: bool,
}

impl BitOr for Operands {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self { int8: self.int8 || other.int8, dense: self.dense || other.dense }
    }
}

/// Root-mean-square normalization, as in Zhang & Sennrich, 2019.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm<'a> {
    /// `[cols]`
    pub weight: &'a [f32],
    /// Added to the mean square.
    pub eps: f32,
}

/// Preallocated scratch for the activations of one matrix multiplication.
///
/// Tokens are cut into tiles of at most as many as a register tile holds; within a tile of `m`
/// tokens, their elements are interleaved.
#[derive(Debug)]
pub struct Activations {
    operands: Operands,
    max_tokens: usize,
    max_cols: usize,
    pub(super) num_tokens: usize,
    pub(super) cols: usize,
    /// Tokens of a full tile; 0 before the first use.
    pub(super) tile: usize,
    /// Per tile `[cols / 32][8][m]`: four int8 each.
    pub(super) quants: Vec<i32>,
    /// Per tile `[cols / 32][2][m]`.
    pub(super) scales: Vec<f32>,
    /// Per tile `[cols / 32][3][m]`.
    pub(super) offsets: Vec<i32>,
    /// Per tile `[cols][m]`.
    pub(super) dense: Vec<f32>,
}

thread_local! {
    /// One row on its way from the residual stream into its tile.
    static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Activations {
    /// Reserves room for `max_tokens` rows of at most `max_cols` elements.
    pub fn new(max_tokens: usize, max_cols: usize, operands: Operands) -> Self {
        let blocks = if operands.int8 { max_tokens * (max_cols / BLOCK) } else { 0 };
        let floats = if operands.dense { max_tokens * max_cols } else { 0 };
        Self {
            operands,
            max_tokens,
            max_cols,
            num_tokens: 0,
            cols: 0,
            tile: 0,
            quants: vec![0; blocks * 8],
            scales: vec![0.0; blocks * 2],
            offsets: vec![0; blocks * 3],
            dense: vec![0.0; floats],
        }
    }

    /// How many tokens it holds now.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The form it holds; int8 only where the columns are whole blocks.
    pub(super) fn holds(&self) -> Operands {
        let whole = self.cols.is_multiple_of(BLOCK);
        Operands { int8: self.operands.int8 && whole, ..self.operands }
    }

    fn resize(&mut self, num_tokens: usize, cols: usize, tile: usize) -> Result<(), Error> {
        for (what, given, most) in [
            ("activations: tokens", num_tokens, self.max_tokens),
            ("activations: columns", cols, self.max_cols),
        ] {
            if given > most {
                return Err(Error::Shape { what, expected: most, given });
            }
        }
        (self.num_tokens, self.cols, self.tile) = (num_tokens, cols, tile);
        Ok(())
    }
}

/// A writer of single tokens that several threads share.
struct Tiles<'a> {
    holds: Operands,
    num_tokens: usize,
    cols: usize,
    tile: usize,
    quants: SharedMut<'a, i32>,
    scales: SharedMut<'a, f32>,
    offsets: SharedMut<'a, i32>,
    dense: SharedMut<'a, f32>,
}

impl Cpu {
    /// Puts rows into `out`, normalized first where `norm` says so.
    ///
    /// `x`: `[num_tokens, cols]`.
    pub fn activations(
        &self,
        x: &[f32],
        num_tokens: usize,
        norm: Option<RmsNorm<'_>>,
        out: &mut Activations,
    ) -> Result<(), Error> {
        check_multiple("activations: tokens", num_tokens, 1)?;
        check_multiple("activations: elements", x.len(), num_tokens)?;
        let cols = x.len() / num_tokens;
        if let Some(norm) = norm {
            check_len("activations: the norm's weight", norm.weight.len(), cols)?;
        }
        out.resize(num_tokens, cols, self.kernels.tile())?;
        self.write_tiles(out, &|tiles, token| {
            let row = &x[token * cols..][..cols];
            let Some(norm) = norm else {
                self.write_row(tiles, token, row);
                return;
            };
            with_scratch(cols, |scratch| {
                let norm = Norm { row, weight: norm.weight, eps: norm.eps };
                // SAFETY: the table is this machine's; the three lengths are `cols`.
                unsafe { (self.kernels.rms_norm)(&norm, scratch) };
                self.write_row(tiles, token, scratch);
            });
        });
        Ok(())
    }

    /// Puts `silu(gate) * up` into `out`.
    ///
    /// `gate_up`: `[num_tokens, 2 * cols]`, each row the gate's elements, then the others.
    pub fn silu_mul(
        &self,
        gate_up: &[f32],
        num_tokens: usize,
        out: &mut Activations,
    ) -> Result<(), Error> {
        check_multiple("silu_mul: tokens", num_tokens, 1)?;
        check_multiple("silu_mul: elements", gate_up.len(), 2 * num_tokens)?;
        let cols = gate_up.len() / (2 * num_tokens);
        out.resize(num_tokens, cols, self.kernels.tile())?;
        self.write_tiles(out, &|tiles, token| {
            let (gate, up) = gate_up[token * 2 * cols..][..2 * cols].split_at(cols);
            with_scratch(cols, |scratch| {
                // SAFETY: the table is this machine's; the three lengths are `cols`.
                unsafe { (self.kernels.silu_mul)(gate, up, scratch) };
                self.write_row(tiles, token, scratch);
            });
        });
        Ok(())
    }

    /// Calls `write` for every token, whole tiles on one thread: their cache lines interleave.
    fn write_tiles(&self, out: &mut Activations, write: &(dyn Fn(&Tiles<'_>, usize) + Sync)) {
        let tiles = Tiles {
            holds: out.holds(),
            num_tokens: out.num_tokens,
            cols: out.cols,
            tile: out.tile,
            quants: SharedMut::new(&mut out.quants),
            scales: SharedMut::new(&mut out.scales),
            offsets: SharedMut::new(&mut out.offsets),
            dense: SharedMut::new(&mut out.dense),
        };
        self.pool.run(tiles.num_tokens.div_ceil(tiles.tile), &|tile| {
            let first = tile * tiles.tile;
            for token in first..tiles.num_tokens.min(first + tiles.tile) {
                write(&tiles, token);
            }
        });
    }

    /// Writes one token's row into its tile.
    fn write_row(&self, tiles: &Tiles<'_>, token: usize, row: &[f32]) {
        let lane = token % tiles.tile;
        let first = token - lane;
        let width = tiles.tile.min(tiles.num_tokens - first);
        if tiles.holds.int8 && tiles.cols > 0 {
            let blocks = first * (tiles.cols / BLOCK);
            let slot = RowSlot {
                width,
                quants: tiles.quants.at(blocks * 8 + lane),
                scales: tiles.scales.at(blocks * 2 + lane),
                offsets: tiles.offsets.at(blocks * 3 + lane),
            };
            // SAFETY: the table is this machine's; the columns are whole blocks (`holds`), and
            // the buffers have room for `max_tokens * max_cols`, which `resize` checked. Each
            // token is written by one thread, in lanes of its own.
            unsafe { (self.kernels.quantize)(row, &slot) };
        }
        if tiles.holds.dense && width == 1 {
            // SAFETY: a tile of one token is that token's.
            unsafe { tiles.dense.part(first * tiles.cols, tiles.cols) }.copy_from_slice(row);
        } else if tiles.holds.dense {
            for (column, &value) in row.iter().enumerate() {
                let at = tiles.dense.at(first * tiles.cols + column * width + lane);
                // SAFETY: in bounds by `at`; this lane is written by one thread.
                unsafe { at.write(value) };
            }
        }
    }
}

fn with_scratch(len: usize, use_it: impl FnOnce(&mut [f32])) {
    ROW.with_borrow_mut(|row| {
        if row.len() < len {
            row.resize(len, 0.0);
        }
        use_it(&mut row[..len]);
    });
}
