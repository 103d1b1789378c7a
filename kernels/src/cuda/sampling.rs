//! Sampling: from logits to tokens, and their log-probabilities, without the host.
//!
//! What a row needs is in a [`SampleRow`] in the device's memory; how many kernels are launched, and of
//! how many blocks, depends on the number of rows and on [`Stages`] alone, so that a graph may hold them.
//! A row's token depends on its logits and parameters and on nothing else in the batch.
//!
//! The rules are those of the processor's sampler, and so is the arithmetic: equal logits give equal
//! tokens. What the host must do itself is what depends on the tokens just sampled: the bits that a grammar
//! allows, and to count the drafts that were right, as a slot is counted once a step. The end of a bad word may
//! name the one token before it that the host does not know yet.
//!
//! Greedy rows read their logits once, and write them once where they are adjusted; rows that draw read
//! them once more, and the chunk that was hit; rows with top-k or top-p a third time; rows with typical-p some
//! forty times, by one block.

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
/// number. With [`SampleRow::FALLS_BACK`], only where bad words and the allowed tokens leave none.
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
    /// Keeps the most typical tokens, so much mass of them; 1 all.
    pub typical_p: f32,
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
    /// Its part of the list of forbidden tokens: end tokens before `min_tokens`, then ends of bad words.
    pub first_masked: u32,
    /// How many.
    pub num_masked: u32,
    /// Of them, the first that are end tokens.
    pub num_ends: u32,
    /// Its row of the bits of allowed tokens, or [`NONE`].
    pub allowed_row: u32,
    /// So many of the likeliest tokens are wanted with [`Self::LOGPROBS`], at most [`MAX_TOP_LOGPROBS`].
    pub num_logprobs: u32,
    /// With [`Self::GIVEN`]: whose log-probability is wanted.
    pub token: u32,
    /// Which of [`Sample::inputs`] is the token before, or [`NONE`].
    pub input: u32,
    /// Which of [`Sample::sampled`] and of [`Score::scores`] is its own; [`NONE`]: as many rows as are before it
    /// are before it there.
    pub target: u32,
    /// So many of [`Sample::inputs`], of which [`Self::input`] is the last, are drafts: penalties take them as if
    /// they were counted in its slot.
    pub num_uncounted: u32,
    /// Nothing.
    pub unused: [u32; 2],
}

// SAFETY: 28 numbers of 32 bits, so there is no padding.
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

/// A token that must not be sampled.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masked {
    /// The token. Those outside the vocabulary are passed over.
    pub token: u32,
    /// Only where this is the token before; [`NONE`]: in any case.
    pub after: u32,
}

// SAFETY: two numbers of 32 bits.
unsafe impl Plain for Masked {}

impl Masked {
    /// In any case.
    #[must_use]
    pub fn always(token: u32) -> Self {
        Self { token, after: NONE }
    }
}

/// How to draw a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// 0 takes the likeliest.
    pub temperature: f32,
    /// Keeps so many, at least one.
    pub top_k: Option<u32>,
    /// Keeps so much mass; 1 all.
    pub top_p: f32,
    /// Keeps the most typical tokens, so much mass of them; 1 all.
    pub typical_p: f32,
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
    /// Where nothing is left, it takes the likeliest token of the model's own logits that bad words and the
    /// allowed tokens leave, or the first that they leave.
    pub const FALLS_BACK: u32 = 32;

    /// Takes the likeliest token.
    #[must_use]
    pub fn greedy(logits_row: u32) -> Self {
        Self { flags: Self::ACTIVE, logits_row, ..Self::default() }
    }

    /// Draws a token.
    #[must_use]
    pub fn draw(logits_row: u32, draw: Draw) -> Self {
        let Draw { temperature, top_k, top_p, typical_p, min_p, seed, index, position } = draw;
        // The logarithm is taken here, as the processor's sampler takes it.
        let min_p_distance = if min_p > 0.0 { temperature * min_p.ln() } else { f32::NEG_INFINITY };
        Self {
            temperature,
            min_p_distance,
            top_k: top_k.map_or(0, |k| k.max(1)),
            top_p,
            typical_p,
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
            typical_p: 1.0,
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
            num_ends: 0,
            allowed_row: NONE,
            num_logprobs: 0,
            token: 0,
            input: NONE,
            target: NONE,
            num_uncounted: 0,
            unused: [0; 2],
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
    /// Everything but typical-p. Rows that have it yield [`NO_TOKEN`].
    Filters,
    /// Everything.
    Typical,
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
    /// [`Masked`] tokens of all rows.
    pub masked: Option<Slice<'a>>,
    /// `[allowed_rows, ceil(vocab / 32)]`: a bit for each token, the lowest first.
    pub allowed: Option<Slice<'a>>,
    /// Tokens that were computed: of a row with [`SampleRow::input`], the one before that which is sampled.
    pub inputs: Option<Slice<'a>>,
    /// What sequences with penalties have seen; tokens of rows that say so are counted.
    pub counts: Option<&'a mut TokenCounts>,
    /// Tokens, or [`NO_TOKEN`]: one for each row, or where rows have a [`SampleRow::target`] for those that the
    /// targets name.
    pub sampled: SliceMut<'a>,
    /// What the rows need.
    pub stages: Stages,
}

/// What all kernels of one call take.
struct Step {
    rows: Arg,
    logits: Arg,
    sampled: Arg,
    num_sampled: u32,
    num_rows: usize,
    counts: Arg,
    counts_width: u32,
    /// Forbidden and allowed tokens, and inputs.
    lists: [Arg; 3],
    /// Rows of logits, biases, forbidden tokens, rows of allowed ones, slots of counts, inputs.
    extents: [Arg; 6],
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
        let Sample { rows, logits, biases, masked, allowed, inputs, counts, sampled, stages } =
            args;
        check_multiple("the bytes of sampled tokens", sampled.len(), size_of::<u32>())?;
        if let Some(counts) = &counts {
            check_len("the token counts' vocabulary", counts.vocab(), self.vocab)?;
        }
        let (counts, counts_width, slots) = counts::parts(counts.as_deref());
        let count = |slice: Option<Slice<'_>>, bytes: usize| {
            Arg::from(slice.map_or(0, |slice| (slice.len() / bytes) as u32))
        };
        let step = Step {
            rows: rows.into(),
            logits: logits.into(),
            sampled: (&sampled).into(),
            num_sampled: (sampled.len() / size_of::<u32>()) as u32,
            num_rows: self.num_rows(rows)?,
            counts,
            counts_width,
            lists: [masked, allowed, inputs].map(Arg::optional),
            extents: [
                self.num_logits(logits)?.into(),
                count(biases, size_of::<Bias>()),
                count(masked, size_of::<Masked>()),
                count(allowed, self.vocab.div_ceil(32) * size_of::<u32>()),
                slots.into(),
                count(inputs, size_of::<u32>()),
            ],
        };
        self.adjust(device, &step, Arg::optional(biases))?;
        if stages >= Stages::Draws {
            self.weigh(device, &step)?;
        }
        if stages >= Stages::Filters {
            self.gather(device, &step)?;
        }
        self.choose(device, &step, stages)?;
        if stages >= Stages::Typical {
            self.choose_typical(device, &step)?;
        }
        Ok(())
    }

    /// How many rows there are, for which there is room.
    fn num_rows(&self, rows: Slice<'_>) -> Result<usize, Error> {
        check_multiple("the bytes of rows to sample", rows.len(), size_of::<SampleRow>())?;
        let num_rows = rows.len() / size_of::<SampleRow>();
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

    fn adjust(&mut self, device: &Device, step: &Step, biases: Arg) -> Result<(), Error> {
        let [masked, allowed, inputs] = step.lists;
        let [num_logits, num_biases, num_masked, num_allowed, slots, num_inputs] = step.extents;
        let args = [
            step.rows,
            step.logits,
            Arg::from(&self.adjusted.slice_mut()),
            biases,
            masked,
            allowed,
            inputs,
            step.counts,
            Arg::from(&self.bests.slice_mut()),
            (self.vocab as u32).into(),
            step.counts_width.into(),
            num_logits,
            num_biases,
            num_masked,
            num_allowed,
            slots,
            num_inputs,
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
        let [masked, allowed, inputs] = step.lists;
        let [num_logits, num_biases, num_masked, num_allowed, slots, num_inputs] = step.extents;
        let args = [
            step.rows,
            step.logits,
            self.adjusted.slice().into(),
            self.bests.slice().into(),
            self.weighed.slice().into(),
            self.plans.slice().into(),
            self.ids.slice().into(),
            self.likely.slice().into(),
            masked,
            allowed,
            inputs,
            step.counts,
            step.sampled,
            (self.vocab as u32).into(),
            (self.chunks as u32).into(),
            step.counts_width.into(),
            num_logits,
            num_biases,
            num_masked,
            num_allowed,
            slots,
            num_inputs,
            step.num_sampled.into(),
            (stages as u32).into(),
        ];
        let grid = Grid::line(step.num_rows, CHOOSE_THREADS);
        // SAFETY: as above; the kernel checks what rows refer to, and where their tokens go.
        Ok(unsafe { device.launch("choose_tokens", grid, &args) }?)
    }

    fn choose_typical(&mut self, device: &Device, step: &Step) -> Result<(), Error> {
        let args = [
            step.rows,
            step.logits,
            self.adjusted.slice().into(),
            self.bests.slice().into(),
            self.plans.slice().into(),
            step.counts,
            step.sampled,
            (self.vocab as u32).into(),
            (self.chunks as u32).into(),
            step.counts_width.into(),
            step.num_sampled.into(),
        ];
        let grid = Grid::line(step.num_rows, CHOOSE_THREADS);
        // SAFETY: as above; where a row's indices are wrong, the first kernel has left that nothing was found.
        Ok(unsafe { device.launch("choose_typical", grid, &args) }?)
    }
}
