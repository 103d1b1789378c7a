//! Microseconds of attention over the paged cache on a GPU, the joining of chunks included: the batches that
//! `benches/flashinfer` times FlashInfer's kernels with, by the same rules.
//!
//! `cargo bench -p sconce-kernels --features cuda --bench gpu_attention -- [--early-launch] [--quick]`
//!
//! `--quick` is for tests: tiny batches, whose figures say nothing.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::error::Error;

use half::bf16;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use sconce_kernels::cpu::KvShape;
use sconce_kernels::cuda::{
    Attention, AttentionWorkspace, BlockTables, Buffer, Device, Event, Float, KvCache, KvDtype,
    KvSlices, Plan, PlanGrid, PlanLimits, PlanRow, Scoring, SliceMut, prefill_tile,
};

/// Llama-3.1-8B's.
const NUM_HEADS: usize = 32;
const NUM_KV_HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const BLOCK_SIZE: usize = 16;

/// Chunks that an engine with a cache of a quarter of a million tokens has room for.
const MAX_CHUNKS: usize = 1280;

/// Bytes that random content repeats itself after.
const CONTENT_BYTES: usize = 1 << 20;

/// Rows of equal lengths; a row's tokens are the last of its keys.
#[derive(Clone, Copy)]
struct Batch {
    num_rows: usize,
    num_tokens: usize,
    num_keys: usize,
}

const BATCHES: &[Batch] = &[
    Batch::decode(1, 1024),
    Batch::decode(32, 1024),
    Batch::decode(64, 1024),
    Batch::decode(256, 1024),
    Batch::decode(1, 8192),
    Batch::decode(1, 32_768),
    Batch::prefill(4, 2048),
    Batch::prefill(1, 8192),
];
const QUICK_BATCHES: &[Batch] = &[Batch::decode(2, 300), Batch::prefill(1, 20)];

/// How to measure.
struct Rules {
    batches: &'static [Batch],
    warm_ups: usize,
    runs: usize,
    /// Of keys, and of values: several times any second-level cache.
    pool_bytes: usize,
    /// What is written before the runs, so often, which takes longer than asking for them.
    flush_bytes: usize,
    flushes: usize,
}

const FULL: Rules = Rules {
    batches: BATCHES,
    warm_ups: 5,
    runs: 50,
    pool_bytes: 512 << 20,
    flush_bytes: 1 << 30,
    flushes: 8,
};
const QUICK: Rules = Rules {
    batches: QUICK_BATCHES,
    warm_ups: 1,
    runs: 3,
    pool_bytes: 3 << 20,
    flush_bytes: 1 << 20,
    flushes: 1,
};

impl Batch {
    const fn decode(num_rows: usize, num_keys: usize) -> Self {
        Self { num_rows, num_tokens: 1, num_keys }
    }

    const fn prefill(num_rows: usize, num_tokens: usize) -> Self {
        Self { num_rows, num_tokens, num_keys: num_tokens }
    }

    fn is_decode(self) -> bool {
        self.num_tokens == 1
    }

    fn total_tokens(self) -> usize {
        self.num_rows * self.num_tokens
    }

    fn blocks_per_row(self) -> usize {
        self.num_keys.div_ceil(BLOCK_SIZE)
    }

    fn num_blocks(self) -> usize {
        self.num_rows * self.blocks_per_row()
    }

    fn name(self) -> String {
        let kind = if self.is_decode() { "decode" } else { "prefill" };
        format!("{kind} {} x {}", self.num_rows, self.num_keys)
    }

    /// What is read of the cache each second, or the products with keys and values of what tokens see.
    fn rate(self, dtype: KvDtype, us: f64) -> String {
        if self.is_decode() {
            let bytes = 2 * self.num_rows * self.num_keys * NUM_KV_HEADS * HEAD_DIM * dtype.size();
            format!("{:.0} GB/s", bytes as f64 / us / 1e3)
        } else {
            let seen = self.num_keys as f64 - (self.num_tokens - 1) as f64 / 2.0;
            let pairs = self.total_tokens() as f64 * seen;
            format!("{:.0} TFLOP/s", 4.0 * (NUM_HEADS * HEAD_DIM) as f64 * pairs / us / 1e6)
        }
    }

    fn plan(self) -> Result<Plan, sconce_kernels::Error> {
        let mut plan = Plan::new(PlanLimits {
            group: NUM_HEADS / NUM_KV_HEADS,
            max_rows: self.num_rows,
            max_tokens: self.total_tokens(),
            max_chunks: MAX_CHUNKS,
            prefill_tile: prefill_tile(HEAD_DIM),
        })?;
        let row = |row| PlanRow {
            first_token: row * self.num_tokens,
            num_tokens: self.num_tokens,
            num_computed: self.num_keys - self.num_tokens,
            table: row,
        };
        plan.build(&(0..self.num_rows).map(row).collect::<Vec<_>>())?;
        Ok(plan)
    }

    /// As the engine launches it: steps that only decode are graphs, which have room for any lengths.
    fn grid(self, plan: &Plan) -> PlanGrid {
        if self.is_decode() { plan.decode_grid(self.num_rows) } else { plan.grid() }
    }

    /// A cache whose layers are the sets of keys and values, as many as the pool holds.
    fn cache(self, device: &Device, dtype: KvDtype, pool_bytes: usize) -> Filled<KvCache> {
        let bytes = self.num_blocks() * NUM_KV_HEADS * BLOCK_SIZE * HEAD_DIM * dtype.size();
        let shape = KvShape {
            num_layers: (pool_bytes / bytes).max(1),
            num_blocks: self.num_blocks(),
            block_size: BLOCK_SIZE,
            num_kv_heads: NUM_KV_HEADS,
            head_dim: HEAD_DIM,
        };
        let mut cache = KvCache::new(device, shape, dtype)?;
        let content = content(device, dtype)?;
        for layer in 0..shape.num_layers {
            let KvSlices { keys, values, .. } = cache.layer_mut(layer);
            repeat(device, &content, keys)?;
            repeat(device, &content, values)?;
        }
        Ok(cache)
    }

    /// The rows' blocks, scattered over the cache.
    fn tables(self, device: &Device) -> Filled<BlockTables> {
        let mut blocks: Vec<_> = (0..self.num_blocks() as u32).collect();
        blocks.shuffle(&mut StdRng::seed_from_u64(1));
        let mut tables = BlockTables::new(device, self.num_rows, self.blocks_per_row())?;
        device.upload(&mut tables.slice_mut(), &blocks)?;
        Ok(tables)
    }
}

type Filled<T> = Result<T, Box<dyn Error>>;

/// Random numbers between -1 and 1, or 8-bit floats that are numbers.
fn content(device: &Device, dtype: KvDtype) -> Filled<Buffer> {
    let mut rng = StdRng::seed_from_u64(2);
    Ok(match dtype {
        KvDtype::Fp8 => {
            let code = |_| rng.random_range(0x08..0x38_u8) | (rng.random_range(0..2_u8) << 7);
            device.buffer_of(&(0..CONTENT_BYTES).map(code).collect::<Vec<_>>())?
        }
        _ => {
            let number = |_| bf16::from_f32(rng.random_range(-1.0..1.0));
            device.buffer_of(&(0..CONTENT_BYTES / 2).map(number).collect::<Vec<_>>())?
        }
    })
}

/// Fills `to` with `content`, again and again.
fn repeat(device: &Device, content: &Buffer, mut to: SliceMut<'_>) -> Filled<()> {
    while !to.is_empty() {
        let len = to.len().min(content.len());
        let (mut part, rest) = to.split_at(len);
        device.copy(content.slice().at(0, len), &mut part)?;
        to = rest;
    }
    Ok(())
}

fn median(mut times: Vec<f32>) -> f64 {
    times.sort_unstable_by(f32::total_cmp);
    f64::from(times[times.len() / 2])
}

/// Runs `ask` with the number of the run, and returns the median of microseconds.
fn time(
    device: &Device,
    rules: &Rules,
    mut ask: impl FnMut(usize) -> Result<(), sconce_kernels::Error>,
) -> Filled<f64> {
    let mut flush = device.alloc(rules.flush_bytes)?;
    (0..rules.warm_ups).try_for_each(&mut ask)?;
    device.synchronize()?;
    let events = || -> Result<Vec<Event>, _> {
        (0..rules.runs).map(|_| device.event(true)).collect::<Result<_, _>>()
    };
    let (mut begins, mut ends) = (events()?, events()?);
    // While this runs, all that follows is asked for: the host's time is in no figure.
    for byte in 0..rules.flushes {
        device.fill(&mut flush.slice_mut(), byte as u8)?;
    }
    (0..rules.warm_ups).try_for_each(&mut ask)?;
    for run in 0..rules.runs {
        begins[run].record()?;
        ask(rules.warm_ups + run)?;
        ends[run].record()?;
    }
    device.synchronize()?;
    let times = ends.iter().zip(&begins).map(|(end, begin)| end.ms_since(begin));
    Ok(median(times.collect::<Result<_, _>>()?) * 1e3)
}

/// Microseconds of a batch.
fn measure(device: &Device, rules: &Rules, batch: Batch, dtype: KvDtype) -> Filled<f64> {
    let cache = batch.cache(device, dtype, rules.pool_bytes)?;
    let tables = batch.tables(device)?;
    let plan = batch.plan()?;
    let words = device.buffer_of(plan.words())?;
    let mut workspace = AttentionWorkspace::new(device, &plan, &cache.shape())?;
    let token_bytes = HEAD_DIM * size_of::<bf16>();
    let num_tokens = batch.total_tokens();
    let mut qkv = device.alloc(num_tokens * (NUM_HEADS + 2 * NUM_KV_HEADS) * token_bytes)?;
    repeat(device, &content(device, KvDtype::Float(Float::BF16))?, qkv.slice_mut())?;
    let mut out = device.alloc(num_tokens * NUM_HEADS * token_bytes)?;
    let num_layers = cache.shape().num_layers;
    time(device, rules, |run| {
        device.attention(Attention {
            float: Float::BF16,
            qkv: qkv.slice(),
            out: out.slice_mut(),
            num_tokens,
            num_heads: NUM_HEADS,
            cache: &cache,
            layer: run % num_layers,
            tables: &tables,
            plan: words.slice(),
            grid: batch.grid(&plan),
            scoring: Scoring::scaled((HEAD_DIM as f32).sqrt().recip()),
            workspace: &mut workspace,
        })
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let (mut rules, mut early) = (&FULL, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--bench" => {}
            "--quick" => rules = &QUICK,
            "--early-launch" => early = true,
            other => return Err(format!("no option {other}").into()),
        }
    }
    let device = Device::open(0)?;
    device.bind()?;
    if early && !device.launch_early() {
        return Err("--early-launch needs a GPU of compute capability 9.0 or newer".into());
    }
    let gpu = &device.properties().name;
    let early = if early { ", early launch" } else { "" };
    println!(
        "{gpu}: Sconce, bf16, {NUM_HEADS} query heads, {NUM_KV_HEADS} heads of keys, head_dim {HEAD_DIM}, blocks of \
         {BLOCK_SIZE}{early}\n"
    );
    println!("| work | how | us | |\n| --- | --- | --- | --- |");
    for &batch in rules.batches {
        let caches = [("bf16 cache", KvDtype::Float(Float::BF16)), ("fp8 cache", KvDtype::Fp8)];
        for (name, dtype) in caches {
            let us = measure(&device, rules, batch, dtype)?;
            println!("| {} | {name} | {us:.2} | {} |", batch.name(), batch.rate(dtype, us));
        }
    }
    Ok(())
}
