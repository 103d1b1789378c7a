//! What single operations cost, at SmolLM2-135M's shapes unless the name says otherwise. Elements
//! are multiplications for products and attention, so that criterion's rate is half the
//! operations a second.
//!
//! `SCONCE_BENCH_THREADS` sets the threads, 1 by default.

use std::env;
use std::num::NonZeroUsize;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sconce_kernels::cpu::{
    ActivationDtype, Activations, Attention, AttentionRow, Compute, Cpu, Isa, KvCache, KvDtype,
    KvShape, MatrixPart, Output, PackedMatrix, RmsNorm,
};
use sconce_kernels::dtype::Dtype;

fn device() -> Cpu {
    let threads = env::var("SCONCE_BENCH_THREADS").ok().and_then(|threads| threads.parse().ok());
    let isa = env::var("SCONCE_BENCH_ISA").ok().and_then(|isa| isa.parse().ok());
    let isa = isa.unwrap_or_else(Isa::detect);
    Cpu::new(threads.unwrap_or(NonZeroUsize::MIN), isa).expect("a device")
}

fn matrix(cpu: &Cpu, dtype: Dtype, rows: usize, cols: usize) -> PackedMatrix {
    let data = vec![0x11; rows * cols / dtype.block_len() * dtype.block_bytes()];
    let part = MatrixPart { dtype, rows, cols, data: &data };
    PackedMatrix::pack(cpu, &[part], Compute::Int8).expect("a matrix")
}

fn matmul(criterion: &mut Criterion) {
    let cpu = device();
    let mut group = criterion.benchmark_group("matmul");
    let cases = [
        ("q4_1", Dtype::Q4_1, 3072, 576),
        ("q8_0", Dtype::Q8_0, 3072, 576),
        ("q5_0", Dtype::Q5_0, 3072, 576),
        ("q5_1", Dtype::Q5_1, 3072, 576),
        ("q6_k", Dtype::Q6K, 3072, 768),
        ("bf16", Dtype::BF16, 3072, 576),
        ("f32", Dtype::F32, 3072, 576),
    ];
    for (name, dtype, rows, cols) in cases {
        let weights = matrix(&cpu, dtype, rows, cols);
        for num_tokens in [1, 2, 4, 8, 64, 512] {
            let x = vec![0.5; num_tokens * cols];
            let mut activations =
                Activations::new(&cpu, num_tokens, cols, weights.operands(), ActivationDtype::Int8);
            cpu.activations(&x, num_tokens, None, &mut activations).expect("activations");
            let mut out = vec![0.0; num_tokens * rows];
            group.throughput(Throughput::Elements((rows * cols * num_tokens) as u64));
            group.bench_function(format!("{name}/{num_tokens}_tokens"), |bencher| {
                bencher.iter(|| cpu.matmul(&weights, &activations, Output::Store(&mut out)));
            });
        }
    }
}

fn attention(criterion: &mut Criterion) {
    let cpu = device();
    let mut group = criterion.benchmark_group("attention");
    for (name, num_tokens, num_computed) in [
        ("decode/context_1024", 1_usize, 1023_usize),
        ("prefill/512", 512, 0),
        ("prefill/512_after_3584", 512, 3584),
    ] {
        let positions = num_computed + num_tokens;
        let num_blocks = positions.div_ceil(16);
        let shape =
            KvShape { num_layers: 1, num_blocks, block_size: 16, num_kv_heads: 3, head_dim: 64 };
        let kv = KvCache::new(shape, KvDtype::F16).expect("a cache");
        let qkv = vec![0.1; num_tokens * 960];
        let mut out = vec![0.0; num_tokens * 576];
        let tables: Vec<u32> = (0..num_blocks as u32).collect();
        let row =
            AttentionRow { first_token: 0, num_tokens, num_computed, first_block: 0, num_blocks };
        let seen = num_tokens * (2 * num_computed + num_tokens + 1) / 2;
        group.throughput(Throughput::Elements((seen * 9 * 64 * 2) as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let args = Attention {
                    qkv: &qkv,
                    num_q_heads: 9,
                    scale: 0.125,
                    soft_cap: None,
                    window: None,
                    layer: 0,
                    rows: &[row],
                    block_tables: &tables,
                };
                cpu.attention(args, &kv, &mut out)
            });
        });
    }
}

fn rows(criterion: &mut Criterion) {
    let cpu = device();
    let mut group = criterion.benchmark_group("rows");
    let weight = vec![1.0; 576];
    for num_tokens in [1, 8] {
        let x = vec![0.5; num_tokens * 3072];
        let operands = matrix(&cpu, Dtype::Q4_1, 16, 32).operands();
        let mut out = Activations::new(&cpu, num_tokens, 1536, operands, ActivationDtype::Int8);
        group.bench_function(format!("rms_norm_576/{num_tokens}_tokens"), |bencher| {
            let norm = Some(RmsNorm { weight: &weight, eps: 1e-5 });
            bencher.iter(|| cpu.activations(&x[..num_tokens * 576], num_tokens, norm, &mut out));
        });
        group.bench_function(format!("silu_mul_1536/{num_tokens}_tokens"), |bencher| {
            bencher.iter(|| cpu.silu_mul(&x, num_tokens, &mut out));
        });
    }
    let logits = vec![0.5; 49152];
    group.bench_function("argmax_49152", |bencher| {
        bencher.iter(|| cpu.argmax(&logits, 1, &mut [0]));
    });
    group.bench_function("empty_loop_2_threads", |bencher| {
        let cpu = Cpu::new(NonZeroUsize::MIN.saturating_add(1), Isa::detect()).expect("a device");
        bencher.iter(|| cpu.parallel(&mut [0, 0], |_, item| *item += 1));
    });
}

criterion_group!(benches, matmul, attention, rows);
criterion_main!(benches);
