//! When requests are to be sent: fixed before the first one is, so that a slow server can't slow the
//! load down and hide how long its users would have waited.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Gamma};

/// Most arrivals of one schedule.
const MAX_ARRIVALS: usize = 10_000_000;

/// How load is put on a server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Load {
    /// So many at any time: the next is sent when one has ended.
    Concurrency(usize),
    /// So many a second, whatever the server does.
    Rate(Arrivals),
    /// At the times that a trace has, its clock running so many times faster.
    Trace { speed: f64 },
}

/// A renewal process of arrivals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Arrivals {
    /// Requests a second at the start.
    pub(crate) from: f64,
    /// Requests a second at the end.
    pub(crate) to: f64,
    /// The shape of the gamma distribution of gaps: 1 is a Poisson process, less comes in bursts,
    /// infinity comes like a clock.
    pub(crate) burstiness: f64,
}

/// When a schedule ends: at whichever comes first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Until {
    pub(crate) num_requests: Option<usize>,
    pub(crate) duration: Option<Duration>,
}

impl std::fmt::Display for Load {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Concurrency(count) => write!(f, "concurrency {count}"),
            Self::Rate(Arrivals { from, to, .. }) if from == to => write!(f, "{from} requests/s"),
            Self::Rate(Arrivals { from, to, .. }) => write!(f, "{from} to {to} requests/s"),
            Self::Trace { speed } => write!(f, "trace at {speed}x"),
        }
    }
}

impl Arrivals {
    pub(crate) fn constant(per_second: f64, burstiness: f64) -> Self {
        Self { from: per_second, to: per_second, burstiness }
    }

    /// Times since the start, in order.
    ///
    /// Gaps are drawn for one request a second, then the clock is bent so that the rate is what it
    /// should be at each moment: the inverse of the expected number of arrivals until then.
    pub(crate) fn times(self, until: Until, seed: u64) -> Vec<Duration> {
        let mut rng = StdRng::seed_from_u64(seed);
        let gamma = Gamma::new(self.burstiness, 1.0 / self.burstiness).ok();
        let end = until.duration.map_or(f64::INFINITY, |duration| duration.as_secs_f64());
        let most = until.num_requests.unwrap_or(MAX_ARRIVALS).min(MAX_ARRIVALS);
        let mut expected = 0.0;
        let mut times = Vec::new();
        while times.len() < most {
            let Some(seconds) = self.when(expected, end) else { break };
            if seconds >= end {
                break;
            }
            let Ok(time) = Duration::try_from_secs_f64(seconds) else { break };
            times.push(time);
            expected += gamma.map_or(1.0, |gamma| gamma.sample(&mut rng));
        }
        times
    }

    /// Seconds until `expected` arrivals are to be expected. The rate grows evenly until `end`.
    fn when(self, expected: f64, end: f64) -> Option<f64> {
        let slope = (self.to - self.from) / end;
        if slope == 0.0 || !end.is_finite() {
            return Some(expected / self.from);
        }
        // expected = from * t + slope * t^2 / 2; where it shrinks, it may never be reached.
        let root = self.from * self.from + 2.0 * slope * expected;
        (root >= 0.0).then(|| (root.sqrt() - self.from) / slope)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Until {
        Until { num_requests: None, duration: Some(Duration::from_secs(seconds)) }
    }

    #[test]
    fn a_clock_ticks_evenly() {
        let until = Until { num_requests: Some(4), duration: None };
        let times = Arrivals::constant(10.0, f64::INFINITY).times(until, 0);

        assert_eq!(times, [0, 100, 200, 300].map(Duration::from_millis));
    }

    #[test]
    fn burstiness_is_the_spread_of_gaps() {
        for burstiness in [0.25, 1.0, 4.0] {
            let times = Arrivals::constant(100.0, burstiness).times(seconds(400), 3);
            let gaps: Vec<_> = times.windows(2).map(|w| (w[1] - w[0]).as_secs_f64()).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance =
                gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;

            assert!((mean - 0.01).abs() < 0.0004, "{burstiness}: {mean}");
            // A gamma distribution's variance is its squared mean by its shape.
            let spread = variance / mean.powi(2) * burstiness;
            assert!((0.9..1.1).contains(&spread), "{burstiness}: {spread}");
        }
    }

    #[test]
    fn a_ramp_grows_evenly() {
        let ramp = Arrivals { from: 10.0, to: 30.0, burstiness: 1.0 };
        let times = ramp.times(seconds(200), 5);
        let first = times.iter().filter(|time| time.as_secs() < 100).count();

        assert!((3800..4200).contains(&times.len()), "{}", times.len());
        assert!((1400..1600).contains(&first), "{first}");
        let falling = Arrivals { from: 30.0, to: 10.0, burstiness: 1.0 }.times(seconds(200), 5);
        assert!((3800..4200).contains(&falling.len()), "{}", falling.len());
    }

    proptest! {
        #[test]
        fn times_are_in_order_and_the_same_for_a_seed(
            from in 0.1..500.0f64, to in 0.1..500.0f64, burstiness in 0.1..10.0f64, seed: u64,
        ) {
            let arrivals = Arrivals { from, to, burstiness };
            let until = Until { num_requests: Some(500), duration: Some(Duration::from_secs(5)) };
            let times = arrivals.times(until, seed);

            prop_assert!(times.is_sorted() && times.len() <= 500);
            prop_assert!(times.iter().all(|time| *time < Duration::from_secs(5)));
            prop_assert_eq!(times, arrivals.times(until, seed));
        }
    }
}
