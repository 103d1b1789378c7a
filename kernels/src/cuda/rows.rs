//! Rows by index: embeddings of tokens, and the hidden states that logits are wanted of.

use super::launch::{Arg, Grid};
use super::{Device, Float, Slice, SliceMut};
use crate::{Error, check_len, check_multiple};

/// Arguments of [`Device::gather_rows`].
pub struct GatherRows<'a> {
    /// Type of all the elements.
    pub float: Float,
    /// `[num_rows, cols]`
    pub table: Slice<'a>,
    /// `[num]` of u32. One past the table gives a row of zeros.
    pub indices: Slice<'a>,
    /// `[num, cols]`
    pub out: SliceMut<'a>,
    /// A multiple of [`Float::pack`].
    pub cols: usize,
}

impl Device {
    /// Copies `out[i] = table[indices[i]]`, for as many rows as there are indices.
    pub fn gather_rows(&self, args: GatherRows<'_>) -> Result<(), Error> {
        let GatherRows { float, table, indices, out, cols } = args;
        check_multiple("a row's length", cols, float.pack())?;
        check_multiple("the indices' bytes", indices.len(), 4)?;
        let row_bytes = cols * float.size();
        check_multiple("the table's bytes", table.len(), row_bytes)?;
        let num = indices.len() / 4;
        check_len("the rows that are gathered", out.len(), num * row_bytes)?;
        let packs = row_bytes / 16;
        let threads = packs.next_multiple_of(32).clamp(32, 256) as u32;
        let args = [
            table.into(),
            indices.into(),
            Arg::from(&out),
            (packs as i32).into(),
            ((table.len() / row_bytes) as u32).into(),
        ];
        // SAFETY: the kernel's parameters, with the lengths checked above; it checks the indices.
        Ok(unsafe { self.launch("gather_rows", Grid::line(num, threads), &args) }?)
    }
}
