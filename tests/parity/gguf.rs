//! Tiny models as GGUF files, made of the folders whose logits transformers computed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

use super::gguf_file::{GgufFile, TensorEntry, Value};
use super::harness::Harness;
use super::models::options;
use super::transformers::TinyFixture;
use sconce::runner::cpu::CpuRunner;
use sconce_kernels::cpu::Compute;
use sconce_kernels::dtype::Dtype;

fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny").join(name)
}

/// A folder's model on its way into a file.
struct Conversion {
    architecture: &'static str,
    config: Json,
    tensors: BTreeMap<String, Tensor>,
    file: GgufFile,
}

impl Conversion {
    fn new(name: &str, architecture: &'static str) -> Self {
        let folder = reference(name);
        let config = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap());
        let tensors =
            candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu);
        let mut file = GgufFile::llama(Dtype::F32, 0);
        file.tensors.clear();
        file.metadata.retain(|(key, _)| !key.starts_with("llama."));
        file.set("general.architecture", Value::Str(architecture));
        let tensors = tensors.unwrap().into_iter().collect();
        Self { architecture, config: config.unwrap(), tensors, file }
    }

    fn set(&mut self, key: &str, value: Value) {
        self.file.set(&format!("{}.{key}", self.architecture), value);
    }

    fn count(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn head_dim(&self) -> usize {
        let usual = || self.count("hidden_size") / self.count("num_attention_heads");
        self.config["head_dim"].as_u64().map_or_else(usual, |head_dim| head_dim as usize)
    }

    /// What every architecture has.
    fn common(&mut self) {
        for (key, from) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ] {
            let value = Value::U32(self.count(from) as u32);
            self.set(key, value);
        }
        let head_dim = Value::U32(self.head_dim() as u32);
        self.set("attention.key_length", head_dim.clone());
        self.set("attention.value_length", head_dim);
        self.set("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        let rope = &self.config["rope_parameters"];
        let theta = rope.get("full_attention").unwrap_or(rope)["rope_theta"].as_f64().unwrap();
        self.set("rope.freq_base", Value::F32(theta as f32));
    }

    fn push(&mut self, name: &str, tensor: &Tensor) {
        let values: Vec<f32> =
            tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        self.file.tensors.push(TensorEntry {
            name: name.to_owned(),
            dims: tensor.dims().iter().rev().map(|dim| *dim as u64).collect(),
            kind: 0,
            offset: None,
            data: values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        });
    }

    /// Rows in the order in which a llama's file has them: of a head, the halves that turn together
    /// are neighbors.
    fn interleaved(&self, tensor: &Tensor) -> Tensor {
        let (rows, cols) = tensor.dims2().unwrap();
        let half = self.head_dim() / 2;
        let heads = tensor.reshape((rows / (2 * half), 2, half, cols)).unwrap();
        heads.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, cols)).unwrap()
    }

    /// Adds a tensor under the name that GGUF has for it.
    fn convert(&mut self, name: &str, tensor: &Tensor) {
        let is_gemma = self.architecture.starts_with("gemma");
        let mut tensor = tensor.to_dtype(DType::F32).unwrap();
        if is_gemma && name.ends_with("norm.weight") {
            tensor = (tensor + 1.0).unwrap();
        }
        if self.architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
            tensor = self.interleaved(&tensor);
        }
        let mut name = name.replace("model.layers.", "blk.");
        for (from, to) in [
            ("model.embed_tokens", "token_embd"),
            ("model.norm", "output_norm"),
            ("lm_head", "output"),
            ("input_layernorm", "attn_norm"),
            ("self_attn.q_proj", "attn_q"),
            ("self_attn.k_proj", "attn_k"),
            ("self_attn.v_proj", "attn_v"),
            ("self_attn.o_proj", "attn_output"),
            ("self_attn.q_norm", "attn_q_norm"),
            ("self_attn.k_norm", "attn_k_norm"),
            ("pre_feedforward_layernorm", "ffn_norm"),
            ("post_feedforward_layernorm", "post_ffw_norm"),
            ("post_attention_layernorm", if is_gemma { "post_attention_norm" } else { "ffn_norm" }),
            ("block_sparse_moe.gate", "ffn_gate_inp"),
            ("mlp.gate.", "ffn_gate_inp."),
            ("self_attn.qkv_proj", "attn_qkv"),
            ("mlp.gate_up_proj", "ffn_up"),
            ("mlp.gate_proj", "ffn_gate"),
            ("mlp.up_proj", "ffn_up"),
            ("mlp.down_proj", "ffn_down"),
        ] {
            name = name.replace(from, to);
        }
        self.push(&name, &tensor);
    }

    /// Adds all tensors, those of experts stacked. `experts`: their prefix and the names of the gate,
    /// the factors and the way down.
    fn convert_all(&mut self, experts: Option<(&str, usize, [&str; 3])>) {
        let tensors = std::mem::take(&mut self.tensors);
        for (name, tensor) in tensors.iter().filter(|(name, _)| !name.contains(".experts.")) {
            self.convert(name, tensor);
        }
        let Some((prefix, num, parts)) = experts else { return };
        for layer in 0..self.count("num_hidden_layers") {
            for (part, to) in parts.iter().zip(["gate", "up", "down"]) {
                let name = |i| format!("model.layers.{layer}.{prefix}.experts.{i}.{part}.weight");
                let stack: Vec<_> = (0..num).map(|i| tensors[&name(i)].clone()).collect();
                let stack = Tensor::stack(&stack, 0).unwrap();
                self.push(&format!("blk.{layer}.ffn_{to}_exps.weight"), &stack);
            }
        }
    }

    /// Compares logits as far as `end`.
    fn check(&self, name: &str, end: usize) {
        let fixture = std::fs::read(reference(name).join("logits.json")).unwrap();
        let fixture: TinyFixture = serde_json::from_slice(&fixture).unwrap();
        let checkpoint = self.file.open().unwrap();
        let runner = CpuRunner::load(&checkpoint, &options(Compute::F32)).unwrap();
        let mut harness = Harness::new(runner);
        let mut sequence = harness.sequence(&fixture.prompt_ids);
        let mut num_compared = 0;
        for (position, expected) in fixture.logits.range(..end) {
            let num_new = position + 1 - sequence.num_computed;
            let (logits, _) = harness.step(&mut [(&mut sequence, num_new)]);
            for (given, expected) in logits[0].iter().zip(expected) {
                assert!((given - expected).abs() < 1e-4, "{name}: {given} for {expected}");
            }
            num_compared += 1;
        }
        assert!(num_compared >= 2);
    }
}

#[test]
fn qwen2_and_qwen3() {
    let mut qwen2 = Conversion::new("qwen2_biases_tied_f32", "qwen2");
    qwen2.common();
    qwen2.convert_all(None);
    // Its file says nothing of the window.
    qwen2.check("qwen2_biases_tied_f32", 9);

    let mut qwen3 = Conversion::new("qwen3_bf16", "qwen3");
    qwen3.common();
    qwen3.convert_all(None);
    qwen3.check("qwen3_bf16", 48);
}

#[test]
fn phi3() {
    let mut phi3 = Conversion::new("phi3_bf16", "phi3");
    phi3.common();
    phi3.set("attention.sliding_window", Value::U32(12));
    phi3.set("rope.dimension_count", Value::U32(8));
    phi3.convert_all(None);
    phi3.check("phi3_bf16", 48);
}

#[test]
fn mixtures_of_experts() {
    let mut qwen3 = Conversion::new("qwen3_moe_bf16", "qwen3moe");
    qwen3.common();
    qwen3.set("expert_count", Value::U32(6));
    qwen3.set("expert_used_count", Value::U32(3));
    qwen3.set("expert_feed_forward_length", Value::U32(24));
    qwen3.convert_all(Some(("mlp", 6, ["gate_proj", "up_proj", "down_proj"])));
    qwen3.check("qwen3_moe_bf16", 48);

    let mut mixtral = Conversion::new("mixtral_f32", "llama");
    mixtral.common();
    mixtral.set("expert_count", Value::U32(4));
    mixtral.set("expert_used_count", Value::U32(2));
    mixtral.convert_all(Some(("block_sparse_moe", 4, ["w1", "w3", "w2"])));
    mixtral.check("mixtral_f32", 48);
}

#[test]
fn gemma2_and_gemma3() {
    let mut gemma2 = Conversion::new("gemma2_bf16", "gemma2");
    gemma2.common();
    gemma2.set("attention.sliding_window", Value::U32(10));
    gemma2.set("attn_logit_softcapping", Value::F32(3.0));
    gemma2.set("final_logit_softcapping", Value::F32(5.0));
    scale_queries(&mut gemma2, 24.0);
    gemma2.convert_all(None);
    gemma2.check("gemma2_bf16", 48);

    let mut gemma3 = Conversion::new("gemma3_f32", "gemma3");
    gemma3.common();
    gemma3.set("attention.sliding_window", Value::U32(10));
    // Booleans, one for each layer.
    let mut pattern = vec![7, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    pattern.extend([1, 0, 1]);
    gemma3.set("attention.sliding_window_pattern", Value::Raw(9, pattern));
    gemma3.set("rope.freq_base_swa", Value::F32(100.0));
    gemma3.set("rope.scaling.type", Value::Str("linear"));
    gemma3.set("rope.scaling.factor", Value::F32(8.0));
    scale_queries(&mut gemma3, 20.0);
    gemma3.convert_all(None);
    gemma3.check("gemma3_f32", 48);
}

/// GGUF files scale scores by the width of a head; the references are of another scale, which goes into
/// what makes the queries.
fn scale_queries(conversion: &mut Conversion, scalar: f64) {
    let factor = (conversion.head_dim() as f64 / scalar).sqrt();
    let is_normed = conversion.architecture == "gemma3";
    for (name, tensor) in &mut conversion.tensors {
        let scaled = tensor.to_dtype(DType::F32).unwrap();
        if is_normed && name.ends_with("q_norm.weight") {
            *tensor = (((scaled + 1.0).unwrap() * factor).unwrap() - 1.0).unwrap();
        } else if !is_normed && name.ends_with("q_proj.weight") {
            *tensor = (scaled * factor).unwrap();
        }
    }
}
