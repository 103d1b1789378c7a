//! Tokens per second of a model's forward pass and sampling, without engine and router.
//!
//! `SCONCE_TEST_MODEL=model.gguf cargo bench --bench forward -- [THREADS [ISA]]`
#![expect(clippy::print_stdout, reason = "the figures are the output")]

#[path = "../tests/parity/harness.rs"]
mod harness;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use sconce::engine::request::SamplingParams;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;

use harness::{Harness, Sequence};

const PROMPT_LEN: usize = 64;
const NUM_STEPS: usize = 48;
const NUM_ROUNDS: usize = 5;

fn main() -> anyhow::Result<()> {
    let path = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from);
    let Some(path) = path else {
        println!("skipped: SCONCE_TEST_MODEL names no model");
        return Ok(());
    };
    // Cargo passes `--bench` on.
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let num_threads = match arguments.next() {
        Some(given) => given.parse().context("the number of threads")?,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let isa = arguments.next().map(|given| given.parse()).transpose().context("instruction set")?;
    let options = RunnerOptions { num_threads, isa, ..RunnerOptions::default() };
    let mut harness = load(&path, &options)?;

    for num_streams in [1, 8, 32] {
        report(&format!("decode {num_streams}"), &decode(&mut harness, num_streams));
    }
    harness.sampling = SamplingParams { temperature: 1.0, top_p: 0.95, ..harness.sampling };
    report("decode 32, top_p 0.95", &decode(&mut harness, 32));
    harness.sampling = SamplingParams::default();
    report("prefill 512", &prefill(&mut harness, 512));
    Ok(())
}

fn load(path: &std::path::Path, options: &RunnerOptions) -> anyhow::Result<Harness> {
    let start = Instant::now();
    let checkpoint = Checkpoint::open(path)?;
    let opened = start.elapsed();
    let runner = CpuRunner::load(&checkpoint, options)?;
    println!(
        "{} on {} threads, opened in {opened:.0?}, loaded in {:.0?}, {} MB of weights",
        runner.isa(),
        options.num_threads,
        start.elapsed() - opened,
        runner.weight_bytes() / 1_000_000
    );
    Ok(Harness::new(runner))
}

/// Tokens per second of each round.
fn decode(harness: &mut Harness, num_streams: usize) -> Vec<f64> {
    let round = |_| {
        let mut sequences: Vec<_> =
            (0..num_streams).map(|stream| harness.sequence(&prompt(stream, PROMPT_LEN))).collect();
        for sequence in &mut sequences {
            let sampled = harness.advance(&mut [(&mut *sequence, PROMPT_LEN)]);
            sequence.tokens.push(sampled[0].token);
        }
        step(harness, &mut sequences);
        let start = Instant::now();
        for _ in 0..NUM_STEPS {
            step(harness, &mut sequences);
        }
        let seconds = start.elapsed().as_secs_f64();
        harness.clear();
        (num_streams * NUM_STEPS) as f64 / seconds
    };
    (0..NUM_ROUNDS).map(round).collect()
}

fn step(harness: &mut Harness, sequences: &mut [Sequence]) {
    let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
    let sampled = harness.advance(&mut batch);
    for (sequence, sampled) in sequences.iter_mut().zip(sampled) {
        sequence.tokens.push(sampled.token);
    }
}

fn prefill(harness: &mut Harness, len: usize) -> Vec<f64> {
    let round = |round| {
        let mut sequence = harness.sequence(&prompt(round, len));
        let start = Instant::now();
        harness.advance(&mut [(&mut sequence, len)]);
        let seconds = start.elapsed().as_secs_f64();
        harness.clear();
        len as f64 / seconds
    };
    (0..NUM_ROUNDS).map(round).collect()
}

/// Some tokens, others for each stream.
fn prompt(stream: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 7919 + stream * 104_729) % 20_000 + 100) as u32).collect()
}

/// Prints the median and the range.
fn report(what: &str, rounds: &[f64]) {
    let mut rounds = rounds.to_vec();
    rounds.sort_by(f64::total_cmp);
    let (least, median, most) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    println!("{what:<24} {median:7.0} tok/s   ({least:.0} to {most:.0})");
}
