//! Quantised matrices of a mixture's experts: each expert's is packed as others are, one after the other, so that
//! a block finds its expert's by the number.

use std::io;

use super::gemm::moe_gemm;
use super::layout::{GROUP, TILE_ROWS, Tiles};
use super::linear::moe_gemv;
use super::{Form, Piece, pack_row};
use crate::cpu::MatrixPart;
use crate::cuda::launch::Arg;
use crate::cuda::{Device, Float, MAX_GEMV_ROWS, MoeLinear, SliceMut};
use crate::{Error, check_len, check_multiple};

/// Matrices `[n, k]` of codes, one of each expert, in a device's memory.
pub struct QuantizedExperts {
    /// Rows of one form of every expert: `n` of each.
    pieces: Vec<Piece>,
    /// The piece of each of a matrix's parts, and the bytes of an expert's.
    parts: Vec<(usize, usize)>,
    experts: usize,
    n: usize,
    k: usize,
}

impl QuantizedExperts {
    /// Room for the matrices of so many experts. `parts`: what an expert's is made of, forms and rows, in order.
    /// [`Self::parts_mut`] are to be filled.
    pub fn new(
        device: &Device,
        (experts, k): (usize, usize),
        parts: &[(Form, usize)],
    ) -> Result<Self, Error> {
        check_multiple("a matrix's columns", k, GROUP)?;
        let (mut pieces, mut places) = (Vec::<(Form, usize)>::new(), Vec::new());
        for &(form, rows) in parts {
            check_multiple("a matrix's rows", rows, 1)?;
            match pieces.last_mut() {
                // A launch takes a piece.
                Some((last, n)) if *last == form && n.is_multiple_of(TILE_ROWS) => *n += rows,
                _ => pieces.push((form, rows)),
            }
            places.push((pieces.len() - 1, rows.div_ceil(TILE_ROWS) * form.row_bytes(k)));
        }
        let mut first_row = 0;
        let pieces = pieces.into_iter().map(|(form, n)| {
            let bytes = experts * n.div_ceil(TILE_ROWS) * form.row_bytes(k);
            let piece = Piece { form, first_row, n, tiles: device.alloc(bytes)? };
            first_row += n;
            Ok::<_, Error>(piece)
        });
        let pieces = pieces.collect::<Result<_, _>>()?;
        Ok(Self { pieces, parts: places, experts, n: first_row, k })
    }

    /// Where each expert's parts go, expert by expert: rows of tiles of [`Form::row_bytes`], which
    /// [`pack_rows`](Self::pack_rows) makes.
    pub fn parts_mut(&mut self) -> Vec<SliceMut<'_>> {
        let mut rest: Vec<_> =
            self.pieces.iter_mut().map(|piece| Some(piece.tiles.slice_mut())).collect();
        let mut places = Vec::with_capacity(self.experts * self.parts.len());
        for _ in 0..self.experts {
            for &(piece, bytes) in &self.parts {
                let Some(slice) = rest[piece].take() else { continue };
                let (place, others) = slice.split_at(bytes);
                rest[piece] = Some(others);
                places.push(place);
            }
        }
        places
    }

    /// Packs as many rows of tiles as `out` has room for, from the `first` on: 16 rows each. Floats become the
    /// nearest codes.
    pub fn pack_rows(
        part: MatrixPart<'_>,
        form: Form,
        first: usize,
        out: &mut [u8],
    ) -> io::Result<()> {
        out.fill(0);
        let rows = out.chunks_exact_mut(form.row_bytes(part.cols));
        (first..)
            .zip(rows)
            .try_for_each(|(index, bytes)| pack_row(part, index, &mut Tiles::new(form, bytes)))
    }

    /// Bytes of codes and scales.
    pub fn num_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tiles.len()).sum()
    }
}

impl Device {
    /// The product of all pairs, of lengths that the caller checked but for the matrices.
    pub(in crate::cuda) fn moe_linear_quantized(
        &self,
        args: MoeLinear<'_>,
        w: &QuantizedExperts,
    ) -> Result<(), Error> {
        let MoeLinear { float, x, pairs_per_x, mut y, tiles, tiling, n, k, .. } = args;
        check_len("the rows of an expert's matrix", w.n, n)?;
        check_len("the columns of an expert's matrix", w.k, k)?;
        check_len("the number of experts", w.experts, tiling.experts)?;
        if float == Float::F32 {
            return Err(Error::Operand);
        }
        for piece in &w.pieces {
            let is_few = tiling.width == MAX_GEMV_ROWS;
            let (name, mut grid) = match is_few {
                true => moe_gemv(piece.form, float, piece.n),
                false => moe_gemm(piece.form, float, tiling.width, piece.n),
            };
            grid.blocks[usize::from(is_few)] = tiling.num_tiles() as u32;
            let begin = piece.first_row * float.size();
            let len = y.len() - begin;
            let args = [
                x.into(),
                piece.tiles.slice().into(),
                Arg::from(&y.reborrow().at(begin, len)),
                tiles.into(),
                (pairs_per_x as i32).into(),
                (piece.n as i32).into(),
                (k as i32).into(),
                (n as i32).into(),
            ];
            // SAFETY: the kernel's parameters, with the lengths checked above and before; a piece's rows are
            // columns of `y`, and `moe_tiles` lists no expert and no pair that there isn't.
            unsafe { self.launch(name, grid, &args) }?;
        }
        Ok(())
    }
}
