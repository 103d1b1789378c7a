//! The tiles of activations, as several threads write them: whole ones, or some columns of one.
//!
//! It knows how a tile is laid out, not what its rows are made of.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::ops::Range;

use super::{ActivationDtype, Activations, Codes, Operands, with_scratch};
use crate::cpu::Cpu;
use crate::cpu::kernels::rows::RowSlot;
use crate::cpu::panels::BLOCK;
use crate::cpu::shared::SharedMut;

/// Elements below which a tile is not shared by several threads.
const MIN_SHARED: usize = 4096;

thread_local! {
    /// What rounding has left of a row.
    static REST: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    /// A row as bf16.
    static HALVES: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
}

/// Where a row's first block goes.
#[derive(Clone, Copy)]
struct Place {
    lane: usize,
    block: usize,
}

/// Some of a token's columns.
#[derive(Clone, Copy)]
pub(super) struct Part {
    token: usize,
    /// The first, a multiple of 32.
    start: usize,
    /// Blocks with a greater scale are outliers.
    pub(super) largest_scale: f32,
}

impl Part {
    /// A part without outliers.
    pub(super) fn even(token: usize, start: usize) -> Self {
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
pub(super) struct Tiles<'a> {
    holds: Operands,
    num_lanes: usize,
    num_tokens: usize,
    cols: usize,
    tile: usize,
    codes: SharedCodes<'a>,
    rest: SharedCodes<'a>,
    outliers: SharedMut<'a, bool>,
    pub(super) is_mixed: bool,
    dense: SharedMut<'a, f32>,
    pairs: SharedMut<'a, i32>,
}

impl Cpu {
    /// Calls `write` for every token and each part of its columns, whole tiles on one thread, since
    /// their cache lines interleave. If there are fewer tiles than threads, their columns are cut.
    pub(super) fn write_tiles(
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
            pairs: SharedMut::new(&mut out.pairs),
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
    pub(super) fn write_part(&self, tiles: &Tiles<'_>, part: Part, row: &[f32]) {
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
        if tiles.holds.dense {
            // SAFETY: these columns of the token are written by one thread.
            unsafe { tiles.write(&tiles.dense, part, 1, row.iter().copied()) };
        }
        if tiles.holds.bf16 {
            self.write_pairs(tiles, part, row);
        }
    }

    /// Rounds a token's columns to bf16.
    fn write_pairs(&self, tiles: &Tiles<'_>, part: Part, row: &[f32]) {
        with_scratch(&HALVES, row.len(), |halves| {
            // SAFETY: the table is this machine's; both are as long.
            unsafe { (self.kernels.to_bf16)(row, halves) };
            let (pairs, _) = halves.as_chunks::<2>();
            let pairs = pairs.iter().map(|&[low, high]| i32::from(low) | i32::from(high) << 16);
            // SAFETY: these columns of the token are written by one thread.
            unsafe { tiles.write(&tiles.pairs, part, 2, pairs) };
        });
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
    /// Puts a token's elements, of `columns` each, between those of the others of its tile.
    ///
    /// # Safety
    /// These elements of the token must be the caller's.
    unsafe fn write<T>(
        &self,
        to: &SharedMut<'_, T>,
        part: Part,
        columns: usize,
        elements: impl ExactSizeIterator<Item = T>,
    ) {
        let lane = part.token % self.tile;
        let first = part.token - lane;
        let width = self.tile.min(self.num_tokens - first);
        let start = first * (self.cols / columns) + part.start / columns * width + lane;
        if width == 1 {
            // SAFETY: the caller's.
            let to = unsafe { to.part(start, elements.len()) };
            to.iter_mut().zip(elements).for_each(|(to, element)| *to = element);
            return;
        }
        for (index, element) in elements.enumerate() {
            // SAFETY: in bounds by `at`; the caller's.
            unsafe { to.at(start + index * width).write(element) };
        }
    }

    /// A block, counted over all tiles, of a tile of some width, and the lane in it.
    fn find(&self, place: Place) -> (usize, usize, usize) {
        let lane = place.lane % self.tile;
        let first = place.lane - lane;
        let width = self.tile.min(self.num_tokens * self.num_lanes - first);
        (first * (self.cols / BLOCK) + place.block * width, lane, width)
    }
}
