//! Log-probabilities of a prompt's own tokens, which come before the first token of its completions.

use sconce_proto::worker::PromptLogprob;

use super::TokenLogprob;
use crate::detokenizer::{Detokenizer, TokenTable};

/// A prompt's tokens, as far as they have come.
#[derive(Debug)]
pub struct Scores {
    /// Its first token, which follows nothing.
    pub first: u32,
    /// The others.
    pub rest: Vec<PromptLogprob>,
}

impl Scores {
    pub(super) fn new(first: u32) -> Self {
        Self { first, rest: Vec::new() }
    }

    /// The tokens as those of a text that begins with the prompt's, which is given.
    pub(super) fn tokens(
        &self,
        (prompt, num_logprobs): (&str, usize),
        tokens: &TokenTable,
    ) -> Vec<TokenLogprob> {
        let (mut detokenizer, mut text) = (Detokenizer::default(), String::new());
        let num_chars = prompt.chars().count();
        let mut offset = 0;
        // What a decoder adds or drops moves nothing beyond the prompt's end.
        let mut next = |token: u32| {
            let start = offset.min(num_chars);
            detokenizer.push(tokens.text(token), &mut text);
            offset += text.chars().count();
            text.clear();
            start
        };
        let first = TokenLogprob {
            token: self.first,
            logprob: None,
            top: Vec::new(),
            offset: next(self.first),
        };
        let rest = self.rest.iter().map(|score| TokenLogprob {
            token: score.token,
            logprob: Some(score.logprob),
            top: score.top.iter().take(num_logprobs).map(|top| (top.token, top.logprob)).collect(),
            offset: next(score.token),
        });
        std::iter::once(first).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::fixtures;

    #[test]
    fn tokens_have_the_offsets_of_their_text() {
        let model = fixtures::model("");
        let tokens = model.tokenizer.encode_fast("h\u{e9}l", false).unwrap().get_ids().to_vec();
        let mut scores = Scores::new(tokens[0]);
        let score = |token: &u32| PromptLogprob { token: *token, ..PromptLogprob::default() };
        scores.rest.extend(tokens[1..].iter().map(score));

        let listed = scores.tokens(("h\u{e9}l", 0), &model.tokens);

        // The second and the third token are the halves of one character.
        assert_eq!(listed.iter().map(|token| token.offset).collect::<Vec<_>>(), [0, 1, 1, 2]);
        assert_eq!(listed[0].logprob, None);
    }
}
