//! Steps that only decode, captured: one graph for each number of tokens that they are padded to. Drafts are
//! tokens as others are.

use std::collections::HashMap;

use sconce_kernels::cuda::{Error, Graph, Stages};

use super::sampling::Needs;
use crate::engine::plan::MAX_DRAFTS;
use crate::runner::ExecutorLimits;

/// Numbers of tokens beyond which steps are not captured: the host is fast enough for them.
const MAX_SIZE: usize = 512;

/// Tokens of a step with drafts, at most: eight sequences have some.
const MAX_DRAFTING: usize = 8 + MAX_DRAFTS;

/// What a graph does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// A step, and its samples but for those that are deferred.
    Step,
    /// Draws samples that were deferred.
    Deferred,
}

/// What a graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) part: Part,
    /// Tokens, or samples that were deferred, padding included.
    pub(super) size: usize,
    /// What their samples need.
    pub(super) needs: Needs,
}

/// Captured steps.
pub(super) struct Graphs {
    sizes: Vec<usize>,
    /// Of steps without drafts.
    largest: usize,
    captured: HashMap<Key, Graph>,
}

impl Graphs {
    pub(super) fn new(enabled: bool, limits: &ExecutorLimits) -> Self {
        let (seqs, tokens) = (limits.max_num_seqs as usize, limits.max_num_batched_tokens as usize);
        let largest = seqs.min(tokens).min(MAX_SIZE);
        let drafting = (seqs + MAX_DRAFTS).min(tokens);
        let sizes = if enabled { sizes(largest, drafting) } else { Vec::new() };
        Self { sizes, largest, captured: HashMap::new() }
    }

    /// The size that so many tokens are padded to. `None`: they are not captured.
    pub(super) fn size(&self, num_tokens: usize) -> Option<usize> {
        let at = self.sizes.partition_point(|size| *size < num_tokens);
        self.sizes.get(at).copied()
    }

    /// All sizes, ascending.
    pub(super) fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// What to capture before the first request.
    pub(super) fn first(&self) -> Vec<Key> {
        let largest = self.sizes.iter().find(|size| **size == self.largest);
        let mut sizes: Vec<_> = self.sizes.first().into_iter().chain(largest).copied().collect();
        sizes.dedup();
        let needs = [Stages::Greedy, Stages::Filters]
            .map(|stages| Needs { stages: Some(stages), logprobs: false });
        sizes
            .into_iter()
            .flat_map(|size| needs.map(|needs| Key { part: Part::Step, size, needs }))
            .collect()
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.captured.contains_key(&key)
    }

    pub(super) fn insert(&mut self, key: Key, graph: Graph) {
        self.captured.insert(key, graph);
    }

    /// Launches what was captured.
    pub(super) fn launch(&self, key: Key) -> Result<(), Error> {
        self.captured.get(&key).map_or(Ok(()), Graph::launch)
    }
}

/// Every number up to 8, where a padded row costs most, multiples of 8 up to 64, then of 32; the greatest of
/// steps without drafts; and multiples of 4 beyond that few sequences come to with drafts.
fn sizes(most: usize, drafting: usize) -> Vec<usize> {
    let steps = (1..8).chain((8..64).step_by(8)).chain((64..most).step_by(32));
    let plain = steps.filter(|size| *size < most).chain([most]);
    let few = (4..=MAX_DRAFTING).step_by(4).filter(|size| *size > most && *size <= drafting);
    plain.chain(few).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_padded_to_the_next_size() {
        let limits = |max_num_seqs| ExecutorLimits {
            max_num_seqs,
            max_num_batched_tokens: 2048,
            ..ExecutorLimits::default()
        };
        let graphs = Graphs::new(true, &limits(100));
        let sizes = [1, 7, 8, 9, 63, 64, 65, 96, 97, 100].map(|n| graphs.size(n));

        let expected = [1, 7, 8, 16, 64, 64, 96, 96, 100, 100];
        assert_eq!(sizes, expected.map(Some));
        assert_eq!(graphs.size(101), None);
        let first: Vec<_> = graphs.first().iter().map(|key| key.size).collect();
        assert_eq!(first, [1, 1, 100, 100]);
        let alone = Graphs::new(true, &limits(1));
        assert_eq!(alone.first().len(), 2);
        let sizes = [1, 2, 4, 5, 8, 23, 24, 25].map(|n| alone.size(n));
        let some = Some;
        assert_eq!(sizes, [some(1), some(4), some(4), some(8), some(8), some(24), some(24), None]);
        assert_eq!(Graphs::new(false, &limits(100)).size(1), None);
    }
}
