//! A small encoder with random weights, as a Hugging Face folder.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const HIDDEN: usize = 64;
const FF: usize = 128;

/// Its `config.json`.
pub(crate) fn config(architecture: &str) -> Value {
    json!({
        "architectures": [architecture], "model_type": "bert", "vocab_size": 100,
        "hidden_size": HIDDEN, "intermediate_size": FF, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 600, "type_vocab_size": 2,
        "layer_norm_eps": 1e-12, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "initializer_range": 0.02, "pad_token_id": 0, "id2label": {"0": "A", "1": "B", "2": "C"},
    })
}

/// Names and shapes of an encoder's tensors.
fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut shapes = vec![
        ("embeddings.word_embeddings.weight".to_owned(), vec![100, HIDDEN]),
        ("embeddings.position_embeddings.weight".to_owned(), vec![600, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".to_owned(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".to_owned(), vec![HIDDEN]),
    ];
    let mut linear = |name: String, rows: usize, cols: usize| {
        shapes.push((format!("{name}.weight"), vec![rows, cols]));
        shapes.push((format!("{name}.bias"), vec![rows]));
    };
    for i in 0..2 {
        let at = format!("encoder.layer.{i}");
        for part in ["query", "key", "value"] {
            linear(format!("{at}.attention.self.{part}"), HIDDEN, HIDDEN);
        }
        linear(format!("{at}.attention.output.dense"), HIDDEN, HIDDEN);
        linear(format!("{at}.intermediate.dense"), FF, HIDDEN);
        linear(format!("{at}.output.dense"), HIDDEN, FF);
    }
    linear("pooler.dense".to_owned(), HIDDEN, HIDDEN);
    for i in 0..2 {
        for norm in ["attention.output", "output"] {
            for part in ["weight", "bias"] {
                let name = format!("encoder.layer.{i}.{norm}.LayerNorm.{part}");
                shapes.push((name, vec![HIDDEN]));
            }
        }
    }
    shapes
}

/// Writes a random model. `change` may add tensors and files.
pub(crate) fn write(
    architecture: &str,
    prefix: &str,
    change: impl FnOnce(&Path, &mut HashMap<String, Tensor>),
) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut tensors = HashMap::new();
    for (name, shape) in shapes() {
        let scale = if shape.len() == 2 { 0.2 } else { 0.3 };
        let tensor = Tensor::randn(0_f32, scale, shape, &Device::Cpu).unwrap();
        let is_norm = name.ends_with("LayerNorm.weight");
        let tensor = if is_norm { (tensor + 1.0).unwrap() } else { tensor };
        tensors.insert(format!("{prefix}{name}"), tensor);
    }
    std::fs::write(directory.path().join("config.json"), config(architecture).to_string()).unwrap();
    change(directory.path(), &mut tensors);
    candle_core::safetensors::save(&tensors, directory.path().join("model.safetensors")).unwrap();
    directory
}
