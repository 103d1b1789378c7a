//! What workers report of their engines, summed over the workers of a model version.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use metrics::{Counter, Gauge, counter, gauge};
use sconce_proto::worker::EngineStats;

use super::{ModelMetrics, catalogue};

/// The sums of one model version, and the handles that show them.
pub(super) struct Sums {
    running: Sum,
    waiting: Sum,
    used_blocks: AtomicI64,
    blocks: Sum,
    usage: Gauge,
    preemptions: Counter,
    prefix_queries: Counter,
    prefix_hits: Counter,
    steps: Counter,
    draft_tokens: Counter,
    accepted_tokens: Counter,
}

struct Sum {
    value: AtomicI64,
    gauge: Gauge,
}

/// One worker's share of the sums: made when its session begins, taken back when it is dropped.
pub struct Engine {
    metrics: Arc<ModelMetrics>,
    last: EngineStats,
}

impl Sums {
    pub(super) fn register(labels: &[(&'static str, String); 2]) -> Self {
        let sum =
            |name: &'static str| Sum { value: AtomicI64::new(0), gauge: gauge!(name, labels) };
        Self {
            running: sum(catalogue::RUNNING),
            waiting: sum(catalogue::WAITING),
            used_blocks: AtomicI64::new(0),
            blocks: sum(catalogue::KV_CACHE_BLOCKS),
            usage: gauge!(catalogue::KV_CACHE_USAGE, labels),
            preemptions: counter!(catalogue::PREEMPTIONS, labels),
            prefix_queries: counter!(catalogue::PREFIX_CACHE_QUERIES, labels),
            prefix_hits: counter!(catalogue::PREFIX_CACHE_HITS, labels),
            steps: counter!(catalogue::ENGINE_STEPS, labels),
            draft_tokens: counter!(catalogue::DRAFT_TOKENS, labels),
            accepted_tokens: counter!(catalogue::ACCEPTED_TOKENS, labels),
        }
    }

    fn change(&self, from: &EngineStats, to: &EngineStats) {
        self.running.change(from.num_running, to.num_running);
        self.waiting.change(from.num_waiting, to.num_waiting);
        let blocks = self.blocks.change(from.num_blocks, to.num_blocks);
        let used = add(&self.used_blocks, from.num_used_blocks, to.num_used_blocks);
        self.usage.set(if blocks > 0 { used as f64 / blocks as f64 } else { 0.0 });
    }
}

impl Sum {
    fn change(&self, from: u32, to: u32) -> i64 {
        let value = add(&self.value, from, to);
        self.gauge.set(value as f64);
        value
    }
}

fn add(sum: &AtomicI64, from: u32, to: u32) -> i64 {
    let change = i64::from(to) - i64::from(from);
    sum.fetch_add(change, Ordering::Relaxed) + change
}

impl Engine {
    /// A worker of this model version has joined. Its first report is the base of its counters:
    /// what it counted before belongs to an earlier session.
    pub fn join(metrics: Arc<ModelMetrics>, first: &EngineStats) -> Self {
        metrics.engines.change(&EngineStats::default(), first);
        Self { metrics, last: *first }
    }

    /// The worker's next report.
    pub fn report(&mut self, stats: &EngineStats) {
        let sums = &self.metrics.engines;
        let last = &self.last;
        sums.change(last, stats);
        let rise = |to: u64, from: u64| to.saturating_sub(from);
        sums.preemptions.increment(rise(stats.num_preemptions, last.num_preemptions));
        sums.prefix_queries.increment(rise(stats.num_prompt_tokens, last.num_prompt_tokens));
        sums.prefix_hits.increment(rise(stats.num_cached_tokens, last.num_cached_tokens));
        sums.steps.increment(rise(stats.num_steps, last.num_steps));
        sums.draft_tokens.increment(rise(stats.num_draft_tokens, last.num_draft_tokens));
        sums.accepted_tokens.increment(rise(stats.num_accepted_tokens, last.num_accepted_tokens));
        self.last = *stats;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.metrics.engines.change(&self.last, &EngineStats::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(num_running: u32, num_used_blocks: u32, num_steps: u64) -> EngineStats {
        EngineStats {
            num_running,
            num_used_blocks,
            num_blocks: 10,
            num_steps,
            ..Default::default()
        }
    }

    fn value(name: &str, model: &str) -> f64 {
        let text = super::super::render();
        let start = format!("{name}{{model_name=\"{model}\"");
        let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn guesses_are_counted_from_the_first_report_on() {
        let metrics = super::super::of("guessed", "1");
        let drafts = |num_draft_tokens, num_accepted_tokens| EngineStats {
            num_draft_tokens,
            num_accepted_tokens,
            ..Default::default()
        };

        let mut engine = Engine::join(metrics, &drafts(100, 50));
        engine.report(&drafts(107, 53));

        assert_eq!(value(catalogue::DRAFT_TOKENS, "guessed"), 7.0);
        assert_eq!(value(catalogue::ACCEPTED_TOKENS, "guessed"), 3.0);
    }

    #[test]
    fn workers_of_one_model_are_summed_and_leave_nothing_behind() {
        let metrics = super::super::of("summed", "1");

        let mut first = Engine::join(Arc::clone(&metrics), &stats(3, 5, 100));
        let second = Engine::join(Arc::clone(&metrics), &stats(1, 10, 7));
        first.report(&stats(2, 5, 104));

        assert_eq!(value(catalogue::RUNNING, "summed"), 3.0);
        assert_eq!(value(catalogue::KV_CACHE_USAGE, "summed"), 0.75);
        assert_eq!(value(catalogue::ENGINE_STEPS, "summed"), 4.0);

        drop(second);
        assert_eq!(value(catalogue::KV_CACHE_USAGE, "summed"), 0.5);
        drop(first);
        assert_eq!(value(catalogue::RUNNING, "summed"), 0.0);
        assert_eq!(value(catalogue::KV_CACHE_BLOCKS, "summed"), 0.0);
    }
}
