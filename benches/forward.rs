//! Tokens per second of a model's forward pass and sampling, without engine and router.
//!
//! `SCONCE_TEST_MODEL=model.gguf cargo bench --bench forward -- [THREADS [ISA [CASE]]] [--int8 | --int16] [--json]`
//!
//! `CASE`: only the cases whose names contain it.
//! `--int8` and `--int16` round all activations to as many bits, also outliers.
//! `--json` measures once instead of five times and prints one object, for `benches/compare.py`,
//! which asks in turn with others.
#![expect(clippy::print_stdout, reason = "the figures are the output")]

#[path = "../tests/parity/harness.rs"]
mod harness;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context;
use sconce::engine::request::SamplingParams;
use sconce::runner::Executor;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{ActivationDtype, Isa};

use harness::{Harness, Sequence};

const NUM_STEPS: usize = 48;
const NUM_ROUNDS: usize = 5;

/// What is measured.
struct Case {
    /// As `benches/comparison/workloads.py` has it.
    name: &'static str,
    work: Work,
    sampling: SamplingParams,
}

#[derive(Clone, Copy)]
enum Work {
    Decode { num_streams: usize, context: usize },
    Prefill { len: usize },
}

fn cases() -> Vec<Case> {
    let greedy = |name, work| Case { name, work, sampling: SamplingParams::default() };
    let decode = |num_streams, context| Work::Decode { num_streams, context };
    let sampling = SamplingParams { temperature: 1.0, top_p: 0.95, ..SamplingParams::default() };
    vec![
        greedy("decode-1", decode(1, 128)),
        greedy("decode-1-long", decode(1, 2048)),
        greedy("decode-8", decode(8, 128)),
        greedy("decode-32", decode(32, 128)),
        Case { name: "decode-32-top-p", work: decode(32, 128), sampling },
        greedy("prefill-512", Work::Prefill { len: 512 }),
        greedy("prefill-4096", Work::Prefill { len: 4096 }),
    ]
}

fn main() -> anyhow::Result<()> {
    let path = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from);
    let Some(path) = path else {
        println!("skipped: SCONCE_TEST_MODEL names no model");
        return Ok(());
    };
    // Cargo passes `--bench` on.
    let (flags, values): (Vec<_>, Vec<_>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with("--"));
    let json = flags.iter().any(|flag| flag == "--json");
    let num_threads = match values.first() {
        Some(given) => given.parse().context("the number of threads")?,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let isa = values.get(1).map(|given| given.parse()).transpose().context("instruction set")?;
    let asks = |name: &str| flags.iter().any(|flag| flag == name);
    let activation_dtype = match (asks("--int8"), asks("--int16")) {
        (_, true) => ActivationDtype::Int16,
        (true, false) => ActivationDtype::Int8,
        (false, false) => ActivationDtype::Mixed,
    };
    // As the server does unless told otherwise.
    let kv_dtype = isa.unwrap_or_else(Isa::detect).kv_dtype(activation_dtype);
    let defaults = RunnerOptions::default();
    let options = RunnerOptions { num_threads, isa, activation_dtype, kv_dtype, ..defaults };
    let start = Instant::now();
    let checkpoint = Checkpoint::open(&path)?;
    let opened = start.elapsed();
    let runner = CpuRunner::load(&checkpoint, &options)?;
    if json {
        measure_json(&mut Harness::new(runner));
        return Ok(());
    }
    println!(
        "{} on {num_threads} threads, opened in {opened:.0?}, loaded in {:.0?}, {} MB of weights",
        runner.isa(),
        start.elapsed() - opened,
        runner.weight_bytes() / 1_000_000
    );
    let mut harness = Harness::new(runner);
    let wanted = values.get(2).map_or("", String::as_str);
    for case in cases().into_iter().filter(|case| case.name.contains(wanted)) {
        let rounds: Vec<_> = (0..NUM_ROUNDS).map(|round| run(&mut harness, &case, round)).collect();
        report(case.name, rounds);
    }
    Ok(())
}

/// Prints each case's tokens per second.
fn measure_json(harness: &mut Harness) {
    let rates: Vec<_> = cases()
        .iter()
        .map(|case| format!("\"{}\":{:.1}", case.name, run(harness, case, 0)))
        .collect();
    println!("{{{}}}", rates.join(","));
}

/// Tokens per second of one round.
fn run(harness: &mut Harness, case: &Case, round: usize) -> f64 {
    harness.sampling = case.sampling.clone();
    let rate = match case.work {
        Work::Decode { num_streams, context } => decode(harness, num_streams, context),
        Work::Prefill { len } => prefill(harness, round, len),
    };
    harness.clear();
    rate
}

fn decode(harness: &mut Harness, num_streams: usize, context: usize) -> f64 {
    let mut sequences: Vec<_> =
        (0..num_streams).map(|stream| harness.sequence(&prompt(stream, context))).collect();
    for sequence in &mut sequences {
        let token = compute(harness, sequence, context);
        sequence.tokens.push(token);
    }
    step(harness, &mut sequences);
    let start = Instant::now();
    for _ in 0..NUM_STEPS {
        step(harness, &mut sequences);
    }
    (num_streams * NUM_STEPS) as f64 / start.elapsed().as_secs_f64()
}

/// Computes a prompt in steps as long as they may be, and returns the token after it.
fn compute(harness: &mut Harness, sequence: &mut Sequence, len: usize) -> u32 {
    let most = harness.runner.limits().max_num_batched_tokens as usize;
    let mut token = 0;
    while sequence.num_computed < len {
        let num_new = most.min(len - sequence.num_computed);
        token = harness.advance(&mut [(&mut *sequence, num_new)])[0].token;
    }
    token
}

fn step(harness: &mut Harness, sequences: &mut [Sequence]) {
    let mut batch: Vec<_> = sequences.iter_mut().map(|sequence| (sequence, 1)).collect();
    let sampled = harness.advance(&mut batch);
    for (sequence, sampled) in sequences.iter_mut().zip(sampled) {
        sequence.tokens.push(sampled.token);
    }
}

fn prefill(harness: &mut Harness, round: usize, len: usize) -> f64 {
    let mut sequence = harness.sequence(&prompt(round, len));
    let start = Instant::now();
    compute(harness, &mut sequence, len);
    len as f64 / start.elapsed().as_secs_f64()
}

/// Some tokens, others for each stream.
fn prompt(stream: usize, len: usize) -> Vec<u32> {
    (0..len).map(|i| ((i * 7919 + stream * 104_729) % 20_000 + 100) as u32).collect()
}

/// Prints the median and the range.
fn report(what: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    let (least, median, most) = (rounds[0], rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
    println!("{what:<24} {median:7.0} tok/s   ({least:.0} to {most:.0})");
}
