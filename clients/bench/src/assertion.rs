//! `--assert 'ttft.p99<800ms'`: what has to hold, for a script to rely on.

use std::str::FromStr;

use crate::summary::Summary;
use crate::units::{Bare, duration, ms};

/// Numbers of a summary that are no latency.
const SCALARS: &[&str] = &[
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    "goodput",
    "completed",
    "errors",
    "error_rate",
    "cached_tokens",
    "client_cpu",
];

const LATENCIES: &[&str] =
    &["ttft", "tpot", "itl", "e2e", "lateness", "ttft_intended", "e2e_intended"];

/// Something that has to hold.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assertion {
    text: String,
    subject: Subject,
    relation: Relation,
    /// In milliseconds, where the subject is a latency.
    limit: f64,
}

#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Latency { metric: &'static str, stat: String },
    Scalar(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Relation {
    Less,
    AtMost,
    More,
    AtLeast,
}

/// Whether it held, in words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) held: bool,
    pub(crate) text: String,
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let relations = [
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("<", Relation::Less),
            (">", Relation::More),
        ];
        let (subject, relation, limit) = relations
            .into_iter()
            .find_map(|(sign, relation)| {
                let (subject, limit) = text.split_once(sign)?;
                Some((subject.trim(), relation, limit.trim()))
            })
            .ok_or_else(|| format!("`{text}` compares nothing: use ttft.p99<800ms"))?;
        let (name, stat) = subject.split_once('.').unwrap_or((subject, "mean"));
        let known = |names: &'static [&'static str]| names.iter().copied().find(|n| *n == name);
        if let Some(metric) = known(LATENCIES) {
            if crate::stats::Distribution::default().stat(stat).is_none() {
                return Err(format!(
                    "`{stat}` is no statistic: mean, std, min, p50 … p99.9 or max"
                ));
            }
            let limit = ms(duration(limit, Bare::Milliseconds)?);
            let subject = Subject::Latency { metric, stat: stat.to_owned() };
            return Ok(Self { text: text.to_owned(), subject, relation, limit });
        }
        let scalar = known(SCALARS).filter(|_| subject == name).ok_or_else(|| {
            let names = [LATENCIES, SCALARS].concat().join(", ");
            format!("`{subject}` is nothing that is measured: {names}")
        })?;
        let (number, scale) = limit.strip_suffix('%').map_or((limit, 1.0), |n| (n, 100.0));
        let limit = number.trim().parse::<f64>().ok().filter(|limit| limit.is_finite());
        let limit = limit.ok_or_else(|| format!("`{number}` is no number"))? / scale;
        Ok(Self { text: text.to_owned(), subject: Subject::Scalar(scalar), relation, limit })
    }
}

impl Assertion {
    /// Whether it holds for `summary`. What was not measured does not hold.
    pub(crate) fn check(&self, summary: &Summary) -> Verdict {
        let found = match &self.subject {
            Subject::Latency { metric, stat } => {
                summary.metrics.get(*metric).and_then(|told| told.stat(stat))
            }
            Subject::Scalar(name) => scalar(summary, name),
        };
        let unit = if matches!(self.subject, Subject::Latency { .. }) { " ms" } else { "" };
        let held = found.is_some_and(|found| match self.relation {
            Relation::Less => found < self.limit,
            Relation::AtMost => found <= self.limit,
            Relation::More => found > self.limit,
            Relation::AtLeast => found >= self.limit,
        });
        let found = found.map_or("not measured".to_owned(), |found| format!("{found:.3}{unit}"));
        let word = if held { "holds" } else { "FAILS" };
        Verdict { held, text: format!("{word}  {}  ({found})", self.text) }
    }
}

fn scalar(summary: &Summary, name: &str) -> Option<f64> {
    Some(match name {
        "request_throughput" => summary.request_throughput,
        "output_throughput" => summary.output_throughput,
        "total_token_throughput" => summary.total_token_throughput,
        "goodput" => summary.request_goodput?,
        "completed" => summary.completed as f64,
        "errors" => summary.failed as f64,
        "error_rate" => summary.failed as f64 / summary.num_prompts.max(1) as f64,
        "cached_tokens" => summary.total_cached_tokens? as f64,
        "client_cpu" => summary.client.cpu_share,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Distribution;

    #[test]
    fn what_has_to_hold_is_checked() {
        let ttft = Distribution { p99: 750.0, mean: 100.0, ..Distribution::default() };
        let summary = Summary {
            metrics: [("ttft".to_owned(), ttft)].into(),
            num_prompts: 100,
            failed: 2,
            request_throughput: 5.0,
            ..Summary::default()
        };
        let holds = |text: &str| text.parse::<Assertion>().unwrap().check(&summary).held;

        assert!(holds("ttft.p99<800ms") && holds("ttft.p99 <= 0.75s") && holds("ttft<101"));
        assert!(!holds("ttft.p99<750ms") && !holds("ttft.p99>1s"));
        assert!(holds("error_rate<=2%") && holds("errors<3") && holds("request_throughput>=5"));
        assert!(!holds("error_rate<1%"));
        assert!(!holds("goodput>0") && !holds("itl<1s"), "not measured");
        let verdict = "ttft.p99<700ms".parse::<Assertion>().unwrap().check(&summary);
        assert_eq!(verdict.text, "FAILS  ttft.p99<700ms  (750.000 ms)");
    }

    #[test]
    fn nonsense_is_named() {
        for text in ["ttft", "ttft.p42<1s", "speed>1", "errors.p99<1", "ttft<x", "errors<x", ""] {
            assert!(text.parse::<Assertion>().is_err(), "{text}");
        }
    }

    #[test]
    fn every_scalar_is_one() {
        let full = Summary {
            request_goodput: Some(1.0),
            total_cached_tokens: Some(1),
            ..Summary::default()
        };
        for name in SCALARS {
            assert!(scalar(&full, name).is_some(), "{name}");
        }
    }
}
