//! Rotary position embedding (Su et al., 2021) of queries and keys, and the write of keys and
//! values into the paged cache.

use super::activations::{ROW, with_scratch};
use super::kernels::rows::Norm;
use super::kv_cache::{KvCache, KvShape};
use super::shared::SharedMut;
use super::{Cpu, RmsNorm};
use crate::{Error, check_index, check_len, check_multiple};

/// Which elements of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Element `i` with `i + rotary_dim / 2` (Hugging Face's Llama, NeoX).
    Half,
    /// Element `2i` with `2i + 1` (GGUF's Llama, GPT-J).
    Interleaved,
}

/// Cosines and sines of every position.
#[derive(Debug)]
pub struct RopeTable {
    style: RopeStyle,
    num_frequencies: usize,
    max_positions: usize,
    /// `[max_positions][2][num_frequencies]`: cosines, then sines.
    cos_sin: Vec<f32>,
}

impl RopeTable {
    /// Computes the table. The rotary dimension is twice the number of frequencies; elements of
    /// a head past it are left alone. `magnitude` scales cosines and sines (YaRN's `mscale`).
    pub fn new(
        inv_freq: &[f32],
        max_positions: usize,
        magnitude: f32,
        style: RopeStyle,
    ) -> Result<Self, Error> {
        check_multiple("rope: frequencies", inv_freq.len(), 1)?;
        check_multiple("rope: positions", max_positions, 1)?;
        let mut cos_sin = Vec::with_capacity(2 * max_positions * inv_freq.len());
        for position in 0..max_positions {
            let angle = |frequency: &f32| position as f64 * f64::from(*frequency);
            let scaled = |value: f64| (value * f64::from(magnitude)) as f32;
            cos_sin.extend(inv_freq.iter().map(|frequency| scaled(angle(frequency).cos())));
            cos_sin.extend(inv_freq.iter().map(|frequency| scaled(angle(frequency).sin())));
        }
        Ok(Self { style, num_frequencies: inv_freq.len(), max_positions, cos_sin })
    }

    /// One past the largest position.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Elements of a head that turn.
    pub fn rotary_dim(&self) -> usize {
        2 * self.num_frequencies
    }

    fn rotate(&self, head: &mut [f32], position: u32) {
        let half = self.num_frequencies;
        let (cos, sin) = self.cos_sin[position as usize * 2 * half..][..2 * half].split_at(half);
        let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        };
        match self.style {
            RopeStyle::Half => {
                let (first, second) = head[..2 * half].split_at_mut(half);
                let pairs = first.iter_mut().zip(second);
                for ((a, b), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                    turn(a, b, *cos, *sin);
                }
            }
            RopeStyle::Interleaved => {
                let pairs = head[..2 * half].as_chunks_mut::<2>().0;
                for ([a, b], (cos, sin)) in pairs.iter_mut().zip(cos.iter().zip(sin)) {
                    turn(a, b, *cos, *sin);
                }
            }
        }
    }
}

/// The arguments of [`Cpu::rope_and_cache`].
#[derive(Debug)]
pub struct RopeAndCache<'a> {
    /// `[num_tokens, (num_q_heads + 2 * num_kv_heads) * head_dim]`: queries, keys, values.
    pub qkv: &'a mut [f32],
    /// Heads of queries.
    pub num_q_heads: usize,
    /// RMS norms of each head, before the rotation.
    pub norms: Option<HeadNorms<'a>>,
    /// Each token's position in its sequence.
    pub positions: &'a [u32],
    /// The rotations.
    pub table: &'a RopeTable,
    /// Each token's place in the cache: `block * block_size + offset`.
    pub slot_mapping: &'a [u32],
    /// The layer of the cache.
    pub layer: usize,
}

/// Norms of heads (Qwen3, Gemma 3).
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// Of queries, `[head_dim]`.
    pub query: RmsNorm<'a>,
    /// Of keys, `[head_dim]`.
    pub key: RmsNorm<'a>,
}

impl RopeAndCache<'_> {
    fn check(&self, kv: &KvCache) -> Result<(), Error> {
        let shape = kv.shape();
        let num_tokens = self.positions.len();
        let row = row_len(self.num_q_heads, shape);
        check_multiple("rope: query heads", self.num_q_heads, shape.num_kv_heads)?;
        check_len("rope: qkv", self.qkv.len(), num_tokens.saturating_mul(row))?;
        check_len("rope: slot_mapping", self.slot_mapping.len(), num_tokens)?;
        check_index("layer", self.layer, shape.num_layers)?;
        check_index("rotary dimension", self.table.rotary_dim(), shape.head_dim + 1)?;
        if let Some(HeadNorms { query, key }) = self.norms {
            check_len("the norm of queries", query.weight.len(), shape.head_dim)?;
            check_len("the norm of keys", key.weight.len(), shape.head_dim)?;
        }
        for &position in self.positions {
            check_index("position", position as usize, self.table.max_positions)?;
        }
        let num_slots = shape.num_blocks * shape.block_size;
        for &slot in self.slot_mapping {
            check_index("slot", slot as usize, num_slots)?;
        }
        Ok(())
    }
}

impl Cpu {
    /// Rotates queries and keys in place, and writes keys and values to the cache. Of tokens
    /// that name the same slot, the last one's stay.
    pub fn rope_and_cache(&self, args: RopeAndCache<'_>, kv: &mut KvCache) -> Result<(), Error> {
        args.check(kv)?;
        let shape = kv.shape();
        let RopeAndCache { qkv, num_q_heads, norms, positions, table, slot_mapping, layer } = args;
        let head_dim = shape.head_dim;
        let group = num_q_heads / shape.num_kv_heads;
        let row = row_len(num_q_heads, shape);
        let qkv = SharedMut::new(qkv);
        let writer = kv.writer(layer);
        let heads = RowHeads { qkv: &qkv, row, head_dim };
        // By heads and not by tokens: so no two threads write one place, whatever the slots are.
        let unit = |unit: usize| {
            let (kv_head, writes_value) = (unit / 2, unit % 2 == 1);
            for (token, (&position, &slot)) in positions.iter().zip(slot_mapping).enumerate() {
                let slot = slot as usize;
                if writes_value {
                    for head in kv_head * group..(kv_head + 1) * group {
                        // SAFETY: this unit alone has these query heads.
                        let query = unsafe { heads.head(token, head) };
                        if let Some(norms) = norms {
                            self.norm_head(norms.query, query);
                        }
                        table.rotate(query, position);
                    }
                    let head = num_q_heads + shape.num_kv_heads + kv_head;
                    // SAFETY: this unit alone has this value head; `check` saw the slot.
                    unsafe {
                        let value = heads.head(token, head);
                        writer.write_value(self.kernels, slot, kv_head, value);
                    }
                } else {
                    // SAFETY: this unit alone has this key head.
                    let key = unsafe { heads.head(token, num_q_heads + kv_head) };
                    if let Some(norms) = norms {
                        self.norm_head(norms.key, key);
                    }
                    table.rotate(key, position);
                    // SAFETY: as above; `check` saw the slot.
                    unsafe { writer.write_key(self.kernels, slot, kv_head, key) };
                }
            }
        };
        let num_units = 2 * shape.num_kv_heads;
        self.pool.run_if(positions.len() * row >= MIN_PARALLEL, num_units, &unit);
        Ok(())
    }

    /// Norms a head in place; its weight is as long.
    fn norm_head(&self, norm: RmsNorm<'_>, head: &mut [f32]) {
        with_scratch(&ROW, head.len(), |row| {
            row.copy_from_slice(head);
            let norm = Norm { row, weight: norm.weight, eps: norm.eps };
            // SAFETY: the table is this machine's; the three lengths are the head's.
            unsafe { (self.kernels.rms_norm)(&norm, head) };
        });
    }
}

/// Elements of a token's queries, keys and values.
pub(super) fn row_len(num_q_heads: usize, shape: KvShape) -> usize {
    num_q_heads.saturating_add(2 * shape.num_kv_heads).saturating_mul(shape.head_dim)
}

/// Elements below which waking the pool costs more than it saves.
const MIN_PARALLEL: usize = 4096;

/// The heads of rows of `qkv`.
struct RowHeads<'a> {
    qkv: &'a SharedMut<'a, f32>,
    row: usize,
    head_dim: usize,
}

impl RowHeads<'_> {
    /// # Safety
    /// While the head lives, nobody else may take it.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for disjoint heads")]
    unsafe fn head(&self, token: usize, head: usize) -> &mut [f32] {
        // SAFETY: the caller's.
        unsafe { self.qkv.part(token * self.row + head * self.head_dim, self.head_dim) }
    }
}
