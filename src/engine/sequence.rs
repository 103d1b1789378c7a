//! A request's completion and how far the engine has come with it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::block_pool::BlockHash;
use super::drafter::Drafter;
use super::plan::BlockId;
use super::request::{SamplingParams, TokenId};

/// Names a request between the worker process and the engine. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// One completion of a request.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    pub(crate) request: RequestId,
    pub(crate) index: u32,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) sampling: Arc<SamplingParams>,
    pub(crate) salt: u128,
    /// Lower ones take the places of higher ones with the same salt that arrived before them; from
    /// 10,000 on, nobody waits for it.
    pub(crate) priority: i32,
    /// Its place, by order of arrival: earlier ones are served first and preempted last.
    pub(crate) arrival: u64,
    /// Most tokens that it can have.
    pub(crate) max_len: usize,
    /// When it gives up waiting for its first step.
    pub(crate) deadline: Option<Duration>,
    /// Prompt and completion.
    pub(crate) tokens: Vec<TokenId>,
    /// Of them, the last ones, which a step in flight samples: [`UNKNOWN`] stands in their places.
    pub(crate) num_unknown: u8,
    /// Tokens whose keys and values are in the cache once the steps in flight have ended.
    pub(crate) num_computed: usize,
    /// Steps in flight that compute something of it or sample from it.
    pub(crate) num_in_flight: u8,
    /// Which of its plan's samples its last token is, while that is unknown.
    pub(crate) sample: u32,
    pub(crate) blocks: Vec<BlockId>,
    /// Of them, those that the last plan's table has.
    pub(crate) num_tabled: usize,
    /// Whether the last block, half full, may have other holders: it has forked.
    pub(crate) may_share_last: bool,
    /// Hashes of the first full blocks, as far as they were indexed or found.
    pub(crate) hashes: Vec<BlockHash>,
    /// Prompt tokens found in the prefix cache; taken by the first output.
    pub(crate) num_cached: Option<u32>,
    /// When its first step was planned.
    pub(crate) begun: Option<Duration>,
    /// Whether outputs tell how much of the prompt is computed.
    pub(crate) report_progress: bool,
    /// Prompt tokens from the second on whose log-probabilities were asked for.
    pub(crate) num_scored: usize,
    /// Whether an output has carried `num_cached` and `begun`.
    pub(crate) reported: bool,
    /// Completions that fork off when the prompt is computed.
    pub(crate) num_forks: u32,
    /// Slots that are kept for them from the admission on.
    pub(crate) fork_slots: Vec<u32>,
    /// Whether the runner knows it.
    pub(crate) admitted: bool,
    /// Guesses its next tokens; made when it first may.
    pub(crate) drafter: Option<Box<Drafter>>,
    pub(crate) state: State,
}

/// Where a sequence with a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It holds blocks.
    Running,
    /// It lost its blocks and is computed again when there is room.
    Preempted,
    /// The client is gone; its blocks are held until the steps in flight that it is part of have
    /// ended.
    Cancelled,
    /// Its last output was given; its blocks are held until the steps in flight that it is part of
    /// have ended.
    Ended,
}

/// Stands for a token that is not sampled yet.
pub(crate) const UNKNOWN: TokenId = 0;

impl Sequence {
    /// Tokens whose keys and values no step has computed or is computing: one during decode, none
    /// when the token that is being sampled is the last that it can have.
    pub(crate) fn num_pending(&self) -> usize {
        self.tokens.len().min(self.max_len - 1) - self.num_computed
    }

    /// Earlier ones come first.
    pub(crate) fn place(&self) -> (u64, u32) {
        (self.arrival, self.index)
    }

    /// Positions of the tokens whose logits the prompt's next log-probabilities are made of.
    pub(crate) fn to_score(&self) -> Range<usize> {
        let end = self.sampling.num_prompt_logprobs.map_or(0, |_| self.prompt.len() - 1);
        self.num_scored.min(end)..end
    }

    /// Tokens that are known: all but those that are being sampled.
    pub(crate) fn num_known(&self) -> usize {
        self.tokens.len() - usize::from(self.num_unknown)
    }

    /// Tokens of the completion, those among them that are being sampled.
    pub(crate) fn num_generated(&self) -> usize {
        self.tokens.len() - self.prompt.len()
    }

    /// One more token is being sampled: this one of its plan's samples.
    pub(crate) fn expect_token(&mut self, sample: usize) {
        self.tokens.push(UNKNOWN);
        self.num_unknown += 1;
        self.sample = sample as u32;
    }

    /// A token was sampled: the first that is unknown, or, of right drafts, one more.
    pub(crate) fn learn_token(&mut self, token: TokenId) {
        match self.num_unknown {
            0 => self.tokens.push(token),
            unknown => {
                let at = self.tokens.len() - usize::from(unknown);
                self.tokens[at] = token;
                self.num_unknown -= 1;
            }
        }
    }

    /// Whether it gains nothing more.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Cancelled | State::Ended)
    }

    /// Forgets its blocks, which were released: all of it must be computed again.
    pub(crate) fn drop_blocks(&mut self) {
        self.blocks.clear();
        self.hashes.clear();
        self.num_computed = 0;
        self.num_tabled = 0;
        self.may_share_last = false;
    }

    /// Another completion that shares everything computed so far.
    pub(crate) fn fork(&mut self, index: u32) -> Self {
        self.may_share_last = true;
        Self {
            index,
            // The step that samples its first token; its prompt may be in an earlier one, too.
            num_in_flight: 1,
            num_tabled: 0,
            num_forks: 0,
            fork_slots: Vec::new(),
            // The prompt is the first completion's to report.
            num_scored: self.prompt.len(),
            admitted: false,
            ..self.clone()
        }
    }
}
