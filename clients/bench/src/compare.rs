//! Two runs beside each other, and which of their differences are not chance.

use serde::Serialize;

use crate::report::table;
use crate::stats::{Interval, Statistic, relative_change};
use crate::summary::Summary;

/// One number of two runs.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// As a share of `a`. `None` where there is too little to tell.
    pub(crate) change: Option<Interval>,
    pub(crate) verdict: Verdict,
}

/// What a difference means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Better,
    Worse,
    /// The interval holds no change.
    Same,
    /// Too few samples for an interval.
    Unknown,
}

/// Which way is good.
#[derive(Clone, Copy)]
enum Good {
    Less,
    More,
}

/// Every sample that a run has of something.
type Values = fn(&Summary) -> Vec<f64>;

/// The runs beside each other. What only one of them has is left out.
pub(crate) fn compare(a: &Summary, b: &Summary) -> Vec<Row> {
    let mut rows = Vec::new();
    let statistics = [
        ("mean", Statistic::Mean),
        ("p50", Statistic::Quantile(0.5)),
        ("p99", Statistic::Quantile(0.99)),
    ];
    let metrics: [(&str, Values); 3] = [
        ("TTFT", |run| times(run, &run.ttfts)),
        ("TPOT", |run| times(run, &run.tpots)),
        ("E2E", |run| times(run, &run.e2els)),
    ];
    for (metric, times) in metrics {
        for (name, statistic) in statistics {
            let name = format!("{metric} {name}");
            rows.extend(row(name, "ms", (&times(a), &times(b)), statistic, Good::Less));
        }
    }
    let rates: [(&str, Values); 2] = [
        ("output throughput", |run| rates(run, |tick| tick.output_tokens)),
        ("request throughput", |run| rates(run, |tick| tick.completed)),
    ];
    for ((name, rates), unit) in rates.into_iter().zip(["tokens/s", "1/s"]) {
        let pair = (&rates(a)[..], &rates(b)[..]);
        rows.extend(row(name.to_owned(), unit, pair, Statistic::Mean, Good::More));
    }
    rows
}

fn row(
    name: String,
    unit: &'static str,
    (a, b): (&[f64], &[f64]),
    statistic: Statistic,
    good: Good,
) -> Option<Row> {
    if a.is_empty() || b.is_empty() {
        return None;
    }
    let change = relative_change(a, b, statistic);
    let verdict = match (change, good) {
        (None, _) => Verdict::Unknown,
        (Some(change), Good::Less) if change.high < 0.0 => Verdict::Better,
        (Some(change), Good::Less) if change.low > 0.0 => Verdict::Worse,
        (Some(change), Good::More) if change.low > 0.0 => Verdict::Better,
        (Some(change), Good::More) if change.high < 0.0 => Verdict::Worse,
        (Some(_), Good::Less | Good::More) => Verdict::Same,
    };
    let of = |values: &[f64]| statistic.of(&mut values.to_vec());
    Some(Row { name, unit, a: of(a), b: of(b), change, verdict })
}

/// Milliseconds of the requests that were answered, and have such a time.
fn times(run: &Summary, seconds: &[f64]) -> Vec<f64> {
    let failed = |index: usize| run.errors.get(index).is_some_and(|error| !error.is_empty());
    let all = seconds.iter().enumerate();
    all.filter(|(index, time)| !failed(*index) && **time > 0.0)
        .map(|(_, time)| time * 1e3)
        .collect()
}

/// What was done a second, in each stretch of the run.
fn rates(run: &Summary, count: fn(&crate::summary::Tick) -> u64) -> Vec<f64> {
    let rates: Vec<_> =
        run.timeline.iter().map(|tick| count(tick) as f64 / tick.width.max(1e-9)).collect();
    let is_anything = rates.iter().any(|rate| *rate > 0.0);
    if is_anything { rates } else { Vec::new() }
}

impl Row {
    /// Whether it is worse by more than `tolerance`, and that is not chance.
    pub(crate) fn is_regression(&self, tolerance: f64) -> bool {
        let change = self.change.map_or(0.0, |change| change.estimate.abs());
        self.verdict == Verdict::Worse && change > tolerance
    }
}

/// A table for people.
pub(crate) fn page(rows: &[Row]) -> String {
    let head = ["", "A", "B", "CHANGE", "95 % INTERVAL", ""];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| {
        let percent = |share: f64| format!("{:+.1} %", share * 100.0);
        let change = row.change.map_or("–".to_owned(), |change| percent(change.estimate));
        let interval = row.change.map_or("–".to_owned(), |change| {
            format!("{} to {}", percent(change.low), percent(change.high))
        });
        let verdict = match row.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "worse",
            Verdict::Same => "no difference that is not chance",
            Verdict::Unknown => "too few to tell",
        };
        let number = |value: f64| format!("{value:.2} {}", row.unit);
        vec![row.name.clone(), number(row.a), number(row.b), change, interval, verdict.to_owned()]
    }));
    table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Tick;

    fn run(scale: f64) -> Summary {
        let times: Vec<_> = (0..200).map(|i| scale * (1.0 + f64::from(i % 7) / 10.0)).collect();
        let tick = Tick { width: 1.0, output_tokens: (100.0 / scale) as u64, ..Tick::default() };
        Summary {
            errors: vec![String::new(); times.len()],
            ttfts: times.clone(),
            e2els: times,
            timeline: vec![tick; 20],
            ..Summary::default()
        }
    }

    #[test]
    fn what_changed_is_told_from_chance() {
        let rows = compare(&run(1.0), &run(1.2));
        let verdict = |name: &str| rows.iter().find(|row| row.name == name).unwrap().verdict;

        assert_eq!(verdict("TTFT mean"), Verdict::Worse);
        assert_eq!(verdict("output throughput"), Verdict::Worse);
        assert!(rows.iter().all(|row| !row.name.starts_with("TPOT")), "nothing was measured");
        assert!(rows[0].is_regression(0.1) && !rows[0].is_regression(0.3));
        let same = compare(&run(1.0), &run(1.0));
        assert!(same.iter().all(|row| row.verdict == Verdict::Same), "{same:?}");
        let better = compare(&run(1.2), &run(1.0));
        assert!(better.iter().all(|row| row.verdict == Verdict::Better), "{better:?}");
        assert!(page(&rows).contains("+20.0 %"), "{}", page(&rows));
    }

    #[test]
    fn failed_requests_have_no_times() {
        let mut failed = run(1.0);
        failed.errors[0] = "timeout".to_owned();
        failed.ttfts[0] = 1e6;

        let rows = compare(&run(1.0), &failed);

        assert!(rows[0].b < 2000.0, "{:?}", rows[0]);
    }
}
