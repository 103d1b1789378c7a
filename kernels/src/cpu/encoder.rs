//! What encoders have of their own: layer normalization, GELU, and attention in which every token
//! of a sequence sees all of them.
//!
//! Sequences lie one after the other, without padding, whatever their lengths are.

use std::cell::RefCell;
use std::ptr;

use super::kernels::attend::{Mix, SPLIT, SPLIT_BLOCKS, Scores, Softmax};
use super::kernels::rows::LayerNormRow;
use super::shared::SharedMut;
use super::simd::LANES;
use super::{Activations, Cpu};
use crate::{Error, check_len, check_multiple};

/// Elements below which waking the pool costs more than it saves.
const MIN_PARALLEL: usize = 8192;
/// Tokens of a unit of work.
const UNIT_TOKENS: usize = 8;

/// Layer normalization (Ba et al., 2016) of what a matrix adds to the residual stream.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[cols]`: added to every row first. The bias of the matrix.
    pub linear_bias: &'a [f32],
    /// `[cols]`
    pub weight: &'a [f32],
    /// `[cols]`
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

/// The arguments of [`Cpu::full_attention`].
#[derive(Clone, Copy, Debug)]
pub struct FullAttention<'a> {
    /// `[num_tokens, 3 * num_heads * head_dim]`: queries, keys, values.
    pub qkv: &'a [f32],
    /// Heads.
    pub num_heads: usize,
    /// Elements of a head, a multiple of 16.
    pub head_dim: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// How many tokens each sequence has.
    pub lens: &'a [usize],
}

impl FullAttention<'_> {
    fn width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    fn check(&self, out: &[f32]) -> Result<(), Error> {
        check_multiple("full attention: heads", self.num_heads, 1)?;
        check_multiple("full attention: head_dim", self.head_dim, LANES)?;
        let num_tokens = self.lens.iter().fold(0_usize, |sum, len| sum.saturating_add(*len));
        let row = 3 * self.width();
        check_len("full attention: qkv", self.qkv.len(), num_tokens.saturating_mul(row))?;
        check_len("full attention: out", out.len(), num_tokens * self.width())
    }
}

impl Cpu {
    /// Replaces every row of `residual` by the normalized sum of itself, `x` and the bias.
    ///
    /// `x` and `residual`: `[num_tokens, cols]`.
    pub fn add_layer_norm(
        &self,
        x: &[f32],
        norm: LayerNorm<'_>,
        residual: &mut [f32],
    ) -> Result<(), Error> {
        let cols = norm.weight.len();
        check_multiple("layer norm: columns", cols, 1)?;
        check_len("layer norm: bias", norm.bias.len(), cols)?;
        check_len("layer norm: linear bias", norm.linear_bias.len(), cols)?;
        check_len("layer norm: x", x.len(), residual.len())?;
        check_multiple("layer norm: elements", residual.len(), cols)?;
        let num_tokens = residual.len() / cols;
        let rows = SharedMut::new(residual);
        let unit = |unit: usize| {
            SCRATCH.with_borrow_mut(|scratch| {
                grow(&mut scratch.row, cols);
                for token in unit * UNIT_TOKENS..num_tokens.min((unit + 1) * UNIT_TOKENS) {
                    // SAFETY: each row is taken once.
                    let row = unsafe { rows.part(token * cols, cols) };
                    let out = &mut scratch.row[..cols];
                    let args = LayerNormRow {
                        row: &x[token * cols..][..cols],
                        residual: row,
                        linear_bias: norm.linear_bias,
                        weight: norm.weight,
                        bias: norm.bias,
                        eps: norm.eps,
                    };
                    // SAFETY: the table is this machine's; all slices have `cols` elements.
                    unsafe { (self.kernels.layer_norm)(&args, out) };
                    row.copy_from_slice(out);
                }
            });
        };
        let is_long = num_tokens * cols >= MIN_PARALLEL;
        self.pool.run_if(is_long, num_tokens.div_ceil(UNIT_TOKENS), &unit);
        Ok(())
    }

    /// Puts `gelu(x + bias)` into `out`.
    ///
    /// `x`: `[num_tokens, bias.len()]`.
    pub fn gelu(
        &self,
        x: &[f32],
        num_tokens: usize,
        bias: &[f32],
        out: &mut Activations,
    ) -> Result<(), Error> {
        let cols = bias.len();
        check_multiple("gelu: tokens", num_tokens, 1)?;
        check_len("gelu: x", x.len(), num_tokens.saturating_mul(cols))?;
        self.map_rows(num_tokens, cols, out, &|token, part, scratch| {
            let x = &x[token * cols..][..cols];
            // SAFETY: the table is this machine's; the three lengths are the part's.
            unsafe { (self.kernels.gelu)(&x[part.clone()], &bias[part], scratch) };
        })
    }

    /// Attention in which every token sees all tokens of its sequence.
    ///
    /// `out`: `[num_tokens, num_heads * head_dim]`.
    pub fn full_attention(&self, args: FullAttention<'_>, out: &mut [f32]) -> Result<(), Error> {
        args.check(out)?;
        let mut starts = Vec::with_capacity(args.lens.len());
        let (mut first, mut work) = (0, 0_usize);
        for len in args.lens {
            starts.push(first);
            first += len;
            work = work.saturating_add(len * len * args.head_dim);
        }
        let call = Call { cpu: self, args, out: SharedMut::new(out) };
        let num_units = args.lens.len() * args.num_heads;
        let unit = |unit: usize| {
            let (sequence, head) = (unit / args.num_heads, unit % args.num_heads);
            call.run(starts[sequence], args.lens[sequence], head);
        };
        self.pool.run_if(work >= MIN_PARALLEL, num_units, &unit);
        Ok(())
    }
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// `[blocks][head_dim][16]`
    keys: Vec<f32>,
    /// `[blocks][16][head_dim]`
    values: Vec<f32>,
    /// `[head_dim][m]`
    queries: Vec<f32>,
    /// `[m][SPLIT]`
    weights: Vec<f32>,
    /// `[m][head_dim]`
    mixed: Vec<f32>,
    /// `[m][head_dim]`: the sums over the splits.
    sums: Vec<f32>,
    row: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

struct Call<'a> {
    cpu: &'a Cpu,
    args: FullAttention<'a>,
    out: SharedMut<'a, f32>,
}

/// What a query row has come to over the splits so far: the largest score, and the sum of the
/// weights.
type Total = (f32, f32);

impl Call<'_> {
    /// Computes one head of a sequence.
    fn run(&self, first: usize, len: usize, head: usize) {
        let (head_dim, tile) = (self.args.head_dim, self.cpu.kernels.query_tile());
        SCRATCH.with_borrow_mut(|scratch| {
            let padded = len.next_multiple_of(LANES) * head_dim;
            grow(&mut scratch.keys, padded);
            grow(&mut scratch.values, padded);
            grow(&mut scratch.queries, tile * head_dim);
            grow(&mut scratch.weights, tile * SPLIT);
            grow(&mut scratch.mixed, tile * head_dim);
            grow(&mut scratch.sums, tile * head_dim);
            self.gather(first, len, head, scratch);
            for query in (0..len).step_by(tile) {
                let width = tile.min(len - query);
                self.attend(first + query, width, (len, head), scratch);
            }
        });
    }

    /// A token's query (0), key (1) or value (2).
    fn part(&self, token: usize, head: usize, which: usize) -> &[f32] {
        let (width, head_dim) = (self.args.width(), self.args.head_dim);
        &self.args.qkv[token * 3 * width + which * width + head * head_dim..][..head_dim]
    }

    /// Lays keys and values out as the kernels read them.
    fn gather(&self, first: usize, len: usize, head: usize, scratch: &mut Scratch) {
        let head_dim = self.args.head_dim;
        for position in 0..len {
            let (block, lane) = (position / LANES, position % LANES);
            let key = self.part(first + position, head, 1);
            let keys = &mut scratch.keys[block * LANES * head_dim..][..LANES * head_dim];
            for (to, value) in keys[lane..].iter_mut().step_by(LANES).zip(key) {
                *to = *value;
            }
            let value = self.part(first + position, head, 2);
            scratch.values[position * head_dim..][..head_dim].copy_from_slice(value);
        }
        // What an earlier sequence left there could make a score infinite.
        let (block, lanes) = (len / LANES, len % LANES);
        if lanes > 0 {
            let keys = &mut scratch.keys[block * LANES * head_dim..][..LANES * head_dim];
            for keys in keys.chunks_exact_mut(LANES) {
                keys[lanes..].fill(0.0);
            }
        }
    }

    /// Computes a tile of `width` query rows from token `query` on.
    fn attend(
        &self,
        query: usize,
        width: usize,
        (len, head): (usize, usize),
        scratch: &mut Scratch,
    ) {
        let head_dim = self.args.head_dim;
        for row in 0..width {
            let values = self.part(query + row, head, 0).iter();
            let to = scratch.queries[row..].iter_mut().step_by(width);
            for (to, value) in to.zip(values) {
                *to = value * self.args.scale;
            }
        }
        let mut totals = [(f32::NEG_INFINITY, 0.0); LANES];
        for split in 0..len.div_ceil(SPLIT) {
            let num_positions = SPLIT.min(len - split * SPLIT);
            let results = self.attend_split(split, num_positions, width, scratch);
            for (row, result) in results.into_iter().enumerate().take(width) {
                let mixed = &scratch.mixed[row * head_dim..][..head_dim];
                let sums = &mut scratch.sums[row * head_dim..][..head_dim];
                join(sums, &mut totals[row], mixed, (split, result));
            }
        }
        for (row, (_, sum)) in totals.into_iter().enumerate().take(width) {
            let at = (query + row) * self.args.width() + head * head_dim;
            // SAFETY: this token's head belongs to this unit alone.
            let out = unsafe { self.out.part(at, head_dim) };
            let inverse = 1.0 / sum;
            for (out, value) in out.iter_mut().zip(&scratch.sums[row * head_dim..]) {
                *out = value * inverse;
            }
        }
    }

    /// Computes one split's weighted values into `scratch.mixed`.
    fn attend_split(
        &self,
        split: usize,
        num_positions: usize,
        width: usize,
        scratch: &mut Scratch,
    ) -> [Total; LANES] {
        let (head_dim, kernels) = (self.args.head_dim, self.cpu.kernels);
        let num_blocks = num_positions.div_ceil(LANES);
        let (mut keys, mut values) = ([ptr::null(); SPLIT_BLOCKS], [ptr::null(); SPLIT_BLOCKS]);
        for index in 0..num_blocks {
            let at = (split * SPLIT_BLOCKS + index) * LANES * head_dim;
            keys[index] = scratch.keys[at..][..LANES * head_dim].as_ptr().cast();
            values[index] = scratch.values[at..][..LANES * head_dim].as_ptr().cast();
        }
        let weights = scratch.weights.as_mut_ptr();
        let args = Scores {
            queries: scratch.queries.as_ptr(),
            x: ptr::null(),
            scales: ptr::null(),
            offsets: ptr::null(),
            head_dim,
            keys: &keys,
            num_blocks,
            prefetch: None,
            scores: weights,
        };
        // SAFETY: the table is this machine's; the queries were gathered for `width` rows, the
        // weights have room for a whole tile, and there are `num_blocks` whole blocks of f32.
        unsafe { kernels.scores_f32[width - 1](&args) };
        let mut results = [(0.0, 0.0); LANES];
        for (row, result) in results[..width].iter_mut().enumerate() {
            let mut args = Softmax {
                scores: weights.wrapping_add(row * SPLIT),
                to_bf16: false,
                first: 0,
                visible: num_positions,
                num_blocks,
                largest: 0.0,
                sum: 0.0,
            };
            // SAFETY: the table is this machine's; `num_blocks` blocks fit into a split.
            unsafe { (kernels.softmax)(&mut args) };
            *result = (args.largest, args.sum);
        }
        let out = scratch.mixed.as_mut_ptr();
        let args = Mix { weights, values: &values, num_positions, head_dim, prefetch: None, out };
        // SAFETY: as for the scores.
        unsafe { kernels.mix_f32[width - 1](&args) };
        results
    }
}

/// Adds a split to the sums of those before it.
fn join(sums: &mut [f32], total: &mut Total, mixed: &[f32], (split, result): (usize, Total)) {
    if split == 0 {
        sums.copy_from_slice(mixed);
        *total = result;
        return;
    }
    let largest = total.0.max(result.0);
    let (old_factor, factor) = ((total.0 - largest).exp(), (result.0 - largest).exp());
    for (sum, mixed) in sums.iter_mut().zip(mixed) {
        *sum = *sum * old_factor + mixed * factor;
    }
    *total = (largest, total.1 * old_factor + result.1 * factor);
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
