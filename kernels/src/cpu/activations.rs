//! The right-hand side of a matrix multiplication: tokens, normalized or activated, in the tiles
//! that the kernels read, as integers or f32 or both.
//!
//! 16-bit integers are two 8-bit ones: what rounding to the first leaves is rounded to the second,
//! with a scale of its own. The kernels see two tokens, whose products [`Cpu::matmul`] adds.

use std::cell::RefCell;
use std::ops::{BitOr, Range};
use std::thread::LocalKey;

use super::Cpu;
use super::kernels::rows::{Norm, RowSlot};
use super::panels::BLOCK;
use super::shared::SharedMut;
use crate::{Error, check_len, check_multiple};

/// The forms in which matrices read activations. Join those of all the matrices of a model with
/// `|` to make the [`Activations`] for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    /// Integers with a scale per 32 elements, for quantized weights.
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

/// How elements are rounded for quantized weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivationDtype {
    /// 8 bits: an error of at most 0.4 % of the largest of 32 elements.
    #[default]
    Int8,
    /// 16 bits: an error of at most 0.002 %, for twice the multiplications.
    Int16,
}

impl ActivationDtype {
    /// 8-bit integers per element.
    fn num_lanes(self) -> usize {
        match self {
            Self::Int8 => 1,
            Self::Int16 => 2,
        }
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
/// tokens, their elements are interleaved. Of integers, a token is one lane of its tile or two.
#[derive(Debug)]
pub struct Activations {
    operands: Operands,
    dtype: ActivationDtype,
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

/// Elements below which a tile is not shared by several threads.
const MIN_SHARED: usize = 4096;

thread_local! {
    /// One row on its way from the residual stream into its tile.
    pub(super) static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// What rounding has left of it.
    static REST: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Activations {
    /// Reserves room for `max_tokens` rows of at most `max_cols` elements.
    pub fn new(
        max_tokens: usize,
        max_cols: usize,
        operands: Operands,
        dtype: ActivationDtype,
    ) -> Self {
        let lanes = if operands.int8 { max_tokens.saturating_mul(dtype.num_lanes()) } else { 0 };
        let blocks = lanes.saturating_mul(max_cols / BLOCK);
        let floats = if operands.dense { max_tokens.saturating_mul(max_cols) } else { 0 };
        Self {
            operands,
            dtype,
            max_tokens,
            max_cols,
            num_tokens: 0,
            cols: 0,
            tile: 0,
            quants: vec![0; blocks.saturating_mul(8)],
            scales: vec![0.0; blocks.saturating_mul(2)],
            offsets: vec![0; blocks.saturating_mul(3)],
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

    /// 8-bit integers per element, each in a lane of its own.
    pub(super) fn num_lanes(&self) -> usize {
        self.dtype.num_lanes()
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

/// Makes a part of a token's columns.
pub(super) type MakeRow<'a> = dyn Fn(usize, Range<usize>, &mut [f32]) + Sync + 'a;

/// Where a row's first block goes.
#[derive(Clone, Copy)]
struct Place {
    lane: usize,
    block: usize,
}

/// A writer of single tokens that several threads share.
struct Tiles<'a> {
    holds: Operands,
    num_lanes: usize,
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
        self.write_tiles(out, &|tiles, token, part| {
            let row = &x[token * cols..][..cols];
            let Some(norm) = norm else {
                self.write_part(tiles, token, part.start, &row[part]);
                return;
            };
            with_scratch(&ROW, cols, |scratch| {
                let norm = Norm { row, weight: norm.weight, eps: norm.eps };
                // SAFETY: the table is this machine's; the three lengths are `cols`.
                unsafe { (self.kernels.rms_norm)(&norm, scratch) };
                self.write_part(tiles, token, part.start, &scratch[part]);
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
        self.gate_mul(self.kernels.silu_mul, gate_up, num_tokens, out)
    }

    /// Puts `gelu(gate) * up` into `out`, by the approximation with the hyperbolic tangent.
    ///
    /// `gate_up`: as for [`Self::silu_mul`].
    pub fn gelu_tanh_mul(
        &self,
        gate_up: &[f32],
        num_tokens: usize,
        out: &mut Activations,
    ) -> Result<(), Error> {
        self.gate_mul(self.kernels.gelu_tanh_mul, gate_up, num_tokens, out)
    }

    fn gate_mul(
        &self,
        kernel: unsafe fn(&[f32], &[f32], &mut [f32]),
        gate_up: &[f32],
        num_tokens: usize,
        out: &mut Activations,
    ) -> Result<(), Error> {
        check_multiple("gates: tokens", num_tokens, 1)?;
        check_multiple("gates: elements", gate_up.len(), 2 * num_tokens)?;
        let cols = gate_up.len() / (2 * num_tokens);
        self.map_rows(num_tokens, cols, out, &|token, part, scratch| {
            let (gate, up) = gate_up[token * 2 * cols..][..2 * cols].split_at(cols);
            // SAFETY: the table, whose kernel it is, is this machine's; the three lengths are the
            // part's.
            unsafe { kernel(&gate[part.clone()], &up[part], scratch) };
        })
    }

    /// Puts what `make` makes of each token's columns into `out`.
    pub(super) fn map_rows(
        &self,
        num_tokens: usize,
        cols: usize,
        out: &mut Activations,
        make: &MakeRow<'_>,
    ) -> Result<(), Error> {
        out.resize(num_tokens, cols, self.kernels.tile())?;
        self.write_tiles(out, &|tiles, token, part| {
            with_scratch(&ROW, part.len(), |scratch| {
                make(token, part.clone(), scratch);
                self.write_part(tiles, token, part.start, scratch);
            });
        });
        Ok(())
    }

    /// Calls `write` for every token and each part of its columns, whole tiles on one thread, since
    /// their cache lines interleave. If there are fewer tiles than threads, their columns are cut.
    fn write_tiles(
        &self,
        out: &mut Activations,
        write: &(dyn Fn(&Tiles<'_>, usize, Range<usize>) + Sync),
    ) {
        let tiles = Tiles {
            holds: out.holds(),
            num_lanes: out.num_lanes(),
            num_tokens: out.num_tokens,
            cols: out.cols,
            tile: out.tile,
            quants: SharedMut::new(&mut out.quants),
            scales: SharedMut::new(&mut out.scales),
            offsets: SharedMut::new(&mut out.offsets),
            dense: SharedMut::new(&mut out.dense),
        };
        let (cols, num_tiles) = (tiles.cols, tiles.num_tokens.div_ceil(tiles.tile));
        let is_long = tiles.num_tokens * cols >= MIN_SHARED;
        let num_parts = if is_long { self.num_threads().div_ceil(num_tiles) } else { 1 };
        let part_cols = cols.div_ceil(num_parts).next_multiple_of(BLOCK);
        let num_parts = cols.div_ceil(part_cols).max(1);
        self.pool.run(num_tiles * num_parts, &|unit| {
            let (first, start) = (unit / num_parts * tiles.tile, unit % num_parts * part_cols);
            for token in first..tiles.num_tokens.min(first + tiles.tile) {
                write(&tiles, token, start..cols.min(start + part_cols));
            }
        });
    }

    /// Writes one token's columns from `start`, a multiple of 32, on into its tile.
    fn write_part(&self, tiles: &Tiles<'_>, token: usize, start: usize, row: &[f32]) {
        if tiles.holds.int8 && tiles.cols > 0 {
            let block = start / BLOCK;
            if tiles.num_lanes == 1 {
                self.write_lane(tiles, Place { lane: token, block }, row, &mut []);
            } else {
                with_scratch(&REST, row.len(), |rest| {
                    self.write_lane(tiles, Place { lane: 2 * token, block }, row, rest);
                    self.write_lane(tiles, Place { lane: 2 * token + 1, block }, rest, &mut []);
                });
            }
        }
        let lane = token % tiles.tile;
        let first = token - lane;
        let width = tiles.tile.min(tiles.num_tokens - first);
        if tiles.holds.dense && width == 1 {
            // SAFETY: these columns of a tile of one token are this call's.
            unsafe { tiles.dense.part(first * tiles.cols + start, row.len()) }.copy_from_slice(row);
        } else if tiles.holds.dense {
            for (column, &value) in row.iter().enumerate() {
                let at = first * tiles.cols + (start + column) * width + lane;
                let at = tiles.dense.at(at);
                // SAFETY: in bounds by `at`; these columns of the lane are written by one thread.
                unsafe { at.write(value) };
            }
        }
    }

    /// Rounds a row's blocks into its tile. `rest` gets what that leaves, unless it is empty.
    fn write_lane(&self, tiles: &Tiles<'_>, place: Place, row: &[f32], rest: &mut [f32]) {
        let Place { lane, block } = place;
        let in_tile = lane % tiles.tile;
        let first = lane - in_tile;
        let blocks = first * (tiles.cols / BLOCK);
        let width = tiles.tile.min(tiles.num_tokens * tiles.num_lanes - first);
        let blocks = blocks + block * width;
        let slot = RowSlot {
            width,
            quants: tiles.quants.at(blocks * 8 + in_tile),
            scales: tiles.scales.at(blocks * 2 + in_tile),
            offsets: tiles.offsets.at(blocks * 3 + in_tile),
        };
        // SAFETY: the table is this machine's; the columns are whole blocks (`holds`), the rest is
        // as long or empty, and the buffers have room for `max_tokens * max_cols`, which `resize`
        // checked. Each lane's block is written by one thread.
        unsafe { (self.kernels.quantize)(row, &slot, rest) };
    }
}

pub(super) fn with_scratch(
    which: &'static LocalKey<RefCell<Vec<f32>>>,
    len: usize,
    use_it: impl FnOnce(&mut [f32]),
) {
    which.with_borrow_mut(|row| {
        if row.len() < len {
            row.resize(len, 0.0);
        }
        use_it(&mut row[..len]);
    });
}
