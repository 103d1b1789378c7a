//! What int8 costs in quality, against the exact mode.
//!
//! Both modes read the same prose, and every position's logits are compared. Long enough to be
//! steady, short enough to be run by everyone.

use super::harness::{Harness, options, real_model};
use sconce::runner::cpu::CpuRunner;
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::Compute;
use tokenizers::Tokenizer;

/// The beginning of Lewis Carroll's "Alice's Adventures in Wonderland".
const PROSE: &str = include_str!("prose.txt");
/// Logits by which the exact mode must prefer its token before the modes have to agree.
const CLEAR_MARGIN: f32 = 0.5;

/// Windows of the prose that are read side by side, each from an empty context.
const NUM_WINDOWS: usize = 8;

/// Sums over positions.
#[derive(Debug, Default)]
struct Comparison {
    positions: f64,
    agreements: f64,
    /// Positions where the exact mode prefers its token clearly, and agreements among them.
    clear_positions: f64,
    clear_agreements: f64,
    absolute_difference: f64,
    exact_nll: f64,
    int8_nll: f64,
}

impl Comparison {
    fn add(&mut self, exact: &[f32], int8: &[f32], next: u32) {
        self.positions += 1.0;
        let (best, second) = best_two(exact);
        let agreement = f64::from(best == best_two(int8).0);
        self.agreements += agreement;
        if exact[best] - exact[second] > CLEAR_MARGIN {
            self.clear_positions += 1.0;
            self.clear_agreements += agreement;
        }
        let differences = exact.iter().zip(int8).map(|(a, b)| f64::from((a - b).abs()));
        self.absolute_difference += differences.sum::<f64>() / exact.len() as f64;
        self.exact_nll += nll(exact, next);
        self.int8_nll += nll(int8, next);
    }
}

fn best_two(logits: &[f32]) -> (usize, usize) {
    let (mut best, mut second) = (0, 1);
    if logits[second] > logits[best] {
        (best, second) = (second, best);
    }
    for (token, &logit) in logits.iter().enumerate().skip(2) {
        if logit > logits[best] {
            (best, second) = (token, best);
        } else if logit > logits[second] {
            second = token;
        }
    }
    (best, second)
}

fn nll(logits: &[f32], token: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    sum.ln() + f64::from(max) - f64::from(logits[token as usize])
}

#[test]
fn int8_is_nearly_as_good_as_exact() {
    let Some(path) = real_model() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let load = |compute| Harness::new(CpuRunner::load(&checkpoint, &options(compute)).unwrap());
    let (mut exact, mut int8) = (load(Compute::F32), load(Compute::Int8));
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();
    let prose = tokenizer.encode(PROSE, false).unwrap();
    let tokens = prose.get_ids();
    let window = tokens.len() / NUM_WINDOWS;
    let windows: Vec<_> = tokens.chunks_exact(window).take(NUM_WINDOWS).collect();

    let mut sequences = [&mut exact, &mut int8]
        .map(|harness| windows.iter().map(|text| harness.sequence(text)).collect::<Vec<_>>());
    let mut comparison = Comparison::default();
    for position in 0..window - 1 {
        let [of_exact, of_int8] = &mut sequences;
        let mut batch: Vec<_> = of_exact.iter_mut().map(|sequence| (sequence, 1)).collect();
        let (exact, _) = exact.step(&mut batch);
        let mut batch: Vec<_> = of_int8.iter_mut().map(|sequence| (sequence, 1)).collect();
        let (int8, _) = int8.step(&mut batch);
        for ((exact, int8), text) in exact.iter().zip(&int8).zip(&windows) {
            comparison.add(exact, int8, text[position + 1]);
        }
    }

    let mean = |sum: f64| sum / comparison.positions;
    let agreement = mean(comparison.agreements);
    let difference = mean(comparison.absolute_difference);
    let [exact, int8] = [comparison.exact_nll, comparison.int8_nll].map(|nll| mean(nll).exp());
    let clear = comparison.clear_agreements / comparison.clear_positions;
    println!(
        "{} positions: top-1 agreement {agreement:.4}, {clear:.4} of {} clear ones; mean logit \
         difference {difference:.4}; perplexity {exact:.3} exact and {int8:.3} int8",
        comparison.positions, comparison.clear_positions
    );
    assert!(comparison.positions >= 2000.0);
    assert!(agreement > 0.96);
    assert!(clear > 0.995);
    assert!((int8 / exact - 1.0).abs() < 0.005);
}
