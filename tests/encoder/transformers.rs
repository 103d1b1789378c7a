//! Against what transformers computed in single precision from the same weights: tiny encoders and
//! classifiers.

use std::path::{Path, PathBuf};

use sconce::runner::cpu::RunnerOptions;
use sconce::runner::encoder::EncoderRunner;
use sconce::weights::EncoderCheckpoint;
use serde::Deserialize;

use super::{EmbedInput, assert_close, compute};

#[derive(Deserialize)]
struct Fixture {
    inputs: Vec<Vec<u32>>,
    vectors: Vec<Vec<f32>>,
}

impl Fixture {
    fn inputs(&self) -> Vec<EmbedInput> {
        let input = |ids: &Vec<u32>| EmbedInput { token_ids: ids.clone(), second_start: None };
        self.inputs.iter().map(input).collect()
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/embedders").join(name)
}

fn fixture(name: &str) -> Fixture {
    let text = std::fs::read_to_string(folder(name).join("vectors.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn encoder(name: &str) -> EncoderRunner {
    let checkpoint = EncoderCheckpoint::open(&folder(name)).unwrap().unwrap();
    EncoderRunner::load(&checkpoint, &RunnerOptions::default()).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// All at once, and each alone: the same bits, and transformers' numbers.
fn check(name: &str, runner: &mut EncoderRunner) {
    let fixture = fixture(name);
    let inputs = fixture.inputs();
    assert_eq!(runner.limits().max_model_len, 40, "{name}");

    let together = compute(runner, &inputs);

    for ((input, vector), expected) in inputs.iter().zip(together).zip(&fixture.vectors) {
        assert_close(&vector, expected);
        if expected.len() > 2 {
            assert!(cosine(&vector, expected) >= 0.99999, "{name}");
        }
        assert_eq!(compute(runner, std::slice::from_ref(input)), [vector], "{name}");
    }
}

#[test]
fn embeddings_of_encoders_are_transformers() {
    for name in ["distilbert", "roberta", "xlm_roberta"] {
        check(name, &mut encoder(name));
    }
}

#[test]
fn logits_of_classifiers_are_transformers() {
    for name in ["distilbert_classifier", "roberta_classifier", "xlm_roberta_classifier"] {
        check(name, &mut encoder(name));
    }
}
