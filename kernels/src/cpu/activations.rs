//! The right-hand side of a matrix multiplication: tokens, normalized or activated, in the tiles
//! that the kernels read, as integers, f32 or bf16, or several of these.
//!
//! 16-bit integers are two 8-bit ones: what rounding to the first leaves is rounded to the second,
//! with a scale of its own. The kernels see two tokens, whose products [`Cpu::matmul`] adds.
//!
//! A norm's weights make a few columns large in nearly every row, and the blocks with these lose
//! most of what rounding to 8 bits loses. So [`ActivationDtype::Mixed`] rounds what is left of them
//! once more, and the kernels pass over those blocks twice. A tile passes over a block twice if
//! any of its tokens needs it: the others add zero, so that their results stay the same.

mod tiles;

use std::cell::RefCell;
use std::ops::{BitOr, Range};
use std::thread::LocalKey;

use self::tiles::Part;
use super::Cpu;
use super::kernels::rows::Norm;
use super::panels::BLOCK;
use crate::{Error, check_len, check_multiple};

/// The forms in which matrices read activations. Join those of all the matrices of a model with
/// `|` to make the [`Activations`] for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operands {
    /// Integers with a scale per 32 elements, for quantized weights.
    pub int8: bool,
    /// f32, for weights of f32 and f16 and exact mode.
    pub dense: bool,
    /// What [`Isa::rounds_to_bf16`](super::Isa::rounds_to_bf16) says, for weights of bf16: bf16 or f32.
    pub bf16: bool,
}

impl BitOr for Operands {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self {
            int8: self.int8 || other.int8,
            dense: self.dense || other.dense,
            bf16: self.bf16 || other.bf16,
        }
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
    /// Of f32 and bf16, what it has room for.
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
    /// Per tile `[cols / 2][m]`: two bf16 each, the first in the low half.
    pub(super) pairs: Vec<i32>,
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

thread_local! {
    /// One row on its way from the residual stream into its tile.
    pub(super) static ROW: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Activations {
    /// Reserves room for `max_tokens` rows of at most `max_cols` elements.
    pub fn new(
        cpu: &Cpu,
        max_tokens: usize,
        max_cols: usize,
        operands: Operands,
        dtype: ActivationDtype,
    ) -> Self {
        let rounds = cpu.isa().rounds_to_bf16(dtype);
        let operands = Operands {
            dense: operands.dense || operands.bf16 && !rounds,
            bf16: operands.bf16 && rounds,
            ..operands
        };
        let lanes = if operands.int8 { max_tokens.saturating_mul(dtype.num_lanes()) } else { 0 };
        let blocks = lanes.saturating_mul(max_cols / BLOCK);
        let mixed_blocks = if dtype == ActivationDtype::Mixed { blocks } else { 0 };
        let floats = if operands.dense { max_tokens.saturating_mul(max_cols) } else { 0 };
        let pairs = if operands.bf16 { max_tokens.saturating_mul(max_cols / 2) } else { 0 };
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
            pairs: vec![0; pairs],
        }
    }

    /// How many tokens it holds now.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// The forms it holds; int8 only where the columns are whole blocks, bf16 where they are pairs.
    pub(super) fn holds(&self) -> Operands {
        let is_multiple = |of: usize| self.cols.is_multiple_of(of);
        Operands {
            int8: self.operands.int8 && is_multiple(BLOCK),
            dense: self.operands.dense,
            bf16: self.operands.bf16 && is_multiple(2),
        }
    }

    /// Whether it holds what a matrix reads.
    pub(super) fn has(&self, needs: Operands) -> bool {
        let holds = self.holds();
        (holds.int8 || !needs.int8)
            && (holds.dense || !needs.dense)
            && (holds.bf16 || holds.dense || !needs.bf16)
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
}

pub(super) fn with_scratch<T: Clone + Default>(
    which: &'static LocalKey<RefCell<Vec<T>>>,
    len: usize,
    use_it: impl FnOnce(&mut [T]),
) {
    which.with_borrow_mut(|row| {
        if row.len() < len {
            row.resize(len, T::default());
        }
        use_it(&mut row[..len]);
    });
}
