//! What a session tells the metrics recorder.
//!
//! Gauges carry the worker's address; totals and latencies add up over the workers of a model.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use sconce_proto::worker::{EngineStats, ModelInfo};

/// The metrics of one worker, looked up once per session.
pub(super) struct Gauges {
    ready: Gauge,
    num_running: Gauge,
    num_waiting: Gauge,
    kv_cache_usage: Gauge,
    preemptions: Counter,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    generated_tokens: Counter,
    steps: Counter,
    cancel_to_free: Histogram,
}

impl Gauges {
    pub(super) fn new(info: &ModelInfo, address: &str) -> Self {
        let model = || info.model.clone();
        let worker = || address.to_owned();
        Self {
            ready: gauge!("sconce_worker_ready", "model" => model(), "worker" => worker()),
            num_running: gauge!(
                "sconce_num_requests_running", "model" => model(), "worker" => worker()
            ),
            num_waiting: gauge!(
                "sconce_num_requests_waiting", "model" => model(), "worker" => worker()
            ),
            kv_cache_usage: gauge!(
                "sconce_kv_cache_usage_ratio", "model" => model(), "worker" => worker()
            ),
            preemptions: counter!("sconce_preemptions_total", "model" => model()),
            prompt_tokens: counter!("sconce_engine_prompt_tokens_total", "model" => model()),
            cached_tokens: counter!("sconce_engine_cached_tokens_total", "model" => model()),
            generated_tokens: counter!("sconce_engine_generated_tokens_total", "model" => model()),
            steps: counter!("sconce_engine_steps_total", "model" => model()),
            cancel_to_free: histogram!("sconce_cancel_to_free_seconds", "model" => model()),
        }
    }

    pub(super) fn ready(&self) {
        self.ready.set(1);
    }

    /// Publishes `now`, and what the totals gained since `before` of the same epoch.
    pub(super) fn publish(&self, before: &EngineStats, now: &EngineStats) {
        self.num_running.set(now.num_running);
        self.num_waiting.set(now.num_waiting);
        let blocks = f64::from(now.num_blocks.max(1));
        self.kv_cache_usage.set(f64::from(now.num_used_blocks) / blocks);
        let gained = |total: fn(&EngineStats) -> u64| total(now).saturating_sub(total(before));
        self.preemptions.increment(gained(|stats| stats.num_preemptions));
        self.prompt_tokens.increment(gained(|stats| stats.num_prompt_tokens));
        self.cached_tokens.increment(gained(|stats| stats.num_cached_tokens));
        self.generated_tokens.increment(gained(|stats| stats.num_generated_tokens));
        self.steps.increment(gained(|stats| stats.num_steps));
    }

    /// A cancelled request's blocks are free.
    pub(super) fn freed_after(&self, time: Duration) {
        self.cancel_to_free.record(time);
    }
}

impl Drop for Gauges {
    fn drop(&mut self) {
        self.ready.set(0);
        self.num_running.set(0);
        self.num_waiting.set(0);
        self.kv_cache_usage.set(0);
    }
}
