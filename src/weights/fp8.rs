//! Matrices of 8-bit floats as hardware multiplies them: codes as they are in the file.

use std::io;

use super::packed::{Codes, Packed, floats};
use super::{Checkpoint, Error};

/// A matrix of 8-bit floats with a scale per row at most, or per square of elements.
#[derive(Clone, Copy)]
pub(crate) struct Fp8<'a> {
    packed: &'a Packed,
    scales: Fp8Scales,
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fp8Scales {
    /// A row.
    Rows,
    /// 128 rows and 128 columns.
    Blocks,
}

/// Rows and columns of a square.
pub(crate) const FP8_BLOCK: usize = 128;

impl Checkpoint {
    /// The matrix with this Hugging Face name, if it is one of 8-bit floats that are scaled as hardware takes
    /// them.
    pub(crate) fn fp8(&self, name: &str) -> Result<Option<Fp8<'_>>, Error> {
        let Some(packed) = self.span(name)?.as_packed() else { return Ok(None) };
        let places = packed.places;
        let scales = match (packed.codes, places.row_block, places.group_stride, packed.group) {
            (Codes::E4M3, 1, 0, _) => Fp8Scales::Rows,
            (Codes::E4M3, FP8_BLOCK, 1, FP8_BLOCK) if packed.g_idx.is_none() => Fp8Scales::Blocks,
            _ => return Ok(None),
        };
        Ok(Some(Fp8 { packed, scales }))
    }
}

impl Fp8<'_> {
    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.packed.shape
    }

    /// What shares a scale.
    pub(crate) fn scaling(&self) -> Fp8Scales {
        self.scales
    }

    /// Fills `out` with codes from `offset` on, of rows one after the other.
    pub(crate) fn read_codes_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.packed.weight.read_at(offset, out)
    }

    /// `[rows]`, or `[ceil(rows / 128), ceil(cols / 128)]`.
    pub(crate) fn scales(&self) -> Result<Vec<f32>, Error> {
        let scales = floats(&self.packed.scales)?;
        match self.scales {
            Fp8Scales::Rows => {
                let place = |row| self.packed.places.of(row, 0);
                Ok((0..self.packed.shape[0]).map(|row| scales[place(row)]).collect())
            }
            Fp8Scales::Blocks => Ok(scales),
        }
    }
}
