//! Matrix multiplication: every token times a packed matrix.
//!
//! A unit of work is a few panels. Within it, tokens go in chunks whose activations stay in the
//! second-level cache, so weights come from memory once however many tokens there are.

use super::argmax::Argmax;
use super::kernels::gemm::{Codes, Tile};
use super::kernels::{Kernels, Widths};
use super::matrix::{PackedMatrix, PackedPart};
use super::panels::{BLOCK, Format};
use super::shared::SharedMut;
use super::simd::LANES;
use super::{Activations, Cpu, Operands, activations};
use crate::{Error, check_len};

/// Bytes of activations that a pass over a unit's panels reads.
const CHUNK_BYTES: usize = 384 << 10;
/// Units per thread: enough that a thread that loses its processor is made up for.
const UNITS_PER_THREAD: usize = 8;
/// Panels per unit at most.
const MAX_UNIT_PANELS: usize = 32;
/// The widest register tile of any instruction set.
const MAX_TILE: usize = 8;

/// What happens to a product: row-major `[num_tokens, rows]`.
#[derive(Debug)]
pub enum Output<'a> {
    /// It replaces what is there.
    Store(&'a mut [f32]),
    /// It is added to what is there.
    Add(&'a mut [f32]),
    /// It replaces what is there for those of the `[num_tokens]` whose greatest product is not
    /// wanted; of the others nothing is stored.
    StoreOrArgmax(&'a mut [f32], &'a [Argmax]),
}

/// One multiplication, as its units see it.
struct Product<'a> {
    kernels: &'a Kernels,
    weights: &'a PackedMatrix,
    x: &'a Activations,
    out: SharedMut<'a, f32>,
    accumulate: bool,
    /// Of each token, or empty.
    argmax: &'a [Argmax],
}

impl Cpu {
    /// Multiplies every token with the matrix. A token's result does not depend on which other
    /// tokens there are.
    pub fn matmul(
        &self,
        weights: &PackedMatrix,
        x: &Activations,
        out: Output<'_>,
    ) -> Result<(), Error> {
        check_len("matmul: the activations' columns", x.cols, weights.cols())?;
        if !x.has(weights.operands()) || x.tile != self.kernels.tile() {
            return Err(Error::Operand);
        }
        let (accumulate, out, argmax) = match out {
            Output::Store(out) => (false, out, &[][..]),
            Output::Add(out) => (true, out, &[][..]),
            Output::StoreOrArgmax(out, argmax) => {
                check_len("matmul: argmax", argmax.len(), x.num_tokens)?;
                (false, out, argmax)
            }
        };
        check_len("matmul: out", out.len(), x.num_tokens.saturating_mul(weights.rows()))?;
        let out = SharedMut::new(out);
        let product = Product { kernels: self.kernels, weights, x, out, accumulate, argmax };
        let num_panels = weights.num_panels();
        let unit = (num_panels / (self.num_threads() * UNITS_PER_THREAD)).clamp(1, MAX_UNIT_PANELS);
        self.pool.run(num_panels.div_ceil(unit), &|index| {
            product.run(index * unit, num_panels.min((index + 1) * unit));
        });
        Ok(())
    }
}

impl Product<'_> {
    /// Multiplies all tokens with panels `first..end`.
    fn run(&self, first: usize, end: usize) {
        let tile = self.x.tile;
        let Operands { dense, bf16, .. } = self.x.holds();
        let element_bytes =
            if dense { 4 } else { 0 } + if bf16 { 2 } else { 0 } + 2 * self.x.num_lanes();
        let token_bytes = element_bytes * self.x.cols.max(1);
        let chunk = (CHUNK_BYTES / token_bytes).max(tile) / tile * tile;
        for chunk_start in (0..self.x.num_tokens).step_by(chunk) {
            let chunk_end = self.x.num_tokens.min(chunk_start + chunk);
            for panel in first..end {
                let part = self.weights.part_of_panel(panel);
                let lanes = if part.format.is_float() { 1 } else { self.x.num_lanes() };
                for lane in (chunk_start * lanes..chunk_end * lanes).step_by(tile) {
                    self.run_tile(part, panel, lane, lanes);
                }
            }
        }
    }

    /// Multiplies one panel with the tile that starts at a lane; each token has `lanes`.
    fn run_tile(&self, part: &PackedPart, panel: usize, lane: usize, lanes: usize) {
        let x = self.x;
        let width = x.tile.min(x.num_tokens * lanes - lane);
        let token = lane / lanes;
        let row = (panel - part.first_panel) * LANES;
        let num_rows = LANES.min(part.rows - row);
        let stride = self.weights.rows();
        let start = token * stride + part.first_row + row;
        let blocks = if part.format.is_float() { 0 } else { lane * (x.cols / BLOCK) };
        let tile = Tile {
            weights: self.weights.panel(part, panel).as_ptr(),
            num_blocks: x.cols / part.format.block_len(),
            codes: pointers(&x.codes).at_group(blocks, 1),
            outliers: match x.outliers.get(blocks..) {
                Some(outliers) if !outliers.is_empty() => outliers.as_ptr(),
                _ => std::ptr::null(),
            },
            rest: pointers(&x.rest).at_group(blocks, 1),
            dense: x.dense.as_ptr().wrapping_add(token * x.cols),
            pairs: x.pairs.as_ptr().wrapping_add(token * (x.cols / 2)),
            out: self.out.at(start),
            out_stride: stride,
            accumulate: self.accumulate,
        };
        let kernel = kernels_of(self.kernels, part.format, x.holds())[width - 1];
        let argmax = self.argmax.get(token..).unwrap_or_default();
        let argmax = &argmax[..argmax.len().min(width / lanes)];
        if num_rows == LANES && lanes == 1 && !argmax.iter().any(Argmax::is_wanted) {
            // SAFETY: the table is this machine's. The panel is `cols` columns long, the
            // activations hold the operand that the format reads for every token (`matmul`
            // checked), and so are its tiles. The 16 rows of `width` tokens are inside `out`,
            // whose length `matmul` checked, and written by this unit alone.
            unsafe { kernel(&tile) };
            return;
        }
        let mut edge = [0.0; LANES * MAX_TILE];
        let out = edge.as_mut_ptr();
        let tile = Tile { out, out_stride: LANES, accumulate: false, ..tile };
        // SAFETY: as above, with an output of its own.
        unsafe { kernel(&tile) };
        for (t, sums) in edge.chunks_exact_mut(lanes * LANES).take(width / lanes).enumerate() {
            let (sums, second) = sums.split_at_mut(LANES);
            for (sum, second) in sums.iter_mut().zip(second) {
                *sum += *second;
            }
            let sums = &sums[..num_rows];
            if let Some(argmax) = argmax.get(t).filter(|argmax| argmax.is_wanted()) {
                argmax.offer(part.first_row + row, sums);
                continue;
            }
            // SAFETY: these rows of these tokens belong to this unit alone.
            let out = unsafe { self.out.part(start + t * stride, num_rows) };
            for (sum, out) in sums.iter().zip(out) {
                *out = if self.accumulate { sum + *out } else { *sum };
            }
        }
    }
}

fn pointers(codes: &activations::Codes) -> Codes {
    Codes {
        x: codes.quants.as_ptr(),
        scales: codes.scales.as_ptr(),
        offsets: codes.offsets.as_ptr(),
    }
}

fn kernels_of(kernels: &Kernels, format: Format, holds: Operands) -> Widths<Tile> {
    match format {
        Format::BF16 if holds.bf16 => kernels.bf16_pairs,
        Format::P4 => kernels.p4,
        Format::P5 => kernels.p5,
        Format::P5Min => kernels.p5_min,
        Format::P4K => kernels.p4k,
        Format::P5K => kernels.p5k,
        Format::P6K => kernels.p6k,
        Format::P8 => kernels.p8,
        Format::F32 => kernels.f32,
        Format::F16 => kernels.f16,
        Format::BF16 => kernels.bf16,
    }
}
