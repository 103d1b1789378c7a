//! Drafts on a GPU whose steps are launched ahead: they change how many steps it takes, and no token.

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sconce::engine::output::Finish;
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Speculation, Stats};

use super::sampling::{Engine, random_request, regex};

type Completions = HashMap<(u64, u32), (Vec<u32>, Option<Finish>)>;

/// What comes of requests, each token of which was compared with what the processor draws from the same
/// logits.
struct Ran {
    completions: Completions,
    stats: Stats,
    num_compared: usize,
    num_ahead: usize,
}

fn run(num_blocks: u32, requests: &[Request], speculation: Speculation) -> Ran {
    let mut engine = Engine::with_speculation(num_blocks, speculation);
    for (id, request) in (0..).zip(requests) {
        engine.submit(id, request.clone());
    }
    engine.run();
    Ran {
        completions: engine.completions(),
        stats: engine.scheduler.stats(),
        num_compared: engine.num_compared,
        num_ahead: engine.num_ahead,
    }
}

/// The same with and without drafts. Returns both.
fn compare(num_blocks: u32, requests: &[Request]) -> [Ran; 2] {
    let [plain, drafted] = [Speculation::Off, Speculation::PromptLookup]
        .map(|speculation| run(num_blocks, requests, speculation));
    assert_eq!(drafted.completions, plain.completions);
    assert_eq!((plain.stats.num_draft_tokens, plain.stats.num_accepted_tokens), (0, 0));
    let Ran { stats, num_compared, num_ahead, .. } = &drafted;
    println!(
        "{num_compared} tokens compared, {} of {} drafts right, {} steps and {} without drafts, \
         {num_ahead} of them ahead",
        stats.num_accepted_tokens, stats.num_draft_tokens, stats.num_steps, plain.stats.num_steps,
    );
    [plain, drafted]
}

/// A text of few different tokens, whose runs come again, whatever else is asked for.
fn repetitive(rng: &mut StdRng, max_tokens: u32) -> Request {
    let mut request = random_request(rng);
    let few = rng.random_range(2..5);
    request.prompt = (0..rng.random_range(8..60)).map(|_| 5 + rng.random_range(0..few)).collect();
    request.sampling.max_tokens = max_tokens;
    request.sampling.min_tokens = rng.random_range(0..max_tokens);
    request.sampling.allowed_token_ids = (5..5 + few).collect();
    request.sampling.stop_token_ids = if rng.random_bool(0.2) { vec![6] } else { Vec::new() };
    request.sampling.bad_words.retain(|word| word.len() > 1);
    request
}

/// Penalties, bad words, biases, least lengths and log-probabilities among them; several completions of one
/// prompt; and sequences that are preempted.
#[test]
fn thousands_of_tokens_are_the_same_with_drafts_whatever_is_asked_for() {
    for (seed, num_blocks) in [(1, 128), (2, 24)] {
        let mut rng = StdRng::seed_from_u64(seed);
        let requests: Vec<_> = (0..24).map(|_| repetitive(&mut rng, 40)).collect();

        let [plain, drafted] = compare(num_blocks, &requests);

        assert!(drafted.num_compared > 600, "{}", drafted.num_compared);
        assert!(drafted.stats.num_accepted_tokens > 30);
        assert!(drafted.stats.num_draft_tokens > drafted.stats.num_accepted_tokens + 10);
        assert!(drafted.stats.num_steps < plain.stats.num_steps);
        assert!(num_blocks == 128 || drafted.stats.num_preemptions > 0);
    }
}

#[test]
fn a_greedy_text_that_repeats_itself_takes_a_fraction_of_the_steps() {
    let sampling = SamplingParams {
        max_tokens: 160,
        ignore_eos: true,
        allowed_token_ids: (5..9).collect(),
        ..SamplingParams::default()
    };
    let request = |start: u32| Request {
        prompt: vec![start, 5, 6, 7],
        n: 1,
        sampling: sampling.clone(),
        cache_salt: 0,
        report_progress: false,
        priority: 0,
    };

    for num_sequences in [1, 3] {
        let requests: Vec<_> = (5..5 + num_sequences).map(request).collect();
        let [plain, drafted] = compare(128, &requests);

        assert!(drafted.stats.num_steps * 2 < plain.stats.num_steps);
    }
}

/// Text that does not repeat itself is not slowed down: its steps go on being launched ahead.
#[test]
fn where_nothing_is_foreseen_steps_are_launched_ahead() {
    let mut rng = StdRng::seed_from_u64(3);
    let sampling = SamplingParams {
        max_tokens: 300,
        temperature: 3.0,
        ignore_eos: true,
        ..SamplingParams::default()
    };
    let requests: Vec<_> = (0..4)
        .map(|seed| Request {
            prompt: (0..20).map(|_| rng.random_range(0..100)).collect(),
            n: 1,
            sampling: SamplingParams { seed, ..sampling.clone() },
            cache_salt: 0,
            report_progress: false,
            priority: 0,
        })
        .collect();

    let [_, drafted] = compare(128, &requests);

    assert!(drafted.num_ahead as u64 * 10 > drafted.stats.num_steps * 7);
}

/// A grammar's next tokens are known for one token: its sequences have no drafts, and others of the batch do.
#[test]
fn constrained_sequences_are_in_a_batch_with_drafts() {
    let mut rng = StdRng::seed_from_u64(4);
    let grammar = regex("(ab|cd){200}");
    let mut requests: Vec<_> = (0..6).map(|_| repetitive(&mut rng, 80)).collect();
    for request in requests.iter_mut().step_by(3) {
        request.sampling.allowed_token_ids.clear();
        request.sampling.bad_words.clear();
        request.sampling.grammar = Some(grammar.clone());
    }

    let [_, drafted] = compare(128, &requests);

    assert!(drafted.stats.num_accepted_tokens > 20);
}
