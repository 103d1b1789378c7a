//! What comes of a run: one JSON object.
//!
//! Its names are those of `vllm bench serve`, so that what reads those reads this; what that has no
//! word for follows. Latencies in names that end with `_ms` and in `metrics` are milliseconds, in
//! the lists of single requests seconds.

mod date;
mod ramp;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::date::date;
use self::ramp::Ramp;
use crate::measure::Record;
use crate::request::{Endpoint, Kind};
use crate::run::{Outcome, Stage};
use crate::schedule::{Arrivals, Load};
use crate::slo::Slo;
use crate::stats::{Bin, Distribution, Samples};
use crate::tokens::{Counter, TokenCheck};
use crate::units::ms;

/// A client that computes more than this share of its time is what is measured.
const SATURATED: f64 = 0.8;

/// Seconds of computing that say something of a client: a start is busy by itself.
const NOTICEABLE: f64 = 0.25;

/// Lateness, in milliseconds, that is told of: timers are exact to one.
const LATE: f64 = 20.0;

/// A run, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Summary {
    pub(crate) date: String,
    pub(crate) endpoint_type: String,
    pub(crate) backend: String,
    pub(crate) label: Option<String>,
    pub(crate) model_id: String,
    /// The one that counts were compared with; none is needed.
    pub(crate) tokenizer_id: Option<String>,
    pub(crate) num_prompts: usize,
    /// Requests a second; `"inf"` where only concurrency holds them back.
    pub(crate) request_rate: Value,
    pub(crate) burstiness: Option<f64>,
    pub(crate) max_concurrency: Option<usize>,
    /// Of a ramp: the rates that it goes from and to, and when it reached whole ones.
    #[serde(flatten)]
    pub(crate) ramp: Option<Ramp>,
    /// Seconds.
    pub(crate) duration: f64,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) total_input_tokens: u64,
    pub(crate) total_output_tokens: u64,
    pub(crate) request_throughput: f64,
    #[serde(rename = "request_goodput:")]
    pub(crate) goodput_as_vllm_spells_it: Option<f64>,
    pub(crate) request_goodput: Option<f64>,
    pub(crate) output_throughput: f64,
    pub(crate) total_token_throughput: f64,
    pub(crate) max_output_tokens_per_s: f64,
    pub(crate) max_concurrent_requests: usize,
    /// Seconds of sound a second: nothing here is heard.
    pub(crate) rtfx: f64,
    /// Texts that were embedded, and how many a second.
    #[serde(flatten)]
    pub(crate) texts: Option<TextCounts>,
    /// `mean_ttft_ms`, `p99_itl_ms`, …
    #[serde(flatten)]
    pub(crate) latencies: BTreeMap<String, Value>,

    /// What the load was, in words.
    pub(crate) load: String,
    pub(crate) metrics: BTreeMap<String, Distribution>,
    /// The same of each kind of request, where there are several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) kinds: BTreeMap<Kind, BTreeMap<String, Distribution>>,
    pub(crate) errors_by_kind: BTreeMap<String, usize>,
    /// Tokens of prompts that the server did not compute again; `None`: it does not say.
    pub(crate) total_cached_tokens: Option<u64>,
    /// The server's counts of tokens beside a tokenizer's, where one was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_check: Option<TokenCheck>,
    pub(crate) slo: Option<Slo>,
    pub(crate) client: Client,
    pub(crate) timeline: Vec<Tick>,
    pub(crate) histograms: BTreeMap<String, Vec<Bin>>,
    /// What to know before the numbers are believed.
    pub(crate) warnings: Vec<String>,
    /// Of a sweep: every run of it. The numbers above are those of the best.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) points: Vec<Self>,

    pub(crate) input_lens: Vec<u64>,
    pub(crate) output_lens: Vec<u64>,
    pub(crate) ttfts: Vec<f64>,
    pub(crate) tpots: Vec<f64>,
    pub(crate) e2els: Vec<f64>,
    #[serde(rename = "latencies")]
    pub(crate) e2els_as_vllm_names_them: Vec<f64>,
    /// How much later than scheduled each was sent.
    pub(crate) queue_times: Vec<f64>,
    pub(crate) start_times: Vec<f64>,
    pub(crate) errors: Vec<String>,
    /// Of each request, the times between tokens. Only where they are asked for: they are many.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) itls: Vec<Vec<f64>>,
    /// What was answered. Only where it is asked for, too.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) generated_texts: Vec<String>,
}

/// What was embedded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct TextCounts {
    pub(crate) total_input_sequences: u64,
    /// A second.
    pub(crate) input_sequence_throughput: f64,
}

/// What the load cost the machine that made it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) cpu_seconds: f64,
    /// Of the threads that may compute.
    pub(crate) cpu_share: f64,
    pub(crate) threads: usize,
}

/// What happened in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tick {
    /// Its start, in seconds.
    pub(crate) at: f64,
    /// Its length, in seconds.
    pub(crate) width: f64,
    pub(crate) output_tokens: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    /// Requests under way at its start.
    pub(crate) running: u64,
}

/// What a summary needs to know besides the records.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) label: Option<String>,
    pub(crate) slo: Option<Slo>,
    pub(crate) threads: usize,
    /// Whether there are lists of what each request has many of.
    pub(crate) is_detailed: bool,
    pub(crate) counter: Option<Counter>,
    /// Seconds since 1970.
    pub(crate) now: u64,
}

impl Summary {
    pub(crate) fn new(about: &About, stage: &Stage, outcome: &Outcome) -> Self {
        let records = &outcome.records[..];
        let good: Vec<_> = records.iter().filter(|record| record.error.is_none()).collect();
        let seconds = outcome.wall.as_secs_f64().max(1e-9);
        let (request_rate, burstiness, max_concurrency) = match &stage.load {
            Load::Concurrency(count) => ("inf".into(), None, Some(*count)),
            Load::Rate(Arrivals { to, burstiness, .. }) => {
                // JSON has no infinity.
                let burstiness = Some(*burstiness).filter(|shape| shape.is_finite());
                ((*to).into(), burstiness, stage.max_concurrency)
            }
            Load::Trace { .. } => ("inf".into(), None, stage.max_concurrency),
        };
        let total =
            |tokens: fn(&Record) -> u64| good.iter().map(|record| tokens(record)).sum::<u64>();
        let (input, output) = (total(|r| r.prompt_tokens), total(|r| r.completion_tokens));
        let cached: Vec<_> = good.iter().filter_map(|record| record.cached_tokens).collect();
        let num_met = about.slo.map(|slo| records.iter().filter(|r| slo.is_met(r)).count());
        let samples = samples(records);
        let metrics = distributions(&samples);
        let goodput = num_met.map(|met| met as f64 / seconds);
        let arrivals = arrivals(&good);
        let cpu_share = outcome.cpu.as_secs_f64() / seconds / about.threads.max(1) as f64;
        let mut summary = Self {
            date: date(about.now),
            endpoint_type: about.endpoint.backend().to_owned(),
            backend: about.endpoint.backend().to_owned(),
            label: about.label.clone(),
            model_id: about.model.clone(),
            tokenizer_id: about.counter.as_ref().map(Counter::path),
            num_prompts: records.len(),
            request_rate,
            burstiness,
            max_concurrency,
            duration: seconds,
            completed: good.len(),
            failed: records.len() - good.len(),
            total_input_tokens: input,
            total_output_tokens: output,
            request_throughput: good.len() as f64 / seconds,
            goodput_as_vllm_spells_it: goodput,
            request_goodput: goodput,
            output_throughput: output as f64 / seconds,
            total_token_throughput: (input + output) as f64 / seconds,
            max_output_tokens_per_s: peak_rate(&arrivals),
            max_concurrent_requests: peak_concurrency(records),
            ramp: Ramp::of(stage, records, about.now),
            texts: (about.endpoint == Endpoint::Embeddings).then(|| texts(&good, seconds)),
            latencies: latencies(&metrics),
            load: stage.load.to_string(),
            kinds: kinds(records),
            errors_by_kind: errors(records),
            total_cached_tokens: (!cached.is_empty()).then(|| cached.iter().sum()),
            token_check: about.counter.as_ref().map(|it| it.check(about.endpoint, records)),
            slo: about.slo,
            client: Client {
                cpu_seconds: outcome.cpu.as_secs_f64(),
                cpu_share,
                threads: about.threads,
            },
            timeline: timeline(records, &arrivals, outcome.wall),
            histograms: samples.iter().map(|(name, s)| ((*name).to_owned(), s.bins(60))).collect(),
            metrics,
            ..Self::default()
        };
        summary.take_requests(records, about.is_detailed);
        summary.warnings = summary.find_warnings(records, outcome.is_interrupted);
        let check = summary.token_check.unwrap_or_default();
        summary.warnings.extend(check.warnings(about.endpoint));
        summary
    }

    fn take_requests(&mut self, records: &[Record], is_detailed: bool) {
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        for record in records {
            self.input_lens.push(record.prompt_tokens);
            self.output_lens.push(record.completion_tokens);
            self.ttfts.push(seconds(record.ttft));
            self.tpots.push(seconds(record.tpot()));
            self.e2els.push(seconds(Some(record.e2e)));
            self.queue_times.push(seconds(Some(record.lateness())));
            self.start_times.push(seconds(Some(record.sent)));
            self.errors.push(record.error.clone().unwrap_or_default());
            if is_detailed {
                self.itls.push(record.gaps.iter().map(|gap| f64::from(gap.ms) / 1e3).collect());
                self.generated_texts.push(record.text.clone());
            }
        }
        self.e2els_as_vllm_names_them.clone_from(&self.e2els);
    }

    fn find_warnings(&self, records: &[Record], is_interrupted: bool) -> Vec<String> {
        let mut warnings = Vec::new();
        let Client { cpu_share, cpu_seconds, threads } = self.client;
        if cpu_share > SATURATED && cpu_seconds > NOTICEABLE {
            warnings.push(format!(
                "this client computed {:.0} % of the time on {threads} threads: it, too, is \
                 measured; use --threads, or more machines",
                cpu_share * 100.0
            ));
        }
        if let Some(late) = self.metrics.get("lateness").filter(|late| late.p99 > LATE) {
            warnings.push(format!(
                "1 % of the requests were sent at least {:.0} ms late: the load was not the one \
                 that was asked for",
                late.p99
            ));
        }
        if records.iter().any(|record| record.is_counted_here) {
            warnings
                .push("the server did not tell usage: tokens are the chunks that came".to_owned());
        }
        let uneven = |r: &&Record| r.gaps.iter().all(|gap| gap.tokens == 1);
        let merged = records.iter().filter(uneven).any(|record| {
            let arrived = record.gaps.len() as u64 + 1;
            record.error.is_none()
                && record.ttft.is_some()
                && record.completion_tokens > arrived + 1
        });
        if merged {
            warnings.push(
                "some chunks carried several tokens: ITL is the time between chunks; \
                 --continuous-usage splits it, where the server knows that"
                    .to_owned(),
            );
        }
        if is_interrupted {
            warnings.push("interrupted: what was not answered by then is not counted".to_owned());
        }
        warnings
    }
}

/// All times of all requests, by metric.
fn samples(records: &[Record]) -> BTreeMap<&'static str, Samples> {
    let mut all: BTreeMap<&'static str, Samples> = BTreeMap::new();
    let is_scheduled = records.iter().any(|record| record.lateness() > Duration::ZERO);
    for record in records {
        if is_scheduled {
            all.entry("lateness").or_default().push(ms(record.lateness()));
        }
        if record.error.is_some() {
            continue;
        }
        let late = record.lateness();
        let mut push = |name, time: Option<Duration>| {
            if let Some(time) = time {
                all.entry(name).or_default().push(ms(time));
            }
        };
        push("ttft", record.ttft);
        push("tpot", record.tpot());
        push("e2e", Some(record.e2e));
        if is_scheduled {
            push("ttft_intended", record.ttft.map(|ttft| ttft + late));
            push("e2e_intended", Some(record.e2e + late));
        }
        for gap in &record.gaps {
            let tokens = gap.tokens.max(1);
            let each = f64::from(gap.ms) / f64::from(tokens);
            all.entry("itl").or_default().push_n(each, u64::from(tokens));
        }
    }
    all
}

fn distributions(samples: &BTreeMap<&'static str, Samples>) -> BTreeMap<String, Distribution> {
    let told = |(name, samples): (&&str, &Samples)| {
        samples.distribution().map(|told| ((*name).to_owned(), told))
    };
    samples.iter().filter_map(told).collect()
}

fn kinds(records: &[Record]) -> BTreeMap<Kind, BTreeMap<String, Distribution>> {
    let mut by_kind: BTreeMap<Kind, Vec<Record>> = BTreeMap::new();
    for record in records {
        by_kind.entry(record.kind).or_default().push(record.clone());
    }
    if by_kind.len() < 2 {
        return BTreeMap::new();
    }
    by_kind.into_iter().map(|(kind, of)| (kind, distributions(&samples(&of)))).collect()
}

fn errors(records: &[Record]) -> BTreeMap<String, usize> {
    let mut errors = BTreeMap::new();
    for error in records.iter().filter_map(|record| record.error.clone()) {
        *errors.entry(error).or_default() += 1;
    }
    errors
}

fn texts(records: &[&Record], seconds: f64) -> TextCounts {
    let total = records.iter().map(|record| record.num_texts).sum::<u64>();
    TextCounts { total_input_sequences: total, input_sequence_throughput: total as f64 / seconds }
}

/// The names that `vllm bench serve` has for latencies.
fn latencies(metrics: &BTreeMap<String, Distribution>) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for (ours, theirs) in [
        ("ttft", "ttft"),
        ("tpot", "tpot"),
        ("itl", "itl"),
        ("e2e", "e2el"),
        ("lateness", "client_queue_time"),
        ("e2e_intended", "e2el_including_client_queue"),
    ] {
        let is_scheduled = metrics.contains_key("lateness");
        let told = match ours {
            // Without a schedule nobody waits to be sent.
            "e2e_intended" if !is_scheduled => metrics.get("e2e"),
            _ => metrics.get(ours),
        };
        let told = told.copied().unwrap_or_default();
        let named = [
            ("mean", told.mean),
            ("median", told.p50),
            ("std", told.std),
            ("p50", told.p50),
            ("p75", told.p75),
            ("p90", told.p90),
            ("p95", told.p95),
            ("p99", told.p99),
            ("p99.9", told.p999),
        ];
        all.extend(named.map(|(stat, value)| (format!("{stat}_{theirs}_ms"), value.into())));
    }
    all
}

/// When how many tokens came, in seconds since the start.
fn arrivals(records: &[&Record]) -> Vec<(f64, u64)> {
    let mut all = Vec::new();
    for record in records {
        let Some(ttft) = record.ttft else { continue };
        let mut at = (record.sent + ttft).as_secs_f64();
        all.push((at, 1));
        for gap in &record.gaps {
            at += f64::from(gap.ms) / 1e3;
            all.push((at, u64::from(gap.tokens)));
        }
    }
    all
}

/// Most tokens in any whole second.
fn peak_rate(arrivals: &[(f64, u64)]) -> f64 {
    let mut seconds: BTreeMap<u64, u64> = BTreeMap::new();
    for (at, tokens) in arrivals {
        *seconds.entry(*at as u64).or_default() += tokens;
    }
    seconds.into_values().max().unwrap_or(0) as f64
}

/// Most requests under way at any moment.
fn peak_concurrency(records: &[Record]) -> usize {
    let starts = records.iter().map(|record| (record.sent, 1));
    let mut changes: Vec<_> = starts.chain(records.iter().map(|r| (r.ended(), -1))).collect();
    // Where one ends as another starts, they were not there at once.
    changes.sort_unstable();
    let mut running = 0;
    let counts = changes.into_iter().map(|(_, change)| {
        running += change;
        running
    });
    usize::try_from(counts.max().unwrap_or(0)).unwrap_or(0)
}

/// About a hundred stretches, of a tenth of a second at least.
fn timeline(records: &[Record], arrivals: &[(f64, u64)], wall: Duration) -> Vec<Tick> {
    let seconds = wall.as_secs_f64();
    let width = (seconds / 100.0).max(0.1);
    let num_ticks = (seconds / width).ceil().max(1.0) as usize;
    let tick = |index: usize| Tick { at: index as f64 * width, width, ..Tick::default() };
    let mut ticks: Vec<_> = (0..num_ticks).map(tick).collect();
    let index = |at: f64| ((at / width) as usize).min(num_ticks - 1);
    for (at, tokens) in arrivals {
        ticks[index(*at)].output_tokens += tokens;
    }
    for record in records {
        let (from, to) = (record.sent.as_secs_f64(), record.ended().as_secs_f64());
        match record.error {
            None => ticks[index(to)].completed += 1,
            Some(_) => ticks[index(to)].failed += 1,
        }
        let under_way = ticks.iter_mut().filter(|tick| tick.at >= from && tick.at < to);
        under_way.for_each(|tick| tick.running += 1);
    }
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Gap;
    use crate::schedule::Until;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn records() -> Vec<Record> {
        let gap = |ms| Gap { ms, tokens: 1 };
        let first = Record {
            sent: at(0),
            ttft: Some(at(100)),
            last: Some(at(300)),
            e2e: at(310),
            gaps: vec![gap(50.0), gap(150.0)],
            prompt_tokens: 10,
            completion_tokens: 3,
            cached_tokens: Some(8),
            ..Record::default()
        };
        let second = Record { intended: at(250), sent: at(280), ..first.clone() };
        let third = Record {
            intended: at(310),
            sent: at(310),
            e2e: at(20),
            error: Some("http_429".to_owned()),
            ..Record::default()
        };
        vec![first, second, third]
    }

    fn summary(slo: &str) -> Summary {
        let about = About {
            endpoint: Endpoint::Chat,
            model: "m".to_owned(),
            label: None,
            slo: Some(slo.parse().unwrap()),
            threads: 1,
            is_detailed: true,
            counter: None,
            now: 0,
        };
        let stage = Stage {
            load: Load::Rate(Arrivals::constant(4.0, 1.0)),
            until: Until::default(),
            max_concurrency: None,
            seed: 0,
            first_session: 0,
        };
        let records = records();
        let (wall, cpu) = (at(1000), at(900));
        Summary::new(&about, &stage, &Outcome { records, wall, cpu, is_interrupted: false })
    }

    #[test]
    fn numbers_are_those_of_the_records() {
        let summary = summary("ttft=110ms");

        assert_eq!((summary.completed, summary.failed, summary.num_prompts), (2, 1, 3));
        assert_eq!((summary.total_input_tokens, summary.total_output_tokens), (20, 6));
        assert_eq!((summary.request_throughput, summary.output_throughput), (2.0, 6.0));
        assert_eq!(summary.total_cached_tokens, Some(16));
        assert_eq!(summary.request_goodput, Some(1.0), "one was sent 30 ms late");
        assert_eq!(summary.errors_by_kind["http_429"], 1);
        assert_eq!(summary.max_concurrent_requests, 2);
        let mean = |metric: &str| summary.metrics[metric].mean.round();
        assert_eq!(
            (mean("ttft"), mean("tpot"), mean("itl"), mean("e2e")),
            (100.0, 100.0, 100.0, 310.0)
        );
        assert_eq!((mean("lateness"), mean("ttft_intended")), (10.0, 115.0));
        assert_eq!(summary.latencies["mean_ttft_ms"], 100.0);
        assert_eq!(summary.timeline.iter().map(|tick| tick.output_tokens).sum::<u64>(), 6);
        assert_eq!(summary.warnings.len(), 2, "{:?}", summary.warnings);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let summary = summary("tpot=1s");
        let text = serde_json::to_string(&summary).unwrap();

        // Of numbers with many digits the last may differ.
        let plain = |summary: Summary| Summary {
            metrics: BTreeMap::new(),
            histograms: BTreeMap::new(),
            timeline: Vec::new(),
            latencies: BTreeMap::new(),
            ..summary
        };
        let read = serde_json::from_str::<Summary>(&text).unwrap();
        assert_eq!(read.metrics.len(), summary.metrics.len());
        assert!(read.latencies.keys().eq(summary.latencies.keys()));
        assert_eq!(plain(read), plain(summary));
        let value: Value = serde_json::from_str(&text).unwrap();
        // What `vllm bench serve --save-result` writes.
        for key in "date endpoint_type backend label model_id tokenizer_id num_prompts request_rate \
                    burstiness max_concurrency duration completed failed total_input_tokens \
                    total_output_tokens request_throughput output_throughput total_token_throughput \
                    max_output_tokens_per_s max_concurrent_requests request_goodput: rtfx input_lens output_lens ttfts \
                    itls latencies queue_times start_times generated_texts errors"
            .split_whitespace()
        {
            assert!(value.get(key).is_some(), "{key}");
        }
        for metric in
            ["ttft", "tpot", "itl", "e2el", "client_queue_time", "e2el_including_client_queue"]
        {
            for stat in ["mean", "median", "std", "p99"] {
                assert!(value[format!("{stat}_{metric}_ms")].is_number(), "{stat} {metric}");
            }
        }
    }
}
