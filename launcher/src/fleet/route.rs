//! A name that clients use, and the version that it means.

use serde::{Deserialize, Serialize};

use crate::name::VersionId;

use super::event::{Plan, RolloutId, Scale};
use super::settings::Limits;
use super::time::Time;
use super::traffic::Counts;

/// Versions before the current one that a name remembers.
const MAX_BEFORE: usize = 16;

/// A name that clients use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    /// What it means; `None` until the first version that was promoted takes its traffic.
    pub(crate) current: Option<VersionId>,
    /// What it meant before, the latest last.
    pub(crate) before: Vec<VersionId>,
    pub(crate) scale: Scale,
    pub(crate) hidden: bool,
    pub(crate) rollout: Option<Rollout>,
    pub(crate) probation: Option<Probation>,
}

/// A name on its way from one version to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rollout {
    pub(crate) id: RolloutId,
    /// Its entry in the history.
    pub(crate) entry: u64,
    pub(crate) from: Option<VersionId>,
    pub(crate) to: VersionId,
    pub(crate) kind: Kind,
    pub(crate) plan: Plan,
    pub(crate) room: Room,
    pub(crate) stage: Stage,
    /// When the stage began.
    pub(crate) since: Time,
    /// What was counted of both when they began to be compared.
    #[serde(skip)]
    pub(crate) baseline: Option<Baseline>,
}

/// Which way a rollout goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// To a version that is to be better.
    Promotion,
    /// To the version before: whatever happens, nothing is rolled back from here.
    Return,
}

/// Whether both versions fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Room {
    Beside,
    /// The old one has to leave first.
    Instead,
}

/// How far a rollout is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    /// The old version leaves, to make room.
    Clearing,
    /// Replicas of the new one start.
    Starting,
    /// Golden prompts are asked.
    Checking,
    /// Routers connect to it.
    Warming,
    /// It gets a part of the traffic, or a copy.
    Observing,
    /// There was no room for both: the new one leaves, and the old one starts again.
    Returning { why: String, entry: u64 },
}

/// What was counted of two versions at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Baseline {
    pub(crate) from: Counts,
    pub(crate) to: Counts,
}

/// A version that got all traffic lately.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Probation {
    pub(crate) until: Time,
    /// The history's entry of its promotion.
    pub(crate) entry: u64,
    pub(crate) limits: Option<Limits>,
    /// Requests of the version before, and those that failed.
    pub(crate) num_before: u64,
    pub(crate) num_failed_before: u64,
    #[serde(skip)]
    pub(crate) baseline: Option<Counts>,
}

impl Route {
    pub(crate) fn new(current: Option<VersionId>, scale: Scale, hidden: bool) -> Self {
        Self { current, before: Vec::new(), scale, hidden, rollout: None, probation: None }
    }

    /// Whether it is on its way with the old version out of the way.
    fn is_cleared_for(&self, rollout: &Rollout) -> bool {
        rollout.room == Room::Instead
            && matches!(
                rollout.stage,
                Stage::Clearing | Stage::Starting | Stage::Checking | Stage::Warming
            )
    }

    /// Whether its rollout needs replicas of a version, whatever its traffic.
    pub(crate) fn rolls_out(&self, version: &VersionId) -> bool {
        let goes_to = |rollout: &Rollout| match rollout.stage {
            Stage::Starting | Stage::Checking | Stage::Warming | Stage::Observing => {
                rollout.to == *version
            }
            Stage::Returning { .. } => rollout.from.as_ref() == Some(version),
            Stage::Clearing => false,
        };
        self.rollout.as_ref().is_some_and(goes_to)
    }

    /// Whether its rollout needs that a version has no replica.
    pub(crate) fn clears(&self, version: &VersionId) -> bool {
        self.rollout.as_ref().is_some_and(|rollout| match rollout.stage {
            Stage::Returning { .. } => rollout.to == *version,
            _ => self.is_cleared_for(rollout) && rollout.from.as_ref() == Some(version),
        })
    }

    /// Whether a version serves it, or is to.
    pub(crate) fn uses(&self, version: &VersionId) -> bool {
        self.current.as_ref() == Some(version)
            || self.rollout.as_ref().is_some_and(|rollout| rollout.to == *version)
    }

    pub(crate) fn remember(&mut self, version: VersionId) {
        self.before.retain(|before| *before != version);
        self.before.push(version);
        if self.before.len() > MAX_BEFORE {
            self.before.remove(0);
        }
    }
}
