//! Prompt lookup: guesses how a sequence goes on from what followed its last tokens before.
//!
//! Answers repeat their prompts, and themselves: edits, summaries, code, tables. An index holds
//! where each run of two to four tokens last ended. A slot of the table belongs to whichever run
//! was put there last, so memory is bounded and a step costs the same in a long context as in a
//! short one; what a slot says is compared with the tokens, so a guess is always a true repeat.

use super::request::TokenId;

/// Lengths of the runs that are looked for, the likeliest to be right first.
pub const LENGTHS: [usize; 3] = [4, 3, 2];

/// Of the table: 512 KiB.
const MAX_SLOTS: usize = 1 << 17;

const EMPTY: u32 = u32::MAX;

/// Where the runs of one sequence's tokens last ended.
#[derive(Clone, Debug)]
pub struct PromptLookup {
    /// By hash: the index of the token that followed.
    slots: Vec<u32>,
    /// Tokens of which the runs that end before them are indexed.
    num_indexed: usize,
}

/// An earlier occurrence of a sequence's last tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// The index of the token that followed it.
    pub next: usize,
    /// Which of [`LENGTHS`] it has.
    pub length: usize,
}

impl PromptLookup {
    /// The index of a sequence of at most `max_len` tokens, none of them indexed.
    pub fn new(max_len: usize) -> Self {
        let num_slots = (4 * max_len).next_power_of_two().min(MAX_SLOTS);
        Self { slots: vec![EMPTY; num_slots], num_indexed: 0 }
    }

    /// The last occurrence of the longest run that `tokens` end with. `tokens` begin with those of
    /// the call before.
    pub fn find(&mut self, tokens: &[TokenId]) -> Option<Match> {
        self.index(tokens);
        LENGTHS.iter().enumerate().find_map(|(length, &n)| {
            let run = &tokens[tokens.len().checked_sub(n)?..];
            let next = self.slots[self.slot(run)] as usize;
            let found = tokens.get(next.checked_sub(n)?..next)?;
            (found == run).then_some(Match { next, length })
        })
    }

    /// All runs that another token follows.
    fn index(&mut self, tokens: &[TokenId]) {
        for next in self.num_indexed..tokens.len() {
            for n in LENGTHS.into_iter().filter(|n| *n <= next) {
                let slot = self.slot(&tokens[next - n..next]);
                self.slots[slot] = next as u32;
            }
        }
        self.num_indexed = tokens.len();
    }

    fn slot(&self, run: &[TokenId]) -> usize {
        // A seed that no token is near: one that equals it would vanish, and runs of other lengths be
        // taken for this one.
        let seed = (run.len() as u64).wrapping_mul(0xd1b5_4a32_d192_ed03);
        let hash = run.iter().fold(seed, |hash, token| {
            (hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        });
        hash as usize & (self.slots.len() - 1)
    }
}

/// Appends to `drafts` what follows `next` in `tokens` and then in the drafts themselves, so that
/// a short period goes on, until there are `count`.
pub fn continue_from(tokens: &[TokenId], next: usize, count: usize, drafts: &mut Vec<TokenId>) {
    for at in next..next + count {
        let token = tokens.get(at).or_else(|| drafts.get(at - tokens.len())).copied();
        drafts.extend(token);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches backwards.
    fn naive(tokens: &[TokenId]) -> Option<Match> {
        LENGTHS.iter().enumerate().find_map(|(length, &n)| {
            let run = &tokens[tokens.len().checked_sub(n)?..];
            let next = (n..tokens.len()).rev().find(|next| &tokens[next - n..*next] == run)?;
            Some(Match { next, length })
        })
    }

    proptest! {
        /// What is found is a repeat, and with a table so much larger than the sequence it is
        /// nearly always the longest and last.
        #[test]
        fn finds_what_a_search_finds(tokens in prop::collection::vec(0..6_u32, 0..200)) {
            let mut lookup = PromptLookup::new(1 << 14);
            let mut num_equal = 0;
            for len in 0..=tokens.len() {
                let found = lookup.find(&tokens[..len]);
                if let Some(Match { next, length }) = found {
                    let n = LENGTHS[length];
                    prop_assert_eq!(&tokens[next - n..next], &tokens[len - n..len]);
                    prop_assert!(next < len);
                }
                num_equal += usize::from(found == naive(&tokens[..len]));
            }
            prop_assert!(num_equal * 20 >= (tokens.len() + 1) * 17, "{num_equal}");
        }
    }

    #[test]
    fn the_longest_run_wins_and_of_equal_ones_the_last() {
        let mut lookup = PromptLookup::new(100);

        let found = lookup.find(&[1, 2, 3, 4, 50, 2, 3, 4, 60, 3, 4, 70, 1, 2, 3, 4]);
        assert_eq!(found, Some(Match { next: 4, length: 0 }));

        let mut lookup = PromptLookup::new(100);
        let found = lookup.find(&[7, 8, 1, 7, 8, 2, 7, 8]);
        assert_eq!(found, Some(Match { next: 5, length: 2 }));
    }

    #[test]
    fn a_full_table_forgets_and_never_lies() {
        let mut lookup = PromptLookup::new(1);
        let tokens: Vec<TokenId> = (0..500).map(|i| i % 83).collect();
        for len in 0..tokens.len() {
            if let Some(Match { next, length }) = lookup.find(&tokens[..len]) {
                let n = LENGTHS[length];
                assert_eq!(tokens[next - n..next], tokens[len - n..len]);
            }
        }
        assert_eq!(lookup.slots.len(), 4);
    }

    #[test]
    fn a_short_period_goes_on() {
        let mut drafts = Vec::new();
        continue_from(&[9, 1, 2, 1, 2], 3, 7, &mut drafts);
        assert_eq!(drafts, [1, 2, 1, 2, 1, 2, 1]);
    }
}
