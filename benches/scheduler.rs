//! What one step of the scheduler costs: planning, block tables, committing.
//!
//! `schedule/256_running`: 256 sequences that decode, of 512 to 1,536 tokens.

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use sconce::engine::plan::{Sample, Sampled, StepPlan};
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Scheduler, SchedulerConfig, Speculation};
use sconce::engine::sequence::RequestId;

const LENGTHS: std::ops::Range<u32> = 512..1024;
const GROWTH: u64 = 512;

/// A scheduler whose `num_seqs` sequences have computed their prompts.
fn decoding(num_seqs: u32) -> Scheduler {
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: 16,
        num_blocks: num_seqs * 128,
        max_num_batched_tokens: 8192,
        max_num_seqs: num_seqs,
        max_model_len: 2048,
        max_queue: num_seqs,
        max_itl: Duration::from_secs(1),
        depth: 1,
        eos_token_ids: vec![2],
        speculation: Speculation::Off,
        hash_key: (1, 2),
    });
    for id in 0..num_seqs {
        let length = LENGTHS.start + id * 7 % (LENGTHS.end - LENGTHS.start);
        let request = Request {
            prompt: (0..length).map(|i| 3 + (i * 31 + id * 17) % 40_000).collect(),
            n: 1,
            sampling: SamplingParams { max_tokens: 1000, ..SamplingParams::default() },
            cache_salt: u128::from(id),
            report_progress: false,
            priority: 0,
        };
        scheduler.submit(RequestId(id.into()), request, None).expect("there is room");
    }
    let mut plan = StepPlan::default();
    let mut outputs = Vec::new();
    while plan.rows.len() < num_seqs as usize || plan.token_ids.len() > num_seqs as usize {
        step(&mut scheduler, &mut plan, &mut outputs);
    }
    scheduler
}

fn step(
    scheduler: &mut Scheduler,
    plan: &mut StepPlan,
    outputs: &mut Vec<sconce::engine::output::Output>,
) {
    assert!(scheduler.step(Duration::ZERO, plan), "the sequences go on");
    let sampled = |at: &Sample| Sampled { token: 3 + at.position, logprobs: None, end: None };
    let sampled = plan.samples.iter().map(sampled);
    scheduler.commit(plan, sampled.collect(), Duration::from_micros(100));
    scheduler.take_outputs(outputs);
    outputs.clear();
}

fn schedule(criterion: &mut Criterion) {
    for num_seqs in [32, 256, 1024] {
        criterion.bench_function(&format!("schedule/{num_seqs}_running"), |bencher| {
            bencher.iter_custom(|steps| measure(num_seqs, steps));
        });
    }
}

/// Time of `steps` steps. Sequences begin anew every [`GROWTH`] steps, so that they stay as long as
/// [`LENGTHS`] says.
fn measure(num_seqs: u32, steps: u64) -> Duration {
    let (mut plan, mut outputs) = (StepPlan::default(), Vec::new());
    let mut took = Duration::ZERO;
    for begun in (0..steps).step_by(GROWTH as usize) {
        let mut scheduler = decoding(num_seqs);
        let before = Instant::now();
        for _ in begun..steps.min(begun + GROWTH) {
            step(&mut scheduler, &mut plan, &mut outputs);
        }
        took += before.elapsed();
    }
    took
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(800)).sample_size(20);
    targets = schedule
}
criterion_main!(benches);
