//! Tokens per second of forward passes on a GPU, of models' shapes with random weights, without engine
//! and router.
//!
//! `cargo bench --features cuda --bench gpu -- [SHAPE...] [--dtype bf16|f16|f32] [--weights WEIGHTS] [--quick]
//! [--no-early-launch] [--tuning-cache FILE] [--works decode-1,decode-64,prefill-4] [--profile]`, where WEIGHTS is
//! q4, q8 (of GGUF), gptq, awq, fp8 (with a scale per row), or fp8-blocks
//!
//! `--profile` marks a step of each work for a profiler: `ncu --profile-from-start off` tells each kernel's time.
//!
//! Shapes: smollm2-135m, llama-1b, llama-8b, qwen3-30b-a3b; the first three, unless some are named. First the device's own ceilings
//! are measured, a copy and a product of matrices; beside each figure stands what they would allow.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

#[path = "../tests/parity/harness.rs"]
mod harness;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use sconce::engine::plan::{Carry, StepPlan};
use sconce::models::config::{DecoderConfig, Experts};
use sconce::runner::Executor;
use sconce::runner::cuda::CudaRunner;
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cuda::{Device, Float, Linear, Matmul, Write, profiler};
use sconce_kernels::dtype::Dtype;
use serde_json::json;

use harness::{Harness, Sequence};

/// A model's shape, by the names of its `config.json`.
struct Shape {
    name: &'static str,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    vocab_size: usize,
    tie_word_embeddings: bool,
    /// Of a mixture of experts, whose `intermediate_size` is one's.
    experts: Option<Experts>,
    works: &'static [Work],
}

#[derive(Clone, Copy)]
enum Work {
    Decode { num_streams: usize, context: usize },
    Prefill { num_prompts: usize, len: usize },
}

/// Shapes that are measured unless some are named.
const USUAL: std::ops::Range<usize> = 1..4;

const SHAPES: [Shape; 5] = [
    Shape {
        name: "tiny",
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        vocab_size: 320,
        tie_word_embeddings: true,
        experts: None,
        works: &[
            Work::Decode { num_streams: 2, context: 20 },
            Work::Prefill { num_prompts: 1, len: 16 },
        ],
    },
    Shape {
        name: "smollm2-135m",
        hidden_size: 576,
        intermediate_size: 1536,
        num_hidden_layers: 30,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        vocab_size: 49_152,
        tie_word_embeddings: true,
        experts: None,
        works: &[
            Work::Decode { num_streams: 1, context: 1024 },
            Work::Decode { num_streams: 64, context: 1024 },
        ],
    },
    Shape {
        name: "llama-1b",
        hidden_size: 2048,
        intermediate_size: 8192,
        num_hidden_layers: 16,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        vocab_size: 128_256,
        tie_word_embeddings: true,
        experts: None,
        works: &[Work::Decode { num_streams: 1, context: 1024 }],
    },
    Shape {
        name: "llama-8b",
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        vocab_size: 128_256,
        tie_word_embeddings: false,
        experts: None,
        works: &[
            Work::Decode { num_streams: 1, context: 1024 },
            Work::Decode { num_streams: 32, context: 1024 },
            Work::Decode { num_streams: 64, context: 1024 },
            Work::Decode { num_streams: 256, context: 1024 },
            Work::Prefill { num_prompts: 4, len: 2048 },
        ],
    },
    // Heads of 128 are wider than the hidden size's share.
    Shape {
        name: "qwen3-30b-a3b",
        hidden_size: 2048,
        intermediate_size: 768,
        num_hidden_layers: 48,
        num_attention_heads: 32,
        num_key_value_heads: 4,
        vocab_size: 151_936,
        tie_word_embeddings: false,
        experts: Some(Experts { num_experts: 128, num_experts_per_tok: 8, norm_topk_prob: true }),
        works: &[
            Work::Decode { num_streams: 1, context: 1024 },
            Work::Decode { num_streams: 32, context: 1024 },
            Work::Decode { num_streams: 256, context: 1024 },
            Work::Prefill { num_prompts: 4, len: 2048 },
        ],
    },
];

const MAX_TOKENS: usize = 8192;
const MAX_STREAMS: usize = 256;

/// What the device can do at best.
#[derive(Clone, Copy)]
struct Ceilings {
    /// Bytes read per second.
    memory: f64,
    /// Multiplications and additions per second.
    products: f64,
}

/// What the matrices are of.
#[derive(Clone)]
struct Weights {
    name: String,
    matrices: Dtype,
    /// As `config.json` has it.
    quantization: Option<serde_json::Value>,
}

/// How to run all shapes.
struct Setting {
    dtype: GpuDtype,
    weights: Weights,
    tuning_cache: Option<PathBuf>,
    quick: bool,
    profile: bool,
    early_launch: bool,
    /// Names of works; all, if there are none.
    works: Vec<String>,
}

/// What a run came to.
struct Figure {
    tokens_per_second: f64,
    /// What the ceilings allow.
    bound: f64,
    /// Share of the time in which the device waited for the host.
    idle: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let has = |flag: &str| arguments.iter().any(|word| word == flag);
    let after = |flag: &str| arguments.iter().skip_while(|word| *word != flag).nth(1);
    let setting = Setting {
        dtype: match after("--dtype").map(String::as_str) {
            None | Some("bf16") => GpuDtype::BF16,
            Some("f16") => GpuDtype::F16,
            Some("f32") => GpuDtype::F32,
            Some(other) => bail!("no type {other}"),
        },
        weights: Weights::of(after("--weights").map_or("bf16", String::as_str))?,
        tuning_cache: after("--tuning-cache").map(PathBuf::from),
        quick: has("--quick"),
        profile: has("--profile"),
        early_launch: !has("--no-early-launch"),
        works: after("--works")
            .map_or(Vec::new(), |works| works.split(',').map(str::to_owned).collect()),
    };
    let is_named = |shape: &&Shape| arguments.iter().any(|word| word == shape.name);
    let named: Vec<_> = SHAPES.iter().filter(is_named).collect();
    let shapes = if named.is_empty() { SHAPES[USUAL].iter().collect() } else { named };
    let device = Device::open(0).context("no GPU")?;
    device.bind()?;
    let ceilings = ceilings(&device, has("--quick"))?;
    let memory = ceilings.memory / 1e12;
    let products = ceilings.products / 1e12;
    let gpu = &device.properties().name;
    println!("{gpu}: copies read {memory:.2} TB/s, products {products:.0} TFLOP/s\n");
    println!("| shape | work | tokens/s | bound | share | GPU idle | load, s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for shape in shapes {
        run(&device, shape, &setting, ceilings)?;
    }
    Ok(())
}

/// Measures a large copy and a large product.
fn ceilings(device: &Device, quick: bool) -> anyhow::Result<Ceilings> {
    let (bytes, n) = if quick { (1 << 20, 64) } else { (4 << 30, 8192) };
    let from = device.alloc_zeroed(bytes)?;
    let mut to = device.alloc(bytes)?;
    let seconds = fastest(device, || Ok(device.copy(from.slice(), &mut to.slice_mut())?))?;
    // Zeros take less power than weights.
    let numbers: Vec<_> = (0..n * n).map(|i| half::bf16::from_f32(number(i))).collect();
    let (x, w) = (device.buffer_of(&numbers)?, device.buffer_of(&numbers)?);
    let mut y = device.alloc(n * n * 2)?;
    let matmul = Matmul::new(device)?;
    let product = fastest(device, || {
        Ok(matmul.multiply(Linear {
            float: Float::BF16,
            x: x.slice(),
            w: w.slice(),
            y: y.slice_mut(),
            y_float: Float::BF16,
            write: Write::Store,
            rows: n,
            n,
            k: n,
        })?)
    })?;
    // A copy reads and writes.
    Ok(Ceilings {
        memory: 2.0 * bytes as f64 / seconds,
        products: 2.0 * (n as f64).powi(3) / product,
    })
}

/// A number of no pattern, between -1 and 1.
fn number(i: usize) -> f32 {
    (i as u32).wrapping_mul(2_654_435_761) as f32 / u32::MAX as f32 * 2.0 - 1.0
}

/// Seconds of one of ten runs, after one.
fn fastest(device: &Device, mut run: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    const RUNS: u32 = 10;
    run()?;
    let (mut begin, mut end) = (device.event(true)?, device.event(true)?);
    begin.record()?;
    for _ in 0..RUNS {
        run()?;
    }
    end.record()?;
    end.wait()?;
    Ok(f64::from(end.ms_since(&begin)?.max(1e-6)) / 1e3 / f64::from(RUNS))
}

impl Weights {
    fn of(name: &str) -> anyhow::Result<Self> {
        let (matrices, quantization) = match name {
            "bf16" => (Dtype::BF16, None),
            "q4" => (Dtype::Q4_0, None),
            "q8" => (Dtype::Q8_0, None),
            "gptq" => {
                (Dtype::BF16, Some(json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 })))
            }
            "awq" => {
                (Dtype::BF16, Some(json!({ "quant_method": "awq", "bits": 4, "group_size": 128 })))
            }
            "fp8" => (Dtype::BF16, Some(json!({ "quant_method": "fbgemm_fp8" }))),
            "fp8-blocks" => (
                Dtype::BF16,
                Some(json!({ "quant_method": "fp8", "weight_block_size": [128, 128] })),
            ),
            other => bail!("no weights {other}"),
        };
        Ok(Self { name: name.to_owned(), matrices, quantization })
    }
}

fn run(
    device: &Device,
    shape: &Shape,
    setting: &Setting,
    ceilings: Ceilings,
) -> anyhow::Result<()> {
    let Setting { dtype, weights, quick, .. } = setting;
    let (dtype, quick) = (*dtype, *quick);
    let folder = tempfile::tempdir()?;
    let mut config = shape.config();
    if let Some(quantization) = &weights.quantization {
        config["quantization_config"] = quantization.clone();
    }
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    let checkpoint = Checkpoint::dummy_of(folder.path(), weights.matrices)?;
    let (num_steps, small) = if quick { (3, 64) } else { (50, MAX_TOKENS) };
    let options = GpuOptions {
        num_threads: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        dtype: Some(dtype),
        max_num_batched_tokens: small as u32,
        max_num_seqs: small.min(MAX_STREAMS) as u32,
        max_model_len: Some(4096.min(small as u32 * 8)),
        tuning_cache: setting.tuning_cache.clone(),
        early_launch: setting.early_launch,
        ..GpuOptions::default()
    };
    let start = Instant::now();
    let mut runner = CudaRunner::load(device.clone(), &checkpoint, &options)?;
    let load = start.elapsed().as_secs_f64();
    let weight_bytes = runner.weight_bytes();
    runner.time_steps()?;
    let mut harness = Harness::new(runner);
    let is_asked = |work: &&Work| setting.works.is_empty() || setting.works.contains(&work.key());
    for work in shape.works.iter().filter(is_asked) {
        harness.clear();
        let figure = match *work {
            Work::Decode { num_streams, context } => {
                decode(&mut harness, (num_streams, context, num_steps), shape, setting.profile)?
            }
            Work::Prefill { num_prompts, len } => prefill(
                &mut harness,
                (num_prompts, len, num_steps / 10 + 1),
                shape,
                setting.profile,
            )?,
        };
        let sizes = Sizes { weight_bytes, kv_bytes: if dtype == GpuDtype::F32 { 4 } else { 2 } };
        let figure = figure(&ceilings, checkpoint.config(), sizes);
        let Figure { tokens_per_second, bound, idle } = figure;
        let (share, idle) = (100.0 * tokens_per_second / bound, 100.0 * idle);
        let (name, work) = (shape.name, work.name());
        let weights = match weights.name.as_str() {
            "bf16" => String::new(),
            other => format!(", {other}"),
        };
        println!(
            "| {name} {dtype:?}{weights} | {work} | {tokens_per_second:.0} | {bound:.0} | {share:.0} % | \
             {idle:.1} % | {load:.1} |"
        );
    }
    Ok(())
}

/// Makes a figure of a measurement, once the ceilings and the sizes are known.
type Measured = Box<dyn FnOnce(&Ceilings, &DecoderConfig, Sizes) -> Figure>;

/// What is read of the memory.
#[derive(Clone, Copy)]
struct Sizes {
    /// All matrices, the embedding table among them.
    weight_bytes: usize,
    /// An element of the cache.
    kv_bytes: usize,
}

fn decode(
    harness: &mut Harness<CudaRunner>,
    (num_streams, context, num_steps): (usize, usize, usize),
    shape: &Shape,
    profile: bool,
) -> anyhow::Result<Measured> {
    let mut sequences: Vec<Sequence> = Vec::new();
    for stream in 0..num_streams {
        let prompt = shape.prompt(stream, context);
        let mut sequence = harness.sequence(&prompt);
        let most = harness.runner.limits().max_num_batched_tokens as usize;
        while sequence.num_computed < context {
            let num_new = most.min(context - sequence.num_computed);
            harness.advance(&mut [(&mut sequence, num_new)]);
        }
        sequences.push(sequence);
    }
    // As the engine does: a step begins before the one before has told its tokens.
    let mut plans = [StepPlan::default(), StepPlan::default()];
    let mut sampled = Vec::new();
    let mut begin = |harness: &mut Harness<CudaRunner>, plan: &mut StepPlan, is_first: bool| {
        for sequence in &mut sequences {
            sequence.tokens.push(0);
        }
        let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
        plan.clear();
        plan.block_tables.clear();
        std::mem::swap(&mut harness.plan, plan);
        harness.push_rows(&mut batch);
        std::mem::swap(&mut harness.plan, plan);
        if !is_first {
            let carry = |i| Carry { token_index: i, sample: i };
            plan.carried.extend((0..num_streams as u32).map(carry));
        }
        harness.runner.begin(plan)
    };
    // The first captures the graph.
    begin(harness, &mut plans[0], true)?;
    harness.runner.finish(&plans[0], &mut sampled)?;
    harness.runner.device_ms();
    let start = Instant::now();
    begin(harness, &mut plans[0], true)?;
    for step in 1..num_steps {
        begin(harness, &mut plans[step % 2], false)?;
        harness.runner.finish(&plans[(step - 1) % 2], &mut sampled)?;
    }
    harness.runner.finish(&plans[(num_steps - 1) % 2], &mut sampled)?;
    let seconds = start.elapsed().as_secs_f64();
    let busy = f64::from(harness.runner.device_ms()) / 1e3;
    if profile {
        profiler(true)?;
        begin(harness, &mut plans[0], true)?;
        harness.runner.finish(&plans[0], &mut sampled)?;
        profiler(false)?;
    }
    Ok(Box::new(move |ceilings, config, sizes| {
        let kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
        // Of an embedding table that is not the head too, a few rows are read, and of experts those that some
        // token goes to.
        let table =
            if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
        let held = parameters(config, |experts| experts.num_experts as f64) + table as f64;
        let read = parameters(config, |experts| visited(experts, num_streams)) / held;
        let bytes =
            sizes.weight_bytes as f64 * read + (sizes.kv_bytes * num_streams * context * kv) as f64;
        let flops = 2.0 * num_streams as f64 * parameters(config, of_token);
        let least = (bytes / ceilings.memory).max(flops / ceilings.products);
        Figure {
            tokens_per_second: (num_streams * num_steps) as f64 / seconds,
            bound: num_streams as f64 / least,
            idle: (1.0 - busy / seconds).max(0.0),
        }
    }))
}

fn prefill(
    harness: &mut Harness<CudaRunner>,
    (num_prompts, len, num_steps): (usize, usize, usize),
    shape: &Shape,
    profile: bool,
) -> anyhow::Result<Measured> {
    let step = |harness: &mut Harness<CudaRunner>, seed: usize| {
        let mut sequences: Vec<_> =
            (0..num_prompts).map(|i| harness.sequence(&shape.prompt(seed + i, len))).collect();
        let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, len)).collect();
        harness.advance(&mut batch);
        harness.clear();
    };
    step(harness, 0);
    harness.runner.device_ms();
    let start = Instant::now();
    for seed in 0..num_steps {
        step(harness, seed);
    }
    let seconds = start.elapsed().as_secs_f64();
    let busy = f64::from(harness.runner.device_ms()) / 1e3;
    if profile {
        profiler(true)?;
        step(harness, num_steps);
        profiler(false)?;
    }
    Ok(Box::new(move |ceilings, config, _| {
        let tokens = num_prompts * len;
        // Products with queries and weights: half of the square is seen.
        let attention = 2 * config.num_hidden_layers * config.q_size() * len;
        let body = parameters(config, of_token) - (config.vocab_size * config.hidden_size) as f64;
        let flops = tokens as f64 * (2.0 * body + attention as f64);
        Figure {
            tokens_per_second: (tokens * num_steps) as f64 / seconds,
            bound: tokens as f64 / (flops / ceilings.products),
            idle: (1.0 - busy / seconds).max(0.0),
        }
    }))
}

/// Weights, the head's among them; of a mixture, of so many experts.
fn parameters(config: &DecoderConfig, num_experts: impl Fn(Experts) -> f64) -> f64 {
    let hidden = config.hidden_size;
    let router = config.variant.experts.map_or(0, |experts| experts.num_experts * hidden);
    let attention = hidden * (config.qkv_size() + config.q_size()) + router;
    let mlp = 3 * hidden * config.intermediate_size;
    let layer = attention as f64 + config.variant.experts.map_or(1.0, num_experts) * mlp as f64;
    config.num_hidden_layers as f64 * layer + (config.vocab_size * hidden) as f64
}

/// Experts that a token goes to.
fn of_token(experts: Experts) -> f64 {
    experts.num_experts_per_tok as f64
}

/// Experts that some of the tokens go to, if all are as likely.
fn visited(experts: Experts, num_tokens: usize) -> f64 {
    let missed = 1.0 - of_token(experts) / experts.num_experts as f64;
    experts.num_experts as f64 * (1.0 - missed.powi(num_tokens as i32))
}

impl Shape {
    fn config(&self) -> serde_json::Value {
        let mut config = json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500_000.0,
            "tie_word_embeddings": self.tie_word_embeddings,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        if let Some(experts) = self.experts {
            config["architectures"] = json!(["Qwen3MoeForCausalLM"]);
            config["model_type"] = json!("qwen3_moe");
            config["head_dim"] = json!(128);
            config["moe_intermediate_size"] = json!(self.intermediate_size);
            config["num_experts"] = json!(experts.num_experts);
            config["num_experts_per_tok"] = json!(experts.num_experts_per_tok);
            config["norm_topk_prob"] = json!(experts.norm_topk_prob);
        }
        config
    }

    fn prompt(&self, seed: usize, len: usize) -> Vec<u32> {
        (0..len).map(|i| ((seed * 7919 + i * 104_729) % self.vocab_size) as u32).collect()
    }
}

impl Work {
    /// As `--works` has it.
    fn key(self) -> String {
        match self {
            Self::Decode { num_streams, .. } => format!("decode-{num_streams}"),
            Self::Prefill { num_prompts, .. } => format!("prefill-{num_prompts}"),
        }
    }

    fn name(self) -> String {
        match self {
            Self::Decode { num_streams, context } => format!("{num_streams} streams, {context}"),
            Self::Prefill { num_prompts, len } => format!("prefill {num_prompts} x {len}"),
        }
    }
}
