//! The tiny model against candle-transformers' Llama in single precision.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_transformers::models::llama::LlamaConfig;
use serde_json::json;

use super::harness::Harness;
use super::models::options;
use super::tiny;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Compute, Isa};

fn assert_close(given: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(given.len(), expected.len());
    let scale = expected.iter().map(|logit| logit.abs()).fold(0.0, f32::max);
    for (given, expected) in given.iter().zip(expected) {
        assert!((given - expected).abs() <= tolerance * scale, "{given} for {expected}");
    }
}

/// Decodes token by token, and compares a few of the steps.
fn compare(rope_scaling: Option<serde_json::Value>, isa: Isa) {
    let folder = tiny::folder(9, rope_scaling);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let options = RunnerOptions { isa: Some(isa), ..options(Compute::F32) };
    let mut harness = Harness::new(CpuRunner::load(&checkpoint, &options).unwrap());
    let text: Vec<u32> =
        (0..700u32).map(|i| (i * i * 31 + 7 * i) % tiny::VOCAB_SIZE as u32).collect();

    let mut sequence = harness.sequence(&text);
    for end in [1, 2, 17, 18, 300, 301, 700] {
        let num_new = end - sequence.num_computed;
        let (logits, _) = harness.step(&mut [(&mut sequence, num_new)]);
        assert_close(&logits[0], &candle_logits(folder.path(), &text[..end]), 2e-5);
    }
}

#[test]
fn logits_equal_candles_on_every_instruction_set() {
    for isa in Isa::available() {
        compare(None, isa);
    }
}

#[test]
fn logits_equal_candles_with_llama3_scaling() {
    let scaling = json!({
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256,
    });
    compare(Some(scaling), Isa::detect());
}

/// The same folder in candle-transformers: logits after the last of `tokens`.
fn candle_logits(folder: &Path, tokens: &[u32]) -> Vec<f32> {
    let json = std::fs::read(folder.join("config.json")).unwrap();
    let config = serde_json::from_slice::<LlamaConfig>(&json).unwrap().into_config(false);
    let weights =
        candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let weights = candle_nn::VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
    let llama = candle_transformers::models::llama::Llama::load(weights, &config).unwrap();
    let mut cache =
        candle_transformers::models::llama::Cache::new(false, DType::F32, &config, &Device::Cpu)
            .unwrap();
    let tokens = Tensor::new(tokens, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let logits = llama.forward(&tokens, 0, &mut cache).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}
