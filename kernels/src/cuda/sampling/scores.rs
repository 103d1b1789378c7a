//! Log-probabilities of sampled and of given tokens.

use super::super::launch::{Arg, Grid};
use super::super::{Buffer, Device, Plain, Slice, SliceMut};
use super::Sampling;
use crate::{Error, check_len};

/// Most of the likeliest tokens that a row may ask for.
pub const MAX_TOP_LOGPROBS: usize = 20;

/// Bytes of a chunk's `ChunkScore`.
const CHUNK_SCORE: usize = 16;

/// Room for what chunks hand to the row.
pub(super) struct Room {
    chunks: Buffer,
    tops: Buffer,
}

impl Room {
    pub(super) fn new(device: &Device, max_rows: usize, chunks: usize) -> Result<Self, Error> {
        let per_chunk = |bytes| device.alloc(max_rows * chunks * bytes);
        let tops = per_chunk(MAX_TOP_LOGPROBS * size_of::<u64>())?;
        Ok(Self { chunks: per_chunk(CHUNK_SCORE)?, tops })
    }

    pub(super) fn num_bytes(&self) -> usize {
        self.chunks.len() + self.tops.len()
    }
}

/// How likely a token was under the model's own distribution.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TokenScore {
    /// Its log-probability.
    pub logprob: f32,
    /// 1 for the likeliest.
    pub rank: u32,
    /// As many of the likeliest as the row asks for, best first, of equal ones the lower ids;
    /// [`super::NO_TOKEN`] beyond the vocabulary. What follows is undefined.
    pub top: [u32; MAX_TOP_LOGPROBS],
    /// Their log-probabilities.
    pub top_logprobs: [f32; MAX_TOP_LOGPROBS],
}

// SAFETY: 42 numbers of 32 bits.
unsafe impl Plain for TokenScore {}

/// Arguments of [`Sampling::score`].
pub struct Score<'a> {
    /// `[rows]` of [`super::SampleRow`], of which those that want it are scored.
    pub rows: Slice<'a>,
    /// `[logits_rows, vocab]`, as the model gave them.
    pub logits: Slice<'a>,
    /// The tokens of rows that give none, as [`super::Sample::sampled`] has them.
    pub sampled: Slice<'a>,
    /// Of each of them a [`TokenScore`].
    pub scores: SliceMut<'a>,
}

impl Sampling {
    /// Scores the rows that want log-probabilities; the others' scores stay as they are.
    pub fn score(&mut self, device: &Device, args: Score<'_>) -> Result<(), Error> {
        let Score { rows, logits, sampled, scores } = args;
        let num_rows = self.num_rows(rows)?;
        let logits_rows = self.num_logits(logits)?;
        let num_sampled = sampled.len() / size_of::<u32>();
        check_len("the tokens' scores", scores.len(), num_sampled * size_of::<TokenScore>())?;
        let (vocab, num_chunks) = (self.vocab as u32, self.chunks as u32);
        let of_chunks = [
            rows.into(),
            logits.into(),
            sampled.into(),
            Arg::from(&self.scores.chunks.slice_mut()),
            Arg::from(&self.scores.tops.slice_mut()),
            vocab.into(),
            logits_rows.into(),
            (num_sampled as u32).into(),
        ];
        // SAFETY: the kernel's parameters, for as many rows as there is room for; rows' indices and
        // tokens are checked by the kernel.
        unsafe { device.launch("score_chunks", self.by_chunk(num_rows), &of_chunks) }?;
        let merge = [
            rows.into(),
            logits.into(),
            sampled.into(),
            self.scores.chunks.slice().into(),
            self.scores.tops.slice().into(),
            Arg::from(&scores),
            vocab.into(),
            num_chunks.into(),
            logits_rows.into(),
            (num_sampled as u32).into(),
        ];
        let grid = Grid::line(num_rows, num_chunks.next_multiple_of(32));
        // SAFETY: as above.
        Ok(unsafe { device.launch("merge_scores", grid, &merge) }?)
    }
}
