//! A summary for people: on a terminal, as a table of requests, as a page.

mod csv;
mod html;
mod svg;

pub(crate) use csv::csv;
pub(crate) use html::html;

use crate::stats::Distribution;
use crate::summary::Summary;

/// Metrics in the order of a request's life, and what they are called.
const METRICS: &[(&str, &str)] = &[
    ("ttft", "TTFT"),
    ("tpot", "TPOT"),
    ("itl", "ITL"),
    ("e2e", "E2E"),
    ("lateness", "sent late"),
    ("ttft_intended", "TTFT, from schedule"),
    ("e2e_intended", "E2E, from schedule"),
];

/// Rows as columns, the first to the left and the others to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let num_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..num_columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The named numbers of a run.
fn facts(summary: &Summary) -> Vec<(&'static str, String)> {
    let mut facts = vec![
        ("model", summary.model_id.clone()),
        ("load", summary.load.clone()),
        ("requests", format!("{} answered, {} failed", summary.completed, summary.failed)),
        ("duration", format!("{:.2} s", summary.duration)),
        (
            "throughput",
            format!(
                "{:.2} requests/s, {:.1} output tokens/s, {:.1} tokens/s in all",
                summary.request_throughput,
                summary.output_throughput,
                summary.total_token_throughput
            ),
        ),
    ];
    let cached = match summary.total_cached_tokens {
        Some(cached) => format!(", {cached} of them cached"),
        None => String::new(),
    };
    let (input, output) = (summary.total_input_tokens, summary.total_output_tokens);
    facts.push(("tokens", format!("{input} in{cached}, {output} out")));
    if let Some(check) = summary.token_check {
        let told = [("in", check.input), ("out", check.output)].map(|(what, counts)| {
            let (told, by) = (counts.tokenizer, counts.difference() * 100.0);
            format!("{told} {what} (the server's count: {by:+.1} %)")
        });
        facts.push(("tokenizer", told.join(", ")));
    }
    if let Some(goodput) = summary.request_goodput {
        let share = goodput * summary.duration / summary.num_prompts.max(1) as f64 * 100.0;
        facts.push(("goodput", format!("{goodput:.2} requests/s, {share:.1} % of all")));
    }
    for (kind, count) in &summary.errors_by_kind {
        facts.push(("errors", format!("{count} {kind}")));
    }
    let client = &summary.client;
    let share = client.cpu_share * 100.0;
    let threads = if client.threads == 1 { "thread" } else { "threads" };
    facts.push(("client", format!("{share:.0} % of {} {threads}", client.threads)));
    facts
}

/// What was measured, a row for each metric, under a head.
fn latencies<'a>(metrics: impl Fn(&str) -> Option<&'a Distribution>) -> Vec<Vec<String>> {
    let head = ["ms", "mean", "std", "p50", "p75", "p90", "p95", "p99", "p99.9", "max"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (name, shown) in METRICS {
        let Some(told) = metrics(name) else { continue };
        let stats = head[1..].iter().filter_map(|stat| told.stat(stat));
        let cells = stats.map(|value| format!("{value:.2}"));
        rows.push(std::iter::once((*shown).to_owned()).chain(cells).collect());
    }
    rows
}

/// The runs of a sweep, a row for each, under a head.
fn points(summary: &Summary) -> Vec<Vec<String>> {
    let head =
        ["load", "req/s", "output tok/s", "TTFT p50", "TTFT p99", "ITL p50", "ITL p99", "failed"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    if summary.slo.is_some() {
        rows[0].push("goodput".to_owned());
    }
    for point in &summary.points {
        let stat = |metric: &str, stat: &str| {
            let value = point.metrics.get(metric).and_then(|told| told.stat(stat));
            value.map_or("–".to_owned(), |value| format!("{value:.2}"))
        };
        let mut row = vec![
            point.load.clone(),
            format!("{:.2}", point.request_throughput),
            format!("{:.1}", point.output_throughput),
            stat("ttft", "p50"),
            stat("ttft", "p99"),
            stat("itl", "p50"),
            stat("itl", "p99"),
            point.failed.to_string(),
        ];
        row.extend(point.request_goodput.map(|goodput| format!("{goodput:.2}")));
        rows.push(row);
    }
    rows
}

/// A page for a terminal.
pub(crate) fn page(summary: &Summary) -> String {
    let mut text = String::new();
    if !summary.points.is_empty() {
        text.push_str(&table(&points(summary)));
        text.push_str("\nthe best of these:\n");
    }
    let facts = facts(summary).into_iter().map(|(name, fact)| format!("{name:<12}{fact}\n"));
    text.extend(facts);
    text.push('\n');
    text.push_str(&table(&latencies(|name| summary.metrics.get(name))));
    for (kind, metrics) in &summary.kinds {
        text.push_str(&format!("\nof {kind:?} requests:\n").to_lowercase());
        text.push_str(&table(&latencies(|name| metrics.get(name))));
    }
    for warning in &summary.warnings {
        text.push_str(&format!("\nwarning: {warning}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with something of everything.
    pub(super) fn summary() -> Summary {
        let told = Distribution { mean: 12.5, p50: 12.0, p99: 30.0, ..Distribution::default() };
        let metrics = ["ttft", "itl", "e2e"].map(|name| (name.to_owned(), told));
        let mut summary = Summary {
            model_id: "<m>".to_owned(),
            load: "concurrency 4".to_owned(),
            completed: 2,
            failed: 1,
            num_prompts: 3,
            duration: 1.0,
            request_goodput: Some(1.5),
            total_cached_tokens: Some(5),
            errors_by_kind: [("http_429".to_owned(), 1)].into(),
            metrics: metrics.into(),
            warnings: vec!["take <care>".to_owned()],
            histograms: [(
                "ttft".to_owned(),
                [1.0, 2.0].into_iter().collect::<crate::stats::Samples>().bins(4),
            )]
            .into(),
            timeline: vec![crate::summary::Tick {
                width: 1.0,
                output_tokens: 9,
                ..Default::default()
            }],
            input_lens: vec![7, 7, 0],
            output_lens: vec![3, 3, 0],
            ttfts: vec![0.1, 0.2, 0.0],
            tpots: vec![0.01, 0.02, 0.0],
            e2els: vec![0.3, 0.4, 0.1],
            start_times: vec![0.0, 0.5, 0.6],
            errors: vec![String::new(), String::new(), "http_429".to_owned()],
            ..Summary::default()
        };
        let point = Summary { points: Vec::new(), ..summary.clone() };
        summary.points = vec![point.clone(), point];
        summary
    }

    #[test]
    fn a_page_says_what_was_found() {
        let page = page(&summary());

        for text in [
            "concurrency 4",
            "2 answered, 1 failed",
            "1 http_429",
            "50.0 % of all",
            "0 in, 5 of them cached",
            "TTFT  12.50  0.00  12.00",
            "the best of these",
            "warning: take <care>",
        ] {
            assert!(page.contains(text), "{text} in {page}");
        }
    }
}
