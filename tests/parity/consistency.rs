//! However a sequence is computed, its logits are the same, bit for bit.

use sconce::engine::plan::Score;
use sconce::runner::Executor;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::Compute;

use super::harness::{Harness, Sequence};
use super::models::{each_model, options, real_model, tiny_model};
use super::tiny;

/// Tokens without pattern, the same every time.
fn tokens(seed: u32, len: usize, vocab_size: u32) -> Vec<u32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab_size
    };
    (0..len).map(|_| next()).collect()
}

/// The logits after all of `tokens`, computed in one step in an empty cache.
fn alone(harness: &mut Harness, tokens: &[u32]) -> Vec<f32> {
    harness.clear();
    let mut sequence = harness.sequence(tokens);
    let (mut logits, _) = harness.step(&mut [(&mut sequence, tokens.len())]);
    harness.clear();
    logits.remove(0)
}

fn vocab_size(harness: &Harness) -> u32 {
    harness.runner.config().vocab_size as u32
}

fn check_mixed_batch(harness: &mut Harness) {
    // Tokens computed before, and tokens computed in the batch.
    const SHAPES: [(usize, usize); 8] =
        [(0, 1), (40, 1), (0, 33), (16, 16), (100, 1), (5, 60), (15, 1), (270, 7)];
    let vocab_size = vocab_size(harness);
    let texts = SHAPES.map(|(before, new)| tokens(before as u32, before + new, vocab_size));
    let expected = texts.each_ref().map(|text| alone(harness, text));

    let mut sequences: Vec<Sequence> = texts.iter().map(|text| harness.sequence(text)).collect();
    for (sequence, (before, _)) in sequences.iter_mut().zip(SHAPES) {
        if before > 0 {
            harness.step(&mut [(sequence, before)]);
        }
    }
    let mut batch: Vec<_> =
        sequences.iter_mut().zip(SHAPES).map(|(sequence, (_, new))| (sequence, new)).collect();
    let (logits, _) = harness.step(&mut batch);

    harness.clear();
    for ((logits, expected), shape) in logits.iter().zip(&expected).zip(SHAPES) {
        assert!(logits == expected, "{shape:?}: {}", largest_difference(logits, expected));
    }
}

fn check_chunks(harness: &mut Harness) {
    let text = tokens(7, 300, vocab_size(harness));
    let expected = alone(harness, &text);

    for chunks in [vec![1, 15, 16, 17, 100, 151], vec![299, 1], vec![256, 44], vec![30; 10]] {
        let mut sequence = harness.sequence(&text);
        let mut logits = Vec::new();
        for &chunk in &chunks {
            (logits, _) = harness.step(&mut [(&mut sequence, chunk)]);
        }
        harness.clear();
        assert!(logits[0] == expected, "{chunks:?}");
    }
}

fn check_shared_prefix(harness: &mut Harness) {
    let vocab_size = vocab_size(harness);
    let prefix = tokens(1, 32, vocab_size);
    let [ending_a, ending_b] = [2, 3].map(|seed| tokens(seed, 20, vocab_size));
    let text_a = [prefix.clone(), ending_a].concat();
    let text_b = [prefix, ending_b].concat();
    let expected = [alone(harness, &text_a), alone(harness, &text_b)];

    let mut first = harness.sequence(&text_a);
    let (logits_a, _) = harness.step(&mut [(&mut first, 52)]);
    let mut second = harness.sequence(&text_b);
    (second.blocks, second.num_computed) = (first.blocks[..2].to_vec(), 32);
    let (logits_b, _) = harness.step(&mut [(&mut second, 20)]);

    harness.clear();
    assert!(logits_a[0] == expected[0]);
    assert!(logits_b[0] == expected[1]);
}

fn check_copy_on_write(harness: &mut Harness) {
    let vocab_size = vocab_size(harness);
    let prompt = tokens(1, 40, vocab_size);
    let [ending_a, ending_b] = [2, 3].map(|seed| tokens(seed, 12, vocab_size));
    let text_a = [prompt.clone(), ending_a.clone()].concat();
    let text_b = [prompt.clone(), ending_b.clone()].concat();
    let expected = [alone(harness, &text_a), alone(harness, &text_b)];

    let mut first = harness.sequence(&prompt);
    harness.step(&mut [(&mut first, 40)]);
    let mut second = harness.fork(&first);
    // Both are about to write into the third block, half full.
    harness.copy_on_write(&mut second, 2);
    first.tokens.extend(&ending_a);
    second.tokens.extend(&ending_b);
    let mut logits = Vec::new();
    for _ in 0..12 {
        (logits, _) = harness.step(&mut [(&mut first, 1), (&mut second, 1)]);
    }

    harness.clear();
    assert_ne!(first.blocks[2], second.blocks[2]);
    assert!(logits[0] == expected[0]);
    assert!(logits[1] == expected[1]);
}

/// A token's log-probability and rank, by the book.
fn score(logits: &[f32], token: u32) -> (f64, usize) {
    let own = logits[token as usize];
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let rank = 1 + logits.iter().filter(|logit| **logit > own).count();
    (f64::from(own) - sum.ln(), rank)
}

fn check_scores(harness: &mut Harness) {
    let text = tokens(5, 120, vocab_size(harness));
    let mut sequence = harness.sequence(&text);
    let mut expected = Vec::new();
    for next in &text[1..] {
        let (logits, _) = harness.step(&mut [(&mut sequence, 1)]);
        expected.push(score(&logits[0], *next));
    }
    harness.clear();

    let mut sequence = harness.sequence(&text);
    let scores = (0..).zip(&text[1..]).map(|(token_index, token)| Score {
        sequence: sequence.id,
        token_index,
        token: *token,
        num_logprobs: 2,
    });
    harness.plan.scores = scores.collect();
    harness.advance(&mut [(&mut sequence, text.len())]);

    let scored = harness.runner.take_scored();
    harness.clear();
    assert_eq!(scored.len(), expected.len());
    for ((one, token), (logprob, rank)) in scored.iter().zip(&text[1..]).zip(expected) {
        assert_eq!((one.token, one.rank as usize), (*token, rank));
        assert!((f64::from(one.logprobs.logprob) - logprob).abs() < 1e-4, "{logprob}: {one:?}");
        assert!(one.logprobs.top.len() == 2 && one.logprobs.top[0].1 >= one.logprobs.logprob);
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn a_mixed_batch_equals_its_sequences_alone() {
    each_model(check_mixed_batch);
}

#[test]
fn a_prompt_in_chunks_equals_the_whole() {
    each_model(check_chunks);
}

#[test]
fn a_shared_prefix_equals_an_own_one() {
    each_model(check_shared_prefix);
}

#[test]
fn a_scored_prompt_equals_one_token_after_the_other() {
    each_model(check_scores);
}

#[test]
fn a_copied_block_equals_an_own_one() {
    each_model(check_copy_on_write);
}

#[test]
fn completions_that_share_a_prompt_share_its_logits() {
    let mut harness = tiny_model();
    let prompt = tokens(4, 10, vocab_size(&harness));

    let (logits, sampled) = harness.step_shared(&prompt, 3);

    assert_eq!(logits.len(), 1);
    assert_eq!(sampled.len(), 3);
    assert!(sampled.iter().all(|one| one == &sampled[0]));
    assert_eq!(logits[0], alone(&mut harness, &prompt));
}

#[test]
fn the_likeliest_token_is_the_same_where_no_logits_are_kept() {
    let folder = tiny::folder(1, None);
    let mut paths = vec![folder.path().to_owned()];
    paths.extend(real_model());
    for path in paths {
        let checkpoint = Checkpoint::open(&path).unwrap();
        let [kept, found] = [true, false].map(|keep_logits| {
            let options = RunnerOptions { keep_logits, ..options(Compute::Int8) };
            let mut harness = Harness::new(CpuRunner::load(&checkpoint, &options).unwrap());
            let vocab_size = vocab_size(&harness);
            let mut sequences: Vec<_> = (0..7)
                .map(|i| {
                    harness.sampling.temperature = if i % 3 == 2 { 1.0 } else { 0.0 };
                    harness.sampling.num_logprobs = (i == 3).then_some(1);
                    harness.sequence(&tokens(i, 20 + i as usize, vocab_size))
                })
                .collect();
            let mut all = Vec::new();
            for step in 0..8 {
                let new = |sequence: &Sequence| sequence.tokens.len() - sequence.num_computed;
                let mut batch: Vec<_> = sequences.iter_mut().map(|s| (new(s), s)).collect();
                let mut batch: Vec<_> = batch.iter_mut().map(|(new, s)| (&mut **s, *new)).collect();
                let sampled = harness.advance(&mut batch);
                for (sequence, sampled) in sequences.iter_mut().zip(&sampled) {
                    sequence.tokens.push(sampled.token);
                }
                all.push((step, sampled));
            }
            all
        });
        assert_eq!(kept, found);
    }
}
