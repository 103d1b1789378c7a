//! Against what transformers computed in single precision from the same weights: logits of tiny
//! models, and greedy completions of the real one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::harness::{Harness, Sequence};
use super::models::{options, real_model};
use sconce::runner::cpu::CpuRunner;
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::Compute;

const GREEDY: &str = include_str!("../reference/greedy.json");
/// Candidates whose logits are nearer than this may swap places.
const TIE: f32 = 1e-3;

#[derive(Deserialize)]
struct Fixture {
    model_sha256: String,
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    prompt_ids: Vec<u32>,
    output_ids: Vec<u32>,
    /// Per step, the likeliest token and its logit, and the next one.
    top2: Vec<(u32, f32, u32, f32)>,
}

/// Logits of a tiny model at some positions of a prompt.
#[derive(Deserialize)]
pub(crate) struct TinyFixture {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) logits: BTreeMap<usize, Vec<f32>>,
}

/// How far two implementations are apart.
#[derive(Debug, Default)]
struct Divergence {
    num_tokens: usize,
    num_swapped: usize,
    largest_difference: f32,
}

impl Divergence {
    /// Compares the two best logits of a step, and which of them wins.
    fn add(&mut self, logits: &[f32], chosen: u32, expected: (u32, f32, u32, f32)) {
        let (first, first_logit, second, second_logit) = expected;
        for (token, logit) in [(first, first_logit), (second, second_logit)] {
            let difference = (logits[token as usize] - logit).abs();
            self.largest_difference = self.largest_difference.max(difference);
        }
        self.num_tokens += 1;
        if chosen != first {
            self.num_swapped += 1;
            let gap = logits[chosen as usize] - logits[first as usize];
            assert!(gap < TIE, "{chosen} for {first}, by {gap}");
        }
    }
}

#[test]
fn greedy_completions_equal_those_of_transformers() {
    let Some(path) = real_model() else { return };
    let fixture: Fixture = serde_json::from_str(GREEDY).unwrap();
    let hash = Sha256::digest(std::fs::read(&path).unwrap());
    if format!("{hash:x}") != fixture.model_sha256 {
        println!("skipped: the completions are of another model");
        return;
    }
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut harness = Harness::new(CpuRunner::load(&checkpoint, &options(Compute::F32)).unwrap());
    let references = &fixture.references;
    assert!(references.len() >= 20);

    let mut sequences: Vec<Sequence> =
        references.iter().map(|reference| harness.sequence(&reference.prompt_ids)).collect();
    let mut divergence = Divergence::default();
    // Prompts one by one: together they may be more than a step takes.
    let mut last: Vec<_> = (sequences.iter_mut())
        .map(|sequence| {
            let num_tokens = sequence.tokens.len();
            let (mut logits, sampled) = harness.step(&mut [(sequence, num_tokens)]);
            (logits.remove(0), sampled[0].token)
        })
        .collect();
    for step in 0.. {
        for ((logits, token), reference) in last.iter().zip(references) {
            divergence.add(logits, *token, reference.top2[step]);
        }
        if step + 1 == references[0].output_ids.len() {
            break;
        }
        // The reference's token goes on, so that a swap doesn't end the comparison.
        for (sequence, reference) in sequences.iter_mut().zip(references) {
            sequence.tokens.push(reference.output_ids[step]);
        }
        let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
        let (logits, sampled) = harness.step(&mut batch);
        last = logits.into_iter().zip(sampled.iter().map(|one| one.token)).collect();
    }

    println!("{divergence:?}");
    assert!(divergence.num_tokens >= 20 * 64);
    assert!(divergence.largest_difference < 5e-3);
}

#[test]
fn logits_of_tiny_models_equal_those_of_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/tiny");
    let mut num_models = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let folder = entry.unwrap().path();
        let fixture = std::fs::read(folder.join("logits.json")).unwrap();
        let fixture: TinyFixture = serde_json::from_slice(&fixture).unwrap();
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let mut harness =
            Harness::new(CpuRunner::load(&checkpoint, &options(Compute::F32)).unwrap());
        let mut sequence = harness.sequence(&fixture.prompt_ids);
        for (&position, expected) in &fixture.logits {
            let num_new = position + 1 - sequence.num_computed;
            let (logits, _) = harness.step(&mut [(&mut sequence, num_new)]);
            for (given, expected) in logits[0].iter().zip(expected) {
                assert!((given - expected).abs() < 1e-4, "{given} for {expected}, {folder:?}");
            }
        }
        num_models += 1;
    }
    assert!(num_models >= 12);
}
