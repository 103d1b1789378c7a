//! Sampling: from logits to tokens, and their log-probabilities, without the host.
//!
//! What a row needs is in a [`SampleRow`] in the device's memory; how many kernels are launched, and of
//! how many blocks, depends on the number of rows and on [`Stages`] alone, so that a graph may hold them.
//! A row's token depends on its logits and parameters and on nothing else in the batch.
//!
//! The rules are those of the processor's sampler, and so is the arithmetic: equal logits give equal
//! tokens. What the host must do itself:
//!
//! - typical-p, which only the processor's sampler has;
//! - a row for which [`NO_TOKEN`] comes back, from the model's logits, which must not be overwritten before
//!   it was read; the token that it finds is then counted by [`TokenCounts::add_completion`];
//! - what depends on the tokens just sampled: the bits that a grammar allows, the ends of bad words, and
//!   penalties of a sequence with drafts, as a slot is counted once a step.
//!
//! Greedy rows read their logits once, and write them once where they are adjusted; rows that draw read
//! them once more, and the chunk that was hit; rows with top-k or top-p a third time.

mod counts;
mod scores;
mod tokens;

pub use counts::TokenCounts;
pub use scores::{MAX_TOP_LOGPROBS, Score, TokenScore};
pub use tokens::{AcceptDrafts, Drafted, FeedTokens};

use super::launch::{Arg, Grid};
use super::{Buffer, Device, Plain, Slice, SliceMut};
use crate::{Error, check_index, check_len, check_multiple};

/// Comes back for a row that is idle, or where nothing is left to sample: all is masked, or no logit is a
/// number.
pub const NO_TOKEN: u32 = u32::MAX;

/// Of an index of [`SampleRow`]: none.
pub const NONE: u32 = u32::MAX;

/// A token to sample, as kernels read it. The default is an idle row, as which a bucket is filled up.
///
/// Indices are checked on the device: a row that names more than there is yields [`NO_TOKEN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRow {
    /// [`Self::ACTIVE`] and others.
    pub flags: u32,
    /// Its row of the logits, which others may share.
    pub logits_row: u32,
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// How far below the greatest logit a token may be: the temperature times the logarithm of min-p,
    /// negative infinity without min-p.
    pub min_p_distance: f32,
    /// Keeps so many; 0 all.
    pub top_k: u32,
    /// Keeps so much mass; 1 all.
    pub top_p: f32,
    /// Divides positive and multiplies negative logits of tokens that were seen.
    pub repetition_penalty: f32,
    /// Subtracted per occurrence in the completion.
    pub frequency_penalty: f32,
    /// Subtracted from what occurs in the completion.
    pub presence_penalty: f32,
    /// Whose [`TokenCounts`] penalties take, or [`NONE`].
    pub counts_slot: u32,
    /// The request's seed, the low half first.
    pub seed: [u32; 2],
    /// Which of the request's completions it is.
    pub index: u32,
    /// The token's position in its sequence.
    pub position: u32,
    /// Its part of the list of biases, in the order of tokens.
    pub first_bias: u32,
    /// How many.
    pub num_biases: u32,
    /// Its part of the list of forbidden tokens: end tokens before `min_tokens`, ends of bad words.
    pub first_masked: u32,
    /// How many.
    pub num_masked: u32,
    /// Its row of the bits of allowed tokens, or [`NONE`].
    pub allowed_row: u32,
    /// So many of the likeliest tokens are wanted with [`Self::LOGPROBS`], at most [`MAX_TOP_LOGPROBS`].
    pub num_logprobs: u32,
    /// With [`Self::GIVEN`]: whose log-probability is wanted.
    pub token: u32,
    /// Nothing.
    pub unused: [u32; 3],
}

// SAFETY: 24 numbers of 32 bits, so there is no padding.
unsafe impl Plain for SampleRow {}

/// Added to a token's logit.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bias {
    /// The token. Those outside the vocabulary are passed over.
    pub token: u32,
    /// What is added.
    pub bias: f32,
}

// SAFETY: two numbers of 32 bits.
unsafe impl Plain for Bias {}

/// How to draw a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Keeps so many, at least one.
    pub top_k: Option<u32>,
    /// Keeps so much mass; 1 all.
    pub top_p: f32,
    /// Keeps what is at least so likely relative to the likeliest; 0 all.
    pub min_p: f32,
    /// The request's seed.
    pub seed: u64,
    /// Which of the request's completions it is.
    pub index: u32,
    /// The token's position in its sequence.
    pub position: u32,
}

impl SampleRow {
    /// It is sampled from.
    pub const ACTIVE: u32 = 1;
    /// Biases, penalties, forbidden or allowed tokens are to be heeded.
    pub const ADJUSTED: u32 = 2;
    /// The token is counted in its slot when it is sampled. A slot may be in one row of a step.
    pub const COUNTED: u32 = 4;
    /// Log-probabilities are wanted.
    pub const LOGPROBS: u32 = 8;
    /// They are of [`Self::token`], not of what was sampled.
    pub const GIVEN: u32 = 16;

    /// Takes the likeliest token.
    #[must_use]
    pub fn greedy(logits_row: u32) -> Self {
        Self { flags: Self::ACTIVE, logits_row, ..Self::default() }
    }

    /// Draws a token.
    #[must_use]
    pub fn draw(logits_row: u32, draw: Draw) -> Self {
        let Draw { temperature, top_k, top_p, min_p, seed, index, position } = draw;
        // The logarithm is taken here, as the processor's sampler takes it.
        let min_p_distance = if min_p > 0.0 { temperature * min_p.ln() } else { f32::NEG_INFINITY };
        Self {
            temperature,
            min_p_distance,
            top_k: top_k.map_or(0, |k| k.max(1)),
            top_p,
            seed: [seed as u32, (seed >> 32) as u32],
            index,
            position,
            ..Self::greedy(logits_row)
        }
    }
}

impl Default for SampleRow {
    fn default() -> Self {
        Self {
            flags: 0,
            logits_row: 0,
            temperature: 0.0,
            min_p_distance: f32::NEG_INFINITY,
            top_k: 0,
            top_p: 1.0,
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            counts_slot: NONE,
            seed: [0; 2],
            index: 0,
            position: 0,
            first_bias: 0,
            num_biases: 0,
            first_masked: 0,
            num_masked: 0,
            allowed_row: NONE,
            num_logprobs: 0,
            token: 0,
            unused: [0; 3],
        }
    }
}

/// The most that any row of a batch needs. Each is a pass over the logits of the rows that need it, and a
/// launch of blocks that end at once for the others; a graph that serves all batches has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stages {
    /// The likeliest token. Rows that draw yield [`NO_TOKEN`].
    Greedy,
    /// Draws at a temperature with min-p. Rows with top-k or top-p yield [`NO_TOKEN`].
    Draws,
    /// Everything.
    Filters,
}

/// Tokens that one block works on. Fixed, so that a row's sums are the same in every batch.
const CHUNK: usize = 2048;
const CHUNK_THREADS: u32 = 256;
const CHOOSE_THREADS: u32 = 512;
const MAX_CHUNKS: usize = 1024;
const MAX_GATHERED: usize = 8192;

/// Bytes of a chunk's `Best` and `Weighed`, and a row's `Plan`.
const BEST: usize = 8;
const WEIGHED: usize = 80;
const PLAN: usize = 24;

/// Room for sampling.
pub struct Sampling {
    adjusted: Buffer,
    bests: Buffer,
    weighed: Buffer,
    plans: Buffer,
    ids: Buffer,
    likely: Buffer,
    scores: scores::Room,
    max_rows: usize,
    vocab: usize,
    chunks: usize,
}

/// Arguments of [`Sampling::sample`].
pub struct Sample<'a> {
    /// `[rows]` of [`SampleRow`].
    pub rows: Slice<'a>,
    /// `[logits_rows, vocab]` of 32-bit floats. They are not changed.
    pub logits: Slice<'a>,
    /// [`Bias`]es of all rows.
    pub biases: Option<Slice<'a>>,
    /// Forbidden tokens of all rows.
    pub masked: Option<Slice<'a>>,
    /// `[allowed_rows, ceil(vocab / 32)]`: a bit for each token, the lowest first.
    pub allowed: Option<Slice<'a>>,
    /// What sequences with penalties have seen; tokens of rows that say so are counted.
    pub counts: Option<&'a mut TokenCounts>,
    /// `[rows]`: tokens, or [`NO_TOKEN`].
    pub sampled: SliceMut<'a>,
    /// What the rows need.
    pub stages: Stages,
}

/// What all kernels of one call take.
struct Step {
    rows: Arg,
    logits: Arg,
    sampled: Arg,
    num_rows: usize,
    /// Rows of logits.
    num_logits: u32,
    counts: (Arg, u32, u32),
}

impl Sampling {
    /// Room for so many rows, of samples or of scores.
    pub fn new(device: &Device, max_rows: usize, vocab: usize) -> Result<Self, Error> {
        let chunks = vocab.div_ceil(CHUNK);
        check_index("the vocabulary's chunk", chunks.saturating_sub(1), MAX_CHUNKS)?;
        check_multiple("the vocabulary", vocab, 1)?;
        let per_row = |bytes| device.alloc(max_rows * bytes);
        Ok(Self {
            adjusted: per_row(vocab * size_of::<f32>())?,
            bests: per_row(chunks * BEST)?,
            weighed: per_row(chunks * WEIGHED)?,
            plans: per_row(PLAN)?,
            ids: per_row(MAX_GATHERED * size_of::<u32>())?,
            likely: per_row(MAX_GATHERED * size_of::<f32>())?,
            scores: scores::Room::new(device, max_rows, chunks)?,
            max_rows,
            vocab,
            chunks,
        })
    }

    /// Bytes of the device's memory.
    pub fn num_bytes(&self) -> usize {
        let Self { adjusted, bests, weighed, plans, ids, likely, .. } = self;
        let buffers = [adjusted, bests, weighed, plans, ids, likely];
        buffers.map(Buffer::len).iter().sum::<usize>() + self.scores.num_bytes()
    }

    /// Samples a token per row.
    pub fn sample(&mut self, device: &Device, args: Sample<'_>) -> Result<(), Error> {
        let Sample { rows, logits, biases, masked, allowed, counts, sampled, stages } = args;
        let num_rows = self.check(rows, sampled.len() / size_of::<u32>())?;
        check_len("the sampled tokens", sampled.len(), num_rows * size_of::<u32>())?;
        if let Some(counts) = &counts {
            check_len("the token counts' vocabulary", counts.vocab(), self.vocab)?;
        }
        let step = Step {
            rows: rows.into(),
            logits: logits.into(),
            sampled: (&sampled).into(),
            num_rows,
            num_logits: self.num_logits(logits)?,
            counts: counts::parts(counts.as_deref()),
        };
        let count = |slice: Slice<'_>, bytes: usize| (slice.len() / bytes) as u32;
        let bits = self.vocab.div_ceil(32) * size_of::<u32>();
        let lists = [(biases, size_of::<Bias>()), (masked, size_of::<u32>()), (allowed, bits)];
        let lists = lists.map(|(slice, bytes)| {
            (Arg::optional(slice), slice.map_or(0, |slice| count(slice, bytes)).into())
        });
        self.adjust(device, &step, lists)?;
        if stages >= Stages::Draws {
            self.weigh(device, &step)?;
        }
        if stages >= Stages::Filters {
            self.gather(device, &step)?;
        }
        self.choose(device, &step, stages)
    }

    /// Checks that there are so many rows, and room for them.
    fn check(&self, rows: Slice<'_>, num_rows: usize) -> Result<usize, Error> {
        check_len("the rows to sample", rows.len(), num_rows * size_of::<SampleRow>())?;
        check_index("the number of rows to sample", num_rows, self.max_rows + 1)?;
        Ok(num_rows)
    }

    fn num_logits(&self, logits: Slice<'_>) -> Result<u32, Error> {
        let row = self.vocab * size_of::<f32>();
        check_multiple("the logits' bytes", logits.len(), row)?;
        Ok((logits.len() / row) as u32)
    }

    fn by_chunk(&self, num_rows: usize) -> Grid {
        Grid {
            blocks: [self.chunks as u32, num_rows as u32, 1],
            threads: [CHUNK_THREADS, 1, 1],
            shared_bytes: 0,
        }
    }

    /// `lists`: biases, forbidden and allowed tokens, and how many there are.
    fn adjust(
        &mut self,
        device: &Device,
        step: &Step,
        lists: [(Arg, Arg); 3],
    ) -> Result<(), Error> {
        let [(biases, num_biases), (masked, num_masked), (allowed, num_allowed)] = lists;
        let (counts, width, slots) = step.counts;
        let args = [
            step.rows,
            step.logits,
            Arg::from(&self.adjusted.slice_mut()),
            biases,
            masked,
            allowed,
            counts,
            Arg::from(&self.bests.slice_mut()),
            (self.vocab as u32).into(),
            width.into(),
            step.num_logits.into(),
            num_biases,
            num_masked,
            num_allowed,
            slots.into(),
        ];
        // SAFETY: the kernel's parameters. The rows' number was checked, and what they refer to is
        // checked by the kernel.
        Ok(unsafe { device.launch("adjust_logits", self.by_chunk(step.num_rows), &args) }?)
    }

    fn weigh(&mut self, device: &Device, step: &Step) -> Result<(), Error> {
        let args = [
            step.rows,
            step.logits,
            self.adjusted.slice().into(),
            self.bests.slice().into(),
            Arg::from(&self.weighed.slice_mut()),
            (self.vocab as u32).into(),
        ];
        // SAFETY: the kernel's parameters, for as many rows as there is room for. Where a row's indices
        // are wrong, the kernel before has left that nothing was found, and it is passed over.
        Ok(unsafe { device.launch("weigh_logits", self.by_chunk(step.num_rows), &args) }?)
    }

    fn gather(&mut self, device: &Device, step: &Step) -> Result<(), Error> {
        let args = [
            step.rows,
            step.logits,
            self.adjusted.slice().into(),
            self.bests.slice().into(),
            self.weighed.slice().into(),
            Arg::from(&self.plans.slice_mut()),
            Arg::from(&self.ids.slice_mut()),
            Arg::from(&self.likely.slice_mut()),
            (self.vocab as u32).into(),
        ];
        // SAFETY: as above; a row's list has at most as many tokens as there is room for.
        Ok(unsafe { device.launch("gather_likely", self.by_chunk(step.num_rows), &args) }?)
    }

    fn choose(&mut self, device: &Device, step: &Step, stages: Stages) -> Result<(), Error> {
        let (counts, width, _) = step.counts;
        let args = [
            step.rows,
            step.logits,
            self.adjusted.slice().into(),
            self.bests.slice().into(),
            self.weighed.slice().into(),
            self.plans.slice().into(),
            self.ids.slice().into(),
            self.likely.slice().into(),
            counts,
            step.sampled,
            (self.vocab as u32).into(),
            (self.chunks as u32).into(),
            width.into(),
            (stages as u32).into(),
        ];
        let grid = Grid::line(step.num_rows, CHOOSE_THREADS);
        // SAFETY: as above; tokens are counted only where the first kernel found the slot.
        Ok(unsafe { device.launch("choose_tokens", grid, &args) }?)
    }
}
