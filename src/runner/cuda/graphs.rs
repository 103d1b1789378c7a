//! Steps that only decode, captured: one graph for each number of sequences that they are padded to.

use std::collections::HashMap;

use sconce_kernels::cuda::{Error, Graph, Stages};

use super::sampling::Needs;
use crate::runner::ExecutorLimits;

/// Numbers of sequences beyond which steps are not captured: the host is fast enough for them.
const MAX_SIZE: usize = 512;

/// What a graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Sequences, padding included.
    pub(super) size: usize,
    /// What their samples need.
    pub(super) needs: Needs,
}

/// Captured steps.
pub(super) struct Graphs {
    sizes: Vec<usize>,
    captured: HashMap<Key, Graph>,
}

impl Graphs {
    pub(super) fn new(enabled: bool, limits: &ExecutorLimits) -> Self {
        let most = (limits.max_num_seqs as usize).min(limits.max_num_batched_tokens as usize);
        let sizes = if enabled { sizes(most.min(MAX_SIZE)) } else { Vec::new() };
        Self { sizes, captured: HashMap::new() }
    }

    /// The size that so many sequences are padded to. `None`: they are not captured.
    pub(super) fn size(&self, num_sequences: usize) -> Option<usize> {
        let at = self.sizes.partition_point(|size| *size < num_sequences);
        self.sizes.get(at).copied()
    }

    /// What to capture before the first request.
    pub(super) fn first(&self) -> Vec<Key> {
        let mut sizes: Vec<_> =
            self.sizes.first().into_iter().chain(self.sizes.last()).copied().collect();
        sizes.dedup();
        let needs = [Stages::Greedy, Stages::Filters]
            .map(|stages| Needs { stages: Some(stages), logprobs: false });
        sizes.into_iter().flat_map(|size| needs.map(|needs| Key { size, needs })).collect()
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

/// Every number up to 8, where a padded row costs most, multiples of 8 up to 64, then of 32; and the
/// greatest.
fn sizes(most: usize) -> Vec<usize> {
    let steps = (1..8).chain((8..64).step_by(8)).chain((64..most).step_by(32));
    steps.filter(|size| *size < most).chain([most]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_padded_to_the_next_size() {
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
        assert_eq!(Graphs::new(true, &limits(1)).first().len(), 2);
        assert_eq!(Graphs::new(false, &limits(100)).size(1), None);
    }
}
