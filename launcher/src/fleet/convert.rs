//! To and from the protocol's messages, in one place.

use std::time::Duration;

use sconce_proto::fleet as proto;

use super::event::{Plan, Portion};
use super::history::{Entry, Reason};
use super::settings::{Limits, WHOLE};
use super::status::{ReplicaStatus, RolloutStatus, VersionState};
use super::table::{RoutingTable, TableReplica, TableRoute};
use super::traffic::{Counts, Histogram, ReplicaReport, RouterReport, VersionReport};

/// Replicas and versions that one report may name.
const MAX_REPORTED: usize = 1000;

impl From<&RoutingTable> for proto::RoutingTable {
    fn from(table: &RoutingTable) -> Self {
        Self {
            generation: table.generation,
            replicas: table.replicas.iter().map(Into::into).collect(),
            routes: table.routes.iter().map(Into::into).collect(),
        }
    }
}

impl From<&TableReplica> for proto::Replica {
    fn from(replica: &TableReplica) -> Self {
        Self {
            address: replica.address.clone(),
            version: replica.version.to_string(),
            draining: replica.draining,
        }
    }
}

impl From<&TableRoute> for proto::Route {
    fn from(route: &TableRoute) -> Self {
        let share = |(version, weight): &(_, u16)| proto::Share {
            version: ToString::to_string(version as &crate::name::VersionId),
            weight: u32::from(*weight),
        };
        let (shadow, shadow_share) = match &route.shadow {
            Some((version, share)) => (version.to_string(), u32::from(*share)),
            None => (String::new(), 0),
        };
        Self {
            name: route.name.clone(),
            shares: route.shares.iter().map(share).collect(),
            shadow,
            shadow_share,
            hidden: route.hidden,
            max_hold_ms: route.max_hold_ms,
            max_held: route.max_held,
        }
    }
}

impl From<proto::RouterReport> for RouterReport {
    /// What names no version is left out: it can't be one of ours.
    fn from(report: proto::RouterReport) -> Self {
        let versions = report.versions.into_iter().take(MAX_REPORTED);
        let replicas = report.replicas.into_iter().take(MAX_REPORTED);
        Self {
            router: report.router,
            generation: report.generation,
            versions: versions
                .filter_map(|version| Some((version.version.parse().ok()?, (&version).into())))
                .collect(),
            wanted: report.wanted.into_iter().take(MAX_REPORTED).collect(),
            replicas: replicas
                .map(|replica| {
                    let report = ReplicaReport {
                        ready: replica.ready,
                        num_in_flight: replica.num_in_flight,
                        num_waiting: replica.num_waiting,
                        num_running: replica.num_running,
                    };
                    (replica.address, report)
                })
                .collect(),
        }
    }
}

impl From<&proto::VersionReport> for VersionReport {
    fn from(report: &proto::VersionReport) -> Self {
        Self {
            counts: Counts {
                num_requests: report.num_requests,
                num_failures: report.num_failures,
                num_tokens: report.num_completion_tokens,
                ttft: histogram(&report.ttft),
                queue: histogram(&report.queue),
                num_shadowed: report.num_shadowed,
                num_different: report.num_different,
            },
            num_in_flight: report.num_in_flight,
        }
    }
}

fn histogram(counts: &[u64]) -> Histogram {
    let mut histogram = Histogram::default();
    for (mine, given) in histogram.0.iter_mut().zip(counts) {
        *mine = *given;
    }
    histogram
}

impl From<VersionState> for proto::VersionState {
    fn from(state: VersionState) -> Self {
        match state {
            VersionState::Unloaded => Self::Unloaded,
            VersionState::Loading => Self::Loading,
            VersionState::Ready => Self::Ready,
            VersionState::Draining => Self::Draining,
            VersionState::Failed => Self::Failed,
        }
    }
}

impl From<&ReplicaStatus> for proto::ReplicaStatus {
    fn from(replica: &ReplicaStatus) -> Self {
        Self {
            version: replica.version.to_string(),
            address: replica.address.clone().unwrap_or_default(),
            pid: replica.pid.unwrap_or_default(),
            state: proto::VersionState::from(replica.state).into(),
            started: replica.started.unix_secs(),
            num_restarts: replica.num_restarts,
            num_in_flight: replica.num_in_flight,
            adopted: replica.adopted,
            outdated: replica.is_outdated,
        }
    }
}

impl From<&RolloutStatus> for proto::Rollout {
    fn from(rollout: &RolloutStatus) -> Self {
        Self {
            name: rollout.name.clone(),
            from: rollout.from.as_ref().map(ToString::to_string).unwrap_or_default(),
            to: rollout.to.to_string(),
            share: u32::from(rollout.share),
            shadow: rollout.shadow,
            state: rollout.state.clone(),
        }
    }
}

impl From<&Reason> for proto::Reason {
    fn from(reason: &Reason) -> Self {
        Self { who: reason.who.clone(), why: reason.why.clone() }
    }
}

impl From<proto::Reason> for Reason {
    fn from(reason: proto::Reason) -> Self {
        Self { who: reason.who, why: reason.why }
    }
}

impl From<&Entry> for proto::HistoryEntry {
    fn from(entry: &Entry) -> Self {
        Self {
            time: entry.time.unix_secs(),
            name: entry.name.clone(),
            action: entry.deed.as_str().to_owned(),
            from: entry.from.clone().unwrap_or_default(),
            to: entry.to.clone().unwrap_or_default(),
            reason: Some((&entry.reason).into()),
            result: entry.result.clone().unwrap_or_default(),
        }
    }
}

/// What a request to promote asks for that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param} is {value}: expected {expected}")]
pub struct InvalidPlan {
    /// The field.
    pub param: &'static str,
    /// As given.
    pub value: u32,
    /// In words.
    pub expected: &'static str,
}

impl Plan {
    /// What a request to promote asks for. What it leaves open is as in `defaults`.
    ///
    /// # Errors
    ///
    /// Numbers out of range, and both a canary and a shadow.
    pub fn of_request(
        request: &proto::PromoteRequest,
        defaults: &Limits,
    ) -> Result<Self, InvalidPlan> {
        let checks = request.checks.clone().unwrap_or_default();
        let portion = match (request.canary, request.shadow) {
            (0, 0) => Portion::All,
            (canary, 0) if canary == u32::from(WHOLE) => Portion::All,
            (canary, 0) => Portion::Canary(share("canary", canary)?),
            (0, shadow) => Portion::Shadow(share("shadow", shadow)?),
            (_, shadow) => {
                let expected = "0, as there is a canary";
                return Err(InvalidPlan { param: "shadow", value: shadow, expected });
            }
        };
        let limits = Limits {
            max_failures: match checks.max_failures {
                0 => defaults.max_failures,
                given => share("checks.max_failures", given)?,
            },
            max_ttft_ratio: match checks.max_ttft_ratio {
                0 => defaults.max_ttft_ratio,
                given => given,
            },
            min_requests: defaults.min_requests,
        };
        let soak = u64::from(request.soak_seconds);
        Ok(Self {
            portion,
            soak: (soak > 0).then(|| Duration::from_secs(soak)),
            golden: (!checks.none && !checks.golden.is_empty()).then_some(checks.golden),
            limits: (!checks.none).then_some(limits),
        })
    }
}

fn share(param: &'static str, value: u32) -> Result<u16, InvalidPlan> {
    let share = u16::try_from(value).ok().filter(|share| *share <= WHOLE);
    share.ok_or(InvalidPlan { param, value, expected: "at most 10000" })
}
