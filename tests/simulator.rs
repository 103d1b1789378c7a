//! The scheduler, the block pool and the prefix cache against the hash model: random arrivals,
//! lengths, cancels, deadlines and shared prefixes, in pools down to barely more than the longest
//! request needs. Every completion is compared with what it must be. In half of the worlds the
//! model says few different tokens, so that some guesses of its next ones are right. All of it is
//! done with one step at a time and with two in flight.
//!
//! `SCONCE_SIM_REQUESTS` says how many requests to simulate (100,000), `SCONCE_SIM_SEED` replays
//! one world. A failure prints its seed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sconce::engine::output::{Finish, Output};
use sconce::engine::plan::{BlockId, Scored, StepPlan};
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Refusal, Scheduler, SchedulerConfig, Speculation};
use sconce::engine::sequence::RequestId;
use sconce::runner::hash::HashModel;
use sconce::runner::{Executor, ExecutorLimits};

const EOS: u32 = 7;
const VOCAB: u32 = 500;
/// So few that a guess is right as often as not.
const FEW: u32 = 2;
const REQUESTS_PER_WORLD: u64 = 100;

/// SplitMix64: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A request that has not ended: what came of it so far.
struct Live {
    request: Request,
    tokens: Vec<Vec<u32>>,
    scored: Vec<Scored>,
    finished: Vec<bool>,
    cancelled: bool,
}

/// What a world did, for the figures at the end.
#[derive(Default)]
struct Tally {
    requests: u64,
    completed: u64,
    cancelled: u64,
    expired: u64,
    refused: u64,
    preemptions: u64,
    cached: u64,
    scored: u64,
    drafts: u64,
    accepted: u64,
    /// Steps planned while another was in flight, and tokens that these had of it.
    ahead: u64,
    carried: u64,
    /// Completions that ended while a step was in flight.
    overtaken: u64,
    /// Steps that yielded so many tokens of one sequence.
    yields: [u64; 9],
}

struct World {
    random: Random,
    limits: ExecutorLimits,
    scheduler: Scheduler,
    model: HashModel,
    live: BTreeMap<u64, Live>,
    now: Duration,
    /// Steps that may be in flight, and those that are, earliest first.
    depth: usize,
    in_flight: VecDeque<StepPlan>,
    spare: VecDeque<StepPlan>,
    /// A device's block tables, of which it gets the changes only.
    tables: Vec<BlockId>,
    /// What a step takes beside its tokens: where it is nothing, guesses do not pay.
    base: Duration,
    tally: Tally,
}

impl World {
    fn new(seed: u64, depth: usize) -> Self {
        let mut random = Random(seed);
        let block_size = [1, 4, 16][random.below(3) as usize];
        let max_model_len = block_size * 6 + random.below(40) as u32;
        let longest = max_model_len.div_ceil(block_size);
        // From 1.1 times the longest request to plenty.
        let num_blocks = (longest * 11).div_ceil(10) + random.below(u64::from(longest) * 4) as u32;
        let limits = ExecutorLimits {
            block_size,
            num_blocks,
            max_num_batched_tokens: 1 + random.below(96) as u32,
            max_num_seqs: 1 + random.below(12) as u32,
            max_model_len,
            vocab_size: if random.one_in(2) { VOCAB } else { FEW },
        };
        let config = SchedulerConfig {
            block_size,
            num_blocks,
            max_num_batched_tokens: limits.max_num_batched_tokens,
            max_num_seqs: limits.max_num_seqs,
            max_model_len,
            max_queue: 1 + random.below(40) as u32,
            max_itl: Duration::from_millis(1 + random.below(50)),
            depth,
            eos_token_ids: vec![EOS],
            speculation: match random.below(4) {
                0 => Speculation::Off,
                _ => Speculation::PromptLookup,
            },
            hash_key: (random.next(), random.next()),
        };
        let table_len = config.table_len() as usize;
        Self {
            model: HashModel::new(limits, EOS).with_depth(depth),
            depth,
            in_flight: VecDeque::new(),
            spare: VecDeque::new(),
            tables: vec![BlockId(0); table_len * limits.max_num_seqs as usize],
            base: Duration::from_micros([0, 1000][random.below(2) as usize]),
            random,
            limits,
            scheduler: Scheduler::new(config),
            live: BTreeMap::new(),
            now: Duration::ZERO,
            tally: Tally::default(),
        }
    }

    /// A prompt that shares a beginning with others, often up to a block's edge or one beside it.
    fn request(&mut self) -> Request {
        let longest = u64::from(self.limits.max_model_len) - 1;
        let size = u64::from(self.limits.block_size);
        let edge = (1 + self.random.below(4)) * size + self.random.below(3);
        let shared = edge.saturating_sub(1).min(longest);
        let length =
            if self.random.one_in(4) { shared.max(1) } else { 1 + self.random.below(longest) };
        let family = self.random.below(3) as u32;
        let prompt = (0..length)
            .map(|i| {
                if i < shared {
                    10 + family
                } else {
                    8 + self.random.below(u64::from(VOCAB) - 8) as u32
                }
            })
            .collect();
        let most = u64::from(self.limits.max_num_seqs).min(4);
        let sampling = SamplingParams {
            temperature: self.random.below(2) as f32,
            seed: self.random.below(4),
            max_tokens: 1 + self.random.below(u64::from(self.limits.max_model_len)) as u32,
            min_tokens: self.random.below(3) as u32,
            ignore_eos: self.random.one_in(2),
            num_prompt_logprobs: self.random.one_in(4).then_some(1),
            stop_token_ids: if self.random.one_in(3) { self.stops() } else { vec![] },
            ..SamplingParams::default()
        };
        let n = if self.random.one_in(3) { 1 + self.random.below(most) as u32 } else { 1 };
        let priority = if self.random.one_in(3) { self.random.below(5) as i32 - 2 } else { 0 };
        let report_progress = self.random.one_in(2);
        let cache_salt = u128::from(self.random.below(2));
        Request { prompt, n, sampling, cache_salt, priority, report_progress }
    }

    /// Of a model that says few tokens, not its only ones.
    fn stops(&self) -> Vec<u32> {
        if self.limits.vocab_size == FEW { vec![1, 11] } else { vec![11, 12] }
    }

    fn arrive(&mut self, id: u64) {
        let request = self.request();
        let deadline =
            self.random.one_in(8).then(|| self.now + Duration::from_millis(self.random.below(40)));
        self.tally.requests += 1;
        match self.scheduler.submit(RequestId(id), request.clone(), deadline) {
            Ok(()) => {
                let n = request.n as usize;
                let live = Live {
                    request,
                    tokens: vec![Vec::new(); n],
                    scored: Vec::new(),
                    finished: vec![false; n],
                    cancelled: false,
                };
                self.live.insert(id, live);
            }
            Err(Refusal::QueueFull { .. } | Refusal::TooLarge { .. }) => self.tally.refused += 1,
            Err(refusal) => panic!("refused without a reason: {refusal}"),
        }
    }

    fn maybe_cancel(&mut self) {
        if self.live.is_empty() || !self.random.one_in(80) {
            return;
        }
        let at = self.random.below(self.live.len() as u64) as usize;
        if let Some((id, live)) = self.live.iter_mut().nth(at) {
            live.cancelled = true;
            self.scheduler.cancel(RequestId(*id));
        }
    }

    /// Begins a step if one may be, and finishes one if it must or happens to.
    fn step(&mut self) {
        let begun = self.in_flight.len() < self.depth && self.begin();
        // A client may hang up while the step is computed.
        self.maybe_cancel();
        if !begun || self.in_flight.len() == self.depth || self.random.one_in(6) {
            self.finish();
        }
        for plan in &self.in_flight {
            self.scheduler.check_in_flight(plan).expect("nothing in flight is given away");
        }
    }

    fn begin(&mut self) -> bool {
        let mut plan = self.spare.pop_front().unwrap_or_default();
        if !self.scheduler.step(self.now, &mut plan) {
            self.spare.push_front(plan);
            return false;
        }
        assert!(plan.token_ids.len() <= self.token_limit(), "the budget was passed");
        self.update_tables(&plan);
        self.model.begin(&plan).expect("the plan is sound");
        self.tally.ahead += u64::from(!self.in_flight.is_empty());
        self.tally.carried += plan.carried.len() as u64;
        self.in_flight.push_back(plan);
        true
    }

    /// A device that gets the changes only has the tables that the plan has.
    fn update_tables(&mut self, plan: &StepPlan) {
        let table_len = plan.block_tables.len() / self.limits.max_num_seqs as usize;
        for update in &plan.table_updates {
            let at = update.sequence.0 as usize * table_len + update.column as usize;
            self.tables[at] = update.block;
        }
        for row in &plan.rows {
            let blocks = row.blocks.start as usize..row.blocks.end as usize;
            assert_eq!(blocks.start, row.sequence.0 as usize * table_len);
            assert_eq!(self.tables[blocks.clone()], plan.block_tables[blocks]);
        }
    }

    fn finish(&mut self) {
        let Some(plan) = self.in_flight.pop_front() else { return };
        let mut sampled = Vec::new();
        self.model.finish(&plan, &mut sampled).expect("the plan is sound");
        self.maybe_cancel();
        let mut rest = &sampled[..];
        for sample in &plan.samples {
            let count = plan.num_sampled(sample, rest);
            self.tally.yields[count] += 1;
            rest = &rest[count..];
        }
        let elapsed = self.base + Duration::from_micros(20 * plan.token_ids.len() as u64);
        self.scheduler.score(&plan, self.model.take_scored());
        self.scheduler.commit(&plan, sampled, elapsed);
        self.spare.push_back(plan);
    }

    /// Sequences that decode get their token even where the budget is smaller than their number.
    fn token_limit(&self) -> usize {
        (self.limits.max_num_batched_tokens + self.limits.max_num_seqs) as usize
    }

    fn take(&mut self, outputs: &mut Vec<Output>) {
        self.scheduler.take_outputs(outputs);
        for output in outputs.drain(..) {
            let live = self.live.get_mut(&output.request.0).expect("nothing follows the end");
            let index = output.index as usize;
            assert!(!live.finished[index], "a second end of {:?}", output.request);
            live.tokens[index].extend(output.token);
            if let Some(num_computed) = output.num_computed {
                assert!(live.request.report_progress && index == 0);
                assert!(live.tokens[0].is_empty() && output.token.is_none());
                assert!((1..=live.request.prompt.len() as u32).contains(&num_computed));
            }
            live.scored.extend(output.scored);
            let Some(finish) = output.finish else { continue };
            live.finished[index] = true;
            self.tally.overtaken += u64::from(!self.in_flight.is_empty());
            let expected = self.model.expected(&live.request, output.index);
            let tokens = &live.tokens[index];
            match finish {
                Finish::StopToken | Finish::Length => {
                    assert_eq!(tokens, &expected, "{:?} went wrong", output.request);
                    let is_scored = live.request.sampling.num_prompt_logprobs.is_some();
                    let scores = self.model.expected_scores(&live.request);
                    let scores = if is_scored { &scores[..] } else { &[] };
                    assert_eq!(live.scored, scores, "{:?} was scored wrong", output.request);
                    self.tally.scored += u64::from(is_scored);
                    let last = tokens.last().copied();
                    let stops = (last == Some(EOS) && !live.request.sampling.ignore_eos)
                        || last.is_some_and(|t| live.request.sampling.stop_token_ids.contains(&t));
                    assert_eq!(finish == Finish::StopToken, stops, "the wrong reason");
                    self.tally.completed += 1;
                }
                Finish::Cancelled => {
                    assert!(live.cancelled, "nobody cancelled it");
                    assert_eq!(tokens[..], expected[..tokens.len()]);
                    self.tally.cancelled += 1;
                }
                Finish::Deadline => {
                    assert!(tokens.is_empty(), "a running request can't miss its turn");
                    self.tally.expired += 1;
                }
                Finish::GrammarEnd | Finish::GrammarLimit | Finish::BadWord => {
                    panic!("nobody asked for a constraint")
                }
            }
            if live.finished.iter().all(|finished| *finished) {
                self.live.remove(&output.request.0);
            }
        }
    }

    fn run(mut self) -> Tally {
        let (mut outputs, mut next, mut idle) = (Vec::new(), 0, 0);
        let gap = 1 + self.random.below(6);
        while next < REQUESTS_PER_WORLD || !self.live.is_empty() {
            while next < REQUESTS_PER_WORLD && self.random.one_in(gap) {
                self.arrive(next);
                next += 1;
            }
            self.maybe_cancel();
            self.now += Duration::from_millis(1);
            let before = self.scheduler.stats().num_steps;
            self.step();
            self.take(&mut outputs);
            self.scheduler.check_invariants().expect("the books are right");
            let stuck = self.scheduler.stats().num_steps == before && !self.live.is_empty();
            idle = if stuck { idle + 1 } else { 0 };
            assert!(idle < 100, "nothing moves: {:?}", self.scheduler.stats());
        }
        while !self.in_flight.is_empty() {
            assert!(!self.scheduler.is_idle(), "a step is in flight");
            self.finish();
        }
        let stats = self.scheduler.stats();
        assert!(self.scheduler.is_idle());
        assert_eq!((stats.num_used_blocks, stats.num_running, stats.num_waiting), (0, 0, 0));
        self.tally.preemptions = stats.num_preemptions;
        self.tally.cached = stats.num_cached_tokens;
        self.tally.drafts = stats.num_draft_tokens;
        self.tally.accepted = stats.num_accepted_tokens;
        self.tally
    }
}

fn run_world(seed: u64, depth: usize) -> Tally {
    let outcome = std::panic::catch_unwind(|| World::new(seed, depth).run());
    outcome.unwrap_or_else(|_| panic!("replay this world with SCONCE_SIM_SEED={seed}"))
}

/// What many worlds did, one after the other: the one that is asked for, if one is.
fn run_worlds(depth: usize) -> Vec<Tally> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("SCONCE_SIM_SEED") {
        run_world(seed, depth);
        return Vec::new();
    }
    let worlds = number("SCONCE_SIM_REQUESTS").unwrap_or(100_000).div_ceil(REQUESTS_PER_WORLD);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get() as u64);

    let run_part = |part: u64| {
        let seeds = (0..worlds).filter(|seed| seed % threads == part);
        seeds.map(|seed| run_world(seed, depth)).collect::<Vec<_>>()
    };
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let handles: Vec<_> =
            (0..threads).map(|part| scope.spawn(move || run_part(part))).collect();
        handles.into_iter().flat_map(|handle| handle.join().unwrap_or_default()).collect()
    });

    assert_eq!(tallies.len() as u64, worlds, "a world failed; its seed is printed above");
    tallies
}

fn sum(tallies: &[Tally], part: fn(&Tally) -> u64) -> u64 {
    tallies.iter().map(part).sum()
}

/// What the worlds did.
fn figures(tallies: &[Tally]) -> String {
    let sum = |part| sum(tallies, part);
    format!(
        "{} requests: {} completions, {} cancelled, {} expired, {} refused, {} preemptions, {} \
         cached tokens, {} scored, {} drafts, {} accepted, {} steps ahead, {} carried, {} overtaken",
        sum(|t| t.requests),
        sum(|t| t.completed),
        sum(|t| t.cancelled),
        sum(|t| t.expired),
        sum(|t| t.refused),
        sum(|t| t.preemptions),
        sum(|t| t.cached),
        sum(|t| t.scored),
        sum(|t| t.drafts),
        sum(|t| t.accepted),
        sum(|t| t.ahead),
        sum(|t| t.carried),
        sum(|t| t.overtaken),
    )
}

/// Worlds without these would prove little.
fn assert_eventful(tallies: &[Tally]) {
    let worlds = tallies.len() as u64;
    let sum = |part| sum(tallies, part);
    assert!(sum(|t| t.preemptions) > worlds && sum(|t| t.cached) > worlds);
    assert!(sum(|t| t.scored) > worlds);
    assert!(
        sum(|t| t.cancelled) > worlds
            && sum(|t| t.completed) > 50 * worlds
            && sum(|t| t.expired) > 0
            && sum(|t| t.refused) > 0
    );
}

#[test]
fn every_completion_is_what_it_must_be() {
    let tallies = run_worlds(1);
    let worlds = tallies.len() as u64;
    if worlds == 0 {
        return;
    }

    println!("{}", figures(&tallies));
    assert_eventful(&tallies);
    let (drafts, accepted) = (sum(&tallies, |t| t.drafts), sum(&tallies, |t| t.accepted));
    assert!(accepted > worlds && drafts > accepted + worlds);
    let yields: Vec<u64> = (1..9).map(|n| tallies.iter().map(|t| t.yields[n]).sum()).collect();
    assert!(yields.iter().all(|steps| *steps > 0), "steps by tokens of a sequence: {yields:?}");
}

#[test]
fn every_completion_is_what_it_must_be_with_two_steps_in_flight() {
    let tallies = run_worlds(2);
    let worlds = tallies.len() as u64;
    if worlds == 0 {
        return;
    }

    println!("{}", figures(&tallies));
    assert_eventful(&tallies);
    let (drafts, accepted) = (sum(&tallies, |t| t.drafts), sum(&tallies, |t| t.accepted));
    assert!(accepted > worlds && drafts > accepted + worlds);
    assert!(sum(&tallies, |t| t.ahead) > 50 * worlds, "few steps were planned ahead");
    assert!(sum(&tallies, |t| t.carried) > 50 * worlds);
    assert!(sum(&tallies, |t| t.overtaken) > worlds);
}
