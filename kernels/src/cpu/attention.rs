//! Causal attention over the paged cache, for any mix of prefill and decode rows.
//!
//! Positions are cut into fixed splits of 256, counted from 0. A split's result for one query
//! (its largest score, the sum of its weights and the weighted values) is computed the same way
//! whatever else is in the batch, and splits are joined in order; so neither chunking a prompt nor
//! batching changes a bit of the result. Tokens of a row go in tiles, so that keys and values
//! loaded once serve several tokens and all query heads of a group; and where rows share the
//! blocks of a split, as behind a common prefix, one pass over it serves them all.

mod plan;

use std::cell::RefCell;
use std::ops::Range;
use std::ptr;
use std::sync::PoisonError;

use self::plan::{Plan, Unit};
use super::Cpu;
use super::kernels::attend::{Mix, SPLIT, SPLIT_BLOCKS, Scores, Softmax};
use super::kernels::rows::RowSlot;
use super::kv_cache::{KvCache, KvDtype};
use super::panels::BLOCK;
use super::rope::row_len;
use super::shared::SharedMut;
use super::simd::LANES;
use crate::{Error, check_index, check_len, check_multiple};

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
    /// Scores are `soft_cap * tanh(score / soft_cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// How many positions a token sees, itself included.
    pub window: Option<usize>,
    /// The layer of the cache.
    pub layer: usize,
    /// The sequences.
    pub rows: &'a [AttentionRow],
    /// The blocks of all rows.
    pub block_tables: &'a [u32],
}

impl Attention<'_> {
    /// What each layer has of its own.
    fn check(&self, kv: &KvCache, out: &[f32]) -> Result<(), Error> {
        let shape = kv.shape();
        check_multiple("attention: query heads", self.num_q_heads, shape.num_kv_heads)?;
        check_index("layer", self.layer, shape.num_layers)?;
        check_multiple("attention: window", self.window.unwrap_or(1), 1)?;
        let row = row_len(self.num_q_heads, shape);
        check_multiple("attention: qkv", self.qkv.len().max(row), row)?;
        let num_tokens = self.qkv.len() / row;
        check_len("attention: out", out.len(), num_tokens * self.num_q_heads * shape.head_dim)?;
        let num_row_tokens = self.rows.iter().map(|row| row.num_tokens);
        let covered = num_row_tokens.fold(0, usize::saturating_add);
        check_len("attention: the rows' tokens", covered, num_tokens)
    }

    /// What all layers of a step have in common.
    fn check_rows(&self, kv: &KvCache) -> Result<(), Error> {
        let shape = kv.shape();
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
        for &block in self.block_tables {
            check_index("block", block as usize, shape.num_blocks)?;
        }
        Ok(())
    }
}

/// A thread's working memory.
#[derive(Default)]
struct Scratch {
    /// Groups of up to a tile of query rows, `[head_dim][m]` each.
    queries: Vec<f32>,
    /// The same for a cache of bf16, pairs of dimensions `[head_dim / 2][m]`, or of 8 bits, all
    /// three as a [`Tile`](super::kernels::gemm::Tile) has them.
    quants: Vec<i32>,
    scales: Vec<f32>,
    offsets: Vec<i32>,
    /// `[head_dim]`
    query: Vec<f32>,
    /// `[head_dim]`
    halves: Vec<u16>,
    /// Scores, then weights, `[m][SPLIT]`.
    weights: Vec<f32>,
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
    /// Positions that any of the unit's rows sees.
    num_positions: usize,
    keys: &'a [*const u8; SPLIT_BLOCKS],
    values: &'a [*const u8; SPLIT_BLOCKS],
    /// What will be read afterwards.
    next_keys: &'a [*const u8; SPLIT_BLOCKS],
}

/// Where a split's blocks of 16 positions are.
struct SplitBlocks {
    keys: [*const u8; SPLIT_BLOCKS],
    values: [*const u8; SPLIT_BLOCKS],
    /// Positions that any of a unit's rows sees.
    num_positions: usize,
}

/// One of a unit's query rows.
struct QueryRow {
    /// In the batch.
    token: usize,
    head: usize,
    /// The positions that it sees.
    sees: Range<usize>,
}

/// A call, as its units see it.
struct Call<'a> {
    cpu: &'a Cpu,
    args: Attention<'a>,
    kv: &'a KvCache,
    plan: &'a Plan,
    /// Per cut member, head of keys, split and query row: `head_dim` sums, the largest score, the
    /// sum of weights.
    partials: SharedMut<'a, f32>,
    out: SharedMut<'a, f32>,
    /// Query heads of one head of keys.
    group: usize,
    head_dim: usize,
}

impl Cpu {
    /// Attention of every token over its sequence: token `i` of a row sees positions up to
    /// `num_computed + i`, as many as the window has, whose keys and values must be in the cache.
    ///
    /// `out`: `[num_tokens, num_q_heads * head_dim]`. Rows cover the tokens in order.
    pub fn attention(
        &self,
        args: Attention<'_>,
        kv: &KvCache,
        out: &mut [f32],
    ) -> Result<(), Error> {
        args.check(kv, out)?;
        let mut state = self.attention.lock().unwrap_or_else(PoisonError::into_inner);
        let State { plan, partials } = &mut *state;
        if !plan.is_for(&args, kv) {
            args.check_rows(kv)?;
            plan.make(&args, kv, self.num_threads());
        }
        let head_dim = kv.shape().head_dim;
        partials.resize(plan.num_partial_rows * (head_dim + 2), 0.0);
        let call = Call {
            cpu: self,
            args,
            kv,
            plan,
            partials: SharedMut::new(partials),
            out: SharedMut::new(out),
            group: plan.group,
            head_dim,
        };
        let is_long = |work: usize| work >= MIN_PARALLEL;
        let num_units = plan.units.len();
        let nth = |unit: usize| &plan.units[self.pool.dealt(unit, num_units)];
        let unit = |unit: usize| call.run(nth(unit), nth((unit + 1).min(num_units - 1)));
        self.pool.run_if(is_long(plan.work), num_units, &unit);
        let num_kv_heads = kv.shape().num_kv_heads;
        let join = |index: usize| call.join(index / num_kv_heads, index % num_kv_heads);
        let join_work = plan.num_partial_rows * head_dim;
        self.pool.run_if(is_long(join_work), plan.cut.len() * num_kv_heads, &join);
        Ok(())
    }
}

/// Reused from call to call: the layers of a step have the same rows.
#[derive(Debug, Default)]
pub(super) struct State {
    plan: Plan,
    partials: Vec<f32>,
}

impl Call<'_> {
    /// Computes a unit, and asks for the keys of the one that is likely to follow.
    fn run(&self, unit: &Unit, next: &Unit) {
        SCRATCH.with_borrow_mut(|scratch| {
            let (num_rows, stride) = (self.num_rows(unit), self.head_dim + 2);
            let tile = self.cpu.kernels.query_tile();
            grow(&mut scratch.queries, num_rows * self.head_dim);
            grow(&mut scratch.weights, tile * SPLIT);
            grow(&mut scratch.mixed, tile * self.head_dim);
            grow(&mut scratch.sums, num_rows * stride);
            match self.kv.dtype() {
                KvDtype::F16 | KvDtype::F32 => self.gather_queries(unit, &mut scratch.queries),
                KvDtype::BF16 => self.round_queries(unit, scratch),
                KvDtype::Int8 => self.quantize_queries(unit, scratch),
            }
            let first_split = self.skip_unseen(unit);
            let mut blocks = self.blocks(unit, first_split.min(unit.end_split - 1));
            for split in first_split..unit.end_split {
                let next = if split + 1 < unit.end_split {
                    self.blocks(unit, split + 1)
                } else {
                    self.blocks(next, next.first_split)
                };
                self.run_split(unit, split, [&blocks, &next], scratch);
                blocks = next;
            }
            if !unit.is_cut {
                let member = &self.plan.members[unit.members.start];
                self.finish(member.first_token, unit.kv_head, &scratch.sums[..num_rows * stride]);
            }
        });
    }

    fn num_rows(&self, unit: &Unit) -> usize {
        unit.members.len() * unit.num_tokens * self.group
    }

    fn query_row(&self, unit: &Unit, row: usize) -> QueryRow {
        let (token, head) = (row / self.group, row % self.group);
        let member = &self.plan.members[unit.members.start + token / unit.num_tokens];
        let token = token % unit.num_tokens;
        let end = member.num_computed + token + 1;
        QueryRow {
            token: member.first_token + token,
            head: unit.kv_head * self.group + head,
            sees: end.saturating_sub(self.args.window.unwrap_or(end))..end,
        }
    }

    /// The unit's first split that is within any window. Those before it have no results.
    fn skip_unseen(&self, unit: &Unit) -> usize {
        let Some(window) = self.args.window else { return unit.first_split };
        let members = &self.plan.members[unit.members.clone()];
        let first = members.iter().map(|member| (member.num_computed + 1).saturating_sub(window));
        let first = first.min().unwrap_or(0) / SPLIT;
        let first = first.clamp(unit.first_split, unit.end_split);
        for split in unit.first_split..first {
            for row in (0..self.num_rows(unit)).filter(|_| unit.is_cut) {
                let (values, rest) = self.partial(unit, row, split).split_at_mut(self.head_dim);
                values.fill(0.0);
                (rest[0], rest[1]) = (f32::NEG_INFINITY, 0.0);
            }
        }
        first
    }

    /// Where the partial result of a cut unit's row goes.
    #[expect(clippy::mut_from_ref, reason = "each is asked for once")]
    fn partial(&self, unit: &Unit, row: usize, split: usize) -> &mut [f32] {
        let (at, stride) =
            (self.plan.partial_row(unit, row / self.group, split), self.head_dim + 2);
        // SAFETY: each member's token has rows of its own for each split and head of keys, and this
        // unit alone has this split of this head.
        unsafe { self.partials.part((at + row % self.group) * stride, stride) }
    }

    /// One of the unit's queries, scaled.
    fn query(&self, unit: &Unit, row: usize) -> impl Iterator<Item = f32> {
        let QueryRow { token, head, .. } = self.query_row(unit, row);
        let stride = row_len(self.args.num_q_heads, self.kv.shape());
        let query = &self.args.qkv[token * stride + head * self.head_dim..][..self.head_dim];
        query.iter().map(|value| value * self.args.scale)
    }

    fn copy_query(&self, unit: &Unit, row: usize, to: &mut [f32]) {
        for (to, value) in to.iter_mut().zip(self.query(unit, row)) {
            *to = value;
        }
    }

    /// Quantizes the unit's queries, scaled, into tiles.
    fn quantize_queries(&self, unit: &Unit, scratch: &mut Scratch) {
        let (head_dim, tile) = (self.head_dim, self.cpu.kernels.query_tile());
        let (num_rows, num_groups) = (self.num_rows(unit), self.head_dim / BLOCK);
        grow(&mut scratch.quants, num_rows * num_groups * 8);
        grow(&mut scratch.scales, num_rows * num_groups * 2);
        grow(&mut scratch.offsets, num_rows * num_groups * 3);
        grow(&mut scratch.query, head_dim);
        for row in 0..num_rows {
            let query = &mut scratch.query[..head_dim];
            self.copy_query(unit, row, query);
            let lane = row % tile;
            let first = (row - lane) * num_groups;
            let slot = RowSlot {
                width: tile.min(num_rows - (row - lane)),
                quants: scratch.quants[first * 8 + lane..].as_mut_ptr(),
                scales: scratch.scales[first * 2 + lane..].as_mut_ptr(),
                offsets: scratch.offsets[first * 3 + lane..].as_mut_ptr(),
            };
            // SAFETY: the table is this machine's; heads are whole blocks in an 8-bit cache, and
            // the buffers were grown for all rows.
            unsafe { (self.cpu.kernels.quantize)(query, &slot, &mut []) };
        }
    }

    /// Rounds the unit's queries, scaled, to bf16, in groups of `[head_dim / 2][m]` pairs.
    fn round_queries(&self, unit: &Unit, scratch: &mut Scratch) {
        let (head_dim, tile) = (self.head_dim, self.cpu.kernels.query_tile());
        let (num_rows, num_pairs) = (self.num_rows(unit), head_dim / 2);
        grow(&mut scratch.quants, num_rows * num_pairs);
        grow(&mut scratch.query, head_dim);
        grow(&mut scratch.halves, head_dim);
        for row in 0..num_rows {
            let (query, halves) = (&mut scratch.query[..head_dim], &mut scratch.halves[..head_dim]);
            self.copy_query(unit, row, query);
            // SAFETY: the table is this machine's; both are as long as a head, a multiple of 16.
            unsafe { (self.cpu.kernels.to_bf16)(query, halves) };
            let base = row / tile * tile;
            let width = tile.min(num_rows - base);
            let to = &mut scratch.quants[base * num_pairs + row - base..];
            for (to, [low, high]) in to.iter_mut().step_by(width).zip(halves.as_chunks().0) {
                *to = i32::from(*high) << 16 | i32::from(*low);
            }
        }
    }

    /// Copies the unit's queries, scaled, into groups of `[head_dim][m]`.
    fn gather_queries(&self, unit: &Unit, queries: &mut [f32]) {
        let (head_dim, tile) = (self.head_dim, self.cpu.kernels.query_tile());
        let num_rows = self.num_rows(unit);
        for row in 0..num_rows {
            let base = row / tile * tile;
            let width = tile.min(num_rows - base);
            let to = &mut queries[base * head_dim + row - base..];
            for (to, value) in to.iter_mut().step_by(width).zip(self.query(unit, row)) {
                *to = value;
            }
        }
    }

    /// Computes one split, whose blocks come before those that will be read next, for all the
    /// unit's query rows, and adds it to their sums or, if the unit is cut, puts it among the
    /// partial results.
    fn run_split(
        &self,
        unit: &Unit,
        split: usize,
        [blocks, next]: [&SplitBlocks; 2],
        scratch: &mut Scratch,
    ) {
        let sees = |row| self.sees(unit, row, split);
        let num_rows = self.num_rows(unit);
        let &SplitBlocks { ref keys, ref values, num_positions } = blocks;
        let next_keys = &next.keys;
        let (tile, stride) = (self.cpu.kernels.query_tile(), self.head_dim + 2);
        for base in (0..num_rows).step_by(tile) {
            let width = tile.min(num_rows - base);
            let part = SplitRows { base, width, num_positions, keys, values, next_keys };
            let results = self.attend(&part, &sees, scratch);
            for (lane, (largest, sum)) in results.into_iter().enumerate().take(width) {
                let row = base + lane;
                let mixed = &scratch.mixed[lane * self.head_dim..][..self.head_dim];
                if unit.is_cut {
                    put(self.partial(unit, row, split), mixed, largest, sum);
                } else if !sees(row).is_empty() {
                    let sums = &mut scratch.sums[row * stride..][..stride];
                    if split == self.query_row(unit, row).sees.start / SPLIT {
                        put(sums, mixed, largest, sum);
                    } else {
                        join(sums, mixed, largest, sum);
                    }
                }
            }
        }
    }

    /// Computes a split's weighted values for a tile of query rows into `scratch.mixed`, and
    /// returns each row's largest score and sum of weights.
    fn attend(
        &self,
        part: &SplitRows<'_>,
        sees: &dyn Fn(usize) -> Range<usize>,
        scratch: &mut Scratch,
    ) -> [(f32, f32); LANES] {
        let &SplitRows { base, width, num_positions, keys, values, next_keys } = part;
        let (head_dim, kernels) = (self.head_dim, self.cpu.kernels);
        let num_blocks = num_positions.div_ceil(LANES);
        let (scores, mix) = match self.kv.dtype() {
            KvDtype::F16 => (kernels.scores_f16, kernels.mix_f16),
            KvDtype::BF16 => (kernels.scores_bf16, kernels.mix_bf16),
            KvDtype::F32 => (kernels.scores_f32, kernels.mix_f32),
            KvDtype::Int8 => (kernels.scores_int8, kernels.mix_int8),
        };
        let to_bf16 = self.kv.dtype() == KvDtype::BF16;
        let groups = base * (head_dim / BLOCK);
        let x = if to_bf16 { base * (head_dim / 2) } else { groups * 8 };
        let weights = scratch.weights.as_mut_ptr();
        let out = scratch.mixed.as_mut_ptr();
        let prefetch = (base == 0).then_some(&raw const *values);
        let args = Scores {
            queries: scratch.queries.as_ptr().wrapping_add(base * head_dim),
            x: scratch.quants.as_ptr().wrapping_add(x),
            scales: scratch.scales.as_ptr().wrapping_add(groups * 2),
            offsets: scratch.offsets.as_ptr().wrapping_add(groups * 3),
            head_dim,
            keys,
            num_blocks,
            prefetch,
            scores: weights,
        };
        // SAFETY: the table is this machine's; the queries, in the form that the cache's type
        // asks for, were gathered for `width` rows of `head_dim` from `base` on, the scratch was grown for whole tiles, and `blocks` found `num_blocks` whole blocks.
        unsafe { scores[width - 1](&args) };
        let mut results = [(0.0, 0.0); LANES];
        for (lane, result) in results[..width].iter_mut().enumerate() {
            let Range { start: first, end: visible } = sees(base + lane);
            let scores = weights.wrapping_add(lane * SPLIT);
            if let Some(cap) = self.args.soft_cap {
                // SAFETY: the table is this machine's; the kernel above wrote `num_blocks` blocks of
                // this row, which fit into a split, and nobody else has them.
                unsafe {
                    let scores = std::slice::from_raw_parts_mut(scores, num_blocks * LANES);
                    (kernels.soft_cap)(cap, scores);
                }
            }
            let (largest, sum) = (0.0, 0.0);
            let mut args = Softmax { scores, to_bf16, first, visible, num_blocks, largest, sum };
            // SAFETY: the table is this machine's; `num_blocks` blocks fit into a split.
            unsafe { (kernels.softmax)(&mut args) };
            *result = (args.largest, args.sum);
        }
        let prefetch = (base == 0).then_some(&raw const *next_keys);
        // SAFETY: as for the scores.
        unsafe { mix[width - 1](&Mix { weights, values, num_positions, head_dim, prefetch, out }) };
        results
    }

    /// Which positions of a split one of the unit's query rows sees.
    fn sees(&self, unit: &Unit, row: usize, split: usize) -> Range<usize> {
        let Range { start, end } = self.query_row(unit, row).sees;
        let inside = |position: usize| position.saturating_sub(split * SPLIT).min(SPLIT);
        // One that it sees nothing of ends where it begins.
        if inside(start) < inside(end) { inside(start)..inside(end) } else { 0..0 }
    }

    /// Finds the split's blocks of 16 positions, by the first member's table.
    fn blocks(&self, unit: &Unit, split: usize) -> SplitBlocks {
        // Of one member, the last token sees most; several see all of the split.
        let last = self.query_row(unit, self.num_rows(unit) - 1);
        let num_positions = last.sees.end.saturating_sub(split * SPLIT).min(SPLIT);
        let row = &self.args.rows[self.plan.members[unit.members.start].row];
        let block_size = self.kv.shape().block_size;
        let table = &self.args.block_tables[row.first_block..][..row.num_blocks];
        let bytes = self.kv.dtype().chunk_bytes(self.head_dim);
        let (mut keys, mut values) = ([ptr::null(); SPLIT_BLOCKS], [ptr::null(); SPLIT_BLOCKS]);
        for index in 0..num_positions.div_ceil(LANES) {
            let position = split * SPLIT + index * LANES;
            let block = table[position / block_size] as usize;
            let block = self.kv.head_block(self.args.layer, block, unit.kv_head);
            let inside = position % block_size / LANES * bytes;
            keys[index] = self.kv.bytes(block.keys + inside, bytes).as_ptr();
            values[index] = self.kv.bytes(block.values + inside, bytes).as_ptr();
        }
        SplitBlocks { keys, values, num_positions }
    }

    /// Joins a cut member's partial results of one head of keys, in order, and writes its output.
    fn join(&self, cut: usize, kv_head: usize) {
        let (cut, stride) = (&self.plan.cut[cut], self.head_dim + 2);
        let len = cut.num_tokens * self.group * stride;
        let first = cut.first_partial_row + kv_head * cut.num_splits * cut.num_tokens * self.group;
        // SAFETY: the loop over the units has ended; this member's rows of this head are read and
        // written here alone.
        let partials = unsafe { self.partials.part(first * stride, cut.num_splits * len) };
        let (sums, others) = partials.split_at_mut(len);
        for part in others.chunks_exact(len) {
            for (sums, part) in sums.chunks_exact_mut(stride).zip(part.chunks_exact(stride)) {
                let (mixed, rest) = part.split_at(self.head_dim);
                // A split that the row does not see.
                if rest[1] > 0.0 || rest[1].is_nan() {
                    join(sums, mixed, rest[0], rest[1]);
                }
            }
        }
        self.finish(cut.first_token, kv_head, sums);
    }

    /// Divides by the sum of weights and writes the output.
    fn finish(&self, first_token: usize, kv_head: usize, sums: &[f32]) {
        let head_dim = self.head_dim;
        for (row, sums) in sums.chunks_exact(head_dim + 2).enumerate() {
            let token = first_token + row / self.group;
            let head = kv_head * self.group + row % self.group;
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

/// A split's result as the sums to begin with.
fn put(sums: &mut [f32], mixed: &[f32], largest: f32, sum: f32) {
    let (values, rest) = sums.split_at_mut(mixed.len());
    values.copy_from_slice(mixed);
    (rest[0], rest[1]) = (largest, sum);
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

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}
