//! From sampled tokens to the next step's, without the host.

use super::super::launch::{Arg, Grid};
use super::super::{Device, Plain, Slice, SliceMut};
use crate::{Error, check_len, check_multiple};

const THREADS: u32 = 256;

/// Arguments of [`Device::feed_tokens`].
pub struct FeedTokens<'a> {
    /// `[num]` of `i32`: which sampled token it is; negative for those that are given.
    pub from: Slice<'a>,
    /// `[num]`: tokens that the host knows.
    pub given: Slice<'a>,
    /// Tokens of an earlier step.
    pub sampled: Slice<'a>,
    /// `[num]`: the next step's tokens. What was not sampled, or is no token, becomes 0.
    pub out: SliceMut<'a>,
    /// Tokens of the vocabulary.
    pub vocab: usize,
}

/// A sample whose rows follow each other: its own, and one for each draft.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Its own row.
    pub first_row: u32,
    /// Where its drafts are.
    pub first_draft: u32,
    /// How many.
    pub num_drafts: u32,
}

// SAFETY: three numbers of 32 bits.
unsafe impl Plain for Drafted {}

/// Arguments of [`Device::accept_drafts`].
pub struct AcceptDrafts<'a> {
    /// `[num]` of [`Drafted`].
    pub samples: Slice<'a>,
    /// Drafts of all samples.
    pub drafts: Slice<'a>,
    /// Tokens of all rows.
    pub sampled: Slice<'a>,
    /// `[num]`: how many of each sample's tokens count, at least one.
    pub valid: SliceMut<'a>,
}

impl Device {
    /// Makes a step's tokens of what the step before it sampled, and of what the host knows.
    pub fn feed_tokens(&self, args: FeedTokens<'_>) -> Result<(), Error> {
        let FeedTokens { from, given, sampled, out, vocab } = args;
        check_multiple("the bytes of tokens to feed", out.len(), size_of::<u32>())?;
        check_len("where fed tokens are from", from.len(), out.len())?;
        check_len("the given tokens", given.len(), out.len())?;
        let num = out.len() / size_of::<u32>();
        let args = [
            from.into(),
            given.into(),
            sampled.into(),
            Arg::from(&out),
            (num as u32).into(),
            ((sampled.len() / size_of::<u32>()) as u32).into(),
            (vocab as u32).into(),
        ];
        let grid = Grid::line(num.div_ceil(THREADS as usize), THREADS);
        // SAFETY: the kernel's parameters, with the lengths checked above; it checks the indices.
        Ok(unsafe { self.launch("feed_tokens", grid, &args) }?)
    }

    /// Counts the leading drafts that are what was sampled, and the token after them.
    pub fn accept_drafts(&self, args: AcceptDrafts<'_>) -> Result<(), Error> {
        let AcceptDrafts { samples, drafts, sampled, valid } = args;
        let num = valid.len() / size_of::<u32>();
        check_len("the samples with drafts", samples.len(), num * size_of::<Drafted>())?;
        let args = [
            samples.into(),
            drafts.into(),
            sampled.into(),
            Arg::from(&valid),
            (num as u32).into(),
            ((sampled.len() / size_of::<u32>()) as u32).into(),
            ((drafts.len() / size_of::<u32>()) as u32).into(),
        ];
        let grid = Grid::line(num.div_ceil(THREADS as usize), THREADS);
        // SAFETY: the kernel's parameters, with the lengths checked above; it checks the indices.
        Ok(unsafe { self.launch("accept_drafts", grid, &args) }?)
    }
}
