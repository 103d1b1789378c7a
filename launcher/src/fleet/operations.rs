//! Tells those who gave orders how these stand.

use crate::name::VersionId;

use super::event::{Action, OperationId, RolloutId};
use super::memory::Memory;
use super::route::{Rollout, Stage};
use super::status::{ReplicaStatus, RolloutStatus, Status, Usage, VersionState, VersionStatus};
use super::time::Time;
use super::version::Stage as ReplicaStage;
use super::{Fleet, Portion, WHOLE};

/// Orders that are told about at once; older ones are told that nobody looks any more.
const MAX_OPERATIONS: usize = 256;

/// An order that was taken.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    id: OperationId,
    goal: Goal,
    since: Time,
    said: Option<String>,
}

/// When an order is done.
#[derive(Clone, Debug)]
pub(super) enum Goal {
    /// It is.
    Done { version: Option<VersionId>, result: String },
    /// With as many replicas as there should be.
    Loaded(VersionId),
    /// Without replicas.
    Unloaded(VersionId),
    /// When a rollout ends, or waits for another order.
    Rollout(RolloutId),
    /// When a rollout ends by going back.
    Back { rollout: RolloutId, name: String, from: VersionId },
}

/// How an order stands.
enum Standing {
    Open(String),
    Over(Result<String, String>),
}

impl Fleet {
    pub(super) fn open(&mut self, goal: Goal) -> OperationId {
        let id = OperationId(self.next_operation);
        self.next_operation += 1;
        self.operations.push(Operation { id, goal, since: self.now, said: None });
        id
    }

    pub(super) fn tell(&mut self) {
        let mut operations = std::mem::take(&mut self.operations);
        let num_too_many = operations.len().saturating_sub(MAX_OPERATIONS);
        let mut index = 0;
        operations.retain_mut(|operation| {
            let is_too_many = index < num_too_many;
            index += 1;
            self.tell_of(operation) && !is_too_many
        });
        self.operations = operations;
        self.ended.clear();
    }

    /// Returns whether there will be more to tell.
    fn tell_of(&mut self, operation: &mut Operation) -> bool {
        let standing = self.standing(operation);
        let state = self.goal_version(&operation.goal);
        let state = state.map_or(VersionState::Unloaded, |version| self.version_state(&version));
        let id = operation.id;
        match standing {
            Standing::Over(result) => {
                self.actions.push(Action::Finished { operation: id, result, state });
                false
            }
            Standing::Open(message) => {
                if operation.said.as_ref() != Some(&message) {
                    operation.said = Some(message.clone());
                    self.actions.push(Action::Progress { operation: id, message, state });
                }
                true
            }
        }
    }

    fn standing(&self, operation: &Operation) -> Standing {
        match &operation.goal {
            Goal::Done { result, .. } => Standing::Over(Ok(result.clone())),
            Goal::Loaded(version) => self.loading(version, operation.since),
            Goal::Unloaded(version) => match super::demand::count(self.replicas_of(version)) {
                0 => Standing::Over(Ok(format!("{version} is unloaded"))),
                _ if self.num_active(version) > 0 => {
                    Standing::Over(Err(format!("{version} was loaded again")))
                }
                num => Standing::Open(format!("waiting for {num} of {version} to end")),
            },
            Goal::Rollout(id) => self.rolling(*id),
            Goal::Back { rollout, name, from } => match self.rolling(*rollout) {
                Standing::Open(message) => Standing::Open(message),
                Standing::Over(_) => Standing::Over(Ok(format!("`{name}` is served by {from}"))),
            },
        }
    }

    fn loading(&self, version: &VersionId, since: Time) -> Standing {
        let (num_ready, num_wanted) = (self.num_ready(version), self.desired(version));
        let patience = self.settings.patience.start;
        if self.has_failed(version) {
            return Standing::Over(Err(self.failure(version)));
        }
        if num_ready > 0 && num_ready >= num_wanted {
            return Standing::Over(Ok(format!("{version} is ready")));
        }
        if num_wanted == 0 {
            return Standing::Over(Err(format!("{version} was unloaded again")));
        }
        if self.now.since(since) >= patience {
            let secs = patience.as_secs();
            return Standing::Over(Err(format!("{version} was not ready after {secs} s")));
        }
        let short = self.short.get(version);
        let short = short.map_or_else(String::new, |shortage| format!("; it {shortage}"));
        Standing::Open(format!(
            "loading {version}: {num_ready} of {num_wanted} replicas are ready{short}"
        ))
    }

    fn rolling(&self, id: RolloutId) -> Standing {
        let ended = self.ended.iter().find(|(ended, _)| *ended == id);
        if let Some((_, result)) = ended {
            return Standing::Over(result.clone());
        }
        let rollouts = self.state.routes.values().filter_map(|route| route.rollout.as_ref());
        match rollouts.into_iter().find(|rollout| rollout.id == id) {
            Some(rollout) if rollout.stage == Stage::Observing && rollout.plan.soak.is_none() => {
                Standing::Over(Ok(self.describe(rollout)))
            }
            Some(rollout) => Standing::Open(self.describe(rollout)),
            None => Standing::Over(Err("the rollout is over".to_owned())),
        }
    }

    fn goal_version(&self, goal: &Goal) -> Option<VersionId> {
        match goal {
            Goal::Done { version, .. } => version.clone(),
            Goal::Loaded(version) | Goal::Unloaded(version) | Goal::Back { from: version, .. } => {
                Some(version.clone())
            }
            Goal::Rollout(id) => {
                let mut routes = self.state.routes.values();
                routes.find_map(|route| {
                    let rollout = route.rollout.as_ref().filter(|rollout| rollout.id == *id)?;
                    Some(rollout.to.clone())
                })
            }
        }
    }

    /// What a rollout does, in words.
    fn describe(&self, rollout: &Rollout) -> String {
        let Rollout { to, .. } = rollout;
        let from = rollout.from.as_ref().map_or_else(String::new, ToString::to_string);
        match &rollout.stage {
            Stage::Clearing => format!("waiting for {from} to end, as there is no room for both"),
            Stage::Starting => format!(
                "starting {to}: {} of {} replicas are ready",
                self.num_ready(to),
                self.desired(to)
            ),
            Stage::Checking => format!("asking {to} golden prompts"),
            Stage::Warming => format!("waiting for routers to connect to {to}"),
            Stage::Returning { why, .. } => format!("going back to {from}: {why}"),
            Stage::Observing => {
                let counts = self.observed(rollout);
                let part = match rollout.plan.portion {
                    Portion::Canary(share) => format!("{} % of requests", percent(share)),
                    Portion::Shadow(share) => format!("a copy of {} % of requests", percent(share)),
                    Portion::All => "all requests".to_owned(),
                };
                format!(
                    "{to} gets {part}: {} so far, {} failed",
                    counts.num_requests, counts.num_failures
                )
            }
        }
    }

    fn observed(&self, rollout: &Rollout) -> super::Counts {
        let now = self.traffic.counts(&rollout.to);
        rollout.baseline.map_or_else(Default::default, |before| now - before.to)
    }

    /// How a version is.
    pub fn version_state(&self, id: &VersionId) -> VersionState {
        if self.num_ready(id) > 0 {
            return VersionState::Ready;
        }
        if self.state.versions.get(id).is_some_and(|version| version.failed.is_some()) {
            return VersionState::Failed;
        }
        if self.desired(id) > 0 {
            return VersionState::Loading;
        }
        if self.has_replicas(id) { VersionState::Draining } else { VersionState::Unloaded }
    }

    /// How everything is.
    pub fn status(&self) -> Status {
        let rollouts = self.state.routes.iter();
        Status {
            versions: self.state.versions.keys().map(|id| self.version_status(id)).collect(),
            replicas: self.replica_status(),
            rollouts: rollouts
                .filter_map(|(name, route)| {
                    Some(self.rollout_status(name, route.rollout.as_ref()?))
                })
                .collect(),
        }
    }

    /// What a version is doing.
    pub fn usage(&self, id: &VersionId) -> Usage {
        let mut usage =
            Usage { num_tokens: self.traffic.counts(id).num_tokens, ..Usage::default() };
        for replica in self.replicas_of(id) {
            usage.memory.add(&replica.needs);
            let Some(address) = replica.address.as_deref() else { continue };
            usage.num_running += self.traffic.num_running_at(address);
            usage.num_waiting += self.traffic.num_waiting_at(address);
        }
        usage
    }

    /// Bytes that all workers have, and that they may have together, by device.
    pub fn memory(&self) -> Vec<(String, u64, u64)> {
        let mut used = Memory::default();
        self.state.replicas.values().for_each(|replica| used.add(&replica.needs));
        let devices = self.settings.budget.devices();
        devices.map(|(device, most)| (device.to_owned(), used.bytes(device), most)).collect()
    }

    fn version_status(&self, id: &VersionId) -> VersionStatus {
        let failed = self.state.versions.get(id).and_then(|version| version.failed.as_ref());
        let error = failed.map(|failure| failure.why.clone());
        VersionStatus {
            version: id.clone(),
            state: self.version_state(id),
            error: error
                .or_else(|| self.short.get(id).map(|shortage| format!("it {shortage}")))
                .or_else(|| self.renewal_fault(id)),
            num_ready: self.num_ready(id),
            num_wanted: self.desired(id),
        }
    }

    fn replica_status(&self) -> Vec<ReplicaStatus> {
        let replicas = self.state.replicas.iter();
        replicas
            .map(|(id, replica)| ReplicaStatus {
                replica: *id,
                version: replica.version.clone(),
                address: replica.address.clone(),
                pid: replica.pid,
                state: match replica.stage {
                    ReplicaStage::Starting => VersionState::Loading,
                    ReplicaStage::Ready => VersionState::Ready,
                    ReplicaStage::Draining { .. } | ReplicaStage::Stopping => {
                        VersionState::Draining
                    }
                },
                started: replica.started,
                num_restarts: self
                    .state
                    .versions
                    .get(&replica.version)
                    .map_or(0, |version| version.num_restarts),
                num_in_flight: replica
                    .address
                    .as_deref()
                    .map_or(0, |address| self.traffic.num_in_flight_at(address)),
                adopted: replica.adopted,
                is_outdated: replica.is_outdated,
            })
            .collect()
    }

    fn rollout_status(&self, name: &str, rollout: &Rollout) -> RolloutStatus {
        let (share, shadow) = match (&rollout.stage, rollout.plan.portion) {
            (Stage::Observing, Portion::Canary(share)) => (share, false),
            (Stage::Observing, Portion::Shadow(share)) => (share, true),
            (Stage::Observing, Portion::All) => (WHOLE, false),
            (_, Portion::Shadow(_)) => (0, true),
            _ => (0, false),
        };
        RolloutStatus {
            rollout: rollout.id,
            name: name.to_owned(),
            from: rollout.from.clone(),
            to: rollout.to.clone(),
            share,
            shadow,
            state: self.describe(rollout),
        }
    }
}

fn percent(share: u16) -> f64 {
    f64::from(share) / 100.0
}
