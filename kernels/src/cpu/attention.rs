//! Causal attention over the paged cache, for any mix of prefill and decode rows.
//!
//! Positions are cut into fixed splits of 256, counted from 0. A split's result for one query
//! (its largest score, the sum of its weights and the weighted values) is computed the same way
//! whatever else is in the batch, and splits are joined in order; so neither chunking a prompt nor
//! batching changes a bit of the result. Tokens of a row go in tiles, so that keys and values
//! loaded once serve several tokens and all query heads of a group.

use std::cell::RefCell;
use std::ptr;

use super::Cpu;
use super::kernels::attend::{Mix, SPLIT, SPLIT_BLOCKS, Scores, Softmax};
use super::kv_cache::{KvCache, KvDtype};
use super::rope::row_len;
use super::shared::SharedMut;
use super::simd::LANES;
use crate::{Error, check_index, check_len, check_multiple};

/// Query rows (tokens times heads of a group) that a prefill tile aims at.
const TILE_ROWS: usize = 24;
/// Units per thread below which single rows are cut at their splits.
const MIN_UNITS_PER_THREAD: usize = 4;
/// Multiplications below which waking the pool costs more than it saves.
const MIN_PARALLEL: usize = 50_000;

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionRow {
    /// The row's first token in the batch.
    pub first_token: usize,
    /// How many tokens it has.
    pub num_tokens: usize,
    /// How many positions come before them.
    pub num_computed: usize,
    /// The row's first entry in `block_tables`.
    pub first_block: usize,
    /// How many entries it has.
    pub num_blocks: usize,
}

/// The arguments of [`Cpu::attention`].
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// `[num_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]`; only queries are read.
    pub qkv: &'a [f32],
    /// Heads of queries.
    pub num_q_heads: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// The layer of the cache.
    pub layer: usize,
    /// The sequences.
    pub rows: &'a [AttentionRow],
    /// The blocks of all rows.
    pub block_tables: &'a [u32],
}

impl Attention<'_> {
    fn check(&self, kv: &KvCache, out: &[f32]) -> Result<(), Error> {
        let shape = kv.shape();
        check_multiple("attention: query heads", self.num_q_heads, shape.num_kv_heads)?;
        check_index("layer", self.layer, shape.num_layers)?;
        let row = row_len(self.num_q_heads, shape);
        check_multiple("attention: qkv", self.qkv.len().max(row), row)?;
        let num_tokens = self.qkv.len() / row;
        check_len("attention: out", out.len(), num_tokens * self.num_q_heads * shape.head_dim)?;
        let mut next_token = 0;
        for row in self.rows {
            check_len("attention: a row's first token", row.first_token, next_token)?;
            next_token = next_token.saturating_add(row.num_tokens);
            let end = row.first_block.saturating_add(row.num_blocks);
            check_index("block table", end, self.block_tables.len() + 1)?;
            let positions = row.num_computed.saturating_add(row.num_tokens);
            let blocks = positions.div_ceil(shape.block_size);
            check_index("blocks of a row", blocks, row.num_blocks + 1)?;
        }
        check_len("attention: the rows' tokens", next_token, num_tokens)?;
        for &block in self.block_tables {
            check_index("block", block as usize, shape.num_blocks)?;
        }
        Ok(())
    }
}

/// A piece of work: some tokens of a row, one head of keys, a range of splits.
#[derive(Clone, Copy, Debug)]
struct Unit {
    row: usize,
    /// Counted within the row.
    first_token: usize,
    num_tokens: usize,
    kv_head: usize,
    first_split: usize,
    end_split: usize,
    /// Where the result goes: `None` when the unit covers all splits, else its place in the
    /// partial results.
    partial: Option<usize>,
}

/// Reused from call to call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    units: Vec<Unit>,
    /// Per partial unit, query row: `head_dim` sums, the largest score, the sum of weights.
    partials: Vec<f32>,
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// Groups of up to a tile of query rows, `[head_dim][m]` each.
    queries: Vec<f32>,
    /// `[m][SPLIT]`
    scores: Vec<f32>,
    /// `[m][head_dim]`
    mixed: Vec<f32>,
    /// `[rows][head_dim + 2]`: as a partial result.
    sums: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default());
}

/// A tile of a unit's query rows, and the split they attend to.
struct SplitRows<'a> {
    /// The first row, counted within the unit.
    base: usize,
    width: usize,
    /// Positions that the unit's last row sees.
    num_positions: usize,
    keys: &'a [*const u8; SPLIT_BLOCKS],
    values: &'a [*const u8; SPLIT_BLOCKS],
}

/// A call, as its units see it.
struct Call<'a> {
    cpu: &'a Cpu,
    args: Attention<'a>,
    kv: &'a KvCache,
    out: SharedMut<'a, f32>,
    /// Query heads of one head of keys.
    group: usize,
    head_dim: usize,
}

impl Cpu {
    /// Attention of every token over its sequence: token `i` of a row sees positions
    /// `0..=num_computed + i`, whose keys and values must be in the cache.
    ///
    /// `out`: `[num_tokens, num_q_heads * head_dim]`. Rows cover the tokens in order.
    pub fn attention(
        &self,
        args: Attention<'_>,
        kv: &KvCache,
        out: &mut [f32],
    ) -> Result<(), Error> {
        args.check(kv, out)?;
        let shape = kv.shape();
        let group = args.num_q_heads / shape.num_kv_heads;
        let head_dim = shape.head_dim;
        let call = Call { cpu: self, args, kv, out: SharedMut::new(out), group, head_dim };
        let mut plan = self.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let plan = &mut *plan;
        let work = call.plan(&mut plan.units);
        let stride = head_dim + 2;
        let partial_rows = plan.units.iter().filter_map(|unit| Some(unit.partial? + group)).max();
        plan.partials.resize(partial_rows.unwrap_or(0) * stride, 0.0);
        let partials = SharedMut::new(&mut plan.partials);
        let units = &plan.units;
        let run = |index: usize| call.run(&units[index], &partials);
        if work < MIN_PARALLEL {
            (0..units.len()).for_each(run);
        } else {
            self.pool.run(units.len(), &run);
        }
        for unit in units.iter().filter(|unit| unit.first_split == 0) {
            call.join(unit, &plan.partials);
        }
        Ok(())
    }
}

impl Call<'_> {
    /// Cuts the call into units, longest first, and returns about how many multiplications
    /// there are.
    fn plan(&self, units: &mut Vec<Unit>) -> usize {
        units.clear();
        let num_kv_heads = self.kv.shape().num_kv_heads;
        let tile = (TILE_ROWS / self.group).max(1);
        let num_tiles: usize = self.args.rows.iter().map(|row| row.num_tokens.div_ceil(tile)).sum();
        let few = num_tiles * num_kv_heads < self.cpu.num_threads() * MIN_UNITS_PER_THREAD;
        let mut next_partial = 0;
        let mut work = 0;
        for (index, row) in self.args.rows.iter().enumerate() {
            for first_token in (0..row.num_tokens).step_by(tile) {
                let num_tokens = tile.min(row.num_tokens - first_token);
                let positions = row.num_computed + first_token + num_tokens;
                work += positions * num_tokens * self.args.num_q_heads * self.head_dim;
                let num_splits = positions.div_ceil(SPLIT);
                let cut = few && num_splits > 1 && num_tokens == 1;
                for kv_head in 0..num_kv_heads {
                    let whole = Unit {
                        row: index,
                        first_token,
                        num_tokens,
                        kv_head,
                        first_split: 0,
                        end_split: num_splits,
                        partial: None,
                    };
                    if !cut {
                        units.push(whole);
                        continue;
                    }
                    for first_split in 0..num_splits {
                        let end_split = first_split + 1;
                        let partial = Some(next_partial);
                        units.push(Unit { first_split, end_split, partial, ..whole });
                        next_partial += self.group;
                    }
                }
            }
        }
        units.sort_by_key(|unit| {
            let end = self.args.rows[unit.row].num_computed + unit.first_token + unit.num_tokens;
            let positions = end.min(unit.end_split * SPLIT) - unit.first_split * SPLIT;
            std::cmp::Reverse(positions * unit.num_tokens)
        });
        work
    }

    fn run(&self, unit: &Unit, partials: &SharedMut<'_, f32>) {
        SCRATCH.with_borrow_mut(|scratch| {
            let num_rows = unit.num_tokens * self.group;
            let tile = self.cpu.kernels.query_tile();
            grow(&mut scratch.queries, num_rows * self.head_dim);
            grow(&mut scratch.scores, tile * SPLIT);
            grow(&mut scratch.mixed, tile * self.head_dim);
            grow(&mut scratch.sums, num_rows * (self.head_dim + 2));
            self.gather_queries(unit, &mut scratch.queries);
            for split in unit.first_split..unit.end_split {
                self.run_split(unit, split, scratch);
            }
            let sums = &scratch.sums[..num_rows * (self.head_dim + 2)];
            match unit.partial {
                // SAFETY: each partial unit has rows of its own.
                Some(at) => unsafe { partials.part(at * (self.head_dim + 2), sums.len()) }
                    .copy_from_slice(sums),
                None => self.finish(unit, sums),
            }
        });
    }

    /// Copies the unit's queries, scaled, into groups of `[head_dim][m]`.
    fn gather_queries(&self, unit: &Unit, queries: &mut [f32]) {
        let (head_dim, tile) = (self.head_dim, self.cpu.kernels.query_tile());
        let stride = row_len(self.args.num_q_heads, self.kv.shape());
        let first = self.args.rows[unit.row].first_token + unit.first_token;
        let num_rows = unit.num_tokens * self.group;
        for row in 0..num_rows {
            let head = unit.kv_head * self.group + row % self.group;
            let from = (first + row / self.group) * stride + head * head_dim;
            let base = row / tile * tile;
            let width = tile.min(num_rows - base);
            let to = &mut queries[base * head_dim + row - base..];
            let from = &self.args.qkv[from..from + head_dim];
            for (to, value) in to.iter_mut().step_by(width).zip(from) {
                *to = value * self.args.scale;
            }
        }
    }

    /// Adds one split to the sums of all the unit's query rows.
    fn run_split(&self, unit: &Unit, split: usize, scratch: &mut Scratch) {
        let start = split * SPLIT;
        // The first token sees this many positions from the split on; each one after, one more.
        let first_sees = self.args.rows[unit.row].num_computed + unit.first_token + 1;
        let visible = |row: usize| (first_sees + row / self.group).saturating_sub(start).min(SPLIT);
        let num_rows = unit.num_tokens * self.group;
        let num_positions = visible(num_rows - 1);
        let (keys, values) = self.blocks(unit, start, num_positions.div_ceil(LANES));
        let tile = self.cpu.kernels.query_tile();
        for base in (0..num_rows).step_by(tile) {
            let width = tile.min(num_rows - base);
            let part = SplitRows { base, width, num_positions, keys: &keys, values: &values };
            let results = self.attend(&part, &visible, scratch);
            for (lane, (largest, sum)) in results.into_iter().enumerate().take(width) {
                if visible(base + lane) == 0 {
                    continue;
                }
                let stride = self.head_dim + 2;
                let sums = &mut scratch.sums[(base + lane) * stride..][..stride];
                let mixed = &scratch.mixed[lane * self.head_dim..][..self.head_dim];
                if split == unit.first_split {
                    sums[..self.head_dim].copy_from_slice(mixed);
                    (sums[self.head_dim], sums[self.head_dim + 1]) = (largest, sum);
                } else {
                    join(sums, mixed, largest, sum);
                }
            }
        }
    }

    /// Computes a split's weighted values for a tile of query rows into `scratch.mixed`, and
    /// returns each row's largest score and sum of weights.
    fn attend(
        &self,
        part: &SplitRows<'_>,
        visible: &dyn Fn(usize) -> usize,
        scratch: &mut Scratch,
    ) -> [(f32, f32); LANES] {
        let &SplitRows { base, width, num_positions, keys, values } = part;
        let (head_dim, kernels) = (self.head_dim, self.cpu.kernels);
        let num_blocks = num_positions.div_ceil(LANES);
        let (scores, mix) = match self.kv.dtype() {
            KvDtype::F16 => (kernels.scores_f16, kernels.mix_f16),
            KvDtype::F32 => (kernels.scores_f32, kernels.mix_f32),
        };
        let queries = scratch.queries[base * head_dim..].as_ptr();
        let weights = scratch.scores.as_mut_ptr();
        let out = scratch.mixed.as_mut_ptr();
        let prefetch = (base == 0).then_some(&raw const *values);
        let args = Scores { queries, head_dim, keys, num_blocks, prefetch, scores: weights };
        // SAFETY: the table is this machine's; `queries` has `width` rows of `head_dim`, the
        // scratch was grown for whole tiles, and `blocks` found `num_blocks` whole blocks.
        unsafe { scores[width - 1](&args) };
        let mut results = [(0.0, 0.0); LANES];
        for (lane, result) in results[..width].iter_mut().enumerate() {
            let visible = visible(base + lane);
            let scores = weights.wrapping_add(lane * SPLIT);
            let mut args = Softmax { scores, visible, num_blocks, largest: 0.0, sum: 0.0 };
            // SAFETY: the table is this machine's; `num_blocks` blocks fit into a split.
            unsafe { (kernels.softmax)(&mut args) };
            *result = (args.largest, args.sum);
        }
        // SAFETY: as for the scores.
        unsafe { mix[width - 1](&Mix { weights, values, num_positions, head_dim, out }) };
        results
    }

    /// Finds the split's blocks of 16 positions.
    fn blocks(
        &self,
        unit: &Unit,
        start: usize,
        num_blocks: usize,
    ) -> ([*const u8; SPLIT_BLOCKS], [*const u8; SPLIT_BLOCKS]) {
        let row = &self.args.rows[unit.row];
        let block_size = self.kv.shape().block_size;
        let table = &self.args.block_tables[row.first_block..][..row.num_blocks];
        let bytes = LANES * self.head_dim * self.kv.dtype().num_bytes();
        let (mut keys, mut values) = ([ptr::null(); SPLIT_BLOCKS], [ptr::null(); SPLIT_BLOCKS]);
        for index in 0..num_blocks {
            let position = start + index * LANES;
            let block = table[position / block_size] as usize;
            let block = self.kv.head_block(self.args.layer, block, unit.kv_head);
            let inside = position % block_size / LANES * bytes;
            keys[index] = self.kv.bytes(block.keys + inside, bytes).as_ptr();
            values[index] = self.kv.bytes(block.values + inside, bytes).as_ptr();
        }
        (keys, values)
    }

    /// Joins a cut row's partial results, in order, and writes its output.
    fn join(&self, first: &Unit, partials: &[f32]) {
        let Some(start) = first.partial else { return };
        let (stride, row) = (self.head_dim + 2, &self.args.rows[first.row]);
        let positions = row.num_computed + first.first_token + first.num_tokens;
        let mut sums = partials[start * stride..][..self.group * stride].to_vec();
        for split in 1..positions.div_ceil(SPLIT) {
            let part = &partials[(start + split * self.group) * stride..][..sums.len()];
            for (sums, part) in sums.chunks_exact_mut(stride).zip(part.chunks_exact(stride)) {
                let (mixed, rest) = part.split_at(self.head_dim);
                join(sums, mixed, rest[0], rest[1]);
            }
        }
        self.finish(first, &sums);
    }

    /// Divides by the sum of weights and writes the output.
    fn finish(&self, unit: &Unit, sums: &[f32]) {
        let head_dim = self.head_dim;
        let first = self.args.rows[unit.row].first_token + unit.first_token;
        for (row, sums) in sums.chunks_exact(head_dim + 2).enumerate() {
            let token = first + row / self.group;
            let head = unit.kv_head * self.group + row % self.group;
            // SAFETY: this token's head belongs to this unit (and those it was cut from) alone.
            let out = unsafe {
                self.out.part((token * self.args.num_q_heads + head) * head_dim, head_dim)
            };
            let inverse = 1.0 / sums[head_dim + 1];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * inverse;
            }
        }
    }
}

/// Adds a split to the sums of the splits before it (`head_dim` sums, the largest score, the
/// sum of weights).
fn join(sums: &mut [f32], mixed: &[f32], largest: f32, sum: f32) {
    let (values, rest) = sums.split_at_mut(mixed.len());
    let new = rest[0].max(largest);
    let (old_factor, factor) = ((rest[0] - new).exp(), (largest - new).exp());
    for (value, mixed) in values.iter_mut().zip(mixed) {
        *value = *value * old_factor + mixed * factor;
    }
    (rest[0], rest[1]) = (new, rest[1] * old_factor + sum * factor);
}

fn grow(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
}
