//! What routers report, added up.
//!
//! A router counts from its own start. What is kept here are differences between one report and
//! the next of the same router process, so that a router's restart, or the launcher's, neither
//! takes anything away nor counts anything twice. A router that is silent for too long is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::name::VersionId;

use super::time::Time;

pub use sconce_proto::BUCKETS_MS;

/// Routers that are listened to.
const MAX_ROUTERS: usize = 256;

/// What a router says about once a second.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouterReport {
    /// Names the router process; another after each start.
    pub router: String,
    /// The table that it follows; 0: none yet.
    pub generation: u64,
    /// Totals since its start, by version.
    pub versions: BTreeMap<VersionId, VersionReport>,
    /// Names of which requests wait for a replica.
    pub wanted: Vec<String>,
    /// The replicas that it has a session with, by address.
    pub replicas: BTreeMap<String, ReplicaReport>,
}

/// What a router says of a version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VersionReport {
    /// Totals.
    pub counts: Counts,
    /// Requests that are being answered now.
    pub num_in_flight: u32,
}

/// What a router says of a replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplicaReport {
    /// It answered the last probe.
    pub ready: bool,
    /// Requests of this router that it has.
    pub num_in_flight: u32,
    /// Requests of all routers that wait in it.
    pub num_waiting: u32,
    /// Requests of all routers that it computes.
    pub num_running: u32,
}

/// Requests and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that ended.
    pub num_requests: u64,
    /// Of them, those that failed by no fault of the client.
    pub num_failures: u64,
    /// Tokens of completions.
    pub num_tokens: u64,
    /// Requests by time to the first token.
    pub ttft: Histogram,
    /// Requests by time in the queue.
    pub queue: Histogram,
    /// Copies of requests that were answered.
    pub num_shadowed: u64,
    /// Of them, those answered otherwise.
    pub num_different: u64,
}

/// Numbers of requests by time: entry i took at most `BUCKETS_MS[i]`, and the last one longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram(pub [u64; BUCKETS_MS.len() + 1]);

/// What all routers said together.
#[derive(Clone, Debug)]
pub(crate) struct Traffic {
    routers: BTreeMap<String, Router>,
    versions: BTreeMap<VersionId, Counts>,
    last_used: BTreeMap<VersionId, Time>,
    /// When to believe that a router that did not report yet is not there.
    settled_at: Time,
}

#[derive(Clone, Debug)]
struct Router {
    last_seen: Time,
    report: RouterReport,
}

impl Traffic {
    /// Knows of no router. Before `settled_at`, there may be some that will report.
    pub(crate) fn new(settled_at: Time) -> Self {
        Self {
            routers: BTreeMap::new(),
            versions: BTreeMap::new(),
            last_used: BTreeMap::new(),
            settled_at,
        }
    }

    pub(crate) fn take(&mut self, now: Time, report: RouterReport) {
        let is_known = self.routers.contains_key(&report.router);
        if !is_known && self.routers.len() >= MAX_ROUTERS {
            return;
        }
        let before = self.routers.get(&report.router).map(|router| &router.report.versions);
        for (version, new) in &report.versions {
            // What a router counted before it was first heard of may be older than this launcher.
            let old = match before {
                Some(versions) => versions.get(version).map(|v| v.counts).unwrap_or_default(),
                None => new.counts,
            };
            let difference = new.counts - old;
            if difference.num_requests > 0 || new.num_in_flight > 0 {
                self.last_used.insert(version.clone(), now);
            }
            let sum = self.versions.entry(version.clone()).or_default();
            *sum = *sum + difference;
        }
        self.routers.insert(report.router.clone(), Router { last_seen: now, report });
    }

    /// Forgets routers that are silent, and versions that are not `known`.
    pub(crate) fn expire(
        &mut self,
        now: Time,
        patience: Duration,
        known: impl Fn(&VersionId) -> bool,
    ) {
        self.routers.retain(|_, router| now.since(router.last_seen) <= patience);
        self.versions.retain(|version, _| known(version));
        self.last_used.retain(|version, _| known(version));
    }

    /// All that was counted of a version since this launcher started.
    pub(crate) fn counts(&self, version: &VersionId) -> Counts {
        self.versions.get(version).copied().unwrap_or_default()
    }

    pub(crate) fn last_used(&self, version: &VersionId) -> Option<Time> {
        self.last_used.get(version).copied()
    }

    pub(crate) fn touch(&mut self, now: Time, version: &VersionId) {
        self.last_used.insert(version.clone(), now);
    }

    /// Requests of a version that are being answered.
    pub(crate) fn num_in_flight(&self, version: &VersionId) -> u32 {
        let reports = self.routers.values().filter_map(|r| r.report.versions.get(version));
        reports.fold(0, |sum, report| sum.saturating_add(report.num_in_flight))
    }

    /// Requests that a replica has.
    pub(crate) fn num_in_flight_at(&self, address: &str) -> u32 {
        self.at(address).fold(0, |sum, report| sum.saturating_add(report.num_in_flight))
    }

    /// Requests that wait in a replica. Each router was told of those of all routers.
    pub(crate) fn num_waiting_at(&self, address: &str) -> u32 {
        self.at(address).map(|report| report.num_waiting).max().unwrap_or(0)
    }

    /// Requests that a replica computes.
    pub(crate) fn num_running_at(&self, address: &str) -> u32 {
        self.at(address).map(|report| report.num_running).max().unwrap_or(0)
    }

    /// Whether no router has, or can still send, a request for a replica that is draining since
    /// `generation`.
    pub(crate) fn has_left(&self, now: Time, address: &str, generation: u64) -> bool {
        now >= self.settled_at
            && self.routers.values().all(|router| router.report.generation >= generation)
            && self.num_in_flight_at(address) == 0
    }

    /// Whether every router can send requests to one of the addresses.
    pub(crate) fn reaches(&self, now: Time, addresses: &[&str]) -> bool {
        let is_ready = |router: &Router| {
            let mut reports = addresses.iter().filter_map(|a| router.report.replicas.get(*a));
            reports.any(|report| report.ready)
        };
        now >= self.settled_at && self.routers.values().all(is_ready)
    }

    /// Names of which requests wait for a replica.
    pub(crate) fn wanted(&self) -> BTreeSet<&str> {
        self.routers.values().flat_map(|r| r.report.wanted.iter().map(String::as_str)).collect()
    }

    fn at<'a>(&'a self, address: &'a str) -> impl Iterator<Item = &'a ReplicaReport> {
        self.routers.values().filter_map(|router| router.report.replicas.get(address))
    }
}

impl Histogram {
    pub(crate) fn num(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Within which time at least `share` of 100 requests were: the upper end of a range, in
    /// milliseconds; `None` if there are none, or it is in the last range.
    pub(crate) fn percentile_ms(&self, share: u64) -> Option<u64> {
        let num = self.num();
        if num == 0 {
            return None;
        }
        let rank = (num.saturating_mul(share)).div_ceil(100).max(1);
        self.at_rank(rank)
    }

    /// The upper end of the range of the request that is the `rank`-th by time.
    pub(crate) fn at_rank(&self, rank: u64) -> Option<u64> {
        let mut seen = 0u64;
        for (num, end) in self.0.iter().zip(BUCKETS_MS) {
            seen = seen.saturating_add(*num);
            if seen >= rank {
                return Some(u64::from(end));
            }
        }
        None
    }

    /// Requests that surely took longer than `ms`.
    pub(crate) fn num_longer(&self, ms: u64) -> u64 {
        let starts = std::iter::once(0).chain(BUCKETS_MS);
        let longer = self.0.iter().zip(starts).filter(|(_, start)| u64::from(*start) >= ms);
        longer.fold(0, |sum, (num, _)| sum.saturating_add(*num))
    }
}

impl Add for Histogram {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_add(other.0[i])))
    }
}

impl Sub for Histogram {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].saturating_sub(other.0[i])))
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            num_requests: self.num_requests.saturating_add(other.num_requests),
            num_failures: self.num_failures.saturating_add(other.num_failures),
            num_tokens: self.num_tokens.saturating_add(other.num_tokens),
            ttft: self.ttft + other.ttft,
            queue: self.queue + other.queue,
            num_shadowed: self.num_shadowed.saturating_add(other.num_shadowed),
            num_different: self.num_different.saturating_add(other.num_different),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            num_requests: self.num_requests.saturating_sub(other.num_requests),
            num_failures: self.num_failures.saturating_sub(other.num_failures),
            num_tokens: self.num_tokens.saturating_sub(other.num_tokens),
            ttft: self.ttft - other.ttft,
            queue: self.queue - other.queue,
            num_shadowed: self.num_shadowed.saturating_sub(other.num_shadowed),
            num_different: self.num_different.saturating_sub(other.num_different),
        }
    }
}
