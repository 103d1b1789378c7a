//! Rotary position embedding of queries and keys, and the write of keys and values into the cache.

use super::launch::{Arg, Grid};
use super::{Buffer, Device, Float, KvCache, KvDtype, Slice, SliceMut, by_cache};
use crate::cpu::{KvShape, RopeStyle};
use crate::{Error, check_index, check_len, check_multiple};

/// The slot of a padding token, of which nothing is written.
pub const NO_SLOT: u32 = u32::MAX;

/// Cosines and sines of every position.
pub struct RopeTable {
    style: RopeStyle,
    num_frequencies: usize,
    max_positions: usize,
    /// `[max_positions, num_frequencies]` f32 pairs: cosine, sine.
    buffer: Buffer,
}

impl RopeTable {
    /// Computes the table. The rotary dimension is twice the number of frequencies; elements of a head past
    /// it are left alone. `magnitude` scales cosines and sines (YaRN's `mscale`).
    pub fn new(
        device: &Device,
        inv_freq: &[f32],
        max_positions: usize,
        magnitude: f32,
        style: RopeStyle,
    ) -> Result<Self, Error> {
        check_multiple("rope: frequencies", inv_freq.len(), 1)?;
        check_multiple("rope: positions", max_positions, 1)?;
        let mut cos_sin = Vec::with_capacity(max_positions * inv_freq.len());
        for position in 0..max_positions {
            cos_sin.extend(inv_freq.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * f64::from(*frequency)).sin_cos();
                [cos, sin].map(|value| (value * f64::from(magnitude)) as f32)
            }));
        }
        let buffer = device.buffer_of(&cos_sin)?;
        Ok(Self { style, num_frequencies: inv_freq.len(), max_positions, buffer })
    }

    /// Elements of a head that turn.
    pub fn rotary_dim(&self) -> usize {
        2 * self.num_frequencies
    }
}

/// Arguments of [`Device::rope_and_cache`].
pub struct RopeAndCache<'a> {
    /// Type of the elements of `qkv`, `bias` and the norms.
    pub float: Float,
    /// `[num_tokens, (num_heads + 2 num_kv_heads) * head_dim]`: queries, which are changed, keys, values.
    pub qkv: SliceMut<'a>,
    /// `[(num_heads + 2 num_kv_heads) * head_dim]`: added first.
    pub bias: Option<Slice<'a>>,
    /// RMS norms of each head, before the rotation.
    pub norms: Option<HeadNorms<'a>>,
    /// The rotations.
    pub table: &'a RopeTable,
    /// `[num_tokens]` u32: each token's position in its sequence.
    pub positions: Slice<'a>,
    /// `[num_tokens]` u32: each token's place in the cache, `block * block_size + offset`, or [`NO_SLOT`].
    pub slot_mapping: Slice<'a>,
    /// Where keys and values go.
    pub cache: &'a mut KvCache,
    /// The layer of the cache.
    pub layer: usize,
    /// Tokens.
    pub num_tokens: usize,
    /// Heads of queries.
    pub num_heads: usize,
}

/// Weights of the norms of heads (Qwen3).
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a> {
    /// `[head_dim]`
    pub query: Slice<'a>,
    /// `[head_dim]`
    pub key: Slice<'a>,
    /// Added to the mean square.
    pub epsilon: f32,
}

impl RopeAndCache<'_> {
    fn check(&self) -> Result<(), Error> {
        let KvShape { num_layers, num_kv_heads, head_dim, .. } = self.cache.shape();
        let size = self.float.size();
        self.cache.check_float(self.float)?;
        check_multiple("rope: query heads", self.num_heads, num_kv_heads)?;
        check_index("layer", self.layer, num_layers)?;
        check_index("rope: head_dim", head_dim, MAX_HEAD_DIM + 1)?;
        check_index("rotary dimension", self.table.rotary_dim(), head_dim + 1)?;
        let row = (self.num_heads + 2 * num_kv_heads) * head_dim * size;
        check_len("rope: qkv", self.qkv.len(), self.num_tokens * row)?;
        if let Some(bias) = self.bias {
            check_len("rope: bias", bias.len(), row)?;
        }
        if let Some(HeadNorms { query, key, .. }) = self.norms {
            check_len("the norm of queries", query.len(), head_dim * size)?;
            check_len("the norm of keys", key.len(), head_dim * size)?;
        }
        check_len("rope: positions", self.positions.len(), self.num_tokens * size_of::<u32>())?;
        check_len("rope: slots", self.slot_mapping.len(), self.num_tokens * size_of::<u32>())
    }

    /// How heads are cut into what lanes hold: whether by packs, and how many lanes a head has.
    fn lanes(&self) -> (bool, usize) {
        let (head_dim, rotary) = (self.cache.shape().head_dim, self.table.rotary_dim());
        let pack = self.float.pack();
        match self.table.style {
            RopeStyle::Half if !(rotary / 2).is_multiple_of(pack) => (false, 32),
            RopeStyle::Half => {
                let rest = (head_dim - rotary).div_ceil(2 * pack);
                (true, (rotary / 2 / pack + rest).next_power_of_two())
            }
            RopeStyle::Interleaved => (true, head_dim.div_ceil(2 * pack).next_power_of_two()),
        }
    }
}

/// Elements of the longest head that attention takes.
pub(super) const MAX_HEAD_DIM: usize = 256;

/// Threads of a block.
const THREADS: usize = 256;

impl Device {
    /// Adds the bias, norms heads, rotates queries in place and keys, and writes keys and values to the
    /// cache. Slots and positions that do not exist count as padding.
    pub fn rope_and_cache(&self, args: RopeAndCache<'_>) -> Result<(), Error> {
        args.check()?;
        let KvShape { num_blocks, block_size, num_kv_heads, head_dim, .. } = args.cache.shape();
        let (in_packs, lanes) = args.lanes();
        let name = kernel(args.float, args.cache.dtype(), in_packs);
        let threads = args.num_tokens * (args.num_heads + 2 * num_kv_heads) * lanes;
        check_index("rope: threads", threads, i32::MAX as usize)?;
        let [keys, values, key_scales, value_scales] = args.cache.args(args.layer);
        let norms = args.norms;
        let is_interleaved = i32::from(args.table.style == RopeStyle::Interleaved);
        let list = [
            Arg::from(&args.qkv),
            Arg::optional(args.bias),
            Arg::optional(norms.map(|norms| norms.query)),
            Arg::optional(norms.map(|norms| norms.key)),
            args.table.buffer.slice().into(),
            args.positions.into(),
            args.slot_mapping.into(),
            keys,
            values,
            key_scales,
            value_scales,
            (args.num_tokens as i32).into(),
            (args.num_heads as i32).into(),
            (num_kv_heads as i32).into(),
            (head_dim as i32).into(),
            (args.table.rotary_dim() as i32).into(),
            is_interleaved.into(),
            (lanes as i32).into(),
            (block_size as i32).into(),
            ((num_blocks * block_size) as u32).into(),
            (args.table.max_positions as u32).into(),
            norms.map_or(0.0, |norms| norms.epsilon).into(),
        ];
        let grid = Grid::line(threads.div_ceil(THREADS), THREADS as u32);
        // SAFETY: the kernel's parameters, with the lengths checked above; the kernel checks slots and
        // positions.
        Ok(unsafe { self.launch(name, grid, &list) }?)
    }
}

fn kernel(float: Float, dtype: KvDtype, in_packs: bool) -> &'static str {
    if in_packs { by_cache!(float, dtype, "rope") } else { by_cache!(float, dtype, "rope_single") }
}
