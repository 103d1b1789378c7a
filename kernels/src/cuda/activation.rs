//! What happens element by element: gated activations, biases, other types of floats.

use super::launch::{Arg, Grid};
use super::{Device, Float, Slice, SliceMut, by_float};
use crate::{Error, check_len, check_multiple};

/// Threads of a block.
const THREADS: u32 = 256;

/// What a gate is put through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// `x * sigmoid(x)`
    Silu,
    /// The approximation by the hyperbolic tangent.
    GeluTanh,
    /// The exact form, by the error function.
    GeluErf,
}

/// Arguments of [`Device::gate_mul`].
pub struct GateMul<'a> {
    /// Type of all the elements.
    pub float: Float,
    /// The function.
    pub gate: Gate,
    /// `[rows, 2 * cols]`: a row is its gates and then its factors.
    pub gate_up: Slice<'a>,
    /// `[rows, cols]`
    pub out: SliceMut<'a>,
    /// Tokens.
    pub rows: usize,
    /// A multiple of [`Float::pack`].
    pub cols: usize,
}

impl Device {
    /// `out = gate(gate_up[.., ..cols]) * gate_up[.., cols..]`
    pub fn gate_mul(&self, args: GateMul<'_>) -> Result<(), Error> {
        let GateMul { float, gate, gate_up, out, rows, cols } = args;
        check_multiple("the gates' width", cols, float.pack())?;
        let bytes = rows * cols * float.size();
        check_len("the gates and factors", gate_up.len(), 2 * bytes)?;
        check_len("the gates' output", out.len(), bytes)?;
        let name = match gate {
            Gate::Silu => by_float!(float, "silu_mul"),
            Gate::GeluTanh => by_float!(float, "gelu_tanh_mul"),
            Gate::GeluErf => by_float!(float, "gelu_erf_mul"),
        };
        let packs = bytes / 16;
        let args = [gate_up.into(), Arg::from(&out), (cols as i32).into(), (packs as u32).into()];
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, grid(packs), &args) }?)
    }

    /// `x *= factor`, of whole packs.
    pub fn scale(&self, float: Float, x: &mut SliceMut<'_>, factor: f32) -> Result<(), Error> {
        check_multiple("the bytes that are scaled", x.len(), 16)?;
        let packs = x.len() / 16;
        let args = [Arg::from(&*x), factor.into(), (packs as u32).into()];
        // SAFETY: the kernel's parameters, with the length checked above.
        Ok(unsafe { self.launch(by_float!(float, "scale"), grid(packs), &args) }?)
    }

    /// `x = cap * tanh(x / cap)`, of f32.
    pub fn soft_cap(&self, x: &mut SliceMut<'_>, cap: f32) -> Result<(), Error> {
        check_multiple("the bytes that are capped", x.len(), 4)?;
        let len = x.len() / 4;
        let args = [Arg::from(&*x), cap.into(), (len as u32).into()];
        // SAFETY: the kernel's parameters, of as many elements as there are.
        Ok(unsafe { self.launch("soft_cap", grid(len), &args) }?)
    }

    /// `x[row] += bias` for every row of `x`, whose length is the bias's.
    pub fn add_bias(
        &self,
        float: Float,
        x: &mut SliceMut<'_>,
        bias: Slice<'_>,
    ) -> Result<(), Error> {
        let cols = bias.len() / float.size();
        check_multiple("a bias's width", cols, float.pack())?;
        check_multiple("the bytes that a bias is added to", x.len(), bias.len())?;
        let packs = x.len() / 16;
        let args = [Arg::from(&*x), bias.into(), (cols as i32).into(), (packs as u32).into()];
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(by_float!(float, "add_bias"), grid(packs), &args) }?)
    }

    /// Writes as many elements as `from` has as another type of floats, or the same.
    pub fn convert(
        &self,
        (from_float, from): (Float, Slice<'_>),
        (to_float, mut to): (Float, SliceMut<'_>),
    ) -> Result<(), Error> {
        let len = from.len() / from_float.size();
        check_len("what floats are converted to", to.len(), len * to_float.size())?;
        let name = match (from_float, to_float) {
            (Float::F32, Float::F16) => "convert_f32_f16",
            (Float::F32, Float::BF16) => "convert_f32_bf16",
            (Float::F16, Float::F32) => "convert_f16_f32",
            (Float::F16, Float::BF16) => "convert_f16_bf16",
            (Float::BF16, Float::F32) => "convert_bf16_f32",
            (Float::BF16, Float::F16) => "convert_bf16_f16",
            (Float::F32, Float::F32) | (Float::F16, Float::F16) | (Float::BF16, Float::BF16) => {
                return self.copy(from, &mut to);
            }
        };
        let args = [from.into(), Arg::from(&to), (len as u32).into()];
        // SAFETY: the kernel's parameters, with the lengths checked above.
        Ok(unsafe { self.launch(name, grid(len.div_ceil(8)), &args) }?)
    }
}

/// A thread each.
fn grid(threads: usize) -> Grid {
    Grid::line(threads.div_ceil(THREADS as usize), THREADS)
}
