//! The right-hand side of a matrix multiplication: tokens, normalized or activated, in the tiles
//! that the kernels read, as integers or f32 or both.
//!
//! 16-bit integers are two 8-bit ones: what rounding to the first leaves is rounded to the second,
//! with a scale of its own. The kernels see two tokens, whose products [`Cpu::matmul`] adds.
//!
//! A norm's weights make a few columns large in nearly every row, and the blocks with these lose
//! most of what rounding to 8 bits loses. So [`ActivationDtype::Mixed`] rounds what is left of them
//! once more, and the kernels pass over those blocks twice. A tile passes over a block twice if
//! any of its tokens needs it: the others add zero, so that their results stay the same.

use std::cell::RefCell;
use std::cmp::Ordering;
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
    /// 8 bits, and 16 for those of the blocks of 32 elements of a normalized row that would lose
    /// more than twice the mean.
    #[default]
    Mixed,
    /// 8 bits: an error of at most 0.4 % of the largest of 32 elements.
    Int8,
    /// 16 bits: an error of at most 0.002 %, for twice the multiplications.
    Int16,
}

impl ActivationDtype {
    /// 8-bit integers per element.
    fn num_lanes(self) -> usize {
        match self {
            Self::Mixed | Self::Int8 => 1,
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
    pub(super) codes: Codes,
    /// What rounding has left of outliers; empty unless mixed.
    pub(super) rest: Codes,
    /// Per tile `[cols / 32]`, from `cols / 32` times its first token on: whether `rest` has the
    /// block. Empty unless mixed.
    pub(super) outliers: Vec<bool>,
    /// Per tile `[cols][m]`.
    pub(super) dense: Vec<f32>,
}

/// Elements as integers.
#[derive(Debug)]
pub(super) struct Codes {
    /// Per tile `[cols / 32][8][m]`: four int8 each.
    pub(super) quants: Vec<i32>,
    /// Per tile `[cols / 32][2][m]`.
    pub(super) scales: Vec<f32>,
    /// Per tile `[cols / 32][3][m]`.
    pub(super) offsets: Vec<i32>,
}

impl Codes {
    fn new(num_blocks: usize) -> Self {
        Self {
            quants: vec![0; num_blocks.saturating_mul(8)],
            scales: vec![0.0; num_blocks.saturating_mul(2)],
            offsets: vec![0; num_blocks.saturating_mul(3)],
        }
    }
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
        let mixed_blocks = if dtype == ActivationDtype::Mixed { blocks } else { 0 };
        let floats = if operands.dense { max_tokens.saturating_mul(max_cols) } else { 0 };
        Self {
            operands,
            dtype,
            max_tokens,
            max_cols,
            num_tokens: 0,
            cols: 0,
            tile: 0,
            codes: Codes::new(blocks),
            rest: Codes::new(mixed_blocks),
            outliers: vec![false; mixed_blocks],
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

/// Some of a token's columns.
#[derive(Clone, Copy)]
struct Part {
    token: usize,
    /// The first, a multiple of 32.
    start: usize,
    /// Blocks with a greater scale are outliers.
    largest_scale: f32,
}

impl Part {
    /// A part without outliers.
    fn even(token: usize, start: usize) -> Self {
        Self { token, start, largest_scale: f32::INFINITY }
    }
}

/// [`Codes`] that several threads write.
struct SharedCodes<'a> {
    quants: SharedMut<'a, i32>,
    scales: SharedMut<'a, f32>,
    offsets: SharedMut<'a, i32>,
}

impl<'a> SharedCodes<'a> {
    fn new(codes: &'a mut Codes) -> Self {
        Self {
            quants: SharedMut::new(&mut codes.quants),
            scales: SharedMut::new(&mut codes.scales),
            offsets: SharedMut::new(&mut codes.offsets),
        }
    }

    /// The place of a lane of a tile of `width`, from a block on that is counted over all tiles.
    fn slot(&self, blocks: usize, lane: usize, width: usize) -> RowSlot {
        RowSlot {
            width,
            quants: self.quants.at(blocks * 8 + lane),
            scales: self.scales.at(blocks * 2 + lane),
            offsets: self.offsets.at(blocks * 3 + lane),
        }
    }

    /// Makes a block of a tile of `width` zero.
    ///
    /// # Safety
    /// The block must be the caller's.
    unsafe fn clear(&self, blocks: usize, width: usize) {
        // SAFETY: the caller's.
        unsafe {
            self.quants.part(blocks * 8, 8 * width).fill(0);
            self.scales.part(blocks * 2, 2 * width).fill(0.0);
            self.offsets.part(blocks * 3, 3 * width).fill(0);
        }
    }
}

/// A writer of single tokens that several threads share.
struct Tiles<'a> {
    holds: Operands,
    num_lanes: usize,
    num_tokens: usize,
    cols: usize,
    tile: usize,
    codes: SharedCodes<'a>,
    rest: SharedCodes<'a>,
    outliers: SharedMut<'a, bool>,
    is_mixed: bool,
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
                self.write_part(tiles, Part::even(token, part.start), &row[part]);
                return;
            };
            with_scratch(&ROW, cols, |scratch| {
                let norm = Norm { row, weight: norm.weight, eps: norm.eps };
                // SAFETY: the table is this machine's; the three lengths are `cols`.
                unsafe { (self.kernels.rms_norm)(&norm, scratch) };
                let mut to = Part::even(token, part.start);
                if tiles.is_mixed {
                    // SAFETY: the table is this machine's; the columns are whole blocks.
                    to.largest_scale = unsafe { (self.kernels.outlier_scale)(scratch) };
                }
                self.write_part(tiles, to, &scratch[part]);
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
                self.write_part(tiles, Part::even(token, part.start), scratch);
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
            is_mixed: out.dtype == ActivationDtype::Mixed && out.holds().int8,
            codes: SharedCodes::new(&mut out.codes),
            rest: SharedCodes::new(&mut out.rest),
            outliers: SharedMut::new(&mut out.outliers),
            dense: SharedMut::new(&mut out.dense),
        };
        let (cols, num_tiles) = (tiles.cols, tiles.num_tokens.div_ceil(tiles.tile));
        let is_long = tiles.num_tokens * cols >= MIN_SHARED;
        let num_parts = if is_long { self.num_threads().div_ceil(num_tiles) } else { 1 };
        let part_cols = cols.div_ceil(num_parts).next_multiple_of(BLOCK);
        let num_parts = cols.div_ceil(part_cols).max(1);
        self.pool.run(num_tiles * num_parts, &|unit| {
            let (first, start) = (unit / num_parts * tiles.tile, unit % num_parts * part_cols);
            let end = cols.min(start + part_cols);
            if tiles.is_mixed {
                let blocks = first * (cols / BLOCK) + start / BLOCK;
                // SAFETY: these blocks of the tile are this unit's.
                unsafe { tiles.outliers.part(blocks, (end - start) / BLOCK) }.fill(false);
            }
            for token in first..tiles.num_tokens.min(first + tiles.tile) {
                write(&tiles, token, start..end);
            }
        });
    }

    /// Writes a token's columns into its tile.
    fn write_part(&self, tiles: &Tiles<'_>, part: Part, row: &[f32]) {
        let Part { token, start, .. } = part;
        if tiles.holds.int8 && tiles.cols > 0 {
            let place = |lane| Place { lane, block: start / BLOCK };
            if tiles.num_lanes == 2 {
                with_scratch(&REST, row.len(), |rest| {
                    self.write_lane(tiles, place(2 * token), row, rest);
                    self.write_lane(tiles, place(2 * token + 1), rest, &mut []);
                });
            } else if part.largest_scale.is_finite() {
                with_scratch(&REST, row.len(), |rest| {
                    self.write_lane(tiles, place(token), row, rest);
                    self.write_outliers(tiles, part, rest);
                });
            } else {
                self.write_lane(tiles, place(token), row, &mut []);
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
        let (blocks, lane, width) = tiles.find(place);
        let slot = tiles.codes.slot(blocks, lane, width);
        // SAFETY: the table is this machine's; the columns are whole blocks (`holds`), the rest is
        // as long or empty, and the buffers have room for `max_tokens * max_cols`, which `resize`
        // checked. Each lane's block is written by one thread.
        unsafe { (self.kernels.quantize)(row, &slot, rest) };
    }

    /// Rounds what rounding has left of a part's outliers, of which `write_lane` was before.
    fn write_outliers(&self, tiles: &Tiles<'_>, part: Part, rest: &[f32]) {
        let first_block = part.start / BLOCK;
        for (block, rest) in (first_block..).zip(rest.chunks_exact(BLOCK)) {
            let (blocks, lane, width) = tiles.find(Place { lane: part.token, block });
            // SAFETY: in bounds by `at`; this thread has written it.
            let scale = unsafe { tiles.codes.scales.at(blocks * 2 + lane).read() };
            // Never of a row with a NaN or an infinity.
            if scale.partial_cmp(&part.largest_scale) != Some(Ordering::Greater) {
                continue;
            }
            let first = part.token - part.token % tiles.tile;
            // SAFETY: this block of the tile is written by one thread.
            unsafe {
                let is_outlier =
                    &mut tiles.outliers.part(first * (tiles.cols / BLOCK) + block, 1)[0];
                if !std::mem::replace(is_outlier, true) {
                    tiles.rest.clear(blocks, width);
                }
                (self.kernels.quantize)(rest, &tiles.rest.slot(blocks, lane, width), &mut []);
            }
        }
    }
}

impl Tiles<'_> {
    /// A block, counted over all tiles, of a tile of some width, and the lane in it.
    fn find(&self, place: Place) -> (usize, usize, usize) {
        let lane = place.lane % self.tile;
        let first = place.lane - lane;
        let width = self.tile.min(self.num_tokens * self.num_lanes - first);
        (first * (self.cols / BLOCK) + place.block * width, lane, width)
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
