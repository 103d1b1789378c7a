//! Quantised matrices: packed at load into one of a few forms, and multiplied without becoming floats.

mod experts;
mod gemm;
mod layout;
mod linear;

use std::io;

use self::layout::{Codes, GROUP, Tiles};
use super::{Buffer, Device, Float, Slice, SliceMut};
use crate::cpu::{MatrixPart, blocks, blocks::Group};
use crate::dtype::Dtype;
use crate::{Error, check_len, check_multiple};

pub use self::experts::QuantizedExperts;
pub use self::layout::Form;
pub use self::linear::LinearQuantized;

/// A weight matrix `[n, k]` of codes, in a device's memory.
pub struct QuantizedMatrix {
    pieces: Vec<Piece>,
    n: usize,
    k: usize,
}

/// Rows of one form.
struct Piece {
    form: Form,
    first_row: usize,
    n: usize,
    tiles: Buffer,
}

impl Form {
    /// Of a checkpoint's type, if it is a quantised one.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q4K | Dtype::Int4 => Some(Self::W4),
            Dtype::Q5_1 | Dtype::Q5K => Some(Self::W8),
            Dtype::Q5_0 | Dtype::Q8_0 | Dtype::Q6K => Some(Self::W8Halves),
            Dtype::Int8 | Dtype::Dequantized => Some(Self::W8Halves),
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => None,
        }
    }
}

impl QuantizedMatrix {
    /// Packs the parts, stacked along the rows; their types may differ, their columns may not. All are
    /// quantised.
    ///
    /// Scales and minima become half floats: those of super-blocks (`Q4K`, `Q5K`, `Q6K`)
    /// after they are multiplied out, of `Int4` its zero point times its scale. Every other type of ggml's
    /// is kept exactly.
    pub fn pack(device: &Device, parts: &[MatrixPart<'_>]) -> Result<Self, Error> {
        Self::pack_with(device, parts, None)
    }

    /// As [`Self::pack`], of floats, too, which become the nearest codes of the given form.
    pub fn quantize(
        device: &Device,
        parts: &[MatrixPart<'_>],
        floats: Form,
    ) -> Result<Self, Error> {
        Self::pack_with(device, parts, Some(floats))
    }

    fn pack_with(
        device: &Device,
        parts: &[MatrixPart<'_>],
        floats: Option<Form>,
    ) -> Result<Self, Error> {
        let k = parts.first().ok_or(Error::Empty("a matrix's parts"))?.cols;
        check_multiple("a matrix's columns", k, GROUP)?;
        let mut rows = Rows::default();
        for part in parts {
            part.check()?;
            check_len("the columns of a matrix's part", part.cols, k)?;
            let form = Form::of(part.dtype).or(floats).ok_or(Error::Operand)?;
            let packed = layout::pack(form, part.rows, k, |index, to| pack_row(*part, index, to));
            rows.push(form, part.rows, packed.map_err(Error::Read)?);
        }
        rows.upload(device, k)
    }

    /// Output features.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input features.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of codes and scales.
    pub fn num_bytes(&self) -> usize {
        self.pieces.iter().map(|piece| piece.tiles.len()).sum()
    }
}

/// Packs a row of tiles, by its number.
fn pack_row(part: MatrixPart<'_>, index: usize, to: &mut Tiles<'_>) -> io::Result<()> {
    part.with_rows(index, |rows| {
        for (row, bytes) in rows.iter().enumerate() {
            for index in 0..part.cols / GROUP {
                let group = group(part.dtype, to.form(), bytes, index);
                to.put(row, index, &Codes::of(&group, to.form()));
            }
        }
    })
}

/// A group of a row, of floats the nearest codes.
fn group(dtype: Dtype, form: Form, row: &[u8], index: usize) -> Group {
    if dtype.block_len() > 1 {
        return blocks::group(dtype, row, index);
    }
    let bytes = GROUP * dtype.block_bytes();
    let mut elements = [0.0; GROUP];
    blocks::dequantize_row(dtype, &row[index * bytes..][..bytes], &mut elements);
    match form {
        Form::W4 => Group::q4(&elements),
        Form::W8 | Form::W8Halves => Group::q8(&elements),
    }
}

/// Packed rows on their way to the device.
#[derive(Default)]
struct Rows {
    pieces: Vec<(Form, usize, Vec<u8>)>,
}

impl Rows {
    /// Appends to the last piece if it can: a launch takes a piece.
    fn push(&mut self, form: Form, n: usize, mut packed: Vec<u8>) {
        match self.pieces.last_mut() {
            Some((last, rows, to)) if *last == form && rows.is_multiple_of(layout::TILE_ROWS) => {
                *rows += n;
                to.append(&mut packed);
            }
            _ => self.pieces.push((form, n, packed)),
        }
    }

    fn upload(self, device: &Device, k: usize) -> Result<QuantizedMatrix, Error> {
        let (mut pieces, mut first_row) = (Vec::with_capacity(self.pieces.len()), 0);
        for (form, n, packed) in self.pieces {
            pieces.push(Piece { form, first_row, n, tiles: device.buffer_of(&packed)? });
            first_row += n;
        }
        Ok(QuantizedMatrix { pieces, n: first_row, k })
    }
}

/// Arguments of [`Device::gather_quantized_rows`].
pub struct GatherQuantizedRows<'a> {
    /// The table.
    pub table: &'a QuantizedMatrix,
    /// `[num]` of u32. One past the table gives a row of zeros.
    pub indices: Slice<'a>,
    /// Type of `out`.
    pub float: Float,
    /// `[num, k]`
    pub out: SliceMut<'a>,
}
