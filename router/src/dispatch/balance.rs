//! Which of several workers gets a request. Pure: the same numbers give the same choice.
//!
//! Workers that are too far ahead of the least loaded one are left out: a request would wait longer
//! there than its work takes. Of the others, the one that has seen the longest beginning of the prompt
//! saves the most work. Where none has seen any, the better of two random ones gets it (Mitzenmacher,
//! 2001), and has seen that beginning from then on. So a beginning that everyone uses spreads over as
//! many workers as it keeps busy.

use sconce_proto::worker::Submit;

/// Tokens of a completion that are counted at most: few are as long as they may be.
const MAX_EXPECTED_TOKENS: u64 = 256;
/// What a request costs at least: its place in the batch.
const MIN_COST: u64 = 32;
/// Tokens by which a worker may always be ahead: a few short requests are no load.
const MIN_SLACK: u64 = 1024;
/// Requests like this one by which it may be ahead.
const SLACK_REQUESTS: u64 = 4;

/// A worker that could take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Tokens of the prompt that it need not compute.
    pub(super) num_matched: u64,
    /// Tokens that it has yet to compute.
    pub(super) load: u64,
}

/// The most that a worker may have to do and still get a request of that cost.
fn bound(least: u64, cost: u64) -> u64 {
    let slack = cost.saturating_mul(SLACK_REQUESTS).max(MIN_SLACK);
    least.saturating_mul(2).saturating_add(slack)
}

/// Tokens that a request adds to a worker that has so many of its prompt.
pub(super) fn cost(submit: &Submit, num_matched: u64) -> u64 {
    let max_tokens = submit.sampling.as_ref().map_or(0, |sampling| sampling.max_tokens);
    let completion = u64::from(max_tokens).min(MAX_EXPECTED_TOKENS) * u64::from(submit.n);
    let prompt = (submit.prompt.len() as u64).saturating_sub(num_matched);
    (prompt + completion).max(MIN_COST)
}

/// Which candidate gets a request that costs so much where nothing of it is known. `draw` draws a
/// number below its argument.
pub(super) fn choose(
    candidates: &[Candidate],
    cost: u64,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let least = candidates.iter().map(|candidate| candidate.load).min()?;
    let bound = bound(least, cost);
    let near: Vec<_> =
        candidates.iter().enumerate().filter(|(_, candidate)| candidate.load <= bound).collect();
    let by_prefix = |(_, candidate): &&(usize, &Candidate)| {
        (candidate.num_matched, std::cmp::Reverse(candidate.load))
    };
    let (longest, best) = near.iter().max_by_key(by_prefix)?;
    if best.num_matched > 0 {
        return Some(*longest);
    }
    let first = draw(near.len());
    let second = match near.len() {
        1 => first,
        num => (first + 1 + draw(num - 1)) % num,
    };
    let two = [near.get(first)?, near.get(second)?];
    two.into_iter().min_by_key(|(_, candidate)| candidate.load).map(|(i, _)| *i)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(pairs: &[(u64, u64)]) -> Vec<Candidate> {
        let candidate =
            |(num_matched, load): &(u64, u64)| Candidate { num_matched: *num_matched, load: *load };
        pairs.iter().map(candidate).collect()
    }

    #[test]
    fn the_longest_prefix_wins_until_its_worker_is_too_far_ahead() {
        let near = candidates(&[(0, 0), (640, 2000), (320, 0)]);
        let far = candidates(&[(0, 10), (640, 2000 + 4 * 900 + 20), (320, 10)]);
        let first = |_| 0;

        assert_eq!(choose(&near, 900, first), Some(1));
        assert_eq!(choose(&far, 900, first), Some(2));
        assert_eq!(choose(&[], 900, first), None);
    }

    #[test]
    fn of_equal_prefixes_the_less_loaded_worker_wins() {
        let equal = candidates(&[(64, 500), (64, 100), (64, 300)]);
        assert_eq!(choose(&equal, 100, |_| 0), Some(1));
    }

    proptest! {
        #[test]
        fn without_a_prefix_it_is_never_the_worse_of_two(
            loads in prop::collection::vec(0..10_000u64, 2..8),
            seed in any::<usize>(),
        ) {
            let pairs: Vec<_> = loads.iter().map(|load| (0, *load)).collect();

            let chosen = choose(&candidates(&pairs), 10, |below| seed % below).unwrap();

            let worst = *loads.iter().max().unwrap();
            let num_worst = loads.iter().filter(|load| **load == worst).count();
            prop_assert!(loads[chosen] < worst || num_worst > 1);
        }

        /// One beginning for everyone, and nothing ever ends: the worst case.
        #[test]
        fn a_hot_prefix_never_loads_a_worker_beyond_the_bound(
            num_workers in 2..6usize,
            num_prompt in 100..4000u64,
            seeds in prop::collection::vec(any::<u64>(), 400),
        ) {
            let mut workers = candidates(&vec![(0, 0); num_workers]);
            workers[0].num_matched = num_prompt;
            let full = num_prompt + 100;
            for seed in seeds {
                let draw = |below: usize| (seed % below as u64) as usize;
                let chosen = choose(&workers, full, draw).unwrap();
                let least = workers.iter().map(|worker| worker.load).min().unwrap();
                let worker = &mut workers[chosen];
                prop_assert!(worker.load <= bound(least, full));
                worker.load += full - worker.num_matched;
                worker.num_matched = num_prompt;
            }
        }
    }
}
