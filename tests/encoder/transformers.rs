//! Against what transformers computed in single precision from the same weights: tiny encoders,
//! classifiers and decoders.

use std::path::{Path, PathBuf};

use sconce::models::pooling::{PoolerConfig, Pooling};
use sconce::runner::cpu::RunnerOptions;
use sconce::runner::encoder::EncoderRunner;
use sconce::runner::pooled::PooledRunner;
use sconce::runner::{Embedder, Executor, cpu::CpuRunner};
use sconce::weights::{Checkpoint, EncoderCheckpoint};
use sconce_kernels::cpu::Compute;
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

/// The model with its own pooling.
fn decoder(name: &str, options: &RunnerOptions) -> PooledRunner {
    assert!(EncoderCheckpoint::open(&folder(name)).unwrap().is_none());
    let checkpoint = Checkpoint::open_for_any_task(&folder(name)).unwrap();
    let pooler = checkpoint.pooler().unwrap();
    PooledRunner::load(&checkpoint, pooler, options).unwrap()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// All at once, and each alone: the same bits, and transformers' numbers.
fn check(name: &str, runner: &mut impl Embedder) {
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

#[test]
fn embeddings_of_decoders_are_transformers() {
    for name in ["llama", "mistral"] {
        check(name, &mut decoder(name, &RunnerOptions::default()));
    }
}

#[test]
fn a_batch_of_many_decoder_inputs_is_each_of_them() {
    let mut runner = decoder("llama", &RunnerOptions::default());
    let len = |i: usize| 1 + i * 7 % 40;
    let token = |i: usize| move |at: usize| (3 + (i * 31 + at * 17) % 45) as u32;
    let inputs: Vec<_> = (0..60)
        .map(|i| EmbedInput { token_ids: (0..len(i)).map(token(i)).collect(), second_start: None })
        .collect();

    let together = compute(&mut runner, &inputs);

    for (input, vector) in inputs.iter().zip(together) {
        assert_eq!(compute(&mut runner, std::slice::from_ref(input)), [vector]);
    }
}

#[test]
fn a_quantized_decoder_embeds_nearly_the_same() {
    for (compute_in, least) in [(Compute::Q8, 0.99), (Compute::Q4, 0.8)] {
        let options = RunnerOptions { compute: compute_in, ..RunnerOptions::default() };
        let fixture = fixture("llama");

        let vectors = compute(&mut decoder("llama", &options), &fixture.inputs());

        for (vector, expected) in vectors.iter().zip(&fixture.vectors) {
            let cosine = cosine(vector, expected);
            assert!(cosine >= least && cosine < 1.0, "{compute_in:?}: {cosine}");
        }
    }
}

#[test]
fn a_decoder_that_generates_embeds_when_asked_and_one_without_a_head_only_embeds() {
    let generates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    let checkpoint = Checkpoint::open(&generates.join("yarn_wide_heads_f32")).unwrap();
    assert_eq!(checkpoint.pooler(), None);
    let options = RunnerOptions::default();
    let mut runner = PooledRunner::load(&checkpoint, PoolerConfig::DECODER, &options).unwrap();

    let vector = compute(&mut runner, &fixture("llama").inputs()[2..3]).remove(0);

    let length = vector.iter().map(|x| x * x).sum::<f32>();
    assert!(vector.len() == 32 && (length - 1.0).abs() < 1e-5);
    // Its context is no longer than the model's.
    let positions = CpuRunner::load(&checkpoint, &options).unwrap().limits().max_model_len;
    assert_eq!(runner.limits().max_model_len, positions);

    let refusal = Checkpoint::open(&folder("llama")).err().unwrap().to_string();
    assert!(refusal.contains("lm_head.weight"), "{refusal}");
}

#[test]
fn pooling_can_be_chosen() {
    let checkpoint = Checkpoint::open_for_any_task(&folder("llama")).unwrap();
    let fixture = fixture("llama");
    let of = |pooling| {
        let pooler = PoolerConfig { pooling, normalize: false };
        let runner = PooledRunner::load(&checkpoint, pooler, &RunnerOptions::default());
        compute(&mut runner.unwrap(), &fixture.inputs())
    };
    let [cls, last, max, mean] = [Pooling::Cls, Pooling::Last, Pooling::Max, Pooling::Mean].map(of);

    // Of one token all are the same.
    assert!(cls[0] == last[0] && last[0] == max[0] && max[0] == mean[0]);
    for i in 1..fixture.inputs.len() {
        // The first token sees no other.
        let first = EmbedInput { token_ids: vec![fixture.inputs[i][0]], second_start: None };
        let mut runner =
            PooledRunner::load(&checkpoint, PoolerConfig::DECODER, &RunnerOptions::default());
        let first = compute(runner.as_mut().unwrap(), &[first]).remove(0);
        assert!(cosine(&cls[i], &first) > 0.999_999);
        assert!(cosine(&last[i], &fixture.vectors[i]) > 0.999_99);
        assert!(max[i].iter().zip(&mean[i]).all(|(max, mean)| max >= mean));
        assert!(cls[i] != last[i] && mean[i] != last[i]);
    }
}
