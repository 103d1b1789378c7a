//! Texts that must not be generated, as tokens: the last token of each is impossible where those
//! before it are what was generated last. As in vLLM, the prompt's tokens do not count.

use std::sync::Arc;

use crate::engine::request::{SamplingParams, TokenId};

/// A sequence's bad words, and what they could follow.
#[derive(Clone, Debug)]
pub(super) struct BadWords {
    pub(super) params: Arc<SamplingParams>,
    /// The completion's last tokens, as many as any bad word is longer than one.
    pub(super) last: Vec<TokenId>,
    max_last: usize,
}

impl BadWords {
    /// `None` without any.
    pub(super) fn needed_by(params: &Arc<SamplingParams>) -> Option<Self> {
        let longest = params.bad_words.iter().map(Vec::len).max()?;
        Some(Self {
            params: Arc::clone(params),
            last: Vec::new(),
            max_last: longest.saturating_sub(1),
        })
    }

    /// Takes one more token of the completion.
    pub(super) fn add(&mut self, token: TokenId) {
        self.last.push(token);
        if self.last.len() > self.max_last {
            self.last.remove(0);
        }
    }

    /// Makes impossible what would complete a bad word.
    pub(super) fn mask(&self, logits: &mut [f32]) {
        for word in &self.params.bad_words {
            let Some((token, before)) = word.split_last() else { continue };
            if self.last.ends_with(before)
                && let Some(logit) = logits.get_mut(*token as usize)
            {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
