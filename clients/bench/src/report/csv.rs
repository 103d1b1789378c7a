//! A row for each request, for a spreadsheet. No cell needs quotes: none holds text of people.

use std::fmt::Write;

use crate::summary::Summary;

/// The requests of a run, or of every run of a sweep, under a head.
pub(crate) fn csv(summary: &Summary) -> String {
    let mut text =
        "load,start_s,ttft_ms,tpot_ms,e2e_ms,input_tokens,output_tokens,error\n".to_owned();
    if summary.points.is_empty() {
        append(&mut text, summary);
    }
    summary.points.iter().for_each(|point| append(&mut text, point));
    text
}

fn append(text: &mut String, run: &Summary) {
    let ms = |times: &[f64], index: usize| {
        let time = times.get(index).copied().filter(|time| *time > 0.0);
        time.map_or(String::new(), |time| format!("{:.3}", time * 1e3))
    };
    let count = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or(0);
    for (index, start) in run.start_times.iter().enumerate() {
        // Writing into memory does not fail.
        let _ = writeln!(
            text,
            "{},{start:.6},{},{},{},{},{},{}",
            run.load,
            ms(&run.ttfts, index),
            ms(&run.tpots, index),
            ms(&run.e2els, index),
            count(&run.input_lens, index),
            count(&run.output_lens, index),
            run.errors.get(index).map_or("", String::as_str),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_row() {
        let mut summary = super::super::tests::summary();
        assert_eq!(csv(&summary).lines().count(), 1 + 2 * 3);
        summary.points.clear();

        let text = csv(&summary);

        let rows: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(rows[0], "concurrency 4,0.000000,100.000,10.000,300.000,7,3,");
        assert_eq!(rows[2], "concurrency 4,0.600000,,,100.000,0,0,http_429");
    }
}
