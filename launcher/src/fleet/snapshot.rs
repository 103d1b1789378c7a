//! What outlives the launcher.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::VersionId;

use super::Fleet;
use super::event::{Action, ReplicaId};
use super::history::History;
use super::route::{Route, Stage};
use super::version::{Replica, Version};

/// What outlives the launcher: versions, workers, names, rollouts and the history. Serializes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub(super) generation: u64,
    pub(super) next_replica: u64,
    pub(super) next_rollout: u64,
    pub(super) next_entry: u64,
    pub(super) versions: BTreeMap<VersionId, Version>,
    pub(super) replicas: BTreeMap<ReplicaId, Replica>,
    pub(super) routes: BTreeMap<String, Route>,
    pub(super) history: History,
}

impl Snapshot {
    /// Versions that are known.
    pub fn versions(&self) -> impl Iterator<Item = &VersionId> {
        self.versions.keys()
    }

    /// Names that have a route of their own.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.routes.keys().map(String::as_str)
    }
}

impl Fleet {
    /// Asks for every worker of the snapshot to be found.
    pub(super) fn adopt(&mut self) {
        for (id, replica) in &mut self.state.replicas {
            replica.adopted = true;
            replica.is_missing = true;
            self.actions.push(Action::Adopt {
                replica: *id,
                version: replica.version.clone(),
                pid: replica.pid,
                address: replica.address.clone(),
            });
            self.traffic.touch(self.now, &replica.version);
        }
        // What was asked of the launcher before was asked in vain.
        for route in self.state.routes.values_mut() {
            if let Some(rollout) = &mut route.rollout
                && rollout.stage == Stage::Checking
            {
                rollout.stage = Stage::Starting;
            }
        }
    }
}
