//! What one step computes: the only thing that passes from the engine to the runner.
//!
//! A step is a ragged batch: each row is one sequence with one or more new tokens, whose keys and
//! values are written to the KV cache, and which attend to everything before them. There is no
//! prefill or decode row: a row that catches up with its sequence is sampled from.
//!
//! A row may go on after its sequence's last token with *drafts*, guesses of the tokens to come.
//! Sampling is a function of logits, seed and position, so a draft that is what is sampled before
//! it is as good as a token: the token after it can be sampled in the same step.

use std::ops::Range;
use std::sync::Arc;

use super::request::{SamplingParams, TokenId};

/// Index of a block in the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub u32);

/// Most drafts of one step: the rows of logits that a runner has room for beside one per sequence.
pub const MAX_DRAFTS: usize = 24;

/// Names a live sequence between engine and runner. Reused after the sequence was released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u32);

/// One step's batch. Buffers are reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct StepPlan {
    /// Sequences that ended or were cancelled: the runner forgets their sampling state. Applied
    /// before `admitted`, which may reuse an id. No step that is still computed has any of them.
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
    /// Tokens that are not known yet.
    pub carried: Vec<Carry>,
    /// Block tables, of which each row has a range. Kept from step to step: a table changes little,
    /// and the scheduler writes only what is new.
    pub block_tables: Vec<BlockId>,
    /// What has changed in `block_tables` since the step before, in whichever plan that was: a
    /// runner that applies every plan's changes to a table of its own has all rows' tables.
    pub table_updates: Vec<TableUpdate>,
    /// Steps whose changes `block_tables` has: the scheduler's note.
    pub num_tabled_steps: u64,
    /// The tokens to sample after the forward pass.
    pub samples: Vec<Sample>,
    /// The prompts' tokens whose log-probabilities are wanted.
    pub scores: Vec<Score>,
}

/// Most tokens of prompts that one step scores: each costs a row of logits and a softmax of it.
pub const MAX_SCORES: usize = 256;

/// A prompt's token whose log-probability is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Whose prompt.
    pub sequence: SequenceId,
    /// Index into `token_ids` of the token before it, whose logits it is compared with.
    pub token_index: u32,
    /// The token.
    pub token: TokenId,
    /// So many of the likeliest are wanted too.
    pub num_logprobs: u32,
}

/// How likely a prompt's token was, in the order of [`StepPlan::scores`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token.
    pub token: TokenId,
    /// 1 for the likeliest.
    pub rank: u32,
    /// Its log-probability, and the likeliest tokens'.
    pub logprobs: TokenLogprobs,
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

/// A token that is the input of a step before it is known: the step before, which is still
/// computed, samples it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// Index into `token_ids`, where something else stands.
    pub token_index: u32,
    /// Index into the `samples` of the plan before.
    pub sample: u32,
}

/// A new entry of a sequence's block table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableUpdate {
    /// Whose table.
    pub sequence: SequenceId,
    /// Which of its blocks, from 0.
    pub column: u32,
    /// The block.
    pub block: BlockId,
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

/// A token to sample, and more if drafts turn out right.
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
    /// Drafts that follow `token_index` in `token_ids`. Where the token sampled is the next draft,
    /// that draft's logits are sampled too; the first that is not ends it.
    pub num_drafts: u32,
}

/// A sampled token, in the order of [`StepPlan::samples`]: of each, one more than drafts of it were
/// right.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Present when the request asked for log-probabilities.
    pub logprobs: Option<Box<TokenLogprobs>>,
    /// Set when what the text may be ends the completion.
    pub end: Option<ConstraintEnd>,
}

/// How what a text may be ends a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConstraintEnd {
    /// With this token the text is complete.
    Complete,
    /// The next token can't be found within the limits, and this one means nothing.
    Exhausted,
    /// Bad words leave none of the tokens that are allowed, and this one means nothing.
    BadWord,
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
    /// The drafts of `sample`.
    pub fn drafts(&self, sample: &Sample) -> &[TokenId] {
        let start = sample.token_index as usize + 1;
        self.token_ids.get(start..start + sample.num_drafts as usize).unwrap_or_default()
    }

    /// How many of `sampled`, which begins with the first token of `sample`, belong to it.
    pub fn num_sampled(&self, sample: &Sample, sampled: &[Sampled]) -> usize {
        let drafts = self.drafts(sample).iter().zip(sampled);
        1 + drafts.take_while(|(draft, sampled)| **draft == sampled.token).count()
    }

    /// Whether `sampled` has what the samples ask for, no less and no more.
    pub fn is_answered_by(&self, sampled: &[Sampled]) -> bool {
        let rest = self
            .samples
            .iter()
            .try_fold(sampled, |rest, sample| rest.get(self.num_sampled(sample, rest)..));
        rest.is_some_and(<[_]>::is_empty)
    }

    /// Empties the plan and keeps its buffers, and the block tables.
    pub fn clear(&mut self) {
        self.released.clear();
        self.admitted.clear();
        self.copies.clear();
        self.rows.clear();
        self.token_ids.clear();
        self.positions.clear();
        self.slot_mapping.clear();
        self.carried.clear();
        self.table_updates.clear();
        self.samples.clear();
        self.scores.clear();
    }
}
