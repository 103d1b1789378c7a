//! Samples that are drawn when the token before them is known, as one row of words that is sent with one copy:
//! their rows, what these refer to, and what their grammars allow.

use sconce_kernels::cuda::{Bias, Buffer, Device, Masked, SampleRow, Slice, Staging, bytes_of};

use super::batch::Room;
use super::sampling::{Deferred, Samples};
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

/// What was sent.
pub(super) struct Lists<'a> {
    pub(super) samples: &'a Samples,
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

    /// Sends those of the samples that have something to choose from. `None`: none has.
    pub(super) fn send(
        &mut self,
        device: &Device,
        deferred: &[Deferred],
        sampler: &Sampler,
    ) -> Result<Option<Lists<'_>>, Error> {
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
        if self.samples.rows().is_empty() {
            return Ok(None);
        }
        let lists = [
            bytes_of(self.samples.rows()),
            bytes_of(self.samples.biases()),
            bytes_of(self.samples.masked()),
            bytes_of(&self.allowed),
        ];
        let to = self.staging.begin()?;
        let (mut places, mut end) = ([(0, 0); 4], 0);
        for (list, place) in lists.iter().zip(&mut places) {
            let Some(to) = to.get_mut(end..end + list.len()) else {
                return Err(Error::Plan("deferred samples do not fit their room".into()));
            };
            to.copy_from_slice(list);
            *place = (end, list.len());
            end = (end + list.len()).next_multiple_of(ALIGN);
        }
        let (begin, len) = places[3];
        self.staging.send(device, &self.words.slice_mut().at(0, begin + len))?;
        let [rows, biases, masked, allowed] =
            places.map(|(begin, len)| self.words.slice().at(begin, len));
        Ok(Some(Lists { samples: &self.samples, rows, biases, masked, allowed }))
    }
}
