//! Whole forward passes of a model of SmolLM2-135M's shape (random Q4_1 weights, Q8_0 head): tokens
//! a second for one stream, several streams, and a prompt.
//!
//! `cargo bench -p sconce-kernels --bench forward -- [threads] [isa] [case] [KV cache: int8, f16]`
#![expect(clippy::print_stdout, reason = "a bench reports")]

use std::env;
use std::num::NonZeroUsize;
use std::time::Instant;

use half::f16;
use sconce_kernels::Error;
use sconce_kernels::cpu::{
    ActivationDtype, Activations, Attention, AttentionRow, Compute, Cpu, Isa, KvCache, KvDtype,
    KvShape, MatrixPart, Output, PackedMatrix, RmsNorm, RopeAndCache, RopeStyle, RopeTable,
};
use sconce_kernels::dtype::Dtype;

const HIDDEN: usize = 576;
const FF: usize = 1536;
const NUM_LAYERS: usize = 30;
const VOCAB: usize = 49152;
const NUM_Q_HEADS: usize = 9;
const NUM_KV_HEADS: usize = 3;
const HEAD_DIM: usize = 64;
const QKV: usize = (NUM_Q_HEADS + 2 * NUM_KV_HEADS) * HEAD_DIM;
const EPS: f32 = 1e-5;

/// A batch of equal sequences.
struct Case {
    name: &'static str,
    num_seqs: usize,
    num_tokens: usize,
    num_computed: usize,
    num_logits: usize,
    repeats: usize,
    /// The sequences' first positions in common blocks.
    num_shared: usize,
}

const CASES: [Case; 11] = [
    case("decode 1 stream, context 64", [1, 1, 64, 1, 100]),
    case("decode 1 stream, context 1024", [1, 1, 1023, 1, 60]),
    case("decode 2 streams", [2, 1, 96, 2, 60]),
    case("decode 4 streams", [4, 1, 96, 4, 60]),
    case("decode 8 streams, context 200", [8, 1, 199, 8, 50]),
    case("decode 32 streams, context 200", [32, 1, 199, 32, 25]),
    case("decode 32 streams, context 1024", [32, 1, 1023, 32, 10]),
    Case {
        num_shared: 1008,
        ..case("decode 32 streams, context 1024, shared", [32, 1, 1023, 32, 10])
    },
    case("decode 1 stream, context 2048", [1, 1, 2047, 1, 60]),
    case("prefill 512", [1, 512, 0, 1, 8]),
    case("prefill 4096", [1, 4096, 0, 1, 2]),
];

const fn case(name: &'static str, sizes: [usize; 5]) -> Case {
    let [num_seqs, num_tokens, num_computed, num_logits, repeats] = sizes;
    Case { name, num_seqs, num_tokens, num_computed, num_logits, repeats, num_shared: 0 }
}

struct Layer {
    qkv: PackedMatrix,
    o: PackedMatrix,
    gate_up: PackedMatrix,
    down: PackedMatrix,
}

struct Model {
    layers: Vec<Layer>,
    head: PackedMatrix,
    norm: Vec<f32>,
    rope: RopeTable,
}

struct Buffers {
    x: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    logits: Vec<f32>,
    last: Vec<f32>,
    sampled: Vec<u32>,
    activations: Activations,
    kv: KvCache,
    positions: Vec<u32>,
    slots: Vec<u32>,
    rows: Vec<AttentionRow>,
    tables: Vec<u32>,
    last_tokens: Vec<u32>,
}

fn random_matrix(cpu: &Cpu, dtype: Dtype, rows: usize, cols: usize) -> Result<PackedMatrix, Error> {
    let mut state = (rows * cols) as u64;
    let mut data = vec![0_u8; rows * cols / 32 * dtype.block_bytes()];
    for block in data.chunks_exact_mut(dtype.block_bytes()) {
        for byte in &mut *block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
        block[..2].copy_from_slice(&f16::from_f32(0.004).to_le_bytes());
        if dtype == Dtype::Q4_1 {
            block[2..4].copy_from_slice(&f16::from_f32(-0.03).to_le_bytes());
        }
    }
    PackedMatrix::pack(cpu, &[MatrixPart { dtype, rows, cols, data: &data }], Compute::Int8)
}

impl Model {
    fn new(cpu: &Cpu) -> Result<Self, Error> {
        let layer = |_| {
            Ok(Layer {
                qkv: random_matrix(cpu, Dtype::Q4_1, QKV, HIDDEN)?,
                o: random_matrix(cpu, Dtype::Q4_1, HIDDEN, HIDDEN)?,
                gate_up: random_matrix(cpu, Dtype::Q4_1, 2 * FF, HIDDEN)?,
                down: random_matrix(cpu, Dtype::Q4_1, HIDDEN, FF)?,
            })
        };
        let inv_freq: Vec<f32> = (0..32).map(|i| 1e5_f32.powf(-(i as f32) / 32.0)).collect();
        Ok(Self {
            layers: (0..NUM_LAYERS).map(layer).collect::<Result<_, Error>>()?,
            head: random_matrix(cpu, Dtype::Q8_0, VOCAB, HIDDEN)?,
            norm: vec![1.0; HIDDEN],
            rope: RopeTable::new(&inv_freq, 8192, 1.0, RopeStyle::Interleaved)?,
        })
    }

    fn forward(&self, cpu: &Cpu, b: &mut Buffers) -> Result<(), Error> {
        let num_tokens = b.positions.len();
        let norm = || Some(RmsNorm { weight: &self.norm, eps: EPS });
        for (index, layer) in self.layers.iter().enumerate() {
            cpu.activations(&b.x, num_tokens, norm(), &mut b.activations)?;
            cpu.matmul(&layer.qkv, &b.activations, Output::Store(&mut b.qkv))?;
            let rope = RopeAndCache {
                qkv: &mut b.qkv,
                num_q_heads: NUM_Q_HEADS,
                norms: None,
                positions: &b.positions,
                table: &self.rope,
                slot_mapping: &b.slots,
                layer: index,
            };
            cpu.rope_and_cache(rope, &mut b.kv)?;
            let attention = Attention {
                qkv: &b.qkv,
                num_q_heads: NUM_Q_HEADS,
                scale: 0.125,
                soft_cap: None,
                window: None,
                layer: index,
                rows: &b.rows,
                block_tables: &b.tables,
            };
            cpu.attention(attention, &b.kv, &mut b.attended)?;
            cpu.activations(&b.attended, num_tokens, None, &mut b.activations)?;
            cpu.matmul(&layer.o, &b.activations, Output::Add(&mut b.x))?;
            cpu.activations(&b.x, num_tokens, norm(), &mut b.activations)?;
            cpu.matmul(&layer.gate_up, &b.activations, Output::Store(&mut b.gate_up))?;
            cpu.silu_mul(&b.gate_up, num_tokens, &mut b.activations)?;
            cpu.matmul(&layer.down, &b.activations, Output::Add(&mut b.x))?;
        }
        let num_logits = b.last_tokens.len();
        cpu.gather_rows(&b.x, HIDDEN, &b.last_tokens, &mut b.last)?;
        cpu.activations(&b.last, num_logits, norm(), &mut b.activations)?;
        cpu.matmul(&self.head, &b.activations, Output::Store(&mut b.logits))?;
        cpu.argmax(&b.logits, num_logits, &mut b.sampled)
    }
}

fn buffers(cpu: &Cpu, model: &Model, case: &Case, kv_dtype: KvDtype) -> Result<Buffers, Error> {
    let total = case.num_seqs * case.num_tokens;
    let blocks_per_seq = (case.num_computed + case.num_tokens).div_ceil(16);
    let shape = KvShape {
        num_layers: NUM_LAYERS,
        num_blocks: case.num_seqs * blocks_per_seq,
        block_size: 16,
        num_kv_heads: NUM_KV_HEADS,
        head_dim: HEAD_DIM,
    };
    let token = |i: usize| (i / case.num_tokens, case.num_computed + i % case.num_tokens);
    let slot = |i| {
        let (seq, position) = token(i);
        (seq * blocks_per_seq * 16 + position) as u32
    };
    let row = |seq| AttentionRow {
        first_token: seq * case.num_tokens,
        num_tokens: case.num_tokens,
        num_computed: case.num_computed,
        first_block: seq * blocks_per_seq,
        num_blocks: blocks_per_seq,
    };
    let block = |i: usize| {
        let (seq, block) = (i / blocks_per_seq, i % blocks_per_seq);
        (if block < case.num_shared / 16 { block } else { seq * blocks_per_seq + block }) as u32
    };
    let operands = model.head.operands() | model.layers[0].qkv.operands();
    let last = |seq: usize| ((seq + 1) * case.num_tokens - 1) as u32;
    Ok(Buffers {
        x: vec![0.0; total * HIDDEN],
        qkv: vec![0.0; total * QKV],
        attended: vec![0.0; total * HIDDEN],
        gate_up: vec![0.0; total * 2 * FF],
        logits: vec![0.0; case.num_logits * VOCAB],
        last: vec![0.0; case.num_logits * HIDDEN],
        sampled: vec![0; case.num_logits],
        activations: Activations::new(cpu, total, FF, operands, ActivationDtype::Int8),
        kv: KvCache::new(shape, kv_dtype)?,
        positions: (0..total).map(|i| token(i).1 as u32).collect(),
        slots: (0..total).map(slot).collect(),
        rows: (0..case.num_seqs).map(row).collect(),
        tables: (0..case.num_seqs * blocks_per_seq).map(block).collect(),
        last_tokens: (0..case.num_logits).map(last).collect(),
    })
}

/// Writes every position of the cache: memory that nobody has written is all one page of zeros,
/// which stays in the processor's cache.
fn fill(cpu: &Cpu, model: &Model, buffers: &mut Buffers) -> Result<(), Error> {
    const CHUNK: usize = 256;
    let shape = buffers.kv.shape();
    let mut qkv: Vec<f32> = (0..CHUNK * QKV).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    for layer in 0..shape.num_layers {
        for first in (0..shape.num_blocks * shape.block_size).step_by(CHUNK) {
            let end = (first + CHUNK).min(shape.num_blocks * shape.block_size);
            let rope = RopeAndCache {
                qkv: &mut qkv[..(end - first) * QKV],
                num_q_heads: NUM_Q_HEADS,
                norms: None,
                positions: &vec![0; end - first],
                table: &model.rope,
                slot_mapping: &(first as u32..end as u32).collect::<Vec<_>>(),
                layer,
            };
            cpu.rope_and_cache(rope, &mut buffers.kv)?;
        }
    }
    Ok(())
}

fn run(cpu: &Cpu, model: &Model, case: &Case, kv_dtype: KvDtype) -> Result<(), Error> {
    let mut buffers = buffers(cpu, model, case, kv_dtype)?;
    fill(cpu, model, &mut buffers)?;
    let mut seconds = Vec::new();
    for repeat in 0..case.repeats + 2 {
        for (i, x) in buffers.x.iter_mut().enumerate() {
            *x = ((i * 37 % 101) as f32 - 50.0) / 50.0;
        }
        let started = Instant::now();
        model.forward(cpu, &mut buffers)?;
        if repeat >= 2 || case.repeats < 5 {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    let tokens = (case.num_seqs * case.num_tokens) as f64;
    let (median, best) = (seconds[seconds.len() / 2], seconds[0]);
    let (name, rate, best_rate) = (case.name, tokens / median, tokens / best);
    println!("{name:40} median {:8.3} ms {rate:6.0} tok/s, best {best_rate:6.0}", median * 1e3);
    Ok(())
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let threads = args.first().and_then(|arg| arg.parse().ok()).unwrap_or(2);
    let isa = args.get(1).map_or(Ok(Isa::detect()), |arg| arg.parse())?;
    let wanted = args.get(2).map_or("", String::as_str);
    let kv = match args.get(3).map(String::as_str) {
        Some("int8") => KvDtype::Int8,
        Some("f16") => KvDtype::F16,
        _ => isa.kv_dtype(ActivationDtype::Int8),
    };
    let cpu = Cpu::new(NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN), isa)?;
    let started = Instant::now();
    let model = Model::new(&cpu)?;
    println!("{isa}, {threads} threads, packed in {:?}", started.elapsed());
    CASES
        .iter()
        .filter(|case| case.name.contains(wanted))
        .try_for_each(|c| run(&cpu, &model, c, kv))
}
