//! What a router counts of one version since its start, for the launcher: whether to go on with a
//! rollout, or how many replicas to have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sconce_proto::BUCKETS_MS;
use sconce_proto::fleet::VersionReport;

/// The counts of one version. Recording takes neither a lock nor memory.
#[derive(Debug, Default)]
pub struct Totals {
    num_requests: AtomicU64,
    num_failures: AtomicU64,
    num_completion_tokens: AtomicU64,
    ttft: Times,
    queue: Times,
    num_in_flight: AtomicU32,
    /// Requests that have chosen the version and are not sent to a worker yet.
    num_pending: AtomicU32,
    last_used_ms: AtomicU64,
    num_shadowed: AtomicU64,
    num_different: AtomicU64,
}

/// Durations, counted in the ranges of [`BUCKETS_MS`] and one after them.
#[derive(Debug, Default)]
struct Times([AtomicU64; BUCKETS_MS.len() + 1]);

/// A request that is being answered, as long as it is held.
#[derive(Debug)]
pub struct InFlight(Arc<Totals>);

/// A request that has chosen a version, as long as it is held.
#[derive(Debug)]
pub struct Pending(Arc<Totals>);

impl Times {
    fn record(&self, took: Duration) {
        let took_us = took.as_micros();
        let fits = |limit: &u32| took_us <= u128::from(*limit) * 1000;
        let range = BUCKETS_MS.iter().position(fits).unwrap_or(BUCKETS_MS.len());
        if let Some(count) = self.0.get(range) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counts(&self) -> Vec<u64> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

impl Totals {
    /// A request begins to be answered.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.num_requests.fetch_add(1, Ordering::Relaxed);
        self.num_in_flight.fetch_add(1, Ordering::Relaxed);
        self.touch();
        InFlight(Arc::clone(self))
    }

    /// A request has chosen this version.
    pub fn choose(self: &Arc<Self>) -> Pending {
        self.num_pending.fetch_add(1, Ordering::SeqCst);
        Pending(Arc::clone(self))
    }

    /// Requests that have chosen this version and may not have been sent yet.
    pub fn num_pending(&self) -> u32 {
        self.num_pending.load(Ordering::SeqCst)
    }

    /// A request failed by no fault of the client.
    pub fn failed(&self) {
        self.num_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A token of a completion came.
    pub fn token(&self) {
        self.num_completion_tokens.fetch_add(1, Ordering::Relaxed);
    }

    /// The first token of a request came, so long after it.
    pub fn first_token(&self, since_arrival: Duration) {
        self.ttft.record(since_arrival);
    }

    /// A prompt waited so long for its first step.
    pub fn queued(&self, wait: Duration) {
        self.queue.record(wait);
    }

    /// A copy of a request was answered.
    pub fn shadowed(&self, is_different: bool) {
        self.num_shadowed.fetch_add(1, Ordering::Relaxed);
        self.num_different.fetch_add(is_different.into(), Ordering::Relaxed);
    }

    /// The report of a version with these counts.
    pub(crate) fn report(&self, version: &str) -> VersionReport {
        VersionReport {
            version: version.to_owned(),
            num_requests: self.num_requests.load(Ordering::Relaxed),
            num_failures: self.num_failures.load(Ordering::Relaxed),
            num_completion_tokens: self.num_completion_tokens.load(Ordering::Relaxed),
            ttft: self.ttft.counts(),
            queue: self.queue.counts(),
            num_in_flight: self.num_in_flight.load(Ordering::Relaxed),
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
            num_shadowed: self.num_shadowed.load(Ordering::Relaxed),
            num_different: self.num_different.load(Ordering::Relaxed),
        }
    }

    /// The version is in use now.
    fn touch(&self) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_used_ms.fetch_max(now.as_millis() as u64, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.touch();
        self.0.num_in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.num_pending.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_fall_into_the_range_that_ends_with_them() {
        let times = Times::default();
        for us in [0, 1000, 1001, 2000, 30_000_000, 30_000_001] {
            times.record(Duration::from_micros(us));
        }

        let counts = times.counts();

        assert_eq!((counts[0], counts[1]), (2, 2));
        assert_eq!((counts[BUCKETS_MS.len() - 1], counts[BUCKETS_MS.len()]), (1, 1));
    }

    #[test]
    fn what_is_in_flight_is_counted_until_it_is_dropped() {
        let totals = Arc::new(Totals::default());
        let (request, pending) = (totals.begin(), totals.choose());
        assert_eq!((totals.report("v").num_in_flight, totals.num_pending()), (1, 1));

        drop((request, pending));

        let report = totals.report("v");
        assert_eq!((report.num_in_flight, report.num_requests, totals.num_pending()), (0, 1, 0));
        assert!(report.last_used_ms > 0);
    }
}
