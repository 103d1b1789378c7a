//! What changes every step, as one row of words that is sent with one copy.
//!
//! A [`Layout`] says where each list begins. It depends on how much room the step is given alone, so steps
//! that are launched as the same graph have their lists in the same places.

use sconce_kernels::cuda::{Buffer, Device, Plan, PlanRow, SampleRow, Slice, Staging, bytes_of};

use super::sampling::Samples;
use crate::engine::plan::StepPlan;
use crate::runner::Error;
use crate::runner::input::Input;

/// The slot of a token that pads the batch.
const NO_SLOT: u32 = u32::MAX;

/// How much room a step is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) tokens: usize,
    /// Rows of logits.
    pub(super) logits: usize,
    /// Of block tables.
    pub(super) updates: usize,
    pub(super) copies: usize,
    /// Of rows: one of each sample, and one of each draft.
    pub(super) samples: usize,
    /// Of all samples' logits.
    pub(super) biases: usize,
    /// Tokens that samples must not become.
    pub(super) masked: usize,
}

impl Room {
    /// What a graph of so many tokens, all of which are sampled from, has room for. Few requests have biases or
    /// forbidden tokens, and those that have may have some hundred.
    pub(super) fn of_graph(size: usize) -> Self {
        Self {
            tokens: size,
            logits: size,
            updates: size,
            copies: 0,
            samples: size,
            biases: 512 + 4 * size,
            masked: 512 + 4 * size,
        }
    }

    /// Whether a step of `other` fits.
    pub(super) fn holds(self, other: Self) -> bool {
        other.tokens <= self.tokens
            && other.logits <= self.logits
            && other.updates <= self.updates
            && other.copies <= self.copies
            && other.samples <= self.samples
            && other.biases <= self.biases
            && other.masked <= self.masked
    }
}

/// Where lists begin, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    room: Room,
    carried: usize,
    positions: usize,
    slots: usize,
    logits_tokens: usize,
    updates: usize,
    copies: usize,
    samples: usize,
    biases: usize,
    masked: usize,
    /// The plan of attention, which ends the words.
    plan: usize,
}

impl Layout {
    pub(super) fn new(room: Room) -> Self {
        let mut next = room.tokens.next_multiple_of(ALIGN);
        let mut place = |words: usize| {
            let begin = next;
            next += words.next_multiple_of(ALIGN);
            begin
        };
        Self {
            room,
            carried: place(room.tokens),
            positions: place(room.tokens),
            slots: place(room.tokens),
            logits_tokens: place(room.logits),
            updates: place(1 + 3 * room.updates),
            copies: place(1 + 2 * room.copies),
            samples: place(SAMPLE_WORDS * room.samples),
            biases: place(2 * room.biases),
            masked: place(2 * room.masked),
            plan: place(0),
        }
    }

    /// What it has room for.
    pub(super) fn room(&self) -> Room {
        self.room
    }

    /// Words, with a plan of so many.
    pub(super) fn num_words(&self, plan_words: usize) -> usize {
        self.plan + plan_words
    }
}

/// Kernels load 16 bytes at once.
const ALIGN: usize = 4;

const SAMPLE_WORDS: usize = size_of::<SampleRow>() / 4;

/// Of a token that is known: it is not carried from a sample.
const KNOWN: u32 = u32::MAX;

/// The words on the device, and what sends them.
pub(super) struct Batch {
    words: Buffer,
    staging: Staging,
    pub(super) plan: Plan,
    rows: Vec<PlanRow>,
}

/// A step's lists on the device.
#[derive(Clone, Copy)]
pub(super) struct Lists<'a> {
    /// `[tokens]`
    pub(super) token_ids: Slice<'a>,
    /// `[tokens]` of i32: which sample of the step before the token is; negative if it is known.
    pub(super) carried: Slice<'a>,
    /// `[tokens]`
    pub(super) positions: Slice<'a>,
    /// `[tokens]`
    pub(super) slots: Slice<'a>,
    /// `[logits]` tokens whose logits are wanted.
    pub(super) logits_tokens: Slice<'a>,
    /// A number, and of each the row, the column and the block.
    pub(super) updates: Slice<'a>,
    /// A number, and of each the block to read and the block to write.
    pub(super) copies: Slice<'a>,
    /// `[samples]` of [`SampleRow`].
    pub(super) samples: Slice<'a>,
    /// `[biases]` of a token and what is added to its logit.
    pub(super) biases: Slice<'a>,
    /// `[masked]` of a token and what it must follow.
    pub(super) masked: Slice<'a>,
    /// The plan of attention.
    pub(super) plan: Slice<'a>,
}

impl Batch {
    /// Room for steps of up to `room`.
    pub(super) fn new(
        device: &Device,
        room: Room,
        plan: Plan,
    ) -> Result<Self, sconce_kernels::Error> {
        let bytes = Layout::new(room).num_words(plan.max_words()) * 4;
        Ok(Self {
            words: device.alloc(bytes)?,
            staging: Staging::new(device, bytes)?,
            plan,
            rows: Vec::new(),
        })
    }

    /// Plans the attention of the step's rows.
    pub(super) fn plan_attention(&mut self, plan: &StepPlan) -> Result<(), Error> {
        self.rows.clear();
        self.rows.extend(plan.rows.iter().map(|row| PlanRow {
            first_token: row.tokens.start as usize,
            num_tokens: row.tokens.len(),
            num_computed: row.num_computed as usize,
            table: row.sequence.0 as usize,
        }));
        Ok(self.plan.build(&self.rows)?)
    }

    /// Sends a step, padded to the layout's room.
    pub(super) fn send(
        &mut self,
        device: &Device,
        layout: &Layout,
        (plan, input, samples): (&StepPlan, &Input, &Samples),
    ) -> Result<(), Error> {
        let plan_words = self.plan.words();
        let num_words = layout.num_words(plan_words.len());
        let bytes = self.staging.begin()?;
        let mut words = Words(&mut bytes[..num_words * 4]);
        let Room { tokens, logits, .. } = layout.room;
        words.fill(0, &plan.token_ids, tokens, 0);
        words.fill(layout.carried, &[], tokens, KNOWN);
        for carry in &plan.carried {
            words.put(layout.carried + carry.token_index as usize, carry.sample);
        }
        words.fill(layout.positions, &plan.positions, tokens, 0);
        words.fill(layout.slots, &plan.slot_mapping, tokens, NO_SLOT);
        words.fill(layout.logits_tokens, &input.logits_tokens, logits, 0);
        words.put(layout.updates, plan.table_updates.len() as u32);
        for (i, update) in plan.table_updates.iter().enumerate() {
            let update = [update.sequence.0, update.column, update.block.0];
            words.fill(layout.updates + 1 + 3 * i, &update, 3, 0);
        }
        words.put(layout.copies, input.copies.len() as u32);
        for (i, (from, to)) in input.copies.iter().enumerate() {
            words.fill(layout.copies + 1 + 2 * i, &[*from, *to], 2, 0);
        }
        words.put_bytes(layout.samples, bytes_of(samples.rows()));
        let idle = SampleRow::default();
        for i in samples.rows().len()..layout.room.samples {
            words.put_bytes(layout.samples + i * SAMPLE_WORDS, bytes_of(&[idle]));
        }
        words.put_bytes(layout.biases, bytes_of(samples.biases()));
        words.put_bytes(layout.masked, bytes_of(samples.masked()));
        words.fill(layout.plan, plan_words, plan_words.len(), 0);
        let to = self.words.slice_mut().at(0, num_words * 4);
        Ok(self.staging.send(device, &to)?)
    }

    /// Where the lists of a step with this layout lie.
    pub(super) fn lists(&self, layout: &Layout) -> Lists<'_> {
        let all = self.words.slice();
        let list = |begin: usize, words: usize| all.at(begin * 4, words * 4);
        let Room { tokens, logits, updates, copies, samples, biases, masked } = layout.room;
        Lists {
            token_ids: list(0, tokens),
            carried: list(layout.carried, tokens),
            positions: list(layout.positions, tokens),
            slots: list(layout.slots, tokens),
            logits_tokens: list(layout.logits_tokens, logits),
            updates: list(layout.updates, 1 + 3 * updates),
            copies: list(layout.copies, 1 + 2 * copies),
            samples: list(layout.samples, SAMPLE_WORDS * samples),
            biases: list(layout.biases, 2 * biases),
            masked: list(layout.masked, 2 * masked),
            plan: list(layout.plan, all.len() / 4 - layout.plan),
        }
    }
}

/// Words in bytes.
struct Words<'a>(&'a mut [u8]);

impl Words<'_> {
    fn put(&mut self, at: usize, word: u32) {
        self.0[at * 4..][..4].copy_from_slice(&word.to_le_bytes());
    }

    /// Bytes from word `at` on.
    fn put_bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at * 4..][..bytes.len()].copy_from_slice(bytes);
    }

    /// `values` from word `at` on, and `padding` up to `len`.
    fn fill(&mut self, at: usize, values: &[u32], len: usize, padding: u32) {
        let (words, _) = self.0[at * 4..][..len * 4].as_chunks_mut::<4>();
        let values = values.iter().copied().chain(std::iter::repeat(padding));
        for (word, value) in words.iter_mut().zip(values) {
            *word = value.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_do_not_overlap_and_begin_where_kernels_load_from() {
        let room =
            Room { tokens: 5, logits: 3, updates: 2, copies: 1, samples: 3, biases: 1, masked: 5 };
        let layout = Layout::new(room);
        let lists = [
            (0, 5),
            (layout.carried, 5),
            (layout.positions, 5),
            (layout.slots, 5),
            (layout.logits_tokens, 3),
            (layout.updates, 7),
            (layout.copies, 3),
            (layout.samples, 3 * SAMPLE_WORDS),
            (layout.biases, 2),
            (layout.masked, 10),
            (layout.plan, 0),
        ];

        for pair in lists.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
        }
        assert!(lists.iter().all(|(begin, _)| begin % ALIGN == 0));
        assert_eq!(layout.num_words(8), layout.plan + 8);
    }

    #[test]
    fn short_lists_are_padded() {
        let mut bytes = vec![0xff; 24];
        let mut words = Words(&mut bytes);

        words.fill(1, &[7, 8], 4, 9);
        words.put(0, 5);

        let (words, _) = bytes.as_chunks::<4>();
        let words: Vec<_> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        assert_eq!(words, [5, 7, 8, 9, 9, u32::MAX]);
    }
}
