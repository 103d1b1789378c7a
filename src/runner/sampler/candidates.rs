//! The tokens that may still be drawn, and the filters that thin them out.
//!
//! Candidates stay in the order of their ids. A filter ranks them, finds the last rank that it
//! keeps by selection instead of sorting, which is linear in the vocabulary, and drops the rest.
//! So a draw walks the same order whatever the filters, and logits that differ in the last bit
//! give the same token nearly always.

use super::vector::{exp, max, sum, sum_of_likely};

/// Tokens with their logits, and weights proportional to their probabilities.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    ids: Vec<u32>,
    logits: Vec<f32>,
    weights: Vec<f32>,
    ranks: Vec<u64>,
}

/// Weights are summed in blocks of this many, and a draw walks the sums first.
const BLOCK: usize = 256;

impl Candidates {
    /// Takes every token whose logit is above negative infinity and at least `minimum`. Infinity counts as the
    /// greatest number.
    pub(super) fn collect(&mut self, logits: &[f32], minimum: f32) {
        let minimum = minimum.max(f32::MIN);
        self.weights.clear();
        self.ids.resize(logits.len(), 0);
        self.logits.resize(logits.len(), 0.0);
        let mut kept = 0;
        // Without a branch: where the minimum cuts, nobody can predict.
        for (id, &logit) in logits.iter().enumerate() {
            self.ids[kept] = id as u32;
            self.logits[kept] = logit.min(f32::MAX);
            kept += usize::from(logit >= minimum);
        }
        self.ids.truncate(kept);
        self.logits.truncate(kept);
    }

    /// Keeps the `k` likeliest, at least one; of equal ones the lower ids.
    pub(super) fn keep_top_k(&mut self, k: usize) {
        let k = k.max(1);
        if k >= self.ids.len() {
            return;
        }
        self.rank(|candidates, i| descending(candidates.logits[i]));
        let (_, &mut last, _) = self.ranks.select_nth_unstable(k - 1);
        self.keep(last);
    }

    /// Sets the weights: a softmax at `temperature`, but for its denominator.
    pub(super) fn weigh(&mut self, temperature: f32) {
        let max = max(&self.logits);
        self.weights.clear();
        self.weights.extend(self.logits.iter().map(|logit| (logit - max) / temperature));
        exp(&mut self.weights);
    }

    /// Keeps the likeliest tokens until their probabilities add up to `mass`; the one that
    /// reaches it is kept (Holtzman et al., 2020). Weights must be set, at `temperature`.
    pub(super) fn keep_top_p(&mut self, mass: f32, temperature: f32) {
        let wanted = f64::from(mass) * self.total();
        self.drop_tail(wanted, temperature);
        self.rank(|candidates, i| descending(candidates.logits[i]));
        self.keep_mass(wanted);
    }

    /// Drops tokens far below the likeliest if the rest weighs at least `wanted`: most of a
    /// vocabulary, which then need not be ranked.
    fn drop_tail(&mut self, wanted: f64, temperature: f32) {
        let max = max(&self.logits);
        for distance in [4.0, 8.0, 16.0] {
            let cutoff = max - distance * temperature;
            if sum_of_likely(&self.logits, &self.weights, cutoff) >= wanted {
                self.compact(|candidates, i| candidates.logits[i] >= cutoff);
                return;
            }
        }
    }

    /// Keeps the tokens whose surprise is nearest to the entropy until their probabilities add up
    /// to `mass` (Meister et al., 2022). Weights must be set.
    pub(super) fn keep_typical(&mut self, mass: f32) {
        let total = self.total();
        let surprise = |weight: f32| total.ln() - f64::from(weight).ln();
        let entropy: f64 = (self.weights.iter().filter(|&&weight| weight > 0.0))
            .map(|&weight| f64::from(weight) / total * surprise(weight))
            .sum();
        self.rank(|candidates, i| {
            let distance = (surprise(candidates.weights[i]) - entropy).abs() as f32;
            !descending(distance)
        });
        self.keep_mass(f64::from(mass) * total);
    }

    /// Draws one: `uniform` in `[0, 1)` names a point of the cumulated weights. `None` when there
    /// are no candidates. Weights must be set.
    pub(super) fn draw(&self, uniform: f64) -> Option<u32> {
        let mut left = uniform * self.total();
        let mut last = None;
        for (ids, weights) in self.ids.chunks(BLOCK).zip(self.weights.chunks(BLOCK)) {
            let block = sum(weights);
            if left >= block {
                left -= block;
                last = last_of_weight(ids, weights).or(last);
                continue;
            }
            for (&id, &weight) in ids.iter().zip(weights) {
                left -= f64::from(weight);
                if left < 0.0 {
                    return Some(id);
                }
            }
            // Rounding can leave a point just behind its block.
            return last_of_weight(ids, weights).or(last);
        }
        last
    }

    /// Fills `ranks`: `key` above, a candidate's index below, so that no two are equal.
    fn rank(&mut self, key: impl Fn(&Self, usize) -> u32) {
        let mut ranks = std::mem::take(&mut self.ranks);
        ranks.clear();
        ranks.extend((0..self.ids.len()).map(|i| u64::from(key(self, i)) << 32 | i as u64));
        self.ranks = ranks;
    }

    /// Summed as [`Self::draw`] does.
    fn total(&self) -> f64 {
        self.weights.chunks(BLOCK).map(sum).sum()
    }

    /// Keeps the lowest ranks whose weights add up to `wanted`, the reaching one included.
    fn keep_mass(&mut self, mut wanted: f64) {
        let weights = &self.weights;
        let weight_of = |rank: &u64| f64::from(weights[*rank as u32 as usize]);
        let mut ranks = &mut self.ranks[..];
        while ranks.len() > 32 {
            let (lower, upper) = halves(ranks);
            let mass_of_lower: f64 = lower.iter().map(weight_of).sum();
            if mass_of_lower >= wanted {
                ranks = lower;
            } else {
                wanted -= mass_of_lower;
                ranks = upper;
            }
        }
        ranks.sort_unstable();
        let mut last = None;
        for rank in ranks {
            last = Some(*rank);
            wanted -= weight_of(rank);
            if wanted <= 0.0 {
                break;
            }
        }
        if let Some(last) = last {
            self.keep(last);
        }
    }

    /// Keeps candidates up to the rank `last`.
    fn keep(&mut self, last: u64) {
        let index = |rank: u64| rank as u32 as usize;
        // Selection has reordered the ranks: find each candidate's again, in place.
        for i in 0..self.ranks.len() {
            while index(self.ranks[i]) != i {
                let to = index(self.ranks[i]);
                self.ranks.swap(i, to);
            }
        }
        self.compact(|candidates, i| candidates.ranks[i] <= last);
    }

    /// Keeps the candidates, by index, for which `keeps` holds.
    fn compact(&mut self, keeps: impl Fn(&Self, usize) -> bool) {
        let has_weights = !self.weights.is_empty();
        let mut kept = 0;
        for i in 0..self.ids.len() {
            let keeps = keeps(self, i);
            self.ids[kept] = self.ids[i];
            self.logits[kept] = self.logits[i];
            if has_weights {
                self.weights[kept] = self.weights[i];
            }
            kept += usize::from(keeps);
        }
        self.ids.truncate(kept);
        self.logits.truncate(kept);
        self.weights.truncate(kept);
    }

    #[cfg(test)]
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }
}

/// Splits `ranks` around their median.
fn halves(ranks: &mut [u64]) -> (&mut [u64], &mut [u64]) {
    let middle = ranks.len() / 2;
    ranks.select_nth_unstable(middle);
    ranks.split_at_mut(middle)
}

fn last_of_weight(ids: &[u32], weights: &[f32]) -> Option<u32> {
    weights.iter().rposition(|&weight| weight > 0.0).map(|i| ids[i])
}

/// Maps floats to integers that sort the other way round. NaN must not occur.
pub(super) fn descending(value: f32) -> u32 {
    // Adding zero makes one zero of two.
    let bits = (value + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !ascending
}
