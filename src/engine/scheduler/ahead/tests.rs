use super::super::tests::{config, prompt, request};
use super::*;
use crate::engine::plan::TokenLogprobs;

/// A scheduler whose steps are planned ahead, with the steps in flight, and a model that says 9.
struct Pipeline {
    scheduler: Scheduler,
    in_flight: VecDeque<StepPlan>,
    spare: VecDeque<StepPlan>,
    outputs: Vec<Output>,
}

impl Pipeline {
    fn new(change: impl FnOnce(&mut SchedulerConfig)) -> Self {
        let mut config = SchedulerConfig { depth: 2, ..config() };
        change(&mut config);
        Self {
            scheduler: Scheduler::new(config),
            in_flight: VecDeque::new(),
            spare: VecDeque::new(),
            outputs: Vec::new(),
        }
    }

    fn submit(&mut self, id: u64, request: Request) {
        self.scheduler.submit(RequestId(id), request, None).unwrap();
    }

    fn plan(&mut self) -> bool {
        let mut plan = self.spare.pop_front().unwrap_or_default();
        let is_planned = self.scheduler.step(Duration::ZERO, &mut plan);
        let place = if is_planned { &mut self.in_flight } else { &mut self.spare };
        place.push_back(plan);
        for plan in &self.in_flight {
            self.scheduler.check_in_flight(plan).unwrap();
        }
        is_planned
    }

    fn commit(&mut self) {
        self.commit_saying(9);
    }

    fn commit_saying(&mut self, token: TokenId) {
        let plan = self.in_flight.pop_front().unwrap();
        let scored = plan.scores.iter().map(|score| Scored {
            token: score.token,
            rank: 1,
            logprobs: TokenLogprobs { logprob: 0.0, top: Vec::new() },
        });
        self.scheduler.score(&plan, scored.collect());
        let sampled = vec![Sampled { token, logprobs: None, end: None }; plan.samples.len()];
        self.scheduler.commit(&plan, sampled, Duration::from_millis(1));
        self.scheduler.take_outputs(&mut self.outputs);
        self.spare.push_back(plan);
    }

    /// Plans and commits, two steps in flight, until nothing can be planned ahead.
    fn run(&mut self) {
        while self.plan() {
            if self.in_flight.len() == 2 {
                self.commit();
            }
        }
    }

    fn last(&self) -> &StepPlan {
        self.in_flight.back().unwrap()
    }

    fn finishes(&self) -> Vec<(u64, Finish)> {
        let ends = self.outputs.iter().filter_map(|o| o.finish.map(|f| (o.request.0, f)));
        ends.collect()
    }

    fn num_used_blocks(&self) -> u32 {
        self.scheduler.stats().num_used_blocks
    }
}

#[test]
fn a_token_is_computed_before_it_is_known() {
    let mut engine = Pipeline::new(|_| {});
    engine.submit(1, request(prompt(1, 8), 10));
    assert!(engine.plan() && engine.plan());

    let plan = engine.last();
    assert_eq!(plan.carried, [Carry { token_index: 0, sample: 0 }]);
    assert_eq!((plan.rows[0].num_computed, plan.rows[0].tokens.len()), (8, 1));
    assert_eq!((plan.samples[0].position, plan.samples[0].num_generated), (9, 1));
    engine.commit();
    assert_eq!(engine.outputs.len(), 1);
    assert!(engine.plan());
    assert_eq!(engine.last().rows[0].num_computed, 9);
}

#[test]
fn the_blocks_and_the_slot_of_what_ended_are_held_until_its_next_row_is_computed() {
    let mut engine = Pipeline::new(|config| config.max_num_seqs = 1);
    let mut with_stop = request(prompt(1, 8), 10);
    with_stop.sampling.stop_token_ids = vec![7];
    engine.submit(1, with_stop);
    engine.submit(2, request(prompt(2, 4), 1));
    assert!(engine.plan() && engine.plan());

    engine.commit_saying(7);
    assert_eq!(engine.finishes(), [(1, Finish::StopToken)]);
    assert_eq!(engine.num_used_blocks(), 3);
    engine.scheduler.cancel(RequestId(1));
    assert!(!engine.plan(), "the slot is taken");
    engine.commit();

    assert_eq!((engine.num_used_blocks(), engine.outputs.len()), (0, 1));
    assert!(engine.plan());
    assert_eq!(engine.last().released, [SequenceId(0)]);
    assert_eq!(engine.last().admitted[0].sequence, SequenceId(0));
}

#[test]
fn nothing_follows_the_last_token_that_a_completion_may_have() {
    let mut engine = Pipeline::new(|_| {});
    engine.submit(1, request(prompt(1, 8), 2));
    assert!(engine.plan() && engine.plan());
    engine.commit();

    assert!(!engine.plan());
    engine.commit();
    assert_eq!(engine.finishes(), [(1, Finish::Length)]);
    assert!(engine.scheduler.is_idle());
}

#[test]
fn a_cancel_is_told_when_no_step_has_the_sequence_any_more() {
    let mut engine = Pipeline::new(|_| {});
    engine.submit(1, request(prompt(1, 8), 10));
    assert!(engine.plan() && engine.plan());
    engine.scheduler.cancel(RequestId(1));

    assert!(engine.num_used_blocks() > 0);
    engine.commit();
    assert_eq!(engine.outputs, []);
    assert_eq!(engine.num_used_blocks(), 3);
    engine.commit();
    assert_eq!(engine.finishes(), [(1, Finish::Cancelled)]);
    assert!(engine.scheduler.is_idle());
    assert_eq!(engine.num_used_blocks(), 0);
}

#[test]
fn a_block_with_a_token_that_never_became_known_is_not_found_again() {
    let mut engine = Pipeline::new(|_| {});
    // The token after the prompt fills the second block.
    engine.submit(1, request(prompt(1, 7), 10));
    assert!(engine.plan() && engine.plan());
    engine.scheduler.cancel(RequestId(1));
    engine.commit();
    engine.commit();
    engine.outputs.clear();

    let same = [&prompt(1, 7)[..], &[crate::engine::sequence::UNKNOWN, 5]].concat();
    engine.submit(2, request(same, 1));
    assert!(engine.plan());
    engine.commit();
    assert_eq!(engine.outputs[0].num_cached, Some(4));
}

#[test]
fn a_step_that_has_to_preempt_waits_for_the_one_before_it() {
    let mut engine = Pipeline::new(|config| config.num_blocks = 8);
    engine.submit(1, request(prompt(1, 8), 20));
    engine.submit(2, request(prompt(2, 8), 20));

    // 16 tokens of each fill the cache.
    engine.run();
    assert_eq!((engine.num_used_blocks(), engine.in_flight.len()), (8, 1));
    assert_eq!(engine.scheduler.stats().num_preemptions, 0);
    engine.commit();
    assert!(engine.plan());
    assert_eq!(engine.scheduler.stats().num_preemptions, 1);

    while !engine.scheduler.is_idle() {
        engine.run();
        engine.commit();
    }
    assert_eq!(engine.finishes(), [(1, Finish::Length), (2, Finish::Length)]);
    assert_eq!(engine.outputs.iter().filter(|output| output.token == Some(9)).count(), 40);
}

#[test]
fn completions_of_one_prompt_go_on_each_with_its_own_token() {
    let mut engine = Pipeline::new(|_| {});
    engine.submit(1, Request { n: 2, ..request(prompt(1, 6), 3) });
    assert!(engine.plan() && engine.plan());

    let carry = |at| Carry { token_index: at, sample: at };
    assert_eq!(engine.last().carried, [carry(0), carry(1)]);
    assert_eq!(engine.last().copies.len(), 1);
    assert_eq!(engine.last().rows.len(), 2);
}

#[test]
fn completions_part_when_their_prompt_took_two_steps_that_are_both_in_flight() {
    let mut engine = Pipeline::new(|config| config.max_num_batched_tokens = 16);
    engine.submit(1, Request { n: 3, ..request(prompt(1, 24), 3) });

    while !engine.scheduler.is_idle() {
        engine.run();
        engine.commit();
    }
    assert_eq!(engine.finishes(), [(1, Finish::Length); 3]);
    assert_eq!(engine.outputs.iter().filter(|output| output.token.is_some()).count(), 9);
}

#[test]
fn chunks_of_a_prompt_follow_each_other_without_a_wait() {
    let mut engine = Pipeline::new(|config| config.max_num_batched_tokens = 16);
    let mut with = Request { report_progress: true, ..request(prompt(1, 40), 1) };
    with.sampling.num_prompt_logprobs = Some(0);
    engine.submit(1, with.clone());

    engine.run();
    engine.commit();
    let progress = engine.outputs.iter().filter_map(|output| output.num_computed);
    assert_eq!(progress.collect::<Vec<_>>(), [16, 32, 40]);
    let scored = engine.outputs.iter().flat_map(|output| &output.scored);
    assert_eq!(scored.map(|scored| scored.token).collect::<Vec<_>>(), with.prompt[1..]);
    assert_eq!(engine.finishes(), [(1, Finish::Length)]);
}

#[test]
fn a_plan_that_was_left_out_has_all_tables_again() {
    let mut engine = Pipeline::new(|_| {});
    engine.submit(1, request(prompt(1, 8), 60));
    assert!(engine.plan() && engine.plan());
    engine.commit();
    engine.commit();
    // Debug builds compare each row's table with its sequence's blocks.
    let left_out = engine.spare.pop_front();
    for _ in 0..5 {
        assert!(engine.plan());
        engine.commit();
    }

    engine.spare.extend(left_out);
    assert!(engine.plan() && engine.plan());
    for plan in &engine.in_flight {
        let row = &plan.rows[0];
        assert_eq!(plan.block_tables[row.blocks.start as usize], BlockId(0));
        assert_eq!(row.blocks.len(), 4);
    }
}

#[test]
fn prompts_that_nobody_waits_for_are_not_planned_ahead_and_their_tokens_are() {
    let mut engine = Pipeline::new(|_| {});
    let background = |seed| Request { priority: 10_000, ..request(prompt(seed, 20), 10) };
    engine.submit(1, background(1));
    assert!(engine.plan());
    assert!(!engine.plan(), "4 tokens of the prompt are left");
    engine.commit();
    assert!(engine.plan());
    assert!(engine.plan(), "a token");

    engine.submit(2, background(2));
    engine.commit();

    assert!(!engine.plan(), "a prompt");
    engine.commit();
    assert!(engine.plan());
    assert_eq!(engine.last().rows.len(), 2);
}
