//! Drafts change the number of steps and nothing else.

use std::time::Duration;

use sconce::engine::output::{Finish, Output};
use sconce::engine::plan::StepPlan;
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Scheduler, SchedulerConfig, Speculation, Stats};
use sconce::engine::sequence::RequestId;
use sconce::runner::Executor;

use super::harness::Harness;
use super::models::each_model;

/// A completion: its tokens with their log-probabilities, and its end.
type Completion = (Vec<Output>, Option<Finish>);

/// Runs all requests together.
fn run(
    harness: &mut Harness,
    requests: &[Request],
    speculation: Speculation,
) -> (Vec<Completion>, Stats) {
    let limits = harness.runner.limits();
    let mut scheduler = Scheduler::new(SchedulerConfig {
        block_size: limits.block_size,
        num_blocks: 64,
        max_num_batched_tokens: 256,
        max_num_seqs: 8,
        max_model_len: 300,
        max_queue: 8,
        max_itl: Duration::from_millis(200),
        depth: 1,
        eos_token_ids: vec![2],
        speculation,
        hash_key: (1, 2),
    });
    for (id, request) in (0..).zip(requests) {
        scheduler.submit(RequestId(id), request.clone(), None).unwrap();
    }
    let (mut plan, mut outputs) = (StepPlan::default(), Vec::new());
    // The runner forgets what an earlier run left.
    harness.clear();
    while scheduler.step(Duration::ZERO, &mut plan) {
        plan.released.append(&mut harness.plan.released);
        let mut sampled = Vec::new();
        harness.runner.forward(&plan, &mut sampled).unwrap();
        // A token more costs next to nothing: what can be drafted is.
        let micros = 1000 + plan.token_ids.len() as u64;
        scheduler.commit(&plan, sampled, Duration::from_micros(micros));
        scheduler.take_outputs(&mut outputs);
        scheduler.check_invariants().unwrap();
    }
    harness.plan.released.extend((0..8).map(sconce::engine::plan::SequenceId));
    let mut completions = Vec::new();
    for (id, request) in (0..).zip(requests) {
        for index in 0..request.n {
            let mut all: Vec<_> = (outputs.iter())
                .filter(|output| output.request == RequestId(id) && output.index == index)
                .cloned()
                .collect();
            all.iter_mut().for_each(|output| output.num_cached = None);
            let finish = all.last().and_then(|output| output.finish);
            completions.push((all, finish));
        }
    }
    (completions, scheduler.stats())
}

/// Prompts that repeat themselves, which makes models repeat themselves; sampled in many ways.
fn requests() -> Vec<Request> {
    let base = SamplingParams { max_tokens: 60, num_logprobs: Some(3), ..Default::default() };
    // A bias makes the few tokens likely that the prompts have, also for a model without sense.
    let logit_bias = (20..24).map(|token| (token, 30.0)).collect::<Vec<_>>();
    let warm = SamplingParams { temperature: 0.9, seed: 5, ..base.clone() };
    let sampling = [
        base.clone(),
        SamplingParams { ignore_eos: true, logit_bias: logit_bias.clone(), ..base.clone() },
        SamplingParams { logit_bias: logit_bias.clone(), ..warm.clone() },
        SamplingParams {
            repetition_penalty: 1.1,
            frequency_penalty: 0.2,
            presence_penalty: 0.3,
            logit_bias: logit_bias.clone(),
            ..warm.clone()
        },
        SamplingParams {
            min_tokens: 25,
            stop_token_ids: vec![21],
            logit_bias: logit_bias.clone(),
            ..warm.clone()
        },
        SamplingParams { max_tokens: 7, logit_bias, ..warm },
    ];
    let prompt = |i: u32| (0..50 + i).map(|at| 20 + (at * at / 3 + i) % 4).collect();
    (0..)
        .zip(sampling)
        .map(|(i, sampling)| {
            let n = if i == 2 { 2 } else { 1 };
            Request {
                prompt: prompt(i),
                n,
                sampling,
                cache_salt: 0,
                priority: 0,
                report_progress: false,
            }
        })
        .collect()
}

fn check(harness: &mut Harness) {
    let requests = requests();
    let (expected, plain) = run(harness, &requests, Speculation::Off);
    let (given, drafted) = run(harness, &requests, Speculation::PromptLookup);

    assert_eq!(plain.num_draft_tokens, 0);
    assert!(drafted.num_accepted_tokens > 20, "{drafted:?}");
    assert!(drafted.num_accepted_tokens < drafted.num_draft_tokens, "{drafted:?}");
    assert!(drafted.num_steps < plain.num_steps, "{drafted:?} {plain:?}");
    for (i, (given, expected)) in given.iter().zip(&expected).enumerate() {
        assert!(expected.1.is_some() && !expected.0.is_empty());
        assert_eq!(given, expected, "completion {i}");
    }
    // A completion that ends before its limit, among them one within accepted drafts or not.
    assert!(expected.iter().any(|completion| completion.1 == Some(Finish::StopToken)));
}

#[test]
fn drafts_change_no_token_and_no_log_probability() {
    each_model(check);
}
