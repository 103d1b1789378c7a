//! Log-probabilities as the device yields them: of prompts' tokens, computed in as many passes over the
//! vocabulary as there is room for logits, and of sampled tokens.

use sconce_kernels::cuda::{
    self, Buffer, Device, NO_TOKEN, SampleRow, Slice, SliceMut, Staging, TokenScore, bytes_of,
};

use crate::engine::plan::{MAX_SCORES, Score, Scored, TokenLogprobs};
use crate::runner::Error;

/// The prompts' tokens that a step scores.
pub(super) struct PromptScores {
    /// Rows, and the tokens whose logits they need.
    words: Buffer,
    staging: Staging,
    /// `[MAX_SCORES]` of [`TokenScore`].
    scores: Buffer,
    rows: Vec<SampleRow>,
    tokens: Vec<u32>,
}

const ROW: usize = size_of::<SampleRow>();
pub(super) const SCORE: usize = size_of::<TokenScore>();

impl PromptScores {
    pub(super) fn new(device: &Device) -> Result<Self, cuda::Error> {
        let bytes = MAX_SCORES * (ROW + 4);
        Ok(Self {
            words: device.alloc(bytes)?,
            staging: Staging::new(device, bytes)?,
            scores: device.alloc(MAX_SCORES * SCORE)?,
            rows: Vec::new(),
            tokens: Vec::new(),
        })
    }

    /// Sends what is scored, so many rows of logits at a time.
    pub(super) fn send(
        &mut self,
        device: &Device,
        scores: &[Score],
        max_rows: usize,
    ) -> Result<(), Error> {
        if scores.len() > MAX_SCORES {
            return Err(Error::Plan(format!("{} scores, at most {MAX_SCORES}", scores.len())));
        }
        self.rows.clear();
        self.tokens.clear();
        for (i, score) in scores.iter().enumerate() {
            let greedy = SampleRow::greedy((i % max_rows) as u32);
            self.rows.push(SampleRow {
                flags: greedy.flags | SampleRow::LOGPROBS | SampleRow::GIVEN,
                token: score.token,
                num_logprobs: score.num_logprobs,
                ..greedy
            });
            self.tokens.push(score.token_index);
        }
        let (rows, tokens) = (bytes_of(&self.rows), bytes_of(&self.tokens));
        let to = self.staging.begin()?;
        to[..rows.len()].copy_from_slice(rows);
        to[rows.len()..][..tokens.len()].copy_from_slice(tokens);
        let sent = self.words.slice_mut().at(0, rows.len() + tokens.len());
        Ok(self.staging.send(device, &sent)?)
    }

    /// The tokens whose logits `len` scores from `begin` on need.
    pub(super) fn tokens(&self, begin: usize, len: usize) -> Slice<'_> {
        self.words.slice().at(self.rows.len() * ROW + begin * 4, len * 4)
    }

    /// The rows of `len` scores from `begin` on, and where the scores go.
    pub(super) fn part(&mut self, begin: usize, len: usize) -> (Slice<'_>, SliceMut<'_>) {
        let scores = self.scores.slice_mut().at(begin * SCORE, len * SCORE);
        (self.words.slice().at(begin * ROW, len * ROW), scores)
    }

    /// The first so many scores.
    pub(super) fn scores(&self, len: usize) -> Slice<'_> {
        self.scores.slice().at(0, len * SCORE)
    }
}

/// A score with so many of the likeliest tokens.
pub(super) fn logprobs(score: &TokenScore, num_logprobs: u32) -> TokenLogprobs {
    let top = score.top.iter().copied().zip(score.top_logprobs);
    let top = top.take(num_logprobs as usize).take_while(|(token, _)| *token != NO_TOKEN);
    TokenLogprobs { logprob: score.logprob, top: top.collect() }
}

/// What comes of scores.
pub(super) fn scored(scores: &[Score], yielded: &[TokenScore]) -> Vec<Scored> {
    let pairs = scores.iter().zip(yielded);
    let scored = pairs.map(|(asked, score)| Scored {
        token: asked.token,
        rank: score.rank,
        logprobs: logprobs(score, asked.num_logprobs),
    });
    scored.collect()
}
