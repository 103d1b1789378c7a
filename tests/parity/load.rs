//! What a request is answered does not depend on what else is computed: alone and among others,
//! its tokens and their log-probabilities are the same bits, whatever the batches, the chunks of
//! its prompt, the blocks that it finds in the cache, the times it was preempted and the number of
//! threads.

use std::num::NonZeroUsize;
use std::time::Duration;

use sconce::engine::output::Output;
use sconce::engine::plan::{SequenceId, StepPlan};
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Scheduler, SchedulerConfig, Speculation, Stats};
use sconce::engine::sequence::RequestId;
use sconce::runner::Executor;
use sconce::runner::cpu::{CpuRunner, RunnerOptions};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::Compute;

use super::harness::Harness;
use super::models::{self, real_model};
use super::tiny;

const MAX_NUM_SEQS: u32 = 16;

/// The same numbers on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % bound
    }
}

/// A token and its log-probabilities, as bits.
type Bits = (Option<u32>, Option<(u32, Vec<(u32, u32)>)>);

fn bits(output: &Output) -> Bits {
    let logprobs = output.logprobs.as_ref().map(|logprobs| {
        let top = logprobs.top.iter().map(|(token, logprob)| (*token, logprob.to_bits()));
        (logprobs.logprob.to_bits(), top.collect())
    });
    (output.token, logprobs)
}

/// Answers requests that arrive at these steps.
fn run(
    harness: &mut Harness,
    arrivals: &[(u64, Request)],
    mut random: Random,
) -> (Vec<Vec<Bits>>, Stats) {
    let limits = harness.runner.limits();
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: limits.block_size,
        // Fewer than the requests need together.
        num_blocks: 30,
        max_num_batched_tokens: 64,
        max_num_seqs: MAX_NUM_SEQS,
        max_model_len: 400,
        max_queue: 100,
        max_itl: Duration::from_millis(200),
        depth: 1,
        eos_token_ids: vec![2],
        speculation: Speculation::PromptLookup,
        hash_key: (random.0, 2),
    });
    let mut answers = vec![Vec::new(); arrivals.len()];
    let (mut plan, mut outputs) = (StepPlan::default(), Vec::new());
    // The runner forgets what an earlier run left.
    harness.clear();
    let (mut step, mut num_submitted) = (0, 0);
    while num_submitted < arrivals.len() || !scheduler.is_idle() {
        for (id, (at, request)) in (0..).zip(arrivals) {
            if *at == step {
                scheduler.submit(RequestId(id), request.clone(), None).unwrap();
                num_submitted += 1;
            }
        }
        step += 1;
        if !scheduler.step(Duration::ZERO, &mut plan) {
            continue;
        }
        plan.released.append(&mut harness.plan.released);
        let mut sampled = Vec::new();
        harness.runner.forward(&plan, &mut sampled).unwrap();
        // The scheduler learns that steps take long, or that they do not: chunks differ.
        let micros = 500 + plan.token_ids.len() as u64 * (1 + random.below(6_000));
        scheduler.commit(&plan, sampled, Duration::from_micros(micros));
        scheduler.take_outputs(&mut outputs);
        for output in outputs.drain(..) {
            answers[output.request.0 as usize].push(bits(&output));
        }
    }
    harness.plan.released.extend((0..MAX_NUM_SEQS).map(SequenceId));
    (answers, scheduler.stats())
}

/// A prompt with one of two beginnings, which others have too.
fn request(random: &mut Random, sampling: SamplingParams) -> Request {
    let shared = random.below(2);
    let mut token = |bound: u64| 10 + random.below(bound) as u32;
    let len = 5 + token(90);
    let end: Vec<u32> = (0..len).map(|_| token(250)).collect();
    let beginning = (0..40).map(|at| 30 + (at * (3 + shared as u32)) % 200);
    Request {
        prompt: beginning.chain(end).collect(),
        n: 1,
        sampling,
        cache_salt: 0,
        priority: 0,
        report_progress: false,
    }
}

/// The requests that are watched.
fn watched() -> Vec<Request> {
    let mut random = Random(7);
    let greedy = SamplingParams {
        max_tokens: 40,
        num_logprobs: Some(3),
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let warm = SamplingParams { temperature: 1.0, seed: 11, ..greedy.clone() };
    let penalized = SamplingParams {
        top_p: 0.9,
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        ..warm.clone()
    };
    [greedy, warm, penalized].map(|sampling| request(&mut random, sampling)).into()
}

/// The watched requests, each at a step of its own, among others.
fn crowd(random: &mut Random) -> Vec<(u64, Request)> {
    let mut arrivals: Vec<_> =
        watched().into_iter().map(|request| (random.below(30), request)).collect();
    for seed in 0..20 {
        let sampling = SamplingParams {
            temperature: [0.0, 1.0][random.below(2) as usize],
            seed,
            max_tokens: 10 + random.below(120) as u32,
            ..SamplingParams::default()
        };
        arrivals.push((random.below(40), request(random, sampling)));
    }
    arrivals
}

fn alone(harness: &mut Harness) -> Vec<Vec<Bits>> {
    let one = |request| run(harness, &[(0, request)], Random(1)).0.remove(0);
    watched().into_iter().map(one).collect()
}

fn check(harness: &mut Harness, expected: &[Vec<Bits>], name: &str) {
    for seed in 0..3 {
        let mut random = Random(seed);
        let arrivals = crowd(&mut random);
        let (answers, stats) = run(harness, &arrivals, random);

        assert!(stats.num_preemptions > 0 && stats.num_cached_tokens > 0, "{name}: {stats:?}");
        for (i, (given, expected)) in answers.iter().zip(expected).enumerate() {
            assert!(given == expected, "{name}, load {seed}: request {i} was answered otherwise");
        }
    }
}

fn each_number_of_threads(checkpoint: &Checkpoint, options: &RunnerOptions) {
    let mut expected = None;
    for num_threads in [1, 2, 3].into_iter().filter_map(NonZeroUsize::new) {
        let options = RunnerOptions { num_threads, ..options.clone() };
        let mut harness = Harness::new(CpuRunner::load(checkpoint, &options).unwrap());
        let expected = expected.get_or_insert_with(|| alone(&mut harness));
        assert!(expected.iter().all(|tokens| tokens.len() == 40));
        check(&mut harness, expected, &format!("{:?}, {num_threads} threads", options.compute));
    }
}

#[test]
fn a_request_is_answered_the_same_alone_and_under_load() {
    let folder = tiny::folder(3, None);
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    for compute in [Compute::F32, Compute::Q8, Compute::Q4] {
        each_number_of_threads(&checkpoint, &models::options(compute));
    }
}

#[test]
fn a_checkpoint_of_other_weights_has_another_digest() {
    let digest = |seed| {
        let folder = tiny::folder(seed, None);
        Checkpoint::open(folder.path()).unwrap().digest().unwrap()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));

    // One element in the last tensor's last bytes, which is among what is sampled.
    let folder = tiny::folder(1, None);
    let file = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert_ne!(Checkpoint::open(folder.path()).unwrap().digest().unwrap(), digest(1));
}

#[test]
fn the_real_model_answers_the_same_alone_and_under_load() {
    let Some(path) = real_model() else { return };
    let checkpoint = Checkpoint::open(&path).unwrap();
    let mut harness =
        Harness::new(CpuRunner::load(&checkpoint, &models::options(Compute::Int8)).unwrap());
    let expected = alone(&mut harness);
    check(&mut harness, &expected, "real");
}
