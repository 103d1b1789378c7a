//! Causal attention over the paged cache, for any mix of rows that decode and rows that prefill.
//!
//! A [`Plan`] is made on the host for a step, and uploaded; all layers use it.

mod plan;
mod tensor;

use self::plan::DECODE_TILE;
pub use self::plan::{Plan, PlanGrid, PlanLimits, PlanRow};
use self::tensor::TensorKernels;
use super::kv_cache::UNIT;
use super::launch::{Arg, Grid};
use super::rope::MAX_HEAD_DIM;
use super::{BlockTables, Buffer, Device, Float, KvCache, Slice, SliceMut, by_cache, by_float};
use crate::cpu::KvShape;
use crate::{Error, check_index, check_len, check_multiple};

/// How scores become weights.
#[derive(Clone, Copy, Debug)]
pub struct Scoring<'a> {
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// Scores are `soft_cap * tanh(score / soft_cap)` (Gemma 2).
    pub soft_cap: Option<f32>,
    /// How many positions a token sees, itself included.
    pub window: Option<usize>,
    /// `[num_heads]` f32: a score that joins each token's, and has no value (gpt-oss).
    pub sinks: Option<Slice<'a>>,
}

impl Scoring<'_> {
    /// Only scaled.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, soft_cap: None, window: None, sinks: None }
    }
}

/// Room for the results of chunks of keys, before they are joined. All layers share it.
pub struct Workspace {
    num_partials: usize,
    shape: [usize; 2],
    /// `[num_partials, num_kv_heads, head_dim]` f32
    mixed: Buffer,
    /// `[num_partials, num_kv_heads, 2]` f32
    sums: Buffer,
}

impl Workspace {
    /// Room for what `plan` may name, for a cache of this shape.
    pub fn new(device: &Device, plan: &Plan, shape: &KvShape) -> Result<Self, Error> {
        let (num_partials, rows) = (plan.max_partials(), plan.max_partials() * shape.num_kv_heads);
        Ok(Self {
            num_partials,
            shape: [shape.num_kv_heads, shape.head_dim],
            mixed: device.alloc(rows * shape.head_dim * size_of::<f32>())?,
            sums: device.alloc(rows * 2 * size_of::<f32>())?,
        })
    }

    /// Its memory, for tests to spoil.
    pub fn buffers_mut(&mut self) -> [SliceMut<'_>; 2] {
        [self.mixed.slice_mut(), self.sums.slice_mut()]
    }
}

/// Arguments of [`Device::attention`].
pub struct Attention<'a> {
    /// Type of the elements of `qkv` and `out`.
    pub float: Float,
    /// `[num_tokens, (num_heads + 2 num_kv_heads) * head_dim]`; only queries are read.
    pub qkv: Slice<'a>,
    /// `[num_tokens, num_heads * head_dim]`: written for the tokens of the plan's rows.
    pub out: SliceMut<'a>,
    /// Tokens, padding included.
    pub num_tokens: usize,
    /// Heads of queries.
    pub num_heads: usize,
    /// Keys and values, those of the rows' own tokens included.
    pub cache: &'a KvCache,
    /// The layer of the cache.
    pub layer: usize,
    /// The sequences' blocks.
    pub tables: &'a BlockTables,
    /// [`Plan::words`], on the device. It may be followed by anything.
    pub plan: Slice<'a>,
    /// How many records the plan has at most.
    pub grid: PlanGrid,
    /// How scores become weights.
    pub scoring: Scoring<'a>,
    /// Room for partial results.
    pub workspace: &'a mut Workspace,
}

impl Attention<'_> {
    fn check(&self) -> Result<(), Error> {
        let KvShape { num_layers, num_kv_heads, head_dim, .. } = self.cache.shape();
        let size = self.float.size();
        self.cache.check_float(self.float)?;
        check_multiple("attention: query heads", self.num_heads, num_kv_heads)?;
        check_index("layer", self.layer, num_layers)?;
        check_index("attention: head_dim", head_dim, MAX_HEAD_DIM + 1)?;
        let head = head_dim * size * self.num_tokens;
        check_len("attention: qkv", self.qkv.len(), head * (self.num_heads + 2 * num_kv_heads))?;
        check_len("attention: out", self.out.len(), head * self.num_heads)?;
        check_len("attention: workspace", self.workspace.shape[0], num_kv_heads)?;
        check_len("attention: workspace", self.workspace.shape[1], head_dim)?;
        if let Some(sinks) = self.scoring.sinks {
            check_len("attention: sinks", sinks.len(), self.num_heads * size_of::<f32>())?;
        }
        check_multiple("attention: window", self.scoring.window.unwrap_or(1), 1)?;
        // What a division by multiplication is exact for.
        let units = self.tables.num_columns() * self.block_units();
        check_index("attention: units of a table", units, (1 << 20) + 1)?;
        check_index("attention: units of a block", self.block_units(), 1 << 12)
    }

    /// Units of a block.
    fn block_units(&self) -> usize {
        self.cache.shape().block_size / UNIT
    }

    /// A multiplication by it and a shift by 32 divide by the units of a block; 0 if there is nothing to do.
    fn block_magic(&self) -> u32 {
        match self.block_units() as u64 {
            1 => 0,
            units => (1u64 << 32).div_ceil(units) as u32,
        }
    }

    /// What all kernels but the merge take.
    fn args(&self) -> [Arg; NUM_ARGS] {
        let KvShape { num_blocks, num_kv_heads, head_dim, .. } = self.cache.shape();
        let [keys, values, key_scales, value_scales] = self.cache.args(self.layer);
        let Scoring { scale, soft_cap, window, sinks } = self.scoring;
        let window = window.map_or(i32::MAX, |window| window.min(i32::MAX as usize) as i32);
        [
            self.plan.into(),
            self.qkv.into(),
            Arg::from(&self.out),
            keys,
            values,
            key_scales,
            value_scales,
            self.tables.slice().into(),
            Arg::optional(sinks),
            self.workspace.mixed.slice().into(),
            self.workspace.sums.slice().into(),
            ((self.plan.len() / 4) as u32).into(),
            (self.num_tokens as i32).into(),
            (self.workspace.num_partials as u32).into(),
            (self.tables.num_rows() as i32).into(),
            (self.tables.num_columns() as i32).into(),
            (num_blocks as i32).into(),
            (self.block_units() as i32).into(),
            self.block_magic().into(),
            (num_kv_heads as i32).into(),
            ((self.num_heads / num_kv_heads) as i32).into(),
            (head_dim as i32).into(),
            scale.into(),
            soft_cap.unwrap_or(0.0).into(),
            window.into(),
        ]
    }
}

const NUM_ARGS: usize = 25;

/// Blocks of a grid per processor, at most, of kernels without tensor cores: they take records in turns.
const BLOCKS_PER_PROCESSOR: usize = 16;

/// Lists of a plan, as kernels number them.
const DECODES: i32 = 0;
const PREFILLS: i32 = 2;

/// Packed queries of a tile of the prefill kernels: part of a plan's limits.
pub const fn prefill_tile(head_dim: usize) -> usize {
    if head_dim <= 128 { 128 } else { 64 }
}

impl Device {
    /// Attention of the rows of a plan, whose keys and values are in the cache already.
    #[expect(clippy::needless_pass_by_value, reason = "the call has the right to write the output")]
    pub fn attention(&self, args: Attention<'_>) -> Result<(), Error> {
        args.check()?;
        let PlanGrid { decodes, merges, prefills } = args.grid;
        let KvShape { head_dim, .. } = args.cache.shape();
        match TensorKernels::of(self, args.float, args.cache.dtype(), head_dim) {
            Some(kernels) => {
                let most =
                    self.properties().num_processors as usize * kernels.decodes_per_processor;
                let records = decodes * args.cache.shape().num_kv_heads;
                self.attend(&args, kernels.decode, records.min(most))?;
                self.attend(&args, kernels.prefill, prefills * args.cache.shape().num_kv_heads)?;
            }
            None => {
                self.attend_simply(&args, DECODES, decodes, DECODE_TILE)?;
                self.attend_simply(&args, PREFILLS, prefills, prefill_tile(head_dim))?;
            }
        }
        self.merge(&args, merges)
    }

    fn attend(
        &self,
        args: &Attention<'_>,
        (name, shared_bytes): (&'static str, u32),
        blocks: usize,
    ) -> Result<(), Error> {
        let grid = Grid { shared_bytes, ..Grid::line(blocks, 128) };
        // SAFETY: the kernel's parameters, with the lengths checked above and the shared memory that it
        // asks for; the kernel checks what the plan and the tables say.
        Ok(unsafe { self.launch(name, grid, &args.args()) }?)
    }

    fn attend_simply(
        &self,
        args: &Attention<'_>,
        list: i32,
        records: usize,
        tile: usize,
    ) -> Result<(), Error> {
        let name = by_cache!(args.float, args.cache.dtype(), "attention_simple");
        let own = [list.into(), (tile as i32).into()];
        let all: Vec<_> = args.args().into_iter().chain(own).collect();
        let grid = Grid::line(self.blocks(args, records), 128);
        // SAFETY: the kernel's parameters, with the lengths checked above; the kernel checks what the plan
        // and the tables say.
        Ok(unsafe { self.launch(name, grid, &all) }?)
    }

    /// Blocks that serve `records` records of all heads of keys.
    fn blocks(&self, args: &Attention<'_>, records: usize) -> usize {
        let processors = self.properties().num_processors as usize;
        (records * args.cache.shape().num_kv_heads).min(processors * BLOCKS_PER_PROCESSOR)
    }

    fn merge(&self, args: &Attention<'_>, records: usize) -> Result<(), Error> {
        let KvShape { num_kv_heads, head_dim, .. } = args.cache.shape();
        let list = [
            args.plan.into(),
            Arg::from(&args.out),
            Arg::optional(args.scoring.sinks),
            args.workspace.mixed.slice().into(),
            args.workspace.sums.slice().into(),
            ((args.plan.len() / 4) as u32).into(),
            (args.num_tokens as i32).into(),
            (args.workspace.num_partials as u32).into(),
            (num_kv_heads as i32).into(),
            ((args.num_heads / num_kv_heads) as i32).into(),
            (head_dim as i32).into(),
        ];
        let name = by_float!(args.float, "attention_merge");
        let grid = Grid::line(self.blocks(args, records * DECODE_TILE), 256);
        // SAFETY: the kernel's parameters, with the lengths checked above; the kernel checks what the plan
        // says.
        Ok(unsafe { self.launch(name, grid, &list) }?)
    }
}
