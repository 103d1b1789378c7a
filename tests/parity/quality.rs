//! What integers cost in quality, against the exact mode on the same weights.
//!
//! Both modes read the same prose, and every position's logits are compared. Long enough to be
//! steady, short enough to be run by everyone; `SCONCE_ALL_FORMATS=1` adds the model in every format
//! that there is, `SCONCE_ALL_FORMATS=Q4_0,Q5K` in these.

use std::path::Path;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{ActivationDtype, Compute, KvDtype};
use tokenizers::Tokenizer;

use super::harness::{Harness, Sequence};
use super::models::{options, real_model};

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
    /// Of the distributions: the exact one's from the other.
    kl_divergence: f64,
    /// Of the logits, which are taken from their mean: a shift of all changes no probability.
    relative_error: f64,
    worst_relative_error: f64,
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
        let error = relative_error(exact, int8);
        self.relative_error += error;
        self.worst_relative_error = self.worst_relative_error.max(error);
        self.kl_divergence += kl_divergence(exact, int8);
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

/// `|a - b| / |a|`, Euclidean, each less its mean.
pub(crate) fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let mean = |x: &[f32]| x.iter().copied().map(f64::from).sum::<f64>() / x.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut error, mut norm) = (0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (f64::from(*a) - mean_a, f64::from(*b) - mean_b);
        error += (a - b).powi(2);
        norm += a.powi(2);
    }
    (error / norm).sqrt()
}

fn kl_divergence(a: &[f32], b: &[f32]) -> f64 {
    let log_sum = |x: &[f32]| {
        let max = f64::from(x.iter().copied().fold(f32::MIN, f32::max));
        max + x.iter().map(|x| (f64::from(*x) - max).exp()).sum::<f64>().ln()
    };
    let (sum_a, sum_b) = (log_sum(a), log_sum(b));
    a.iter()
        .zip(b)
        .map(|(a, b)| {
            let (a, b) = (f64::from(*a) - sum_a, f64::from(*b) - sum_b);
            a.exp() * (a - b)
        })
        .sum()
}

/// Reads the prose with an exact runner of a checkpoint and with others side by side.
fn compare<const N: usize>(
    checkpoint: &Checkpoint,
    others: &[(&str, RunnerOptions); N],
) -> [Comparison; N] {
    let load =
        |options: &RunnerOptions| Harness::new(CpuRunner::load(checkpoint, options).unwrap());
    let mut exact = load(&options(Compute::F32));
    let mut runners = others.each_ref().map(|(_, options)| load(options));
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json().unwrap()).unwrap();
    let prose = tokenizer.encode(PROSE, false).unwrap();
    let tokens = prose.get_ids();
    let window = tokens.len() / NUM_WINDOWS;
    let windows: Vec<_> = tokens.chunks_exact(window).take(NUM_WINDOWS).collect();

    let begin = |harness: &mut Harness| -> Vec<_> {
        windows.iter().map(|text| harness.sequence(text)).collect()
    };
    let mut of_exact = begin(&mut exact);
    let mut of_others = runners.each_mut().map(begin);
    let mut comparisons: [Comparison; N] = std::array::from_fn(|_| Comparison::default());
    for position in 0..window - 1 {
        let expected = step(&mut exact, &mut of_exact);
        let others = runners.iter_mut().zip(&mut of_others).zip(&mut comparisons);
        for ((runner, sequences), comparison) in others {
            let logits = step(runner, sequences);
            for ((exact, logits), text) in expected.iter().zip(&logits).zip(&windows) {
                comparison.add(exact, logits, text[position + 1]);
            }
        }
    }
    for (comparison, (name, _)) in comparisons.iter().zip(others) {
        comparison.report(name);
        assert!(comparison.positions >= 2000.0);
    }
    comparisons
}

/// Computes a token of each sequence, and returns their logits.
fn step(harness: &mut Harness, sequences: &mut [Sequence]) -> Vec<Vec<f32>> {
    let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
    harness.step(&mut batch).0
}

impl Comparison {
    fn mean(&self, sum: f64) -> f64 {
        sum / self.positions
    }

    fn perplexities(&self) -> [f64; 2] {
        [self.exact_nll, self.int8_nll].map(|nll| self.mean(nll).exp())
    }

    fn report(&self, name: &str) {
        let [exact, int8] = self.perplexities();
        println!(
            "{name}: {} positions, top-1 agreement {:.4}, of clear ones {:.4}; KL {:.6}; relative \
             error {:.4}, at worst {:.4}; perplexity {exact:.3} exact and {int8:.3}",
            self.positions,
            self.mean(self.agreements),
            self.clear_agreements / self.clear_positions,
            self.mean(self.kl_divergence),
            self.mean(self.relative_error),
            self.worst_relative_error,
        );
    }

    /// For 16-bit activations, whatever the format of the weights.
    fn check_nearly_exact(&self) {
        assert!(self.mean(self.agreements) > 0.99);
        assert!(self.mean(self.kl_divergence) < 2e-3);
        assert!(self.worst_relative_error < 1e-2);
    }

    /// By default, whatever the format of the weights.
    fn check_mixed(&self) {
        self.check(0.95, 0.01);
        assert!(self.mean(self.kl_divergence) < 2e-3);
    }

    fn check(&self, least_agreement: f64, most_perplexity: f64) {
        assert!(self.mean(self.agreements) > least_agreement);
        assert!(self.clear_agreements / self.clear_positions > 0.995);
        // What it costs to round activations to 8 bits per 32, as llama.cpp does too, and a little.
        assert!(self.mean(self.kl_divergence) < 5e-3);
        assert!(self.mean(self.relative_error) < 0.04);
        let [exact, int8] = self.perplexities();
        assert!((int8 / exact - 1.0).abs() < most_perplexity);
    }
}

fn rounded(activation_dtype: ActivationDtype) -> RunnerOptions {
    RunnerOptions { activation_dtype, ..options(Compute::Int8) }
}

fn cached(kv_dtype: KvDtype) -> RunnerOptions {
    RunnerOptions { kv_dtype, ..options(Compute::Int8) }
}

#[test]
fn rounded_activations_are_nearly_as_good_as_exact() {
    let Some(path) = real_model() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let [mixed, int8, int16] = compare(
        &checkpoint,
        &[
            ("by default", options(Compute::Int8)),
            ("8-bit activations", rounded(ActivationDtype::Int8)),
            ("16-bit activations", rounded(ActivationDtype::Int16)),
        ],
    );
    mixed.check_mixed();
    int8.check(0.96, 0.005);
    int16.check_nearly_exact();
}

#[test]
fn a_rounded_cache_is_nearly_as_good_as_exact() {
    let Some(path) = real_model() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let [bf16, int8] = compare(
        &checkpoint,
        &[("bf16 KV cache", cached(KvDtype::BF16)), ("8-bit KV cache", cached(KvDtype::Int8))],
    );
    bf16.check_mixed();
    int8.check(0.945, 0.005);
}

/// Writes the model with its matrices in another format, or in 8 bits where a format's blocks are
/// wider than a row.
fn convert(from: &Path, format: GgmlDType, to: &Path) {
    let mut file = std::fs::File::open(from).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let mut names: Vec<_> = content.tensor_infos.keys().collect();
    names.sort();
    let tensors: Vec<(&String, QTensor)> = names
        .into_iter()
        .map(|name| {
            let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap();
            let cols = *tensor.dims().last().unwrap();
            let format = match tensor.rank() {
                1 => GgmlDType::F32,
                _ if cols.is_multiple_of(format.block_size()) => format,
                _ => GgmlDType::Q8_0,
            };
            (name, QTensor::quantize(&tensor, format).unwrap())
        })
        .collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let metadata: Vec<_> =
        content.metadata.iter().map(|(name, value)| (name.as_str(), value)).collect();
    let mut out = std::io::BufWriter::new(std::fs::File::create(to).unwrap());
    gguf_file::write(&mut out, &metadata, &tensors).unwrap();
}

#[test]
fn every_format_is_nearly_as_good_as_exact() {
    let Some(wanted) = std::env::var_os("SCONCE_ALL_FORMATS") else {
        println!("skipped: minutes long; SCONCE_ALL_FORMATS is not set");
        return;
    };
    let wanted = wanted.into_string().unwrap();
    let Some(path) = real_model() else { return };
    let folder = tempfile::tempdir().unwrap();
    for format in [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
        GgmlDType::F16,
        GgmlDType::BF16,
    ] {
        let name = format!("{format:?}");
        if wanted != "1" && !wanted.split(',').any(|wanted| wanted == name) {
            continue;
        }
        let converted = folder.path().join("model.gguf");
        convert(&path, format, &converted);
        let checkpoint = Checkpoint::open(&converted).unwrap();
        let [mixed, bf16, int8, int16] = compare(
            &checkpoint,
            &[
                (&name, options(Compute::Int8)),
                (&format!("{name}, bf16 KV cache"), cached(KvDtype::BF16)),
                (&format!("{name}, 8-bit activations"), rounded(ActivationDtype::Int8)),
                (&format!("{name}, 16-bit activations"), rounded(ActivationDtype::Int16)),
            ],
        );
        mixed.check_mixed();
        bf16.check_mixed();
        int8.check(0.945, 0.01);
        int16.check_nearly_exact();
    }
}
