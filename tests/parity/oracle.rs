//! The tiny model against candle-transformers' Llama in single precision.

use serde_json::json;

use super::harness::{Harness, options};
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
        assert_close(&logits[0], &tiny::candle_logits(folder.path(), &text[..end]), 2e-5);
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
