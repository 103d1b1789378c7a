//! A run as one page that needs nothing else: no script, no font, no request to anyone.

use super::svg::{Mark, Plot, Series, escape};
use super::{facts, latencies, points};
use crate::stats::Bin;
use crate::summary::{Summary, Tick};

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--soft:#57606a;--line:#d8dee4;
--s0:#0969da;--s1:#bc4c00;--s2:#1a7f37;--s3:#8250df}
@media(prefers-color-scheme:dark){:root{--fg:#e6edf3;--bg:#0d1117;--soft:#9198a1;--line:#30363d;
--s0:#4493f8;--s1:#f0883e;--s2:#3fb950;--s3:#ab7df8}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:1180px;
margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);text-align:right}
td:first-child,th:first-child,.facts td{text-align:left}
.scroll{overflow-x:auto}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(330px,1fr));
gap:1.5rem}
.warning{border-left:4px solid var(--s1);padding:.3rem .8rem;margin:.5rem 0}
svg{width:100%;height:auto}svg text{fill:var(--fg);font:11px system-ui,sans-serif}
svg .title{font-weight:600;font-size:13px}svg .tick,svg .label{fill:var(--soft)}
.grid{stroke:var(--line)}polyline{fill:none;stroke-width:1.8}
.s0{stroke:var(--s0)}.s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}
.fill{stroke:none}.fill.s0{fill:var(--s0)}.fill.s1{fill:var(--s1)}.fill.s2{fill:var(--s2)}
.fill.s3{fill:var(--s3)}
";

/// The page.
pub(crate) fn html(summary: &Summary) -> String {
    let title = format!("{} · {}", summary.model_id, summary.label.as_deref().unwrap_or("bench"));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    for warning in &summary.warnings {
        page += &format!("<p class=\"warning\">{}</p>\n", escape(warning));
    }
    if !summary.points.is_empty() {
        page += &format!("<h2>Sweep</h2>{}", table(&points(summary)));
        page += &format!("<div class=\"plots\">{}</div>\n<h2>The best run</h2>", sweep(summary));
    }
    page += "<table class=\"facts\">";
    for (name, fact) in facts(summary) {
        page += &format!("<tr><td>{name}</td><td>{}</td></tr>", escape(&fact));
    }
    page += "</table>\n<h2>Latencies</h2>";
    page += &table(&latencies(|name| summary.metrics.get(name)));
    for (kind, metrics) in &summary.kinds {
        let kind = format!("{kind:?}").to_lowercase();
        page += &format!("<h2>Of {kind} requests</h2>");
        page += &table(&latencies(|name| metrics.get(name)));
    }
    page +=
        &format!("<h2>Distributions</h2><div class=\"plots\">{}</div>\n", distributions(summary));
    page += &format!("<h2>Timeline</h2><div class=\"plots\">{}</div>\n", timeline(summary));
    page + "</body></html>\n"
}

fn table(rows: &[Vec<String>]) -> String {
    // With a tab stop, for who scrolls by keys.
    let mut html = "<div class=\"scroll\" tabindex=\"0\"><table>".to_owned();
    for (index, row) in rows.iter().enumerate() {
        let tag = if index == 0 { "th" } else { "td" };
        let cells = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell)));
        html += &format!("<tr>{}</tr>", cells.collect::<String>());
    }
    html + "</table></div>\n"
}

fn distributions(summary: &Summary) -> String {
    let titles = [
        ("ttft", "Time to first token"),
        ("itl", "Time between tokens"),
        ("tpot", "Time per output token"),
        ("e2e", "End to end"),
        ("lateness", "Sent later than scheduled"),
    ];
    let plots = titles.iter().filter_map(|(name, title)| {
        let bins = summary.histograms.get(*name)?;
        let points = bins.iter().map(|Bin { from, count, .. }| (*from, *count as f64)).collect();
        let width = bins.first().map_or(0.0, |bin| bin.to - bin.from);
        let series = vec![Series { name: "", points, mark: Mark::Bars(width) }];
        let y = if *name == "itl" { "tokens" } else { "requests" };
        Some(Plot { title, x: "ms (the last bar holds what is above)", y, series }.draw())
    });
    plots.collect()
}

fn timeline(summary: &Summary) -> String {
    let series = |name, value: fn(&Tick) -> f64| {
        let points = summary.timeline.iter().map(|tick| (tick.at, value(tick))).collect();
        Series { name, points, mark: Mark::Line }
    };
    let tokens = vec![series("", |tick| tick.output_tokens as f64 / tick.width.max(1e-9))];
    let requests = vec![
        series("running", |tick| tick.running as f64),
        series("answered/s", |tick| tick.completed as f64 / tick.width.max(1e-9)),
        series("failed/s", |tick| tick.failed as f64 / tick.width.max(1e-9)),
    ];
    let starts = summary.start_times.iter().zip(&summary.ttfts);
    let mut waits: Vec<_> =
        starts.filter(|(_, ttft)| **ttft > 0.0).map(|(at, ttft)| (*at, ttft * 1e3)).collect();
    // A plot of more points than pixels says nothing more, and is large.
    let step = waits.len().div_ceil(1000).max(1);
    waits = waits.into_iter().step_by(step).collect();
    let waits = vec![Series { name: "", points: waits, mark: Mark::Line }];
    [
        Plot { title: "Output tokens per second", x: "s", y: "tokens/s", series: tokens }.draw(),
        Plot { title: "Requests", x: "s", y: "requests", series: requests }.draw(),
        Plot { title: "Time to first token, by when it was sent", x: "s", y: "ms", series: waits }
            .draw(),
    ]
    .concat()
}

/// What more load brings, and what it costs.
fn sweep(summary: &Summary) -> String {
    let stat = |point: &Summary, metric: &str, stat: &str| {
        point.metrics.get(metric).and_then(|told| told.stat(stat))
    };
    let curve = |name, metric, which| {
        let points = summary
            .points
            .iter()
            .filter_map(|point| Some((point.output_throughput, stat(point, metric, which)?)));
        Series { name, points: points.collect(), mark: Mark::Dots }
    };
    let over_load = |name, value: fn(&Summary) -> Option<f64>| {
        let points = summary.points.iter().filter_map(|point| {
            let load = point.request_rate.as_f64();
            let load = load.or(point.max_concurrency.map(|count| count as f64))?;
            Some((load, value(point)?))
        });
        Series { name, points: points.collect(), mark: Mark::Dots }
    };
    let ttft = vec![curve("p50", "ttft", "p50"), curve("p99", "ttft", "p99")];
    let itl = vec![curve("p50", "itl", "p50"), curve("p99", "itl", "p99")];
    let work = vec![over_load("", |point| Some(point.output_throughput))];
    let good = vec![
        over_load("answered", |point| Some(point.request_throughput)),
        over_load("good", |point| point.request_goodput),
    ];
    let x = "output tokens/s";
    [
        Plot { title: "Throughput and time to first token", x, y: "ms", series: ttft }.draw(),
        Plot { title: "Throughput and time between tokens", x, y: "ms", series: itl }.draw(),
        Plot { title: "Throughput by load", x: "load", y: x, series: work }.draw(),
        Plot { title: "Requests by load", x: "load", y: "requests/s", series: good }.draw(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_stands_by_itself() {
        let page = html(&super::super::tests::summary());

        assert!(page.starts_with("<!doctype html>") && page.ends_with("</body></html>\n"));
        for outside in ["http://", "https://", "<script", "<link", "src=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("&lt;m&gt;") && page.contains("take &lt;care&gt;"));
        assert!(page.matches("<svg").count() >= 5, "{}", page.matches("<svg").count());
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }
}
