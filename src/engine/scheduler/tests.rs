mod background;

use std::time::Duration;

use super::cost::MIN_CHUNK;
use super::*;
use crate::engine::plan::TokenLogprobs;
use crate::engine::request::SamplingParams;

/// A scheduler, the plan it fills, and a model that always says 9.
struct Engine {
    scheduler: Scheduler,
    plan: StepPlan,
    outputs: Vec<Output>,
}

pub(super) fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: 4,
        num_blocks: 64,
        max_num_batched_tokens: 256,
        max_num_seqs: 4,
        max_model_len: 128,
        max_queue: 2,
        max_itl: Duration::from_millis(100),
        depth: 1,
        eos_token_ids: vec![0],
        speculation: Speculation::Off,
        hash_key: (1, 2),
    }
}

pub(super) fn request(prompt: Vec<TokenId>, max_tokens: u32) -> Request {
    let sampling = SamplingParams { max_tokens, ..SamplingParams::default() };
    Request { prompt, n: 1, sampling, cache_salt: 0, priority: 0, report_progress: false }
}

/// A prompt that shares no block with one of another seed.
pub(super) fn prompt(seed: u32, len: u32) -> Vec<TokenId> {
    (0..len).map(|i| 1000 * seed + i).collect()
}

impl Engine {
    fn new(change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let mut config = config();
        change(&mut config);
        Self { scheduler: Scheduler::new(config), plan: StepPlan::default(), outputs: Vec::new() }
    }

    /// One that has learned that a token costs a millisecond.
    fn warm(change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let mut engine = Self::new(change);
        engine.submit(99, request(prompt(99, 16), 1));
        engine.step();
        engine.outputs.clear();
        engine
    }

    fn submit(&mut self, id: u64, request: Request) {
        self.scheduler.submit(RequestId(id), request, None).unwrap();
    }

    fn plan(&mut self) -> bool {
        self.scheduler.step(Duration::ZERO, &mut self.plan)
    }

    fn commit(&mut self) {
        let sampled =
            vec![Sampled { token: 9, logprobs: None, end: None }; self.plan.samples.len()];
        let took = Duration::from_millis(self.plan.token_ids.len() as u64);
        self.scheduler.commit(&self.plan, sampled, took);
        self.scheduler.take_outputs(&mut self.outputs);
    }

    /// Tokens of each row of one step.
    fn step(&mut self) -> Vec<usize> {
        assert!(self.plan());
        self.commit();
        self.plan.rows.iter().map(|row| row.tokens.len()).collect()
    }

    fn finishes(&self) -> Vec<(u64, Finish)> {
        let ends = self.outputs.iter().filter_map(|o| o.finish.map(|f| (o.request.0, f)));
        ends.collect()
    }
}

#[test]
fn a_constraint_ends_a_completion_with_its_last_token_or_without_one() {
    for (end, finish, token) in [
        (ConstraintEnd::Complete, Finish::GrammarEnd, Some(9)),
        (ConstraintEnd::Exhausted, Finish::GrammarLimit, None),
        (ConstraintEnd::BadWord, Finish::BadWord, None),
    ] {
        let mut engine = Engine::new(|_| {});
        engine.submit(1, request(prompt(1, 4), 50));
        engine.step();
        assert!(engine.plan());
        let sampled = vec![Sampled { token: 9, logprobs: None, end: Some(end) }];
        engine.scheduler.commit(&engine.plan, sampled, Duration::ZERO);
        engine.scheduler.take_outputs(&mut engine.outputs);
        assert_eq!(engine.finishes(), [(1, finish)]);
        assert_eq!(engine.outputs.last().unwrap().token, token);
        assert!(engine.scheduler.is_idle());
    }
}

#[test]
fn the_first_step_of_an_unknown_model_is_small() {
    let mut engine = Engine::new(|_| {});
    engine.submit(1, request(prompt(1, 100), 1));

    assert_eq!(engine.step(), [MIN_CHUNK]);
    assert_eq!(engine.step(), [100 - MIN_CHUNK]);
}

#[test]
fn a_prompt_waits_for_no_more_than_the_running_streams_may() {
    let mut engine = Engine::warm(|config| config.max_itl = Duration::from_millis(40));
    engine.submit(1, request(prompt(1, 4), 50));
    engine.step();
    engine.submit(2, request(prompt(2, 100), 1));

    // A token of the stream first; 33 of the prompt are what 34 ms of the 40 leave.
    assert_eq!(engine.step(), [1, 33]);
    assert_eq!(engine.step(), [1, 33]);
    assert_eq!(engine.step(), [1, 33]);
    assert_eq!(engine.step(), [1, 1]);
}

#[test]
fn without_a_stream_a_step_is_bounded_too() {
    let mut engine = Engine::warm(|config| {
        config.max_model_len = 2000;
        config.num_blocks = 500;
        config.max_num_batched_tokens = 2000;
    });
    engine.submit(1, request(prompt(1, 1200), 1));

    assert_eq!(engine.step(), [425]);
    assert_eq!(engine.step(), [425]);
    assert_eq!(engine.step(), [350]);
}

#[test]
fn prompts_go_on_even_where_the_bound_has_room_for_streams_only() {
    let mut engine = Engine::warm(|config| config.max_itl = Duration::from_millis(1));
    for id in 1..=3 {
        engine.submit(id, request(prompt(id as u32, 4), 50));
    }
    while engine.outputs.len() < 3 {
        engine.step();
    }
    engine.submit(4, request(prompt(4, 40), 1));

    assert_eq!(engine.step(), [1, 1, 1, MIN_CHUNK]);
}

#[test]
fn progress_is_told_after_each_chunk_and_the_wait_once() {
    let mut engine = Engine::warm(|config| config.max_num_batched_tokens = 24);
    engine.submit(1, Request { report_progress: true, ..request(prompt(1, 60), 2) });
    let mut told = Vec::new();
    for at in [10, 20, 30, 40] {
        engine.outputs.clear();
        engine.scheduler.step(Duration::from_secs(at), &mut engine.plan);
        engine.commit();
        told.extend(engine.outputs.iter().map(|output| {
            (output.num_computed, output.token.is_some(), output.begun, output.num_cached)
        }));
    }

    let begun = Some(Duration::from_secs(10));
    assert_eq!(
        told,
        [
            (Some(24), false, begun, Some(0)),
            (Some(48), false, None, None),
            (Some(60), false, None, None),
            (None, true, None, None),
            (None, true, None, None),
        ]
    );
}

#[test]
fn a_shared_prefix_is_computed_once_and_the_last_token_always() {
    let mut engine = Engine::warm(|_| {});
    engine.submit(1, request(prompt(1, 16), 1));
    engine.step();

    engine.submit(2, request(prompt(1, 16), 1));
    assert_eq!(engine.step(), [4]);
    assert_eq!(engine.outputs.last().unwrap().num_cached, Some(12));

    let mut salted = request(prompt(1, 16), 1);
    salted.cache_salt = 7;
    engine.submit(3, salted);
    assert_eq!(engine.step(), [16]);
    assert_eq!(engine.outputs.last().unwrap().num_cached, Some(0));
}

#[test]
fn completions_of_one_prompt_part_by_copying_the_block_they_write_into() {
    let mut engine = Engine::warm(|_| {});
    engine.submit(1, Request { n: 2, ..request(prompt(1, 6), 3) });

    assert_eq!(engine.step(), [6]);
    assert_eq!(engine.plan.samples.len(), 2);
    // Both would write into the second block; the second writer finds it its own.
    assert_eq!(engine.step(), [1, 1]);
    assert_eq!(engine.plan.copies.len(), 1);
    assert_eq!(engine.step(), [1, 1]);
    assert_eq!(engine.plan.copies, []);
    assert_eq!(engine.finishes(), [(1, Finish::Length); 2]);
}

#[test]
fn the_later_arrival_gives_up_its_blocks_and_is_computed_again() {
    let mut engine = Engine::warm(|config| config.num_blocks = 8);
    engine.submit(1, request(prompt(1, 12), 12));
    engine.submit(2, request(prompt(2, 8), 12));
    engine.step();
    let mut num_steps = 0;
    while !engine.scheduler.is_idle() {
        engine.step();
        num_steps += 1;
        assert!(num_steps < 100, "{:?}", engine.scheduler.stats());
    }

    assert!(engine.scheduler.stats().num_preemptions > 0);
    assert_eq!(engine.finishes(), [(1, Finish::Length), (2, Finish::Length)]);
    for id in [1, 2] {
        let tokens = engine.outputs.iter().filter(|o| o.request.0 == id && o.token == Some(9));
        assert_eq!(tokens.count(), 12, "a token was lost or repeated");
    }
}

#[test]
fn blocks_of_a_cancelled_request_are_held_until_the_step_in_flight_has_ended() {
    let mut engine = Engine::warm(|_| {});
    engine.submit(1, request(prompt(1, 8), 10));
    assert!(engine.plan());

    engine.scheduler.cancel(RequestId(1));
    assert_eq!(engine.scheduler.stats().num_used_blocks, 2);
    engine.commit();

    assert_eq!(engine.scheduler.stats().num_used_blocks, 0);
    assert_eq!(engine.finishes(), [(1, Finish::Cancelled)]);
    assert!(engine.scheduler.is_idle());
}

#[test]
fn a_request_that_missed_its_turn_is_never_computed() {
    let mut engine = Engine::warm(|config| config.max_num_seqs = 1);
    engine.submit(1, request(prompt(1, 4), 5));
    engine.step();
    let deadline = Some(Duration::from_secs(1));
    engine.scheduler.submit(RequestId(2), request(prompt(2, 4), 5), deadline).unwrap();

    assert!(engine.scheduler.step(Duration::from_secs(2), &mut engine.plan));
    engine.commit();

    assert_eq!(engine.finishes(), [(2, Finish::Deadline)]);
    assert_eq!(engine.plan.rows.len(), 1);
}

#[test]
fn refusals_say_what_the_limit_is() {
    let mut engine = Engine::new(|config| {
        config.max_num_seqs = 1;
        config.num_blocks = 8;
    });
    let mut refusal = |id, request| engine.scheduler.submit(RequestId(id), request, None).err();

    assert_eq!(
        refusal(1, request(prompt(1, 20), 20)),
        Some(Refusal::TooLarge { needed: 40, available: 32 })
    );
    assert_eq!(
        refusal(2, Request { n: 2, ..request(prompt(1, 4), 4) }),
        Some(Refusal::TooMany { n: 2, max_num_seqs: 1 })
    );
    // One finds the free slot, two may wait.
    for id in 3..6 {
        assert_eq!(refusal(id, request(prompt(1, 4), 4)), None);
    }
    assert_eq!(refusal(6, request(prompt(1, 4), 4)), Some(Refusal::QueueFull { max_queue: 2 }));
    engine.scheduler.drain();
    let late = engine.scheduler.submit(RequestId(7), request(prompt(1, 4), 4), None);
    assert_eq!(late, Err(Refusal::Draining));
}

/// An engine that guesses.
fn guessing(change: impl FnOnce(&mut SchedulerConfig)) -> Engine {
    Engine::new(|config| {
        config.speculation = Speculation::PromptLookup;
        change(config);
    })
}

impl Engine {
    /// One step, in which each sequence's every token is `says` of its position. Returns the
    /// tokens of each row.
    fn step_saying(&mut self, says: impl Fn(u32) -> TokenId) -> Vec<usize> {
        self.step_costing(|_| Duration::from_millis(1), says)
    }

    /// One that takes `cost` of its number of tokens.
    fn step_costing(
        &mut self,
        cost: impl Fn(u64) -> Duration,
        says: impl Fn(u32) -> TokenId,
    ) -> Vec<usize> {
        assert!(self.plan());
        let mut sampled = Vec::new();
        for sample in &self.plan.samples {
            let drafts = self.plan.drafts(sample).iter().copied().map(Some).chain([None]);
            for (position, draft) in (sample.position..).zip(drafts) {
                let token = says(position);
                sampled.push(Sampled { token, logprobs: None, end: None });
                if draft != Some(token) {
                    break;
                }
            }
        }
        let took = cost(self.plan.token_ids.len() as u64);
        self.scheduler.commit(&self.plan, sampled, took);
        self.scheduler.take_outputs(&mut self.outputs);
        self.plan.rows.iter().map(|row| row.tokens.len()).collect()
    }

    fn tokens(&self) -> Vec<TokenId> {
        self.outputs.iter().filter_map(|output| output.token).collect()
    }
}

/// A period of three.
fn periodic(position: u32) -> TokenId {
    10 + position % 3
}

#[test]
fn right_guesses_are_tokens_of_the_same_step() {
    let mut engine = guessing(|_| {});
    engine.submit(1, request((0..10).map(periodic).collect(), 30));

    assert_eq!(engine.step_saying(periodic), [10]);
    // The first decode step says what one costs.
    assert_eq!(engine.step_saying(periodic), [1]);
    assert_eq!(engine.step_saying(periodic), [4]);
    assert_eq!(engine.tokens().len(), 6);
    assert_eq!(engine.step_saying(periodic), [8]);
    while !engine.scheduler.is_idle() {
        engine.step_saying(periodic);
    }

    assert_eq!(engine.tokens(), (10..40).map(periodic).collect::<Vec<_>>());
    assert_eq!(engine.finishes(), [(1, Finish::Length)]);
    let stats = engine.scheduler.stats();
    assert_eq!((stats.num_steps, stats.num_generated_tokens), (6, 30));
    // The last step's guesses end where the completion does.
    assert_eq!((stats.num_draft_tokens, stats.num_accepted_tokens), (3 + 7 + 7 + 7, 24));
}

#[test]
fn what_follows_a_wrong_guess_is_computed_anew_and_its_blocks_are_free() {
    let mut engine = guessing(|_| {});
    engine.submit(1, request((0..11).map(periodic).collect(), 30));
    engine.step_saying(periodic);
    engine.step_saying(periodic);
    // Positions 12 to 19 are computed; the third guess, position 15, is wrong.
    let wrong = |position| if position == 15 { 99 } else { periodic(position) };
    assert_eq!(engine.step_saying(wrong), [4]);

    assert_eq!(engine.tokens()[2..], [periodic(13), periodic(14), 99]);
    assert_eq!(engine.scheduler.stats().num_used_blocks, 4);
    engine.step_saying(periodic);
    assert_eq!((engine.plan.rows[0].num_computed, engine.plan.token_ids[0]), (15, 99));
}

#[test]
fn a_completion_ends_at_an_end_token_among_right_guesses() {
    let mut engine = guessing(|_| {});
    let mut request = request((0..10).map(periodic).collect(), 30);
    request.sampling.stop_token_ids = vec![99];
    engine.submit(1, request);
    let says = |position| if position == 14 { 99 } else { periodic(position) };
    engine.step_saying(says);
    engine.step_saying(says);
    engine.step_saying(says);

    assert_eq!(engine.tokens(), [periodic(10), periodic(11), periodic(12), periodic(13), 99]);
    assert_eq!(engine.finishes(), [(1, Finish::StopToken)]);
    assert!(engine.scheduler.is_idle());
}

#[test]
fn guesses_take_no_block_that_another_sequence_may_need() {
    let mut engine = guessing(|config| config.num_blocks = 4);
    engine.submit(1, request((0..11).map(periodic).collect(), 5));
    engine.step_saying(periodic);
    engine.step_saying(periodic);

    // Of four blocks four are held: the guesses fill the last.
    assert_eq!(engine.step_saying(periodic), [3]);
    assert_eq!(engine.scheduler.stats().num_preemptions, 0);
}

#[test]
fn guesses_leave_the_token_budget_to_prompts() {
    let mut engine = guessing(|config| config.max_num_batched_tokens = 18);
    engine.submit(1, request((0..10).map(periodic).collect(), 30));
    engine.step_saying(periodic);
    engine.step_saying(periodic);
    engine.submit(2, request(prompt(2, 16), 5));

    // Rows with guesses are planned last: 16 of a prompt, one token and the one guess that fits.
    assert_eq!(engine.step_saying(periodic), [16, 2]);
}

#[test]
fn nothing_is_guessed_where_each_token_costs_as_much_as_the_first() {
    let mut engine = guessing(|config| config.max_model_len = 128);
    engine.submit(1, request(vec![9; 10], 60));
    let mut num_tokens = Vec::new();
    while !engine.scheduler.is_idle() {
        num_tokens.extend(engine.step_costing(Duration::from_millis, |_| 9));
    }

    // Each size is tried once.
    let tried = num_tokens[1..].iter().filter(|tokens| **tokens > 1).count();
    assert!((1..=3).contains(&tried), "{num_tokens:?}");
}

#[test]
fn a_priority_takes_the_place_of_higher_ones_of_its_own_tenant() {
    let mut engine = Engine::warm(|config| {
        config.max_num_seqs = 1;
        config.max_queue = 10;
    });
    let with = |id: u32, priority, cache_salt| Request {
        priority,
        cache_salt,
        ..request(prompt(id, 4), 1)
    };
    for (id, priority, salt) in [(1, 0, 0), (2, 0, 1), (3, 5, 0), (4, -1, 0), (5, 0, 1), (6, 0, 0)]
    {
        engine.submit(id.into(), with(id, priority, salt));
    }

    while !engine.scheduler.is_idle() {
        engine.step();
    }

    // Tenant 1 has its own places, the second and the fifth.
    let order: Vec<_> = engine.finishes().into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [4, 2, 1, 6, 5, 3]);
}

#[test]
fn the_lower_priority_is_preempted_though_it_came_first() {
    let mut engine = Engine::warm(|config| {
        config.num_blocks = 9;
        config.max_model_len = 32;
    });
    let with = |id: u32, priority| Request { priority, ..request(prompt(id, 8), 24) };
    engine.submit(1, with(1, 3));
    engine.step();
    engine.submit(2, with(2, 1));

    while !engine.scheduler.is_idle() {
        engine.step();
    }

    assert!(engine.scheduler.stats().num_preemptions > 0);
    let order: Vec<_> = engine.finishes().into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [2, 1]);
}

/// The positions whose logits each step scores, as far as a prompt has them.
fn scored(engine: &mut Engine) -> Vec<TokenId> {
    assert!(engine.plan());
    let scores = &engine.plan.scores;
    let result = scores.iter().map(|score| Scored {
        token: score.token,
        rank: 1,
        logprobs: TokenLogprobs { logprob: 0.0, top: Vec::new() },
    });
    let (result, tokens) = (result.collect(), scores.iter().map(|score| score.token).collect());
    engine.scheduler.score(&engine.plan, result);
    engine.commit();
    tokens
}

#[test]
fn a_prompt_is_scored_once_whatever_is_cached() {
    let mut engine = Engine::warm(|_| {});
    let mut with = request(prompt(1, 50), 4);
    engine.submit(1, with.clone());
    while !engine.scheduler.is_idle() {
        engine.step();
    }
    engine.outputs.clear();

    with.sampling.num_prompt_logprobs = Some(0);
    engine.submit(2, with.clone());
    let mut tokens = Vec::new();
    while !engine.scheduler.is_idle() {
        tokens.extend(scored(&mut engine));
    }

    assert_eq!(tokens, with.prompt[1..]);
    let of_prompt = engine.outputs.iter().flat_map(|output| &output.scored);
    assert_eq!(of_prompt.map(|scored| scored.token).collect::<Vec<_>>(), with.prompt[1..]);
    let first = engine.outputs.iter().position(|output| output.token.is_some()).unwrap();
    assert!(engine.outputs[first..].iter().all(|output| output.scored.is_empty()));
    assert_eq!(engine.outputs[first].num_cached, Some(0));
}

#[test]
fn a_step_scores_no_more_tokens_than_it_may() {
    let mut engine = Engine::warm(|config| {
        config.max_num_batched_tokens = 4096;
        config.max_model_len = 1024;
        config.num_blocks = 1024;
        config.max_itl = Duration::from_secs(100);
    });
    for id in 1..=2 {
        let mut with = request(prompt(id, 700), 2);
        with.sampling.num_prompt_logprobs = Some(0);
        engine.submit(id.into(), with);
    }
    let mut numbers = Vec::new();
    while !engine.scheduler.is_idle() {
        numbers.push(scored(&mut engine).len());
    }
    assert!(numbers.iter().all(|number| *number <= MAX_SCORES), "{numbers:?}");
    assert_eq!(numbers.iter().sum::<usize>(), 2 * 699);
}
