//! A small Llama with random weights, as a Hugging Face folder.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::json;

pub(crate) const VOCAB_SIZE: usize = 320;
const HIDDEN: usize = 128;
const MLP: usize = 224;
const LAYERS: usize = 3;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;

/// A folder with `config.json` and `model.safetensors`. Weights come from `seed` alone.
pub(crate) fn folder(seed: u64, rope_scaling: Option<serde_json::Value>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": false,
        "bos_token_id": 1,
        "eos_token_id": 2,
    });
    if let Some(scaling) = rope_scaling {
        config["rope_scaling"] = scaling;
    }
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write_weights(seed, &folder.path().join("model.safetensors"));
    folder
}

fn write_weights(seed: u64, path: &Path) {
    let mut state = seed;
    let mut add = |name: String, shape: &[usize], mean: f32, spread: f32| {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| mean + spread * centered(&mut state)).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    let mut tensors = vec![
        add("model.embed_tokens.weight".into(), &[VOCAB_SIZE, HIDDEN], 0.0, 1.0),
        add("lm_head.weight".into(), &[VOCAB_SIZE, HIDDEN], 0.0, 0.3),
        add("model.norm.weight".into(), &[HIDDEN], 1.0, 0.2),
    ];
    for layer in 0..LAYERS {
        let matrices = [
            ("self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM),
            ("mlp.gate_proj", MLP, HIDDEN),
            ("mlp.up_proj", MLP, HIDDEN),
            ("mlp.down_proj", HIDDEN, MLP),
        ];
        for (name, rows, cols) in matrices {
            let spread = (3.0 / cols as f32).sqrt();
            let name = format!("model.layers.{layer}.{name}.weight");
            tensors.push(add(name, &[rows, cols], 0.0, spread));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            let name = format!("model.layers.{layer}.{name}.weight");
            tensors.push(add(name, &[HIDDEN], 1.0, 0.2));
        }
    }
    candle_core::safetensors::save(&tensors.into_iter().collect(), path).unwrap();
}

/// A number in `[-1, 1)`.
pub(crate) fn centered(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}
