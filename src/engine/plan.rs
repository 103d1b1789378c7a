//! What one step computes: the only thing that passes from the engine to the runner.
//!
//! A step is a ragged batch: each row is one sequence with one or more new tokens, whose keys and
//! values are written to the KV cache, and which attend to everything before them. There is no
//! prefill or decode row: a row that catches up with its sequence is sampled from.

use std::ops::Range;
use std::sync::Arc;

use super::request::{SamplingParams, TokenId};

/// Index of a block in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Names a live sequence between engine and runner. Reused after the sequence was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// One step's batch. Buffers are reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// Sequences that ended or were cancelled: the runner forgets their sampling state. Applied
    /// before `admitted`, which may reuse an id.
    pub released: Vec<SequenceId>,
    /// Sequences that the runner sees for the first time. A preempted sequence stays admitted.
    pub admitted: Vec<Admission>,
    /// Blocks to copy, in order, before anything is written.
    pub copies: Vec<BlockCopy>,
    /// One per sequence that computes something in this step.
    pub rows: Vec<Row>,
    /// `[num_tokens]` the rows' new tokens, row after row.
    pub token_ids: Vec<TokenId>,
    /// `[num_tokens]` each token's position in its sequence.
    pub positions: Vec<u32>,
    /// `[num_tokens]` where each token's keys and values go: `block * block_size + offset`.
    pub slot_mapping: Vec<u32>,
    /// Block tables, of which each row has a range. Kept from step to step: a table changes little,
    /// and the scheduler writes only what is new.
    pub block_tables: Vec<BlockId>,
    /// The tokens to sample after the forward pass.
    pub samples: Vec<Sample>,
}

/// A sequence's sampling state to be.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The sequence.
    pub sequence: SequenceId,
    /// Which of its request's completions it is; the seed is derived from it.
    pub index: u32,
    /// Its request's parameters.
    pub sampling: Arc<SamplingParams>,
    /// The prompt, which penalties count.
    pub prompt: Arc<[TokenId]>,
}

/// A block copied because a sequence is about to write into one that others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockCopy {
    /// Read from.
    pub from: BlockId,
    /// Written to.
    pub to: BlockId,
}

/// One sequence's part of the batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// The sequence.
    pub sequence: SequenceId,
    /// Its new tokens, a range of `token_ids`, `positions` and `slot_mapping`.
    pub tokens: Range<u32>,
    /// Tokens whose keys and values are in the cache already; the first new token's position.
    pub num_computed: u32,
    /// Its blocks, a range of `block_tables`, covering `num_computed` plus the new tokens.
    pub blocks: Range<u32>,
    /// Prefix-cache salt: part of every KV entry's identity.
    pub cache_salt: u128,
}

/// One token to sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The sequence that gains the token.
    pub sequence: SequenceId,
    /// Index into `token_ids` of the token whose logits are sampled. Completions of one request
    /// share it on the step that ends their prompt.
    pub token_index: u32,
    /// The new token's position in the sequence: with the seed, the random draw's key.
    pub position: u32,
    /// Which token of the completion it will be, from 0.
    pub num_generated: u32,
}

/// A sampled token, in the order of [`StepPlan::samples`].
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Present when the request asked for log-probabilities.
    pub logprobs: Option<Box<TokenLogprobs>>,
}

/// A sampled token's log-probability, and the likeliest tokens with theirs, best first.
///
/// Of the model's distribution before temperature, penalties and filters, as vLLM reports them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The sampled token's.
    pub logprob: f32,
    /// The likeliest tokens'.
    pub top: Vec<(TokenId, f32)>,
}

impl StepPlan {
    /// Empties the plan and keeps its buffers, and the block tables.
    pub fn clear(&mut self) {
        self.released.clear();
        self.admitted.clear();
        self.copies.clear();
        self.rows.clear();
        self.token_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.samples.clear();
    }
}
