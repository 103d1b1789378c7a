//! Decides what each step computes.
//!
//! There is no prefill or decode phase: every sequence has tokens and a count of those that are
//! computed, and a step hands out a budget of tokens so that sequences catch up. Sequences that
//! need one token come first, so that a running stream waits for at most one step; the budget of a
//! step is what fits into the bound on inter-token latency.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::block_pool::BlockPool;
use super::output::{Finish, Output};
use super::plan::{
    Admission, BlockCopy, BlockId, Carry, ConstraintEnd, MAX_SCORES, Row, Sample, Sampled, Score,
    Scored, SequenceId, StepPlan, TableUpdate,
};
use super::request::{Request, TokenId};
use super::sequence::{RequestId, Sequence, State};

/// How long a step may take when no stream waits for it, as far as prefill is the reason: between
/// steps cancels are obeyed, and probes answered.
pub const MAX_STEP: Duration = Duration::from_millis(500);

/// What the scheduler plans for.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Tokens per block, and blocks.
    pub block_size: u32,
    /// Blocks in the cache.
    pub num_blocks: u32,
    /// Most tokens of a step.
    pub max_num_batched_tokens: u32,
    /// Most sequences that have a slot at once.
    pub max_num_seqs: u32,
    /// Most tokens of a sequence.
    pub max_model_len: u32,
    /// Most requests that wait.
    pub max_queue: u32,
    /// A running stream waits no longer than this for its next token, as far as prefill is the
    /// reason.
    pub max_itl: Duration,
    /// Steps that may be planned before the first of them is committed: 1, or 2.
    pub depth: usize,
    /// Tokens that end a completion.
    pub eos_token_ids: Vec<TokenId>,
    /// Whether sequences' next tokens are guessed.
    pub speculation: Speculation,
    /// Key of the block hashes.
    pub hash_key: (u64, u64),
}

/// How a sequence's next tokens are guessed, to compute several in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// Not at all.
    Off,
    /// From what followed its last tokens before.
    PromptLookup,
}

impl SchedulerConfig {
    /// Blocks of the longest block table.
    pub fn table_len(&self) -> u32 {
        self.max_model_len.div_ceil(self.block_size).min(self.num_blocks)
    }
}

/// Why a request was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many requests are waiting as may.
    #[error("the queue is full: {max_queue} requests are waiting")]
    QueueFull {
        /// The limit.
        max_queue: u32,
    },
    /// The worker is about to stop.
    #[error("the worker is draining")]
    Draining,
    /// It would not fit even alone.
    #[error(
        "prompt and max_tokens need {needed} tokens of KV cache, and the cache has {available}"
    )]
    TooLarge {
        /// Prompt plus `max_tokens`.
        needed: usize,
        /// The whole cache.
        available: usize,
    },
    /// More completions than sequences can run.
    #[error("n is {n} and at most {max_num_seqs} sequences run at once")]
    TooMany {
        /// As asked.
        n: u32,
        /// The limit.
        max_num_seqs: u32,
    },
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences with a slot, preempted ones included.
    pub num_running: u32,
    /// Requests without one.
    pub num_waiting: u32,
    /// Blocks in the cache.
    pub num_blocks: u32,
    /// Blocks that sequences hold.
    pub num_used_blocks: u32,
    /// Totals since the start.
    pub num_preemptions: u64,
    /// Prompt tokens of admitted requests.
    pub num_prompt_tokens: u64,
    /// Of them, those found in the prefix cache.
    pub num_cached_tokens: u64,
    /// Tokens sampled.
    pub num_generated_tokens: u64,
    /// Steps planned.
    pub num_steps: u64,
    /// Guesses of tokens that were computed.
    pub num_draft_tokens: u64,
    /// Of them, those that were right and are part of a completion.
    pub num_accepted_tokens: u64,
}

mod ahead;
mod background;
mod commit;
mod cost;
mod drafts;
mod invariants;
mod priority;
mod scores;
mod step;
mod tables;
#[cfg(test)]
mod tests;

use cost::{Budget, StepCost, Work};
use drafts::DecodeCost;

/// The queues, the block pool, and the rule that makes steps of them.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    pool: BlockPool,
    waiting: VecDeque<Sequence>,
    /// Blocks of the longest table; tables lie so far apart.
    table_len: usize,
    /// Sequences by slot; a slot is a [`SequenceId`].
    slots: Vec<Option<Sequence>>,
    free_slots: Vec<u32>,
    /// Slots in order of arrival.
    order: Vec<u32>,
    by_request: HashMap<RequestId, Vec<u32>>,
    released: Vec<SequenceId>,
    outputs: Vec<Output>,
    arrivals: u64,
    /// Earliest moment at which a waiting request gives up.
    next_deadline: Option<Duration>,
    /// Steps planned and not committed.
    num_in_flight: usize,
    /// Whether the step in flight has drafts; it is the only one then.
    has_drafts_in_flight: bool,
    /// When the last step was planned.
    now: Duration,
    /// Whether a sequence that has ended is part of a step in flight.
    any_fenced: bool,
    /// Whether those that nobody waits for have no part in the step that is planned.
    is_resting: bool,
    /// The last step's changes of block tables, which the next plan may not have.
    table_updates: Vec<TableUpdate>,
    draining: bool,
    cost: StepCost,
    decode_cost: DecodeCost,
    /// Slots whose rows wait for what is left of the step: they may have drafts.
    drafting: Vec<u32>,
    drafts: Vec<TokenId>,
    /// Slots planned in this step.
    planned: Vec<bool>,
    stats: Stats,
}

impl Scheduler {
    /// A scheduler with nothing to do.
    pub fn new(config: SchedulerConfig) -> Self {
        assert!(matches!(config.depth, 1 | 2), "a pipeline of {} steps", config.depth);
        let slots = config.max_num_seqs as usize;
        Self {
            table_len: config.table_len() as usize,
            pool: BlockPool::new(config.num_blocks, config.block_size, config.hash_key),
            waiting: VecDeque::new(),
            slots: (0..slots).map(|_| None).collect(),
            free_slots: (0..config.max_num_seqs).rev().collect(),
            order: Vec::new(),
            by_request: HashMap::new(),
            released: Vec::new(),
            outputs: Vec::new(),
            arrivals: 0,
            next_deadline: None,
            num_in_flight: 0,
            has_drafts_in_flight: false,
            now: Duration::ZERO,
            any_fenced: false,
            is_resting: false,
            table_updates: Vec::new(),
            draining: false,
            cost: StepCost::default(),
            decode_cost: DecodeCost::default(),
            drafting: Vec::new(),
            drafts: Vec::new(),
            planned: vec![false; slots],
            stats: Stats { num_blocks: config.num_blocks, ..Stats::default() },
            config,
        }
    }

    /// Queues a request, or says why not. `deadline` is on the clock of [`Self::step`]'s `now`.
    pub fn submit(
        &mut self,
        id: RequestId,
        request: Request,
        deadline: Option<Duration>,
    ) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::Draining);
        }
        // What finds a free slot in the next step does not count as waiting.
        if self.waiting.len() >= self.config.max_queue as usize + self.free_slots.len() {
            return Err(Refusal::QueueFull { max_queue: self.config.max_queue });
        }
        if request.n > self.config.max_num_seqs {
            let max_num_seqs = self.config.max_num_seqs;
            return Err(Refusal::TooMany { n: request.n, max_num_seqs });
        }
        let prompt: Arc<[TokenId]> = request.prompt.into();
        let longest = prompt.len() + request.sampling.max_tokens as usize;
        let max_len = longest.min(self.config.max_model_len as usize);
        let available = self.pool.num_blocks() * self.pool.block_size();
        if max_len > available || prompt.len() >= self.config.max_model_len as usize {
            return Err(Refusal::TooLarge { needed: max_len, available });
        }
        let sequence = Sequence {
            request: id,
            index: 0,
            tokens: prompt.to_vec(),
            prompt,
            sampling: Arc::new(request.sampling),
            salt: request.cache_salt,
            priority: request.priority,
            arrival: background::place(self.arrivals, request.priority),
            max_len,
            deadline,
            num_unknown: 0,
            num_computed: 0,
            num_in_flight: 0,
            sample: 0,
            blocks: Vec::new(),
            num_tabled: 0,
            may_share_last: false,
            hashes: Vec::new(),
            num_cached: None,
            begun: None,
            report_progress: request.report_progress,
            num_scored: 0,
            reported: false,
            num_forks: request.n - 1,
            fork_slots: Vec::new(),
            admitted: false,
            drafter: None,
            state: State::Preempted,
        };
        self.arrivals += 1;
        self.next_deadline = earlier(self.next_deadline, deadline);
        self.queue(sequence);
        Ok(())
    }

    /// Ends a request's completions. Blocks that a step in flight may write stay held until it is
    /// committed; the outputs that say `Cancelled` come when they are free.
    pub fn cancel(&mut self, id: RequestId) {
        if let Some(at) = self.waiting.iter().position(|sequence| sequence.request == id) {
            if let Some(sequence) = self.waiting.remove(at) {
                self.end_waiting(&sequence, Finish::Cancelled);
            }
            return;
        }
        for slot in self.by_request.get(&id).cloned().unwrap_or_default() {
            if let Some(sequence) = &mut self.slots[slot as usize]
                && !sequence.has_ended()
            {
                sequence.state = State::Cancelled;
                self.any_fenced = true;
                if sequence.num_in_flight == 0 {
                    self.finish(slot, None, Finish::Cancelled);
                }
            }
        }
    }

    /// No request is accepted any more; those that are here go on.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is waiting or running, and every output was taken.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.order.is_empty() && self.outputs.is_empty()
    }

    /// Takes the outputs since the last call.
    pub fn take_outputs(&mut self, into: &mut Vec<Output>) {
        into.append(&mut self.outputs);
    }

    /// Figures of now.
    pub fn stats(&self) -> Stats {
        Stats {
            num_running: self.order.len() as u32,
            num_waiting: self.waiting.len() as u32,
            num_used_blocks: (self.pool.num_blocks() - self.pool.num_free()) as u32,
            ..self.stats
        }
    }
}

/// The earlier of two deadlines, either of which may not exist.
fn earlier(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
