//! Mixtures whose experts are quantized: of GGUF files, of safetensors, and floats that become codes while they are
//! loaded.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device as Host, Tensor};
use sconce::runner::cuda::{CudaRunner, LoadError};
use sconce::runner::gpu_options::{GpuDtype, GpuOptions, GpuQuantization};
use sconce::weights::Checkpoint;
use sconce_kernels::cuda::Device;
use sconce_kernels::dtype::Dtype;
use serde_json::json;

use super::gguf_file::{GgufFile, TensorEntry, Value};
use super::models::{cpu_harness, gpu_harness, options};
use super::parity::{distance, go_on, prompt};
use super::tiny::centered;

const HIDDEN: usize = 256;
const LAYERS: usize = 2;
const VOCAB_SIZE: usize = 260;
const HEAD_DIM: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// A tiny mixture of one of the families that have one.
pub(crate) struct Mixture {
    architecture: &'static str,
    num_experts: usize,
    top_k: usize,
    intermediate_size: usize,
    /// Of gate, up and down.
    experts: [GgmlDType; 3],
}

/// As llama.cpp's Q4_K_M has it: what goes down is of more bits.
const MIXTRAL: Mixture = Mixture {
    architecture: "llama",
    num_experts: 4,
    top_k: 2,
    intermediate_size: 512,
    experts: [GgmlDType::Q4K, GgmlDType::Q4K, GgmlDType::Q6K],
};

pub(crate) const QWEN3_MOE: Mixture = Mixture {
    architecture: "qwen3moe",
    num_experts: 12,
    top_k: 4,
    intermediate_size: 256,
    experts: [GgmlDType::Q4K, GgmlDType::Q4K, GgmlDType::Q4K],
};

/// With blocks of 32, and gate and factors of different forms.
pub(crate) const MIXED: Mixture = Mixture {
    architecture: "qwen3moe",
    num_experts: 5,
    top_k: 2,
    intermediate_size: 96,
    experts: [GgmlDType::Q4_0, GgmlDType::Q5_1, GgmlDType::Q8_0],
};

impl Mixture {
    /// A file of random weights.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let mut file = GgufFile::llama(Dtype::F32, 0);
        file.tensors.clear();
        file.metadata.retain(|(key, _)| !key.starts_with("llama."));
        file.set("general.architecture", Value::Str(self.architecture));
        for (key, value) in [
            ("block_count", LAYERS),
            ("context_length", 512),
            ("embedding_length", HIDDEN),
            ("feed_forward_length", self.intermediate_size),
            ("attention.head_count", HEADS),
            ("attention.head_count_kv", KV_HEADS),
            ("attention.key_length", HEAD_DIM),
            ("attention.value_length", HEAD_DIM),
            ("expert_count", self.num_experts),
            ("expert_used_count", self.top_k),
        ] {
            file.set(&format!("{}.{key}", self.architecture), Value::U32(value as u32));
        }
        if self.architecture == "qwen3moe" {
            let width = Value::U32(self.intermediate_size as u32);
            file.set("qwen3moe.expert_feed_forward_length", width);
        }
        let epsilon = format!("{}.attention.layer_norm_rms_epsilon", self.architecture);
        file.set(&epsilon, Value::F32(1e-5));
        file.tensors = self.tensors();
        file.open().unwrap()
    }

    fn tensors(&self) -> Vec<TensorEntry> {
        let (mut random, inner) = (Random(17), self.intermediate_size);
        let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
        let [gate, up, down] = self.experts;
        let mut all = vec![
            random.tensor("token_embd", &[VOCAB_SIZE, HIDDEN], GgmlDType::Q8_0, 1.0),
            random.tensor("output", &[VOCAB_SIZE, HIDDEN], GgmlDType::Q6K, 0.3),
            random.tensor("output_norm", &[HIDDEN], GgmlDType::F32, 0.2),
        ];
        for layer in 0..LAYERS {
            let mut push = |name: &str, shape: &[usize], dtype: GgmlDType| {
                let spread = match (name, shape.len()) {
                    // Experts that are nearly as likely would be others where numbers are rounded.
                    ("ffn_gate_inp", _) => 1.0,
                    (_, 1) => 0.2,
                    _ => (3.0 / shape[shape.len() - 1] as f32).sqrt(),
                };
                all.push(random.tensor(&format!("blk.{layer}.{name}"), shape, dtype, spread));
            };
            push("attn_norm", &[HIDDEN], GgmlDType::F32);
            push("ffn_norm", &[HIDDEN], GgmlDType::F32);
            push("attn_q", &[q, HIDDEN], GgmlDType::Q4K);
            push("attn_k", &[kv, HIDDEN], GgmlDType::Q4K);
            push("attn_v", &[kv, HIDDEN], GgmlDType::Q6K);
            push("attn_output", &[HIDDEN, q], GgmlDType::Q4K);
            if self.architecture == "qwen3moe" {
                push("attn_q_norm", &[HEAD_DIM], GgmlDType::F32);
                push("attn_k_norm", &[HEAD_DIM], GgmlDType::F32);
            }
            push("ffn_gate_inp", &[self.num_experts, HIDDEN], GgmlDType::F32);
            push("ffn_gate_exps", &[self.num_experts, inner, HIDDEN], gate);
            push("ffn_up_exps", &[self.num_experts, inner, HIDDEN], up);
            push("ffn_down_exps", &[self.num_experts, HIDDEN, inner], down);
        }
        all
    }
}

/// Numbers of no pattern.
struct Random(u64);

impl Random {
    /// Vectors are around one.
    fn tensor(
        &mut self,
        name: &str,
        shape: &[usize],
        dtype: GgmlDType,
        spread: f32,
    ) -> TensorEntry {
        let mean = if shape.len() == 1 { 1.0 } else { 0.0 };
        let len: usize = shape.iter().product();
        let values: Vec<_> = (0..len).map(|_| mean + spread * centered(&mut self.0)).collect();
        let tensor = Tensor::from_vec(values, shape, &Host::Cpu).unwrap();
        let data = QTensor::quantize(&tensor, dtype).unwrap().data().unwrap().into_owned();
        let kind = match dtype {
            GgmlDType::F32 => 0,
            GgmlDType::Q4_0 => 2,
            GgmlDType::Q5_1 => 7,
            GgmlDType::Q8_0 => 8,
            GgmlDType::Q4K => 12,
            GgmlDType::Q6K => 14,
            other => panic!("{other:?} has no number here"),
        };
        let dims = shape.iter().rev().map(|dim| *dim as u64).collect();
        TensorEntry { name: format!("{name}.weight"), dims, kind, offset: None, data }
    }
}

/// Distances of the logits from the processor's in rising order, by each of the ways that products go: of one
/// token, of some, of many.
fn distances(checkpoint: &Checkpoint, options: &GpuOptions) -> [f32; 5] {
    let (mut cpu, mut gpu) = (cpu_harness(checkpoint), gpu_harness(checkpoint, options));
    let tokens: Vec<_> = prompt(9, 150).iter().map(|token| token % VOCAB_SIZE as u32).collect();
    let (mut on_cpu, mut on_gpu) = (cpu.sequence(&tokens), gpu.sequence(&tokens));
    let mut steps = [1, 6, 20, 112, 1].map(|num_new| {
        let (expected, _) = cpu.step(&mut [(&mut on_cpu, num_new)]);
        let (given, _) = gpu.step(&mut [(&mut on_gpu, num_new)]);
        let distance = distance(&given[0], &expected[0]);
        println!("{num_new}: {distance:e}");
        distance
    });
    steps.sort_by(f32::total_cmp);
    steps
}

#[test]
fn logits_of_quantized_experts_are_near_the_processors() {
    for mixture in [MIXTRAL, QWEN3_MOE, MIXED] {
        let checkpoint = mixture.checkpoint();
        for (dtype, limit) in [(GpuDtype::F16, 1e-2), (GpuDtype::BF16, 6e-2)] {
            // Of some token, experts are so nearly as likely that rounding chooses another.
            let [.., most, _] = distances(&checkpoint, &options(dtype));
            assert!(most < limit, "{} {dtype:?}: {most:e}", mixture.architecture);
        }
    }
}

#[test]
fn in_32_bits_tokens_of_quantized_experts_equal_the_processors() {
    for mixture in [MIXTRAL, QWEN3_MOE] {
        let checkpoint = mixture.checkpoint();
        let prompts = [1, 5, 37].map(|len| prompt(len, len).iter().map(|it| it % 256).collect());

        let (expected, tokens) = go_on(&mut cpu_harness(&checkpoint), &prompts);
        let (logits, given) =
            go_on(&mut gpu_harness(&checkpoint, &options(GpuDtype::F32)), &prompts);

        assert_eq!(given, tokens, "{}", mixture.architecture);
        let worst = logits.iter().zip(&expected).map(|(x, y)| distance(x, y)).fold(0.0, f32::max);
        assert!(worst < 5e-5, "{}: {worst:e}", mixture.architecture);
    }
}

#[test]
fn experts_take_as_much_memory_as_their_codes() {
    let runner = gpu_harness(&QWEN3_MOE.checkpoint(), &options(GpuDtype::F16)).runner;

    let w4 = |elements: usize| elements / 32 * 20;
    let w8 = |elements: usize| elements / 32 * 36;
    let experts = QWEN3_MOE.num_experts * 3 * HIDDEN * QWEN3_MOE.intermediate_size;
    let (q, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let attention = w4((2 * q + kv) * HIDDEN) + w8(kv * HIDDEN);
    let router = QWEN3_MOE.num_experts * HIDDEN * 2;
    // Rows come in sixteens.
    let vocabulary = 2 * w8(VOCAB_SIZE.next_multiple_of(16) * HIDDEN);
    let expected = LAYERS * (w4(experts) + attention + router) + vocabulary;
    assert_eq!(runner.weight_bytes(), expected);
}

/// A folder with the configuration of a mixture of random weights.
fn folder(quantization: Option<serde_json::Value>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json!({
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "hidden_act": "silu",
        "hidden_size": 256,
        "intermediate_size": 512,
        "moe_intermediate_size": 128,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "norm_topk_prob": true,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    if let Some(quantization) = quantization {
        config["quantization_config"] = quantization;
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[test]
fn experts_that_safetensors_have_quantized_stay_so() {
    let floats = folder(None);
    let floats = Checkpoint::dummy(floats.path()).unwrap();
    let floats = gpu_harness(&floats, &options(GpuDtype::F16)).runner.weight_bytes();
    for (quantization, share) in [
        (json!({ "quant_method": "awq", "bits": 4, "group_size": 128 }), 0.5),
        (json!({ "quant_method": "gptq", "bits": 4, "group_size": 128 }), 0.5),
        (json!({ "quant_method": "gptq", "bits": 8, "group_size": 128 }), 0.7),
        (json!({ "quant_method": "fp8", "weight_block_size": [128, 128] }), 0.7),
        (json!({ "quant_method": "fbgemm_fp8" }), 0.7),
    ] {
        let folder = folder(Some(quantization.clone()));
        let checkpoint = Checkpoint::dummy(folder.path()).unwrap();

        let [.., worst] = distances(&checkpoint, &options(GpuDtype::F16));

        assert!(worst < 0.1, "{quantization}: {worst:e}");
        let bytes = gpu_harness(&checkpoint, &options(GpuDtype::F16)).runner.weight_bytes();
        assert!((bytes as f64) < share * floats as f64, "{quantization}: {bytes} of {floats}");
    }
}

#[test]
fn experts_of_floats_are_quantized_while_they_are_copied() {
    let folder = folder(None);
    let checkpoint = Checkpoint::dummy(folder.path()).unwrap();
    let mut before = usize::MAX;
    for (quantize, range) in [
        (None, 0.0..1e-2),
        (Some(GpuQuantization::Q8), 1e-4..3e-2),
        (Some(GpuQuantization::Q4), 1e-2..0.5),
    ] {
        let options = GpuOptions { quantize, ..options(GpuDtype::F16) };

        // Rounded so much, a token or two goes to another expert.
        let [_, _, usual, ..] = distances(&checkpoint, &options);

        assert!(range.contains(&usual), "{quantize:?}: {usual:e}");
        let bytes = gpu_harness(&checkpoint, &options).runner.weight_bytes();
        assert!(bytes < before, "{quantize:?}: {bytes}");
        before = bytes;
    }
}

#[test]
fn experts_do_not_become_8_bit_floats() {
    let folder = folder(None);
    let checkpoint = Checkpoint::dummy(folder.path()).unwrap();
    let device = Device::open(0).expect("a GPU, or the stand-in for its driver");
    let options = GpuOptions { quantize: Some(GpuQuantization::Fp8), ..options(GpuDtype::BF16) };

    let refused = CudaRunner::load(device, &checkpoint, &options).err();

    assert!(matches!(refused, Some(LoadError::Fp8Experts)), "{refused:?}");
}

#[test]
fn experts_that_are_quantized_are_not_quantized_again() {
    // All but what chooses them, which stays floats.
    let checkpoint = QWEN3_MOE.checkpoint();
    let device = Device::open(0).expect("a GPU, or the stand-in for its driver");
    let options = GpuOptions { quantize: Some(GpuQuantization::Q8), ..options(GpuDtype::BF16) };

    let refused = CudaRunner::load(device, &checkpoint, &options).err();

    assert!(matches!(refused, Some(LoadError::NothingToQuantize)), "{refused:?}");
}
