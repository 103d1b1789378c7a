//! Conversations that are made up: random words, of lengths that are drawn.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::{Session, Turn, words};
use crate::length::Length;
use crate::request::Kind;

/// How conversations are made up.
#[derive(Clone, Debug)]
pub(crate) struct Synthetic {
    pub(crate) seed: u64,
    /// Words of a prompt, without the shared prefix.
    pub(crate) input: Length,
    /// Most tokens of an answer.
    pub(crate) output: Length,
    /// Requests of a conversation.
    pub(crate) turns: Length,
    /// Texts of a request for embeddings.
    pub(crate) texts: usize,
    /// Prefixes that conversations share, and the words of each.
    pub(crate) prefixes: Option<(usize, Length)>,
    /// Shares of requests with tools, and of those with a schema.
    pub(crate) tools: f64,
    pub(crate) schema: f64,
}

impl Synthetic {
    pub(super) fn session(&self, index: usize) -> Session {
        let mut rng = self.rng(index as u64);
        let before = match self.prefixes {
            Some((count, length)) => {
                let prefix = self.prefix(rng.random_range(0..count), length);
                vec![json!({"role": "system", "content": prefix})]
            }
            None => Vec::new(),
        };
        let num_turns = self.turns.sample(&mut rng);
        let turns = (0..num_turns).map(|_| self.turn(&mut rng)).collect();
        Session { before, turns, ..Session::default() }
    }

    fn turn(&self, rng: &mut StdRng) -> Turn {
        let mut text = || {
            let mut text = String::new();
            words::append(&mut text, self.input.sample(rng), rng);
            text
        };
        let (first, more) = (text(), (1..self.texts).map(|_| text()).collect());
        let drawn: f64 = rng.random();
        let kind = match drawn {
            _ if drawn < self.tools => Kind::Tools,
            _ if drawn < self.tools + self.schema => Kind::Schema,
            _ => Kind::Text,
        };
        let max_tokens = Some(self.output.sample(rng));
        Turn { text: first, more, max_tokens, kind, ..Turn::default() }
    }

    fn prefix(&self, index: usize, length: Length) -> String {
        // Of another stream of numbers than any conversation's.
        let mut rng = self.rng(u64::MAX - index as u64);
        let mut text = String::new();
        words::append(&mut text, length.sample(&mut rng), &mut rng);
        text
    }

    fn rng(&self, index: u64) -> StdRng {
        // Seeds are spread by the generator's own start; equal products of two pairs are no matter.
        StdRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn synthetic() -> Synthetic {
        Synthetic {
            seed: 1,
            input: Length::Fixed(20),
            output: Length::Fixed(8),
            turns: Length::Uniform(1, 4),
            texts: 1,
            prefixes: Some((3, Length::Fixed(50))),
            tools: 0.25,
            schema: 0.25,
        }
    }

    #[test]
    fn conversations_are_as_asked_for_and_the_same_each_time() {
        let synthetic = synthetic();
        let sessions: Vec<_> = (0..200).map(|index| synthetic.session(index)).collect();

        assert_eq!(sessions[7], synthetic.session(7));
        assert_ne!(sessions[7], Synthetic { seed: 2, ..synthetic }.session(7));
        let prefixes: HashSet<_> = sessions.iter().map(|s| s.before[0].to_string()).collect();
        assert_eq!(prefixes.len(), 3);
        let turns: Vec<_> = sessions.iter().flat_map(|session| &session.turns).collect();
        let texts: HashSet<_> = turns.iter().map(|turn| &turn.text).collect();
        assert_eq!(texts.len(), turns.len());
        assert!(turns.iter().all(|turn| turn.text.split(' ').count() == 20));
        for kind in [Kind::Tools, Kind::Schema] {
            let share = turns.iter().filter(|t| t.kind == kind).count() as f64 / turns.len() as f64;
            assert!((0.15..0.35).contains(&share), "{kind:?}: {share}");
        }
    }
}
