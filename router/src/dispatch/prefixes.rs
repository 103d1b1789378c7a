//! Which beginnings of prompts a worker has seen lately: the router's guess at its prefix cache.
//!
//! A prompt is cut into the worker's blocks, and each block named by a hash of it and of all before
//! it, the principal's salt first: two prompts have equal names exactly as far as their cached blocks
//! can be shared. The guess may be wrong in both directions, and then costs time, never an answer.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// The name of a prompt's block, and so of the prompt up to there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Block(u64);

/// Blocks of one prompt that are named at most: the beginnings of longer ones differ before that, or
/// are worth the same everywhere.
const MAX_PROMPT_BLOCKS: usize = 2048;
/// Blocks that are remembered of one worker at least and at most, however many it has.
const CAPACITY: std::ops::RangeInclusive<usize> = 256..=65_536;

/// Names blocks. The names mean nothing to another one, so nobody outside can make two equal.
#[derive(Default)]
pub(super) struct Namer(RandomState);

/// The blocks that one worker has seen, the longest unused ones forgotten first, about: they are in
/// two halves, and when the younger one is full, the older one is dropped.
pub(super) struct Prefixes {
    young: HashSet<Block>,
    old: HashSet<Block>,
    max_young: usize,
}

impl Namer {
    /// The names of a prompt's whole blocks, in order.
    pub(super) fn blocks(&self, salt: &[u8], prompt: &[u32], block_size: u32) -> Vec<Block> {
        let mut parent = self.0.hash_one(salt);
        let whole = prompt.chunks_exact(block_size.max(1) as usize).take(MAX_PROMPT_BLOCKS);
        let name = |tokens: &[u32]| {
            parent = self.0.hash_one((parent, tokens));
            Block(parent)
        };
        whole.map(name).collect()
    }
}

impl Prefixes {
    /// Of a worker with so many blocks.
    pub(super) fn new(num_blocks: usize) -> Self {
        let max_young = num_blocks.clamp(*CAPACITY.start(), *CAPACITY.end()) / 2;
        Self { young: HashSet::new(), old: HashSet::new(), max_young }
    }

    /// How many of a prompt's first blocks it has seen.
    pub(super) fn num_matched(&self, blocks: &[Block]) -> usize {
        let is_known = |block: &&Block| self.young.contains(*block) || self.old.contains(*block);
        blocks.iter().take_while(is_known).count()
    }

    /// It is sent a prompt of these blocks.
    pub(super) fn insert(&mut self, blocks: &[Block]) {
        for block in blocks {
            if self.young.len() >= self.max_young {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(*block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(namer: &Namer, salt: u8, prompt: &[u32]) -> Vec<Block> {
        namer.blocks(&[salt; 16], prompt, 4)
    }

    #[test]
    fn prompts_share_names_as_far_as_they_are_equal_and_only_with_one_salt() {
        let namer = Namer::default();
        let first = blocks(&namer, 1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        let second = blocks(&namer, 1, &[1, 2, 3, 4, 5, 6, 7, 0]);

        assert_eq!((first.len(), second.len()), (2, 2));
        assert_eq!(first[0], second[0]);
        assert_ne!(first[1], second[1]);
        assert_ne!(first[0], blocks(&namer, 2, &[1, 2, 3, 4])[0]);
        // Equal tokens in another place are another block.
        let twice = blocks(&namer, 1, &[1, 2, 3, 4, 1, 2, 3, 4]);
        assert_ne!(twice[0], twice[1]);
        assert!(blocks(&namer, 1, &[1, 2, 3]).is_empty());
    }

    #[test]
    fn what_was_sent_matches_up_to_the_first_block_that_was_not() {
        let namer = Namer::default();
        let mut prefixes = Prefixes::new(1000);
        let sent = blocks(&namer, 1, &[1; 12]);

        prefixes.insert(&sent[..2]);

        assert_eq!(prefixes.num_matched(&sent), 2);
        assert_eq!(prefixes.num_matched(&sent[1..]), 1);
        assert_eq!(prefixes.num_matched(&blocks(&namer, 1, &[2; 12])), 0);
    }

    #[test]
    fn the_index_is_bounded_and_keeps_what_is_used() {
        let namer = Namer::default();
        let mut prefixes = Prefixes::new(0);
        let hot = blocks(&namer, 1, &[7; 8]);
        for other in 0..10_000 {
            prefixes.insert(&hot);
            prefixes.insert(&blocks(&namer, 1, &[other; 4]));
            assert_eq!(prefixes.num_matched(&hot), 2);
            assert!(prefixes.young.len() + prefixes.old.len() <= *CAPACITY.start());
        }
        assert_eq!(prefixes.num_matched(&blocks(&namer, 1, &[0; 4])), 0);
    }

    #[test]
    fn of_a_long_prompt_the_beginning_is_named() {
        let long = vec![1; 5 * MAX_PROMPT_BLOCKS];
        assert_eq!(blocks(&Namer::default(), 1, &long).len(), MAX_PROMPT_BLOCKS);
    }
}
