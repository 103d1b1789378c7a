//! What prompt lookup brings one stream that repeats its prompt, and costs one that does not.
//!
//! Engine and model, without worker and router; runs with and without take turns. The edit's prompt
//! shows the model a text that it copies; the essay's has words to find again, and what follows
//! them is mostly another; in the noise there is nothing to find.
//!
//! `SCONCE_TEST_MODEL=model.gguf cargo bench --bench speculation -- [THREADS]`
#![expect(clippy::print_stdout, reason = "the figures are the output")]

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use sconce::engine::plan::StepPlan;
use sconce::engine::prompt_lookup::PromptLookup;
use sconce::engine::request::{Request, SamplingParams, TokenId};
use sconce::engine::scheduler::{Scheduler, SchedulerConfig, Speculation, Stats};
use sconce::engine::sequence::RequestId;
use sconce::runner::Executor;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::Isa;
use tokenizers::Tokenizer;

const NUM_ROUNDS: usize = 7;
const NUM_TOKENS: u32 = 160;

const NOTE: &str = "The lamp in the north tower went out at nine. Two keepers climbed the stairs \
with oil and a spare wick. They found the glass cracked and the burner full of soot. Marta cleaned \
the burner while Iven cut a new pane from the store. By eleven the light turned again, and the \
ferry that had waited outside the bar came in. The harbor master wrote that no ship was lost.";

/// A stream: its prompt, and how it goes on.
struct Workload {
    name: &'static str,
    prompt: Vec<TokenId>,
    sampling: SamplingParams,
}

/// What one run took and did.
struct Run {
    tokens: Vec<TokenId>,
    seconds: f64,
    stats: Stats,
}

fn main() -> anyhow::Result<()> {
    time_lookups();
    let Some(path) = std::env::var_os("SCONCE_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: SCONCE_TEST_MODEL names no model");
        return Ok(());
    };
    let mut arguments = std::env::args().skip(1).filter(|argument| !argument.starts_with("--"));
    let num_threads = match arguments.next() {
        Some(given) => given.parse().context("the number of threads")?,
        None => std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
    };
    let checkpoint = Checkpoint::open(&path)?;
    let tokenizer = Tokenizer::from_bytes(checkpoint.tokenizer_json()?)
        .map_err(|error| anyhow::anyhow!("the tokenizer: {error}"))?;
    let defaults = RunnerOptions::default();
    let kv_dtype = Isa::detect().kv_dtype(defaults.activation_dtype);
    let options = RunnerOptions { num_threads, kv_dtype, ..defaults };
    let mut runner = CpuRunner::load(&checkpoint, &options)?;
    for workload in workloads(&tokenizer)? {
        compare(&mut runner, &workload)?;
    }
    Ok(())
}

fn workloads(tokenizer: &Tokenizer) -> anyhow::Result<Vec<Workload>> {
    let encode = |text: &str| -> anyhow::Result<Vec<TokenId>> {
        let encoding = tokenizer.encode(text, false).map_err(|e| anyhow::anyhow!("{e}"))?;
        Ok(encoding.get_ids().to_vec())
    };
    let edit = format!(
        "Draft:\n{NOTE}\n\nThe draft again, with its typing errors corrected:\n{NOTE}\n\nThe draft \
         once more, with the name Iven changed to Ivan:\n"
    );
    let sampling =
        SamplingParams { max_tokens: NUM_TOKENS, ignore_eos: true, ..SamplingParams::default() };
    let warm = SamplingParams { temperature: 0.7, top_p: 0.9, seed: 11, ..sampling.clone() };
    let new = SamplingParams { temperature: 1.0, top_p: 1.0, ..warm.clone() };
    let hot = SamplingParams { temperature: 1.5, ..warm.clone() };
    let essay = encode(&format!("{NOTE}\n\nAn essay on the economy of the town:\n"))?;
    let story = encode("Once upon a time, in a city nobody had mapped,")?;
    let noise = (0..200).map(|i: u32| 100 + i * i * 7919 % 20_000).collect();
    Ok(vec![
        Workload { name: "edit, greedy", prompt: encode(&edit)?, sampling: sampling.clone() },
        Workload { name: "edit, temperature 0.7", prompt: encode(&edit)?, sampling: warm.clone() },
        Workload { name: "story, temperature 0.7", prompt: story, sampling: warm },
        Workload { name: "essay, temperature 1", prompt: essay, sampling: new },
        Workload { name: "noise, temperature 1.5", prompt: noise, sampling: hot },
    ])
}

/// Prints tokens per second with and without, and the median of the rounds' ratios.
fn compare(runner: &mut CpuRunner, workload: &Workload) -> anyhow::Result<()> {
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut stats = Stats::default();
    for round in 0..=NUM_ROUNDS {
        let plain = run(runner, workload, Speculation::Off)?;
        let drafted = run(runner, workload, Speculation::PromptLookup)?;
        anyhow::ensure!(plain.tokens == drafted.tokens, "{}: the outputs differ", workload.name);
        // The first warms caches up.
        if round > 0 {
            let speed = |run: &Run| run.tokens.len() as f64 / run.seconds;
            with.push(speed(&drafted));
            without.push(speed(&plain));
            ratios.push(plain.seconds / drafted.seconds);
        }
        stats = drafted.stats;
    }
    println!(
        "{:<24} off {:6.1} tok/s   on {:6.1} tok/s   ratio {:.3} ({:.3} to {:.3})   {} steps, {} \
         of {} drafts accepted",
        workload.name,
        median(&mut without),
        median(&mut with),
        median(&mut ratios),
        ratios[0],
        ratios[ratios.len() - 1],
        stats.num_steps,
        stats.num_accepted_tokens,
        stats.num_draft_tokens
    );
    Ok(())
}

/// Sorts, for the range.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Generates one completion; the time is from its first token to its last.
fn run(
    runner: &mut CpuRunner,
    workload: &Workload,
    speculation: Speculation,
) -> anyhow::Result<Run> {
    let limits = runner.limits();
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: limits.block_size,
        num_blocks: limits.num_blocks,
        max_num_batched_tokens: limits.max_num_batched_tokens,
        max_num_seqs: limits.max_num_seqs,
        max_model_len: limits.max_model_len,
        max_queue: 1,
        max_itl: Duration::from_millis(200),
        depth: 1,
        eos_token_ids: Vec::new(),
        speculation,
        hash_key: (1, 2),
    });
    let (prompt, sampling) = (workload.prompt.clone(), workload.sampling.clone());
    let request =
        Request { prompt, n: 1, sampling, cache_salt: 0, priority: 0, report_progress: false };
    scheduler.submit(RequestId(0), request, None)?;
    let (mut plan, mut outputs, mut tokens) = (StepPlan::default(), Vec::new(), Vec::new());
    let mut first_token = Instant::now();
    while scheduler.step(Duration::ZERO, &mut plan) {
        let before = Instant::now();
        let mut sampled = Vec::new();
        // The sequence of the run before had this one's slot.
        plan.released.extend(plan.admitted.iter().map(|admission| admission.sequence));
        runner.forward(&plan, &mut sampled)?;
        scheduler.commit(&plan, sampled, before.elapsed());
        scheduler.take_outputs(&mut outputs);
        if tokens.is_empty() && !outputs.is_empty() {
            first_token = Instant::now();
        }
        tokens.extend(outputs.drain(..).filter_map(|output| output.token));
    }
    let seconds = first_token.elapsed().as_secs_f64();
    Ok(Run { tokens, seconds, stats: scheduler.stats() })
}

/// What a step's lookup costs in a long context.
fn time_lookups() {
    const LONG: usize = 30_000;
    const NUM_STEPS: usize = 2000;
    let tokens: Vec<TokenId> = (0..(LONG + NUM_STEPS) as u64)
        .map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 5000)
        .collect();
    let mut lookup = PromptLookup::new(tokens.len());
    let start = Instant::now();
    std::hint::black_box(lookup.find(&tokens[..LONG]));
    let built = start.elapsed();
    let start = Instant::now();
    for len in LONG..LONG + NUM_STEPS {
        std::hint::black_box(lookup.find(&tokens[..len]));
    }
    let each = start.elapsed() / NUM_STEPS as u32;
    println!("lookup at {LONG} tokens: {each:.2?} a step, {built:.1?} for the first");
}
