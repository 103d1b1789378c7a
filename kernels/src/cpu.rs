//! The processor as a device: a thread pool, the kernels for its instruction set, and the
//! operations of a forward pass.
//!
//! Every operation's result for a token is the same bit for bit whatever else is in the batch.

mod activations;
mod argmax;
mod attention;
pub(crate) mod blocks;
mod encoder;
mod isa;
mod kernels;
mod kv_cache;
mod matmul;
mod matrix;
mod memory;
mod moe;
#[cfg(target_os = "linux")]
mod numa;
mod panels;
mod pool;
mod rope;
mod rows;
mod shared;
mod simd;

use std::num::NonZeroUsize;
use std::sync::Mutex;

pub use self::activations::{ActivationDtype, Activations, Operands, RmsNorm};
pub use self::argmax::Argmax;
pub use self::attention::{Attention, AttentionRow};
pub use self::blocks::dequantize;
pub use self::encoder::{FullAttention, LayerNorm};
pub use self::isa::Isa;
pub use self::kv_cache::{KvCache, KvDtype, KvShape};
pub use self::matmul::Output;
pub use self::matrix::{Compute, MatrixPart, PackedMatrix, ReadBytes};
pub use self::moe::{Route, RouteWeights, route};
pub use self::rope::{HeadNorms, RopeAndCache, RopeStyle, RopeTable};

use self::kernels::Kernels;
use self::memory::Arena;
use self::pool::Pool;
use self::shared::SharedMut;
use crate::{Error, check_index, check_len, check_multiple};

/// Rows of a unit that a bias is added to, and elements below which one thread does it.
const BIAS_ROWS: usize = 16;
const MIN_SHARED_BIAS: usize = 1 << 16;

/// The device. Operations take `&self`; one runs at a time on all threads, and one that is called
/// while another runs goes on alone on its caller's thread.
pub struct Cpu {
    isa: Isa,
    kernels: &'static Kernels,
    pool: Pool,
    attention: Mutex<attention::State>,
    weights: Mutex<Arena>,
}

impl Cpu {
    /// Starts the device on `num_threads` threads, the caller's among them.
    pub fn new(num_threads: NonZeroUsize, isa: Isa) -> Result<Self, Error> {
        if !isa.is_available() {
            return Err(Error::Isa(isa));
        }
        let pool = Pool::new(num_threads)?;
        let kernels = Kernels::of(isa);
        Ok(Self { isa, kernels, pool, attention: Mutex::default(), weights: Mutex::default() })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How many threads take part in an operation.
    pub fn num_threads(&self) -> usize {
        self.pool.num_threads()
    }

    /// Calls `f` once for each item, in parallel, with the item's index.
    pub fn parallel<T: Send>(&self, items: &mut [T], f: impl Fn(usize, &mut T) + Sync) {
        let num_items = items.len();
        let items = SharedMut::new(items);
        self.pool.run(num_items, &|index| {
            // SAFETY: each item is taken once.
            f(index, &mut unsafe { items.part(index, 1) }[0]);
        });
    }

    /// Adds the bias to every row of `x` (`[num_tokens, bias.len()]`).
    pub fn add_bias(&self, x: &mut [f32], bias: &[f32]) -> Result<(), Error> {
        check_multiple("add_bias: bias", bias.len(), 1)?;
        if !x.len().is_multiple_of(bias.len()) {
            return Err(Error::NotMultiple { what: "add_bias: x", of: bias.len(), given: x.len() });
        }
        let (len, unit_len) = (x.len(), BIAS_ROWS * bias.len());
        let x = SharedMut::new(x);
        self.pool.run_if(len >= MIN_SHARED_BIAS, len.div_ceil(unit_len), &|unit| {
            let start = unit * unit_len;
            // SAFETY: each unit's rows are taken once.
            let rows = unsafe { x.part(start, unit_len.min(len - start)) };
            for row in rows.chunks_exact_mut(bias.len()) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        });
        Ok(())
    }

    /// Copies rows `indices` of `x` (`[num_rows, cols]`) to `out` (`[num_indices, cols]`).
    pub fn gather_rows(
        &self,
        x: &[f32],
        cols: usize,
        indices: &[u32],
        out: &mut [f32],
    ) -> Result<(), Error> {
        check_multiple("gather_rows: columns", cols, 1)?;
        check_len("gather_rows: out", out.len(), indices.len().saturating_mul(cols))?;
        if !x.len().is_multiple_of(cols) {
            return Err(Error::NotMultiple { what: "gather_rows: x", of: cols, given: x.len() });
        }
        for (out, &index) in out.chunks_exact_mut(cols).zip(indices) {
            check_index("row", index as usize, x.len() / cols)?;
            out.copy_from_slice(&x[index as usize * cols..][..cols]);
        }
        Ok(())
    }

    /// Finds each row's largest element; of equals, the first. `logits`: `[num_rows, cols]`.
    pub fn argmax(&self, logits: &[f32], num_rows: usize, out: &mut [u32]) -> Result<(), Error> {
        check_len("argmax: out", out.len(), num_rows)?;
        check_multiple("argmax: rows", num_rows, 1)?;
        check_multiple("argmax: logits", logits.len(), num_rows)?;
        let cols = logits.len() / num_rows;
        self.parallel(out, |row, out| {
            // SAFETY: the table is this machine's.
            let index = unsafe { (self.kernels.argmax)(&logits[row * cols..][..cols]) };
            *out = index as u32;
        });
        Ok(())
    }
}
