//! How matrices of codes lie in a device's memory, as `kernels/cuda/quantized.cuh` reads them.
//!
//! A tile is 16 rows and 64 columns, two groups of 32. Tiles of a row of tiles follow each other, and rows
//! of tiles. A tile is its codes and then its scales. In it, lane `4 g + t` of a warp has rows `g` and
//! `g + 8`, and of each group 8 codes of each: of columns `8 t` and on, or where a group's halves have
//! scales of their own, `4 t` and on and `16 + 4 t` and on.
//!
//! - 4 bits: 16 bytes a lane, which are a word per group and row. Bits `4 j` and `16 + 4 j` on hold codes
//!   `2 j` and `2 j + 1`.
//! - 8 bits: 16 bytes a lane for each group, two words per row. Bytes 0, 2, 1, 3 hold codes in order.
//! - Scales: 16 bytes for each `g`: of both groups, for rows `g` and `g + 8`, two half floats.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use half::f16;

use crate::cpu::blocks::Group;

pub(super) const TILE_ROWS: usize = 16;
pub(super) const TILE_COLS: usize = 64;
pub(super) const GROUP: usize = 32;

/// What a code means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// 4 bits: `code * scale + minimum`, per 32.
    W4,
    /// 8 bits: `code * scale + minimum`, per 32.
    W8,
    /// 8 bits: `(code - 128) * scale`, per 16.
    W8Halves,
}

impl Form {
    const fn code_bytes(self) -> usize {
        match self {
            Self::W4 => 512,
            Self::W8 | Self::W8Halves => 1024,
        }
    }

    pub(super) const fn tile_bytes(self) -> usize {
        self.code_bytes() + 128
    }

    /// Bytes of a row of tiles of a matrix of so many columns.
    pub fn row_bytes(self, cols: usize) -> usize {
        cols.div_ceil(TILE_COLS) * self.tile_bytes()
    }

    fn column_of(self, t: usize, i: usize) -> usize {
        match self {
            Self::W4 | Self::W8 => 8 * t + i,
            Self::W8Halves => i / 4 * 16 + 4 * t + i % 4,
        }
    }
}

/// 32 elements of a row.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub(super) codes: [u8; GROUP],
    /// Scale and minimum, or the scales of the halves.
    pub(super) scales: [f16; 2],
}

impl Codes {
    /// Exact, but for scales and minima of super-blocks, which are rounded to half floats.
    pub(super) fn of(group: &Group, form: Form) -> Self {
        let scale = f16::from_f32(group.scales[0]);
        match form {
            Form::W4 | Form::W8 => {
                let min = group.min - group.scales[0] * f32::from(group.zero);
                Self { codes: group.codes, scales: [scale, f16::from_f32(min)] }
            }
            Form::W8Halves => Self {
                codes: group.codes.map(|code| code.wrapping_add(128 - group.zero)),
                scales: [scale, f16::from_f32(group.scales[1])],
            },
        }
    }
}

/// Packs rows of tiles on all cores. `fill` gives a row of tiles, by its number, to what writes a group of
/// one of its rows.
pub(super) fn pack(
    form: Form,
    rows: usize,
    cols: usize,
    fill: impl Fn(usize, &mut Tiles<'_>) -> io::Result<()> + Sync,
) -> io::Result<Vec<u8>> {
    let (tile_rows, row_bytes) = (rows.div_ceil(TILE_ROWS), form.row_bytes(cols));
    let mut packed = vec![0; tile_rows * row_bytes];
    let queue = Mutex::new(packed.chunks_exact_mut(row_bytes).enumerate());
    let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || -> io::Result<()> {
        while let Some((index, bytes)) = take() {
            fill(index, &mut Tiles::new(form, bytes))?;
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(tile_rows);
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let joined = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        joined.fold(own, Result::and)
    })?;
    Ok(packed)
}

/// A row of tiles, to be filled.
pub(super) struct Tiles<'a> {
    form: Form,
    bytes: &'a mut [u8],
}

impl<'a> Tiles<'a> {
    /// In `bytes` of zero, [`Form::row_bytes`] of them.
    pub(super) fn new(form: Form, bytes: &'a mut [u8]) -> Self {
        Self { form, bytes }
    }

    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Writes columns `32 * index` and on of one of the 16 rows.
    pub(super) fn put(&mut self, row: usize, index: usize, group: &Codes) {
        let (g, high, tile, half) = (row % 8, row / 8, index / 2, index % 2);
        let code = |t: usize, i: usize| u32::from(group.codes[self.form.column_of(t, i)]);
        for t in 0..4 {
            let lane = tile * self.form.tile_bytes() + 16 * (4 * g + t);
            match self.form {
                Form::W4 => {
                    let pair =
                        |j: usize| code(t, 2 * j) << (4 * j) | code(t, 2 * j + 1) << (16 + 4 * j);
                    let word = (0..4).map(pair).fold(0, |word, pair| word | pair);
                    put_word(self.bytes, lane + 4 * (2 * half + high), word);
                }
                Form::W8 | Form::W8Halves => {
                    for word in 0..2 {
                        let at = lane + 512 * half + 4 * (2 * high + word);
                        let code = |i| code(t, 4 * word + i);
                        let bytes = code(0) | code(2) << 8 | code(1) << 16 | code(3) << 24;
                        put_word(self.bytes, at, bytes);
                    }
                }
            }
        }
        let [first, second] = group.scales.map(|scale| u32::from(scale.to_bits()));
        let at =
            tile * self.form.tile_bytes() + self.form.code_bytes() + 16 * g + 4 * (2 * half + high);
        put_word(self.bytes, at, first | second << 16);
    }
}

fn put_word(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}
