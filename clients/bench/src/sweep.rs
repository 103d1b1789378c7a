//! The same workload at more and more load, until the server has no more to give.

use std::str::FromStr;

use crate::schedule::{Arrivals, Load};
use crate::summary::Summary;

/// Most runs of a sweep that ends by itself.
const MAX_POINTS: usize = 16;

/// Throughput that grows by less is not worth the load.
const GROWTH: f64 = 1.05;

/// A server that keeps up answers at least this share of what is asked.
const KEPT_UP: f64 = 0.9;

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Axis {
    Concurrency,
    Rate,
}

/// Which loads are tried.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sweep {
    axis: Axis,
    /// `None`: each twice the one before, from 1 on, until the server is saturated.
    points: Option<Vec<f64>>,
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (axis, points) = text.split_once('=').map_or((text, None), |(a, p)| (a, Some(p)));
        let axis = match axis {
            "concurrency" => Axis::Concurrency,
            "rate" => Axis::Rate,
            _ => return Err(format!("`{axis}` can't be swept: concurrency or rate")),
        };
        let Some(points) = points else { return Ok(Self { axis, points: None }) };
        let point = |text: &str| {
            let point = crate::units::positive(text)?;
            let is_whole = point.fract() == 0.0;
            (axis == Axis::Rate || is_whole)
                .then_some(point)
                .ok_or_else(|| format!("`{text}` is no number of requests"))
        };
        let points: Vec<_> = points.split(',').map(point).collect::<Result<_, _>>()?;
        Ok(Self { axis, points: Some(points) })
    }
}

impl Sweep {
    /// The load after those of `done`; `None`: enough is known.
    pub(crate) fn next(&self, done: &[Summary], burstiness: f64) -> Option<Load> {
        let point = match &self.points {
            Some(points) => *points.get(done.len())?,
            None if done.len() >= MAX_POINTS || self.is_saturated(done) => return None,
            None => 2f64.powi(i32::try_from(done.len()).ok()?),
        };
        Some(match self.axis {
            Axis::Concurrency => Load::Concurrency(point as usize),
            Axis::Rate => Load::Rate(Arrivals::constant(point, burstiness)),
        })
    }

    /// Whether the last run brought nothing more.
    fn is_saturated(&self, done: &[Summary]) -> bool {
        let [before @ .., last] = done else { return false };
        if last.completed == 0 {
            return true;
        }
        match self.axis {
            Axis::Concurrency => {
                before.last().is_some_and(|before| work(last) < work(before) * GROWTH)
            }
            // Of a short run the last answers come long after its end: the first point says little.
            Axis::Rate => {
                let offered = last.request_rate.as_f64().unwrap_or(f64::INFINITY);
                !before.is_empty() && last.request_throughput < offered * KEPT_UP
            }
        }
    }
}

/// What a server gets done a second: tokens, or requests where no tokens come.
fn work(summary: &Summary) -> f64 {
    if summary.total_output_tokens > 0 {
        summary.output_throughput
    } else {
        summary.request_throughput
    }
}

/// The run that did best: most good requests, where it is said what a good one is, or most work.
pub(crate) fn best(points: &[Summary]) -> Option<&Summary> {
    let merit = |summary: &Summary| summary.request_goodput.unwrap_or_else(|| work(summary));
    points.iter().max_by(|a, b| merit(a).total_cmp(&merit(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(output_throughput: f64) -> Summary {
        let (completed, total_output_tokens) = (1, 1);
        Summary { output_throughput, completed, total_output_tokens, ..Summary::default() }
    }

    #[test]
    fn load_doubles_until_nothing_more_comes() {
        let sweep: Sweep = "concurrency".parse().unwrap();

        assert_eq!(sweep.next(&[], 1.0), Some(Load::Concurrency(1)));
        assert_eq!(sweep.next(&[run(10.0)], 1.0), Some(Load::Concurrency(2)));
        assert_eq!(sweep.next(&[run(10.0), run(18.0)], 1.0), Some(Load::Concurrency(4)));
        assert_eq!(sweep.next(&[run(10.0), run(18.0), run(18.5)], 1.0), None);
        assert_eq!(sweep.next(&[Summary::default()], 1.0), None, "nothing was answered");
    }

    #[test]
    fn a_server_that_falls_behind_is_saturated() {
        let sweep: Sweep = "rate".parse().unwrap();
        let run = |rate: f64, request_throughput| Summary {
            request_rate: rate.into(),
            request_throughput,
            ..run(1.0)
        };

        let done = [run(1.0, 0.5), run(2.0, 1.9)];
        assert_eq!(sweep.next(&done, 1.0), Some(Load::Rate(Arrivals::constant(4.0, 1.0))));
        assert_eq!(sweep.next(&[run(1.0, 1.0), run(2.0, 1.5)], 1.0), None);
    }

    #[test]
    fn given_points_are_all_tried() {
        let sweep: Sweep = "rate=0.5,3".parse().unwrap();
        let none = [Summary::default(), Summary::default()];

        assert!(matches!(sweep.next(&none[..1], 1.0), Some(Load::Rate(rate)) if rate.to == 3.0));
        assert_eq!(sweep.next(&none, 1.0), None);
        for text in ["", "depth", "rate=", "rate=0", "concurrency=1.5", "rate=1,x"] {
            assert!(text.parse::<Sweep>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_best_run_has_most_good_requests() {
        let with = |goodput| Summary { request_goodput: goodput, ..run(9.0) };

        assert_eq!(best(&[run(1.0), run(5.0), run(4.0)]).unwrap().output_throughput, 5.0);
        let points = [with(Some(3.0)), with(Some(1.0))];
        assert_eq!(best(&points).unwrap().request_goodput, Some(3.0));
        assert_eq!(best(&[]), None);
    }
}
