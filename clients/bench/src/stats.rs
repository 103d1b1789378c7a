//! Percentiles, and how sure one can be of a difference.

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Times, collected as they come, in milliseconds.
///
/// Percentiles come from a histogram of microseconds with three significant digits, so that any
/// number of them takes the same memory; mean and standard deviation are exact (Welford, 1962).
#[derive(Clone, Debug)]
pub(crate) struct Samples {
    histogram: Histogram<u64>,
    count: u64,
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
}

/// What is told of a metric, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Distribution {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    pub(crate) std: f64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p75: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    #[serde(rename = "p99.9")]
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Distribution {
    /// A statistic by its name, `p99` or `mean`.
    pub(crate) fn stat(&self, name: &str) -> Option<f64> {
        Some(match name {
            "mean" => self.mean,
            "std" => self.std,
            "min" => self.min,
            "p50" | "median" => self.p50,
            "p75" => self.p75,
            "p90" => self.p90,
            "p95" => self.p95,
            "p99" => self.p99,
            "p99.9" | "p999" => self.p999,
            "max" => self.max,
            _ => return None,
        })
    }
}

impl Default for Samples {
    fn default() -> Self {
        #[expect(clippy::expect_used, reason = "three digits are a number of digits it knows")]
        let histogram = Histogram::new(3).expect("three significant digits are allowed");
        let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
        Self { histogram, count: 0, mean: 0.0, squares: 0.0, min, max }
    }
}

impl Samples {
    pub(crate) fn push(&mut self, ms: f64) {
        self.push_n(ms, 1);
    }

    /// Takes a time that `count` of something had.
    pub(crate) fn push_n(&mut self, ms: f64, count: u64) {
        if count == 0 {
            return;
        }
        let micros = (ms * 1e3).round().max(0.0) as u64;
        // It grows by itself, as far as 64 bits go; a duration that is longer is no time of a request.
        let _ = self.histogram.record_n(micros, count);
        self.count += count;
        let distance = ms - self.mean;
        self.mean += distance * count as f64 / self.count as f64;
        self.squares += distance * (ms - self.mean) * count as f64;
        self.min = self.min.min(ms);
        self.max = self.max.max(ms);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The time that a share of `quantile` is not above.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        (self.histogram.value_at_quantile(quantile) as f64 / 1e3).clamp(self.min, self.max)
    }

    /// All of it. `None` without a sample.
    pub(crate) fn distribution(&self) -> Option<Distribution> {
        (!self.is_empty()).then(|| Distribution {
            count: self.count,
            mean: self.mean,
            std: (self.squares / self.count as f64).sqrt(),
            min: self.min,
            p50: self.quantile(0.5),
            p75: self.quantile(0.75),
            p90: self.quantile(0.9),
            p95: self.quantile(0.95),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.max,
        })
    }
}

/// How many of something are from one time up to another, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bin {
    pub(crate) from: f64,
    pub(crate) to: f64,
    pub(crate) count: u64,
}

impl Samples {
    /// Equal bins from the least to the 99.5th percentile; what is above counts into the last.
    pub(crate) fn bins(&self, num_bins: usize) -> Vec<Bin> {
        if self.is_empty() || num_bins == 0 {
            return Vec::new();
        }
        let (low, high) = (self.min, self.quantile(0.995));
        let width = ((high - low) / num_bins as f64).max(1e-3);
        let edge = |index: usize| low + index as f64 * width;
        let mut bins: Vec<_> = (0..num_bins)
            .map(|index| Bin { from: edge(index), to: edge(index + 1), count: 0 })
            .collect();
        for step in self.histogram.iter_recorded() {
            let ms = step.value_iterated_to() as f64 / 1e3;
            let index = ((ms - low) / width).max(0.0) as usize;
            bins[index.min(num_bins - 1)].count += step.count_at_value();
        }
        bins
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(times: I) -> Self {
        let mut samples = Self::default();
        times.into_iter().for_each(|ms| samples.push(ms));
        samples
    }
}

/// A statistic of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Statistic {
    Mean,
    /// The nearest rank.
    Quantile(f64),
}

impl Statistic {
    /// Of `values`, which are put into another order. At least one.
    pub(crate) fn of(self, values: &mut [f64]) -> f64 {
        match self {
            Self::Mean => values.iter().sum::<f64>() / values.len() as f64,
            Self::Quantile(quantile) => {
                let rank = (quantile * values.len() as f64).ceil() as usize;
                let index = rank.clamp(1, values.len()) - 1;
                *values.select_nth_unstable_by(index, f64::total_cmp).1
            }
        }
    }
}

/// An estimate, and where it is with a probability of 95 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Interval {
    pub(crate) estimate: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// By how much the statistic of `b` is above that of `a`, as a share of the latter: the percentile
/// bootstrap (Efron, 1979), each sample drawn from itself with replacement. `None` of too few.
pub(crate) fn relative_change(a: &[f64], b: &[f64], statistic: Statistic) -> Option<Interval> {
    const NUM_DRAWS: usize = 2000;
    if a.len() < 5 || b.len() < 5 {
        return None;
    }
    let change = |a: &mut [f64], b: &mut [f64]| {
        let (a, b) = (statistic.of(a), statistic.of(b));
        (a != 0.0).then(|| b / a - 1.0)
    };
    let estimate = change(&mut a.to_vec(), &mut b.to_vec())?;
    let mut rng = StdRng::seed_from_u64(0);
    let mut drawn = (vec![0.0; a.len()], vec![0.0; b.len()]);
    let mut draw = |from: &[f64], into: &mut [f64]| {
        into.iter_mut().for_each(|value| *value = from[rng.random_range(0..from.len())]);
    };
    let mut changes = Vec::with_capacity(NUM_DRAWS);
    for _ in 0..NUM_DRAWS {
        draw(a, &mut drawn.0);
        draw(b, &mut drawn.1);
        changes.extend(change(&mut drawn.0, &mut drawn.1));
    }
    changes.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| changes.get((share * (changes.len() - 1) as f64).round() as usize);
    Some(Interval { estimate, low: *at(0.025)?, high: *at(0.975)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand_distr::{Distribution as _, Normal};

    use super::*;

    proptest! {
        #[test]
        fn statistics_are_those_of_a_naive_reading(
            times in proptest::collection::vec((0.001..100_000.0f64, 1..4u64), 1..300),
        ) {
            let mut samples = Samples::default();
            times.iter().for_each(|(ms, count)| samples.push_n(*ms, *count));
            let mut all: Vec<f64> = Vec::new();
            times.iter().for_each(|(ms, n)| all.extend(std::iter::repeat_n(*ms, *n as usize)));
            all.sort_unstable_by(f64::total_cmp);
            let told = samples.distribution().unwrap();

            prop_assert_eq!(told.count, all.len() as u64);
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance = all.iter().map(|ms| (ms - mean).powi(2)).sum::<f64>() / all.len() as f64;
            prop_assert!((told.mean - mean).abs() <= 1e-9 * mean);
            prop_assert!((told.std - variance.sqrt()).abs() <= 1e-6 * (mean + variance.sqrt()));
            prop_assert_eq!((told.min, told.max), (all[0], all[all.len() - 1]));
            for (name, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)] {
                let rank = ((quantile * all.len() as f64).ceil() as usize).max(1);
                let exact = all[rank - 1];
                let found = told.stat(name).unwrap();
                // A thousandth of it, and half of the histogram's unit.
                prop_assert!((found - exact).abs() <= exact * 1e-3 + 6e-4, "{}: {} {}", name, found, exact);
                prop_assert_eq!(Statistic::Quantile(quantile).of(&mut all.clone()), exact);
            }
        }
    }

    #[test]
    fn bins_hold_everything_once() {
        let samples: Samples = (0..1000).map(f64::from).collect();
        let bins = samples.bins(10);

        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), 1000);
        assert!(bins.iter().all(|bin| (90..=110).contains(&bin.count)), "{bins:?}");
        let same: Samples = [5.0; 7].into_iter().collect();
        assert_eq!(same.bins(3).iter().map(|bin| bin.count).sum::<u64>(), 7);
        assert_eq!(Samples::default().bins(3), []);
    }

    #[test]
    fn nothing_has_no_distribution() {
        assert_eq!(Samples::default().distribution(), None);
        assert_eq!(Distribution::default().stat("p42"), None);
    }

    #[test]
    fn a_difference_is_found_and_none_is_not() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut draw = |mean: f64| -> Vec<f64> {
            let normal = Normal::new(mean, 10.0).unwrap();
            (0..400).map(|_| normal.sample(&mut rng)).collect()
        };
        let (a, same, slower) = (draw(100.0), draw(100.0), draw(110.0));

        for statistic in [Statistic::Mean, Statistic::Quantile(0.5)] {
            let none = relative_change(&a, &same, statistic).unwrap();
            assert!(none.low < 0.0 && none.high > 0.0, "{none:?}");
            let some = relative_change(&a, &slower, statistic).unwrap();
            assert!(some.low > 0.05 && some.high < 0.15, "{some:?}");
        }
        assert_eq!(relative_change(&a, &a[..4], Statistic::Mean), None);
    }

    /// Of many pairs without a difference, about one in twenty may seem to have one.
    #[test]
    fn intervals_are_as_wide_as_they_say() {
        let mut rng = StdRng::seed_from_u64(11);
        let normal = Normal::new(100.0, 20.0).unwrap();
        let mut draw = || -> Vec<f64> { (0..60).map(|_| normal.sample(&mut rng)).collect() };
        let misses = (0..100).filter(|_| {
            let change = relative_change(&draw(), &draw(), Statistic::Mean).unwrap();
            change.low > 0.0 || change.high < 0.0
        });

        let misses = misses.count();
        assert!((1..=13).contains(&misses), "{misses}");
    }
}
