//! RMS norm, after the addition to the residual stream.

use super::launch::{Arg, Grid};
use super::{Device, Float, Slice, SliceMut, by_float};
use crate::{Error, check_len, check_multiple};

/// Arguments of [`Device::add_rms_norm`].
pub struct AddRmsNorm<'a> {
    /// Type of all the elements.
    pub float: Float,
    /// `[rows, cols]`, changed where there is a `delta`.
    pub residual: SliceMut<'a>,
    /// `[rows, cols]`: added to the residual stream first.
    pub delta: Option<Slice<'a>>,
    /// `[cols]`
    pub weight: Slice<'a>,
    /// `[rows, cols]`
    pub out: SliceMut<'a>,
    /// Tokens.
    pub rows: usize,
    /// A multiple of [`Float::pack`].
    pub cols: usize,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl Device {
    /// `residual += delta; out = residual / rms(residual) * weight` (Zhang and Sennrich, 2019).
    pub fn add_rms_norm(&self, args: AddRmsNorm<'_>) -> Result<(), Error> {
        let AddRmsNorm { float, residual, delta, weight, out, rows, cols, epsilon } = args;
        check_multiple("the norm's width", cols, float.pack())?;
        let bytes = rows * cols * float.size();
        check_len("the residual stream", residual.len(), bytes)?;
        check_len("the norm's weights", weight.len(), cols * float.size())?;
        check_len("the norm's output", out.len(), bytes)?;
        if let Some(delta) = delta {
            check_len("what is added to the residual stream", delta.len(), bytes)?;
        }
        // One pass where the row is short enough, whole warps, and not so few that a block idles.
        let threads = cols.div_ceil(float.pack()).next_multiple_of(32).clamp(64, 1024) as u32;
        let args = [
            Arg::from(&residual),
            Arg::optional(delta),
            weight.into(),
            Arg::from(&out),
            (cols as i32).into(),
            epsilon.into(),
        ];
        let name = by_float!(float, "add_rms_norm");
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, Grid::line(rows, threads), &args) }?)
    }
}
