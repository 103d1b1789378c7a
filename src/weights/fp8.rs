//! Matrices of 8-bit floats as hardware multiplies them: codes as they are in the file.

use std::io;

use super::packed::{Codes, Packed, floats};
use super::{Checkpoint, Error};

/// A matrix of 8-bit floats with a scale per row at most.
#[derive(Clone, Copy)]
pub(crate) struct Fp8Rows<'a> {
    packed: &'a Packed,
}

impl Checkpoint {
    /// The matrix with this Hugging Face name, if it is one of 8-bit floats that has no more than a
    /// scale for each row.
    pub(crate) fn fp8(&self, name: &str) -> Result<Option<Fp8Rows<'_>>, Error> {
        let packed = self.span(name)?.as_packed();
        let is_by_row = |packed: &&Packed| {
            let places = packed.places;
            packed.codes == Codes::E4M3 && places.group_stride == 0 && places.row_block == 1
        };
        Ok(packed.filter(is_by_row).map(|packed| Fp8Rows { packed }))
    }
}

impl Fp8Rows<'_> {
    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.packed.shape
    }

    /// Fills `out` with codes from `offset` on, of rows one after the other.
    pub(crate) fn read_codes_at(&self, offset: usize, out: &mut [u8]) -> io::Result<()> {
        self.packed.weight.read_at(offset, out)
    }

    /// `[rows]`
    pub(crate) fn scales(&self) -> Result<Vec<f32>, Error> {
        let scales = floats(&self.packed.scales)?;
        Ok((0..self.packed.shape[0]).map(|row| scales[self.packed.places.of(row, 0)]).collect())
    }
}
