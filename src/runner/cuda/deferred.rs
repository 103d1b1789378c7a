//! Samples that are drawn when the token before them is known, as one row of words that is sent with one copy:
//! their rows, what these refer to, and what their grammars allow.

use sconce_kernels::cuda::{Bias, Buffer, Device, Masked, SampleRow, Slice, Staging, bytes_of};

use super::batch::Room;
use super::sampling::{Deferred, Needs, Samples};
use crate::runner::sampler::Sampler;
use crate::runner::{Error, ExecutorLimits};

/// The words, and what sends them.
pub(super) struct Inbox {
    words: Buffer,
    staging: Staging,
    samples: Samples,
    /// `[num_rows, num_words]`
    allowed: Vec<u32>,
    /// Of a row of allowed tokens: a bit for each token.
    num_words: usize,
}

/// What was sent, and where it lies: for a graph that depends on how many rows it draws alone.
#[derive(Clone, Copy)]
pub(super) struct Sent {
    /// What the rows need.
    pub(super) needs: Needs,
    /// Rows that they are padded to, to be drawn as a graph.
    pub(super) size: Option<usize>,
    places: Places,
}

/// Of rows, biases, forbidden and allowed tokens: from which byte on, and how many bytes.
type Places = [(usize, usize); 4];

/// What was sent, on the device.
pub(super) struct Lists<'a> {
    /// `[num_rows]` of [`SampleRow`].
    pub(super) rows: Slice<'a>,
    /// Of [`Bias`].
    pub(super) biases: Slice<'a>,
    /// Of [`Masked`].
    pub(super) masked: Slice<'a>,
    /// `[num_rows, ceil(vocab / 32)]`
    pub(super) allowed: Slice<'a>,
}

/// Bytes at whose multiples lists begin.
const ALIGN: usize = 16;

impl Inbox {
    /// Room for as many samples, biases and forbidden tokens as a step may have.
    pub(super) fn new(
        device: &Device,
        limits: &ExecutorLimits,
        room: Room,
    ) -> Result<Self, sconce_kernels::Error> {
        let num_words = (limits.vocab_size as usize).div_ceil(32);
        let bytes = room.samples * (size_of::<SampleRow>() + num_words * 4)
            + room.biases * size_of::<Bias>()
            + room.masked * size_of::<Masked>()
            + 4 * ALIGN;
        Ok(Self {
            words: device.alloc(bytes)?,
            staging: Staging::new(device, bytes)?,
            samples: Samples::default(),
            allowed: Vec::new(),
            num_words,
        })
    }

    /// Sends those of the samples that have something to choose from, padded to what `size` says that so many
    /// rows are drawn as. `None`: none has.
    pub(super) fn send(
        &mut self,
        device: &Device,
        (deferred, sampler): (&[Deferred], &Sampler),
        size: impl Fn(usize) -> Option<usize>,
    ) -> Result<Option<Sent>, Error> {
        self.gather(deferred, sampler)?;
        let num_rows = self.samples.rows().len();
        if num_rows == 0 {
            return Ok(None);
        }
        let given = [num_rows, self.samples.biases().len(), self.samples.masked().len()];
        let size = size(num_rows).filter(|size| {
            let Room { samples, biases, masked, .. } = Room::of_graph(*size);
            given.iter().zip([samples, biases, masked]).all(|(given, room)| *given <= room)
        });
        let places = self.places(size.map_or(given, |size| {
            let Room { samples, biases, masked, .. } = Room::of_graph(size);
            [samples, biases, masked]
        }));
        self.fill(device, places)?;
        Ok(Some(Sent { needs: self.samples.needs(), size, places }))
    }

    /// The rows, and what their grammars allow.
    fn gather(&mut self, deferred: &[Deferred], sampler: &Sampler) -> Result<(), Error> {
        self.samples.clear();
        self.allowed.clear();
        for one in deferred {
            let row = self.allowed.len() / self.num_words;
            sampler.with_allowed(one.sample.sequence, |allowed| {
                // Of a tokenizer with more or fewer tokens than the model.
                let shared = allowed.len().min(self.num_words);
                self.allowed.extend_from_slice(&allowed[..shared]);
                self.allowed.resize((row + 1) * self.num_words, 0);
            });
            if self.allowed.len() > row * self.num_words {
                self.samples.push_deferred(one, row as u32, sampler)?;
            }
        }
        Ok(())
    }

    /// Of so many rows, biases and forbidden tokens.
    fn places(&self, [rows, biases, masked]: [usize; 3]) -> Places {
        let bytes = [
            rows * size_of::<SampleRow>(),
            biases * size_of::<Bias>(),
            masked * size_of::<Masked>(),
            rows * self.num_words * 4,
        ];
        let mut end = 0;
        bytes.map(|len| {
            let begin = end;
            end = (end + len).next_multiple_of(ALIGN);
            (begin, len)
        })
    }

    /// Copies the lists to their places, of the allowed tokens' rows only those that there are.
    fn fill(&mut self, device: &Device, places: Places) -> Result<(), Error> {
        let lists = [
            bytes_of(self.samples.rows()),
            bytes_of(self.samples.biases()),
            bytes_of(self.samples.masked()),
            bytes_of(&self.allowed),
        ];
        let (to, end) = (self.staging.begin()?, places[3].0 + lists[3].len());
        if end > to.len() {
            return Err(Error::Plan("deferred samples do not fit their room".into()));
        }
        let idle = SampleRow::default();
        for row in to[..places[0].1].chunks_exact_mut(size_of::<SampleRow>()) {
            row.copy_from_slice(bytes_of(&[idle]));
        }
        for (list, (begin, _)) in lists.iter().zip(places) {
            to[begin..begin + list.len()].copy_from_slice(list);
        }
        Ok(self.staging.send(device, &self.words.slice_mut().at(0, end))?)
    }

    /// Where what was sent last lies.
    pub(super) fn lists(&self, sent: &Sent) -> Lists<'_> {
        let [rows, biases, masked, allowed] =
            sent.places.map(|(begin, len)| self.words.slice().at(begin, len));
        Lists { rows, biases, masked, allowed }
    }
}
