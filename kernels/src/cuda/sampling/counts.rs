//! Which tokens the sequences with penalties have seen.
//!
//! 16 bits per token of the vocabulary and sequence: 256 KiB for a vocabulary of 128k, only for sequences
//! that have a penalty. A table of the tokens seen would be smaller for short sequences and larger for
//! long ones, must be searched where this is read in passing, and would have to grow on the device, where
//! a token is counted before the host knows it.

use super::super::launch::{Arg, Grid};
use super::super::{Buffer, Device, Slice, SliceMut};
use crate::{Error, check_index, check_multiple};

/// The tokens of the prompt, and those of the completion with their numbers, up to 32767, of so many
/// sequences as there are slots.
pub struct TokenCounts {
    counts: Buffer,
    slots: usize,
    vocab: usize,
    /// Tokens of a slot: two share a word, and rows begin at 16 bytes.
    width: usize,
}

const THREADS: u32 = 256;

impl TokenCounts {
    /// Room for so many sequences. A slot must be cleared before it is used.
    pub fn new(device: &Device, slots: usize, vocab: usize) -> Result<Self, Error> {
        let width = vocab.next_multiple_of(8);
        let counts = device.alloc(slots * width * size_of::<u16>())?;
        Ok(Self { counts, slots, vocab, width })
    }

    /// Sequences.
    pub fn num_slots(&self) -> usize {
        self.slots
    }

    /// Tokens that are counted.
    pub fn vocab(&self) -> usize {
        self.vocab
    }

    /// Forgets a slot's tokens.
    pub fn clear(&mut self, device: &Device, slot: usize) -> Result<(), Error> {
        Ok(device.fill(&mut self.slot(slot)?, 0)?)
    }

    /// Marks the tokens of a sequence's prompt, any number of times. Needed for the repetition penalty
    /// alone.
    pub fn add_prompt(
        &mut self,
        device: &Device,
        slot: usize,
        tokens: Slice<'_>,
    ) -> Result<(), Error> {
        self.add(device, slot, (tokens, true))
    }

    /// Counts tokens of a sequence's completion that no row has counted: the host's own.
    pub fn add_completion(
        &mut self,
        device: &Device,
        slot: usize,
        tokens: Slice<'_>,
    ) -> Result<(), Error> {
        self.add(device, slot, (tokens, false))
    }

    fn add(
        &mut self,
        device: &Device,
        slot: usize,
        (tokens, in_prompt): (Slice<'_>, bool),
    ) -> Result<(), Error> {
        if tokens.is_empty() {
            return Ok(());
        }
        check_multiple("the bytes of tokens to count", tokens.len(), size_of::<u32>())?;
        let num = tokens.len() / size_of::<u32>();
        let vocab = self.vocab as u32;
        let args = [
            Arg::from(&self.slot(slot)?),
            tokens.into(),
            (num as u32).into(),
            vocab.into(),
            u32::from(in_prompt).into(),
        ];
        let grid = Grid::line(num.div_ceil(THREADS as usize), THREADS);
        // SAFETY: the kernel's parameters; tokens outside the vocabulary are passed over.
        Ok(unsafe { device.launch("count_tokens", grid, &args) }?)
    }

    fn slot(&mut self, slot: usize) -> Result<SliceMut<'_>, Error> {
        check_index("the slot of token counts", slot, self.slots)?;
        let bytes = self.width * size_of::<u16>();
        Ok(self.counts.slice_mut().at(slot * bytes, bytes))
    }
}

/// As kernels take them: where they are, a slot's width, and how many slots there are.
pub(super) fn parts(counts: Option<&TokenCounts>) -> (Arg, u32, u32) {
    let slice = counts.map(|counts| counts.counts.slice());
    let (width, slots) = counts.map_or((0, 0), |counts| (counts.width, counts.slots));
    (Arg::optional(slice), width as u32, slots as u32)
}
