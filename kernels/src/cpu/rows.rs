//! What some families do to rows of the residual stream and of the logits beside the rest.

use super::activations::{ROW, with_scratch};
use super::kernels::rows::Norm;
use super::shared::SharedMut;
use super::{Cpu, RmsNorm};
use crate::{Error, check_index, check_len, check_multiple};

/// Elements below which waking the pool costs more than it saves.
const MIN_PARALLEL: usize = 8192;
/// Elements of a unit of work over a flat buffer.
const UNIT: usize = 4096;

impl Cpu {
    /// Adds the normed rows of `x` to `residual`.
    ///
    /// `x` and `residual`: `[num_tokens, cols]`.
    pub fn add_normed(
        &self,
        x: &[f32],
        norm: RmsNorm<'_>,
        residual: &mut [f32],
    ) -> Result<(), Error> {
        let cols = norm.weight.len();
        check_multiple("add_normed: columns", cols, 1)?;
        check_len("add_normed: residual", residual.len(), x.len())?;
        check_multiple("add_normed: elements", x.len(), cols)?;
        let (is_long, num_tokens) = (x.len() >= MIN_PARALLEL, x.len() / cols);
        let rows = SharedMut::new(residual);
        self.pool.run_if(is_long, num_tokens, &|token| {
            with_scratch(&ROW, cols, |normed| {
                let row = &x[token * cols..][..cols];
                let norm = Norm { row, weight: norm.weight, eps: norm.eps };
                // SAFETY: the table is this machine's; the three lengths are `cols`.
                unsafe { (self.kernels.rms_norm)(&norm, normed) };
                // SAFETY: each row is taken once.
                let residual = unsafe { rows.part(token * cols, cols) };
                for (residual, normed) in residual.iter_mut().zip(normed) {
                    *residual += *normed;
                }
            });
        });
        Ok(())
    }

    /// Multiplies all elements.
    pub fn scale(&self, x: &mut [f32], factor: f32) {
        self.each_unit(x, &|unit| unit.iter_mut().for_each(|x| *x *= factor));
    }

    /// Makes each element `cap * tanh(x / cap)`.
    pub fn soft_cap(&self, x: &mut [f32], cap: f32) {
        // SAFETY: the table is this machine's.
        self.each_unit(x, &|unit| unsafe { (self.kernels.soft_cap)(cap, unit) });
    }

    /// Adds to row `to[i]` of `sums` row `i` of `rows` times `weights[i]`.
    ///
    /// `rows`: `[to.len(), cols]`; `sums`: `[num_rows, cols]`.
    pub fn add_weighted_rows(
        &self,
        rows: &[f32],
        (to, weights): (&[u32], &[f32]),
        sums: &mut [f32],
    ) -> Result<(), Error> {
        check_multiple("add_weighted_rows: rows", to.len(), 1)?;
        check_multiple("add_weighted_rows: elements", rows.len(), to.len())?;
        check_len("add_weighted_rows: weights", weights.len(), to.len())?;
        let cols = rows.len() / to.len();
        check_multiple("add_weighted_rows: sums", sums.len(), cols)?;
        for ((row, &to), weight) in rows.chunks_exact(cols).zip(to).zip(weights) {
            check_index("row", to as usize, sums.len() / cols)?;
            let sums = &mut sums[to as usize * cols..][..cols];
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += weight * x;
            }
        }
        Ok(())
    }

    fn each_unit(&self, x: &mut [f32], work: &(dyn Fn(&mut [f32]) + Sync)) {
        let len = x.len();
        let x = SharedMut::new(x);
        self.pool.run_if(len >= MIN_PARALLEL, len.div_ceil(UNIT), &|unit| {
            // SAFETY: each unit's elements are taken once.
            work(unsafe { x.part(unit * UNIT, UNIT.min(len - unit * UNIT)) });
        });
    }
}
