//! A version that can be served, its replicas, and what befell them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::VersionId;

use super::memory::Memory;
use super::settings::Restart;
use super::time::Time;

/// A version that can be served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    /// What a replica takes.
    pub(crate) needs: Memory,
    /// Whether it is to have replicas at all, as far as no rollout needs it.
    pub(crate) awake: bool,
    /// Replicas that an operator asked for, until the version is unloaded.
    pub(crate) held: u32,
    /// Replicas that its traffic asks for.
    pub(crate) target: u32,
    /// The last deaths, as many as count.
    pub(crate) deaths: Vec<Time>,
    /// Deaths in a row, with short lives between them.
    pub(crate) num_in_row: u32,
    /// Deaths since it was loaded.
    pub(crate) num_restarts: u32,
    /// Before this, no replica is started.
    pub(crate) restart_at: Option<Time>,
    /// Whether a replica was ready since it was loaded.
    pub(crate) was_ready: bool,
    pub(crate) failed: Option<Failure>,
}

/// A version that is not started any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) at: Time,
    pub(crate) why: String,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replica {
    pub(crate) version: VersionId,
    pub(crate) needs: Memory,
    pub(crate) stage: Stage,
    pub(crate) address: Option<String>,
    pub(crate) pid: Option<u32>,
    pub(crate) started: Time,
    pub(crate) adopted: bool,
    /// It was started otherwise than it would be now.
    #[serde(default)]
    pub(crate) is_outdated: bool,
    #[serde(default)]
    pub(crate) exchange: Exchange,
    /// It is not known yet whether a launcher before this one left it alive.
    #[serde(skip)]
    pub(crate) is_missing: bool,
}

/// A worker's part in an exchange of outdated workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Exchange {
    /// None.
    #[default]
    None,
    /// It is one more than there should be, and will take the place of another.
    Fresh,
    /// It leaves for another.
    Leaving,
}

/// How far a worker is. It has an address from `Ready` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Stage {
    Starting,
    Ready,
    /// In the table as draining: since when, and since which table once there is one that says so.
    Draining {
        since: Time,
        generation: Option<u64>,
    },
    /// Told to end.
    Stopping,
}

impl Version {
    pub(crate) fn new(needs: Memory) -> Self {
        Self {
            needs,
            awake: false,
            held: 0,
            target: 1,
            deaths: Vec::new(),
            num_in_row: 0,
            num_restarts: 0,
            restart_at: None,
            was_ready: false,
            failed: None,
        }
    }

    /// Starts over: what befell it is forgiven.
    pub(crate) fn wake(&mut self) {
        self.awake = true;
        self.forgive();
    }

    pub(crate) fn forgive(&mut self) {
        self.failed = None;
        self.deaths.clear();
        self.num_in_row = 0;
        self.restart_at = None;
    }

    pub(crate) fn sleep(&mut self) {
        self.awake = false;
        self.held = 0;
        self.target = 1;
        self.was_ready = false;
        self.num_restarts = 0;
    }

    /// A replica that nobody told to end died after `lived`.
    pub(crate) fn bury(&mut self, now: Time, lived: Duration, why: String, rules: &Restart) {
        self.part_with(now, lived, rules);
        self.deaths.retain(|death| now.since(*death) <= rules.window);
        self.deaths.push(now);
        let num = self.deaths.len();
        if !self.was_ready {
            self.failed = Some(Failure { at: now, why });
        } else if num >= usize::try_from(rules.max_deaths).unwrap_or(usize::MAX) {
            let secs = rules.window.as_secs();
            let why = format!("died {num} times within {secs} s, at last: {why}");
            self.deaths.clear();
            self.failed = Some(Failure { at: now, why });
        }
    }

    /// A replica has gone after `lived`, and another is to come: the later, the more often that was
    /// so lately.
    pub(crate) fn part_with(&mut self, now: Time, lived: Duration, rules: &Restart) {
        self.num_restarts = self.num_restarts.saturating_add(1);
        if lived >= rules.policy.healthy {
            self.num_in_row = 0;
        }
        let delay = rules.policy.first.saturating_mul(1 << self.num_in_row.min(20));
        self.num_in_row = self.num_in_row.saturating_add(1);
        self.restart_at = Some(now + delay.min(rules.policy.longest));
    }
}

impl Replica {
    /// It takes requests.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// It takes requests, or will.
    pub(crate) fn is_active(&self) -> bool {
        matches!(self.stage, Stage::Starting | Stage::Ready)
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. })
    }

    /// On its way out.
    pub(crate) fn is_leaving(&self) -> bool {
        matches!(self.stage, Stage::Draining { .. } | Stage::Stopping)
    }
}
