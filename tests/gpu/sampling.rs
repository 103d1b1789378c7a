//! Sampling on the device within an engine whose steps are launched ahead: each step's tokens are those that the
//! processor's sampler draws from the same logits.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sconce::engine::output::{Finish, Output};
use sconce::engine::plan::{ConstraintEnd, Sample, Sampled, SequenceId, StepPlan, TokenLogprobs};
use sconce::engine::request::{Request, SamplingParams};
use sconce::engine::scheduler::{Scheduler, SchedulerConfig, Speculation};
use sconce::engine::sequence::RequestId;
use sconce::grammar::{Compiler, Grammar, Source};
use sconce::runner::Executor;
use sconce::runner::cpu::KvCacheSize;
use sconce::runner::cuda::CudaRunner;
use sconce::runner::gpu_options::{GpuDtype, GpuOptions};
use sconce::runner::sampler::{Logits, Sampler};
use sconce::weights::Checkpoint;
use sconce_kernels::cpu::{Cpu, Isa};
use sconce_kernels::cuda::Device;

use super::models::options;
use super::{tiny, tokenizers};

const VOCAB: u32 = tiny::VOCAB_SIZE as u32;
const EOS: u32 = 2;

/// A step in flight, and the logits that its tokens are drawn from.
struct Begun {
    plan: StepPlan,
    logits: Vec<f32>,
}

/// A scheduler and a GPU, with the processor's sampler beside it.
pub(crate) struct Engine {
    pub(crate) scheduler: Scheduler,
    gpu: CudaRunner,
    reference: Sampler,
    cpu: Cpu,
    in_flight: VecDeque<Begun>,
    spare: Vec<StepPlan>,
    /// Sequences whose text has ended: what is drawn for them after means nothing.
    ended: HashSet<SequenceId>,
    outputs: Vec<Output>,
    pub(crate) num_compared: usize,
    pub(crate) num_ahead: usize,
    /// Whether the tokens are compared: not where steps have scores, whose logits take the place of the samples'.
    compares: bool,
}

impl Engine {
    fn new(num_blocks: u32) -> Self {
        Self::with_speculation(num_blocks, Speculation::Off)
    }

    pub(crate) fn with_speculation(num_blocks: u32, speculation: Speculation) -> Self {
        let folder = tiny::folder(3, None);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let options = GpuOptions {
            kv_cache: Some(KvCacheSize::Blocks(num_blocks)),
            max_num_seqs: 8,
            ..options(GpuDtype::F32)
        };
        let gpu = CudaRunner::load(Device::open(0).unwrap(), &checkpoint, &options).unwrap();
        let limits = gpu.limits();
        let scheduler = Scheduler::new(SchedulerConfig {
            block_size: limits.block_size,
            num_blocks: limits.num_blocks,
            max_num_batched_tokens: limits.max_num_batched_tokens,
            max_num_seqs: limits.max_num_seqs,
            max_model_len: limits.max_model_len,
            max_queue: 1000,
            max_itl: Duration::from_secs(1),
            depth: 2,
            eos_token_ids: vec![EOS],
            speculation,
            hash_key: (1, 2),
        });
        Self {
            scheduler,
            gpu,
            reference: Sampler::new(vec![EOS], 1),
            cpu: Cpu::new(NonZeroUsize::MIN, Isa::detect()).unwrap(),
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            ended: HashSet::new(),
            outputs: Vec::new(),
            num_compared: 0,
            num_ahead: 0,
            compares: true,
        }
    }

    pub(crate) fn submit(&mut self, id: u64, request: Request) {
        self.scheduler.submit(RequestId(id), request, None).unwrap();
    }

    /// Runs all requests to their ends, with as many steps in flight as may be.
    pub(crate) fn run(&mut self) {
        loop {
            let begun = self.in_flight.len() < 2 && self.begin();
            if !begun && self.in_flight.is_empty() {
                break;
            }
            if !begun || self.in_flight.len() == 2 {
                self.finish();
            }
        }
        self.scheduler.take_outputs(&mut self.outputs);
        assert!(self.scheduler.is_idle());
    }

    fn begin(&mut self) -> bool {
        let mut plan = self.spare.pop().unwrap_or_default();
        if !self.scheduler.step(Duration::ZERO, &mut plan) {
            self.spare.push(plan);
            return false;
        }
        self.gpu.begin(&plan).expect("the plan is sound");
        self.num_ahead += usize::from(!self.in_flight.is_empty());
        let logits = if self.compares { self.gpu.last_logits().unwrap() } else { Vec::new() };
        self.in_flight.push_back(Begun { plan, logits });
        true
    }

    fn finish(&mut self) {
        let Begun { plan, logits } = self.in_flight.pop_front().unwrap();
        let (mut sampled, mut expected) = (Vec::new(), Vec::new());
        self.gpu.finish(&plan, &mut sampled).expect("the device works");
        for id in &plan.released {
            self.ended.remove(id);
        }
        if self.compares {
            self.reference.update(&plan).unwrap();
            let rows = logits_rows(&plan);
            let logits =
                Logits { values: &logits, vocab_size: VOCAB as usize, rows: &rows, argmax: &[] };
            self.reference.sample(&self.cpu, &plan, logits, &mut expected).unwrap();
            self.compare(&plan, &sampled, &expected);
        }
        let scored = self.gpu.take_scored();
        self.scheduler.score(&plan, scored);
        self.scheduler.commit(&plan, sampled, Duration::from_millis(1));
        self.scheduler.take_outputs(&mut self.outputs);
        self.spare.push(plan);
    }

    fn compare(&mut self, plan: &StepPlan, sampled: &[Sampled], expected: &[Sampled]) {
        let (mut given, mut wanted) = (sampled, expected);
        for sample in &plan.samples {
            let (own, rest) = given.split_at(plan.num_sampled(sample, given));
            let (right, other) = wanted.split_at(plan.num_sampled(sample, wanted));
            (given, wanted) = (rest, other);
            if !self.ended.contains(&sample.sequence) {
                assert_eq!(own.len(), right.len(), "{sample:?}");
                own.iter().zip(right).for_each(|(own, right)| self.compare_one(sample, own, right));
            }
        }
        assert!(given.is_empty() && wanted.is_empty());
    }

    fn compare_one(&mut self, sample: &Sample, given: &Sampled, expected: &Sampled) {
        self.num_compared += 1;
        let is_end = expected.end.is_some() || expected.token == EOS;
        if is_end {
            self.ended.insert(sample.sequence);
        }
        assert_eq!(given.end, expected.end, "{sample:?}");
        if matches!(expected.end, Some(end) if end != ConstraintEnd::Complete) {
            return;
        }
        assert_eq!(given.token, expected.token, "{sample:?}");
        assert_near(given.logprobs.as_deref(), expected.logprobs.as_deref());
    }

    /// Completions by request and index, and how they ended.
    pub(crate) fn completions(&self) -> HashMap<(u64, u32), (Vec<u32>, Option<Finish>)> {
        let mut all: HashMap<_, (Vec<u32>, Option<Finish>)> = HashMap::new();
        for output in &self.outputs {
            let one = all.entry((output.request.0, output.index)).or_default();
            one.0.extend(output.token);
            one.1 = one.1.or(output.finish);
        }
        all
    }
}

/// Each sample's row of logits: of each token that is sampled from, one, and then its drafts'.
fn logits_rows(plan: &StepPlan) -> Vec<u32> {
    let mut tokens: Vec<u32> = Vec::new();
    let row = |sample: &Sample| {
        let first = sample.token_index;
        tokens.iter().position(|other| *other == first).unwrap_or_else(|| {
            tokens.extend(first..=first + sample.num_drafts);
            tokens.len() - 1 - sample.num_drafts as usize
        }) as u32
    };
    plan.samples.iter().map(row).collect()
}

/// The same tokens, as likely but for the order of sums.
fn assert_near(given: Option<&TokenLogprobs>, expected: Option<&TokenLogprobs>) {
    let (Some(given), Some(expected)) = (given, expected) else {
        assert_eq!(given.is_some(), expected.is_some());
        return;
    };
    let is_near = |a: f32, b: f32| a == b || (a - b).abs() < 1e-5 * (1.0 + b.abs());
    assert!(is_near(given.logprob, expected.logprob), "{given:?} {expected:?}");
    assert_eq!(given.top.len(), expected.top.len());
    for (given, expected) in given.top.iter().zip(&expected.top) {
        assert_eq!(given.0, expected.0);
        assert!(is_near(given.1, expected.1), "{given:?} {expected:?}");
    }
}

/// Something that a request may ask for, of which most ask for nothing.
fn random_sampling(rng: &mut StdRng) -> SamplingParams {
    let tokens = |rng: &mut StdRng, most: u32| -> Vec<u32> {
        (0..rng.random_range(1..=most)).map(|_| rng.random_range(0..VOCAB)).collect()
    };
    let temperatures = [0.0, 0.0, 0.3, 0.8, 1.0, 1.7];
    let mut sampling = SamplingParams {
        temperature: temperatures[rng.random_range(0..temperatures.len())],
        seed: rng.random(),
        max_tokens: rng.random_range(1..32),
        ignore_eos: rng.random_bool(0.3),
        ..SamplingParams::default()
    };
    if rng.random_bool(0.3) {
        sampling.top_k = Some(rng.random_range(1..60));
    }
    if rng.random_bool(0.3) {
        sampling.top_p = rng.random_range(0.05..1.0);
    }
    if rng.random_bool(0.2) {
        sampling.min_p = rng.random_range(0.0..0.4);
    }
    if rng.random_bool(0.2) {
        sampling.typical_p = rng.random_range(0.05..1.0);
    }
    if rng.random_bool(0.3) {
        sampling.repetition_penalty = rng.random_range(0.7..1.6);
    }
    if rng.random_bool(0.3) {
        sampling.frequency_penalty = rng.random_range(-2.0..2.0);
    }
    if rng.random_bool(0.3) {
        sampling.presence_penalty = rng.random_range(-2.0..2.0);
    }
    if rng.random_bool(0.3) {
        let tokens = tokens(rng, 30).into_iter();
        sampling.logit_bias = tokens.map(|token| (token, rng.random_range(-9.0..9.0))).collect();
    }
    if rng.random_bool(0.3) {
        sampling.min_tokens = rng.random_range(0..=sampling.max_tokens);
        sampling.stop_token_ids = tokens(rng, 3);
    }
    if rng.random_bool(0.25) {
        sampling.allowed_token_ids = tokens(rng, 40);
    }
    if rng.random_bool(0.25) {
        // Of few tokens, so that words come to be completed.
        let few = sampling.allowed_token_ids.clone();
        let token = |rng: &mut StdRng| match few.as_slice() {
            [] => rng.random_range(0..VOCAB),
            few => few[rng.random_range(0..few.len())],
        };
        sampling.bad_words = (0..rng.random_range(1..30))
            .map(|_| (0..rng.random_range(1..4)).map(|_| token(rng)).collect())
            .collect();
    }
    if rng.random_bool(0.3) {
        sampling.num_logprobs = Some(rng.random_range(0..=20));
    }
    sampling
}

pub(crate) fn random_request(rng: &mut StdRng) -> Request {
    let len =
        if rng.random_bool(0.2) { rng.random_range(30..150) } else { rng.random_range(1..30) };
    Request {
        prompt: (0..len).map(|_| rng.random_range(0..VOCAB)).collect(),
        n: if rng.random_bool(0.2) { rng.random_range(2..4) } else { 1 },
        sampling: random_sampling(rng),
        cache_salt: 0,
        report_progress: false,
        priority: 0,
    }
}

#[test]
fn thousands_of_tokens_equal_the_processors_whatever_is_asked_for() {
    // With few blocks and long completions, sequences are preempted and resumed.
    for (seed, num_blocks, num_requests, longer) in [(1, 128, 110, 1), (2, 12, 40, 3)] {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut engine = Engine::new(num_blocks);
        for id in 0..num_requests {
            let mut request = random_request(&mut rng);
            request.sampling.max_tokens *= longer;
            engine.submit(id, request);
        }

        engine.run();

        let stats = engine.scheduler.stats();
        println!(
            "{} tokens compared, {} of {} steps ahead, {} preemptions",
            engine.num_compared, engine.num_ahead, stats.num_steps, stats.num_preemptions
        );
        assert!(engine.num_compared > 600);
        if num_blocks == 128 {
            // Nothing that is asked for keeps steps from being launched ahead.
            assert!(engine.num_ahead as u64 * 10 > stats.num_steps * 9);
        } else {
            assert!(stats.num_preemptions > 0);
        }
    }
}

/// What ends a text, of the tokenizer whose ids from 0 to 255 are bytes.
const END: u32 = 264;

pub(crate) fn regex(text: &str) -> Grammar {
    let json = tokenizers::byte_level().to_string().into_bytes();
    let compiler = Compiler::new(json.into(), vec![END], VOCAB);
    compiler.compile(&Source::Regex(text.to_owned())).unwrap()
}

#[test]
fn constrained_sequences_keep_to_their_grammars_and_no_step_waits_for_them() {
    let grammars = ["(ab|cd)*ef", "[0-9]{3,9}", "x|y"].map(regex);
    let mut rng = StdRng::seed_from_u64(7);
    let mut engine = Engine::new(128);
    for id in 0..60 {
        let mut request = random_request(&mut rng);
        if id % 3 == 0 {
            request.sampling.allowed_token_ids.clear();
            request.sampling.grammar = Some(grammars[id as usize / 3 % 3].clone());
            request.sampling.max_tokens = 12;
        }
        engine.submit(id, request);
    }

    engine.run();

    let stats = engine.scheduler.stats();
    println!(
        "{} tokens compared, {} of {} steps ahead",
        engine.num_compared, engine.num_ahead, stats.num_steps
    );
    assert!(engine.num_ahead as u64 * 10 > stats.num_steps * 9);
    let completions = engine.completions();
    let mut num_complete = 0;
    for ((id, _), (tokens, finish)) in &completions {
        if id % 3 != 0 || !matches!(finish, Some(Finish::StopToken | Finish::GrammarEnd)) {
            continue;
        }
        let text = tokens.iter().filter(|token| **token != END).map(|token| *token as u8 as char);
        let text: String = text.collect();
        let is_right = match id / 3 % 3 {
            0 => text.ends_with("ef"),
            1 => text.len() >= 3 && text.chars().all(|c| c.is_ascii_digit()),
            _ => text == "x" || text == "y",
        };
        assert!(is_right, "{text:?} of request {id}");
        num_complete += 1;
    }
    assert!(num_complete > 8, "{num_complete}");
}

/// Prompts' tokens are scored on the device, also where rows of the same step await a grammar.
#[test]
fn prompts_are_scored_as_on_the_processor() {
    let grammar = regex("[0-9]{3,9}");
    let mut rng = StdRng::seed_from_u64(9);
    let mut engine = Engine::new(128);
    let prompts: Vec<Vec<u32>> = [40, 3, 170]
        .map(|len| (0..len).map(|_| rng.random_range(0..VOCAB)).collect())
        .into_iter()
        .collect();
    for (id, prompt) in (0..).zip(&prompts) {
        let sampling = SamplingParams {
            max_tokens: 9,
            num_prompt_logprobs: Some(id as u32 * 5),
            grammar: Some(grammar.clone()),
            ..SamplingParams::default()
        };
        let prompt = prompt.clone();
        let request =
            Request { prompt, n: 1, sampling, cache_salt: 0, report_progress: false, priority: 0 };
        engine.submit(id, request);
    }

    engine.compares = false;
    engine.run();

    let mut cpu = super::models::on_cpu(tiny::folder(3, None).path());
    for (id, prompt) in (0..).zip(&prompts) {
        let of_request = engine.outputs.iter().filter(|output| output.request.0 == id);
        let scored: Vec<_> = of_request.clone().flat_map(|output| output.scored.clone()).collect();
        assert_eq!(scored.iter().map(|one| one.token).collect::<Vec<_>>(), prompt[1..]);
        let mut sequence = cpu.sequence(prompt);
        for (i, one) in scored.iter().enumerate() {
            let (logits, _) = cpu.step(&mut [(&mut sequence, 1)]);
            let (expected, rank) = reference(&logits[0], prompt[i + 1]);
            assert!((one.logprobs.logprob - expected).abs() < 1e-3, "{one:?} {expected}");
            assert!(one.rank.abs_diff(rank) <= 1, "{one:?} {rank}");
            assert_eq!(one.logprobs.top.len(), id as usize * 5);
        }
        let text = of_request.filter_map(|output| output.token).filter(|token| *token != END);
        assert!(text.map(|token| token as u8).all(|byte| byte.is_ascii_digit()));
    }
}

/// A token's log-probability and rank.
fn reference(logits: &[f32], token: u32) -> (f32, u32) {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let own = logits[token as usize];
    let rank = 1 + logits.iter().filter(|logit| **logit > own).count() as u32;
    ((f64::from(own - max) - sum.ln()) as f32, rank)
}
