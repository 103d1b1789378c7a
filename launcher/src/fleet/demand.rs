//! How many replicas a version should have.

use crate::name::VersionId;

use super::Fleet;
use super::route::Route;
use super::version::{Replica, Version};

/// What names want of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Demand {
    /// Replicas without which something that is promised can't be kept.
    pub(super) floor: u32,
    /// Replicas at most.
    pub(super) max: u32,
}

impl Fleet {
    pub(super) fn replicas_of<'a>(
        &'a self,
        version: &'a VersionId,
    ) -> impl Iterator<Item = &'a Replica> {
        self.state.replicas.values().filter(move |replica| replica.version == *version)
    }

    pub(super) fn num_ready(&self, version: &VersionId) -> u32 {
        count(self.replicas_of(version).filter(|replica| replica.is_ready()))
    }

    pub(super) fn num_active(&self, version: &VersionId) -> u32 {
        count(self.replicas_of(version).filter(|replica| replica.is_active()))
    }

    pub(super) fn has_replicas(&self, version: &VersionId) -> bool {
        self.replicas_of(version).next().is_some()
    }

    pub(super) fn has_failed(&self, version: &VersionId) -> bool {
        self.state.versions.get(version).is_none_or(|version| version.failed.is_some())
    }

    /// Names that a version serves, or is to.
    pub(super) fn users_of<'a>(
        &'a self,
        version: &'a VersionId,
    ) -> impl Iterator<Item = (&'a str, &'a Route)> {
        let routes = self.state.routes.iter();
        routes
            .filter(move |(_, route)| route.uses(version))
            .map(|(name, route)| (name.as_str(), route))
    }

    pub(super) fn demand(&self, id: &VersionId) -> Demand {
        let nothing = Demand { floor: 0, max: 0 };
        let Some(version) = self.state.versions.get(id) else { return nothing };
        if self.state.routes.values().any(|route| route.clears(id)) {
            return nothing;
        }
        // Its pinned name.
        let mut demand = Demand { floor: version.held, max: version.held.max(1) };
        for (_, route) in self.users_of(id) {
            demand.max = demand.max.max(route.scale.max);
            if version.awake {
                demand.floor = demand.floor.max(route.scale.min);
            }
        }
        if self.state.routes.values().any(|route| route.rolls_out(id)) {
            demand.floor = demand.floor.max(1);
        }
        demand
    }

    /// How many replicas there should be now.
    pub(super) fn desired(&self, id: &VersionId) -> u32 {
        let Some(version) = self.state.versions.get(id) else { return 0 };
        let Demand { floor, max } = self.demand(id);
        let desired = match (floor, version.awake) {
            (0, false) => 0,
            (floor, _) => version.target.clamp(floor.max(1), max.max(floor).max(1)).min(max),
        };
        match version.failed {
            // What still lives is used as long as it does.
            Some(_) => desired.min(self.num_ready(id)),
            None => desired,
        }
    }

    /// The version before, or the new one that was not taken: nobody needs it any more unless a
    /// name still means it.
    pub(super) fn release(&mut self, id: &VersionId) {
        if self.users_of(id).next().is_none()
            && let Some(version) = self.state.versions.get_mut(id)
        {
            version.sleep();
        }
    }
}

impl Version {
    pub(super) fn is_in_use(&self) -> bool {
        self.awake || self.held > 0
    }
}

pub(super) fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
