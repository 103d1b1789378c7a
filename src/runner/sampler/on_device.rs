//! What a device that samples by itself must be told of sequences, and what the host learns from its tokens.

use sconce_kernels::cpu::Cpu;

use super::bad_words::BadWords;
use super::{Constraint, Sampler};
use crate::engine::plan::{ConstraintEnd, SequenceId};
use crate::engine::request::{SamplingParams, TokenId};

/// Whether the host knows a sequence's last token, or a step in flight samples it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastToken {
    Known,
    Awaited,
}

/// The end of a bad word, which must not be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadEnd {
    pub(crate) token: TokenId,
    /// Only where this is the token that is awaited.
    pub(crate) after: Option<TokenId>,
}

impl Sampler {
    /// A sampler for a device that counts tokens by itself.
    pub(crate) fn on_device(eos_token_ids: Vec<TokenId>, num_threads: usize) -> Self {
        Self { counts_tokens: false, ..Self::new(eos_token_ids, num_threads) }
    }

    /// A live sequence's parameters, and which of its request's completions it is.
    pub(crate) fn params(&self, id: SequenceId) -> Option<(&SamplingParams, u32)> {
        self.sequences.get(&id).map(|state| (&*state.params, state.index))
    }

    /// The model's own end tokens.
    pub(crate) fn eos_token_ids(&self) -> &[TokenId] {
        &self.eos_token_ids
    }

    /// Whether the tokens that a sequence may gain follow from its last one.
    pub(crate) fn has_grammar(&self, id: SequenceId) -> bool {
        let state = self.sequences.get(&id);
        state.is_some_and(|state| matches!(state.constraint, Some(Constraint::Grammar(_))))
    }

    /// Gives what would complete a bad word of the sequence to `take`, by the tokens that are known and
    /// `drafts` after them.
    pub(crate) fn bad_ends(
        &self,
        id: SequenceId,
        (last, drafts): (LastToken, &[TokenId]),
        take: impl FnMut(BadEnd),
    ) {
        let words = self.sequences.get(&id).and_then(|state| state.bad_words.as_ref());
        let Some(words) = words else { return };
        if drafts.is_empty() {
            return ends(words, last).for_each(take);
        }
        let mut after = words.clone();
        drafts.iter().for_each(|draft| after.add(*draft));
        ends(&after, last).for_each(take);
    }

    /// Finds, on `cpu`'s threads, what the grammars of these sequences allow next.
    pub(crate) fn find_allowed(&mut self, cpu: &Cpu, mut ids: Vec<SequenceId>) {
        let sequences = &self.sequences;
        cpu.parallel(&mut ids, |_, id| {
            let state = sequences.get(id);
            if let Some(Constraint::Grammar(walk)) =
                state.and_then(|state| state.constraint.as_ref())
            {
                walk.lock().prepare();
            }
        });
    }

    /// Gives what a sequence's grammar allows next, a bit for each token, to `take`; nothing where the text has
    /// ended, or the next token can't be found within the limits.
    pub(crate) fn with_allowed(&self, id: SequenceId, take: impl FnOnce(&[u32])) {
        let constraint = self.sequences.get(&id).and_then(|state| state.constraint.as_ref());
        if let Some(Constraint::Grammar(walk)) = constraint
            && let Ok(allowed) = walk.lock().allowed()
        {
            take(allowed);
        }
    }

    /// Takes the token that the device sampled for a sequence.
    pub(crate) fn learn(&mut self, id: SequenceId, token: TokenId) -> Option<ConstraintEnd> {
        let state = self.sequences.get_mut(&id)?;
        if let Some(words) = &mut state.bad_words {
            words.add(token);
        }
        state.constraint.as_ref()?.begin().accept(token)
    }

    /// Why the device sampled nothing for a sequence.
    pub(crate) fn why_none(&self, id: SequenceId) -> ConstraintEnd {
        let constraint = self.sequences.get(&id).and_then(|state| state.constraint.as_ref());
        match constraint {
            Some(Constraint::Grammar(walk)) if walk.lock().allowed().is_err() => {
                ConstraintEnd::Exhausted
            }
            Some(_) | None => ConstraintEnd::BadWord,
        }
    }
}

fn ends(words: &BadWords, last: LastToken) -> impl Iterator<Item = BadEnd> {
    words.params.bad_words.iter().filter_map(move |word| {
        let (&token, before) = word.split_last()?;
        let (after, before) = match (last, before.split_last()) {
            (LastToken::Awaited, Some((&after, before))) => (Some(after), before),
            (LastToken::Awaited | LastToken::Known, _) => (None, before),
        };
        words.last.ends_with(before).then_some(BadEnd { token, after })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_end_of_a_bad_word_names_the_token_that_is_awaited() {
        let bad_words = vec![vec![1], vec![2, 3], vec![4, 2, 5], vec![4, 4, 6]];
        let params = Arc::new(SamplingParams { bad_words, ..SamplingParams::default() });
        let mut words = BadWords::needed_by(&params).unwrap();
        words.add(4);
        let ends = |words: &BadWords, last| ends(words, last).collect::<Vec<_>>();
        let end = |token, after| BadEnd { token, after };

        let awaited = ends(&words, LastToken::Awaited);
        assert_eq!(awaited, [end(1, None), end(3, Some(2)), end(5, Some(2)), end(6, Some(4))]);
        assert_eq!(ends(&words, LastToken::Known), [end(1, None)]);

        words.add(2);
        assert_eq!(ends(&words, LastToken::Known), [1, 3, 5].map(|token| end(token, None)));
    }
}
