//! What a fleet is told, and what it wants done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::name::VersionId;

use super::history::Reason;
use super::memory::{Memory, Shortage};
use super::settings::Limits;
use super::status::VersionState;
use super::traffic::RouterReport;

/// A worker, from the order to start it to its end. Never used twice, also not after a restart of
/// the launcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub u64);

/// A rollout of a name. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RolloutId(pub u64);

/// An order that was taken, and whose progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u64);

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Time passed. Some four times a second.
    Tick,
    /// A process was started for a replica.
    Spawned {
        /// Which.
        replica: ReplicaId,
        /// Its process.
        pid: u32,
    },
    /// A worker takes requests. Also the answer to [`Action::Adopt`] if it does.
    Ready {
        /// Which.
        replica: ReplicaId,
        /// `unix:/path/to/socket` or `http://host:port`.
        address: String,
    },
    /// A launcher before this one started a worker: in the answer to [`Action::Adopt`].
    Found {
        /// Which.
        replica: ReplicaId,
        /// Whether it was started as it would be now.
        make: Make,
    },
    /// A worker's process is gone, or could not be started, whether that was wanted or not. Also
    /// the answer to [`Action::Adopt`] if there is none.
    Ended {
        /// Which.
        replica: ReplicaId,
        /// Why, in words.
        why: String,
    },
    /// A worker ended in order though it was not told to, from here: somebody else did.
    Left {
        /// Which.
        replica: ReplicaId,
    },
    /// A worker does not answer any more.
    Hung {
        /// Which.
        replica: ReplicaId,
    },
    /// The answer to [`Action::Check`].
    Checked {
        /// Of which rollout.
        rollout: RolloutId,
        /// What does not hold.
        verdict: Result<(), String>,
    },
    /// A router reported.
    Report(RouterReport),
}

/// Whether a worker was started as it would be now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// It was.
    Current,
    /// By another binary, or with other flags.
    Outdated,
}

/// What an operator, or a program that acts for one, wants.
#[derive(Clone, Debug)]
pub enum Order {
    /// A version can be served from now on. For one that is known, the needs of workers that start
    /// from now on.
    Add {
        /// Which.
        version: VersionId,
        /// What one replica of it takes.
        needs: Memory,
    },
    /// A version can't be served any more.
    Remove {
        /// Which.
        version: VersionId,
    },
    /// A name means a version from now on, without ado: for the start, and for aliases.
    Route {
        /// The name.
        name: String,
        /// What it means.
        version: VersionId,
        /// How many replicas.
        scale: Scale,
        /// Not in lists of models.
        hidden: bool,
    },
    /// A name means nothing any more.
    Unroute {
        /// The name.
        name: String,
    },
    /// Starts replicas of a version without giving it traffic.
    Start {
        /// Which.
        version: VersionId,
        /// How many, until it is unloaded; `None`: as many as its names say, and while it is used.
        replicas: Option<u32>,
        /// Who and why.
        reason: Reason,
    },
    /// Ends a version's replicas once what they run is done.
    Unload {
        /// Which.
        version: VersionId,
        /// Also while a name gives it traffic.
        force: Force,
        /// Who and why.
        reason: Reason,
    },
    /// Moves a name's traffic to a version.
    Promote {
        /// The name.
        name: String,
        /// The version.
        version: VersionId,
        /// How.
        plan: Plan,
        /// Who and why.
        reason: Reason,
    },
    /// Moves a name's traffic back, or ends its canary or shadow.
    Rollback {
        /// The name.
        name: String,
        /// Who and why.
        reason: Reason,
    },
    /// Sets how many replicas a name's versions have.
    Scale {
        /// The name.
        name: String,
        /// How many.
        scale: Scale,
        /// Who and why.
        reason: Reason,
    },
}

/// Whether what is used may be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// No.
    Gentle,
    /// Yes.
    Force,
}

/// How many replicas a version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scale {
    /// At least. 0: none while nobody asks for it.
    pub min: u32,
    /// At most, from 1 on.
    pub max: u32,
}

/// How a name's traffic is moved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How much of it.
    pub portion: Portion,
    /// After how long without a reason to roll back a canary gets the rest, and a shadow ends.
    /// `None`: it stays as it is until the next order.
    pub soak: Option<Duration>,
    /// A file of golden prompts that must hold before.
    pub golden: Option<String>,
    /// What must hold of its traffic. `None`: nothing.
    pub limits: Option<Limits>,
}

/// How much of a name's traffic a version gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Portion {
    /// All of it.
    #[default]
    All,
    /// So many of 10,000, from 1 to 9,999.
    Canary(u16),
    /// A copy of so many of 10,000, from 1 to 10,000.
    Shadow(u16),
}

/// What is to be done. In the order in which they come: what is to be saved before anything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep [`super::Fleet::snapshot`], durably.
    Save,
    /// Give [`super::Fleet::table`] to the routers.
    Publish,
    /// Start a worker. Answered by `Spawned`, and `Ready` or `Ended`.
    Spawn {
        /// Its number.
        replica: ReplicaId,
        /// What it is to serve.
        version: VersionId,
    },
    /// Find a worker that a launcher before this one started, and watch it. Answered by `Found`, and
    /// `Ready` or `Ended`; until then it is taken to be as it was.
    Adopt {
        /// Its number.
        replica: ReplicaId,
        /// What it serves.
        version: VersionId,
        /// Its process, if it is known.
        pid: Option<u32>,
        /// Where it listens, if it was ready.
        address: Option<String>,
    },
    /// End a worker: it takes no new requests. Killed if that takes too long. Answered by `Ended`.
    Stop {
        /// Which.
        replica: ReplicaId,
    },
    /// Kill a worker. Answered by `Ended`.
    Kill {
        /// Which.
        replica: ReplicaId,
    },
    /// Ask a version golden prompts, by its pinned name or straight from the worker. Answered by
    /// `Checked`.
    Check {
        /// For which rollout.
        rollout: RolloutId,
        /// The version.
        version: VersionId,
        /// One of its replicas.
        address: String,
        /// The file of golden prompts.
        golden: String,
    },
    /// Tell whoever gave an order how it stands.
    Progress {
        /// The order.
        operation: OperationId,
        /// In words.
        message: String,
        /// How the version is that it is about.
        state: VersionState,
    },
    /// Tell whoever gave an order that this was it.
    Finished {
        /// The order.
        operation: OperationId,
        /// What became of it, or why it failed.
        result: Result<String, String>,
        /// How the version is that it is about.
        state: VersionState,
    },
}

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such version.
    #[error("there is no version {0}")]
    UnknownVersion(VersionId),
    /// No such name.
    #[error("nothing is served as `{0}`")]
    UnknownName(String),
    /// It already means something.
    #[error("`{name}` is already served, by {version}")]
    NameTaken {
        /// The name.
        name: String,
        /// What it means.
        version: VersionId,
    },
    /// A version in use.
    #[error("{version} is in use by {by}")]
    InUse {
        /// Which.
        version: VersionId,
        /// By what, in words.
        by: String,
    },
    /// One rollout of a name at a time.
    #[error("`{name}` is on its way to {to}; promote that, or roll it back first")]
    UnderWay {
        /// The name.
        name: String,
        /// Where to.
        to: VersionId,
    },
    /// There is nothing to go to.
    #[error("`{name}` is already served by {version} alone")]
    AlreadyThere {
        /// The name.
        name: String,
        /// Which.
        version: VersionId,
    },
    /// There is nothing to go back to.
    #[error("no version served `{0}` before")]
    NoVersionBefore(String),
    /// A copy or a part of the traffic of nobody.
    #[error("`{0}` has no version yet that a canary or a shadow could be compared with")]
    NothingToCompare(String),
    /// Not enough memory.
    #[error("{version} does not fit: it {shortage}{hint}")]
    DoesNotFit {
        /// Which.
        version: VersionId,
        /// The numbers.
        shortage: Shortage,
        /// What would help.
        hint: &'static str,
    },
    /// A number that makes no sense.
    #[error("{param} is {value}: expected {expected}")]
    Invalid {
        /// The parameter, as the protocol names it.
        param: &'static str,
        /// As given.
        value: u64,
        /// In words.
        expected: &'static str,
    },
    /// A name that can't be one.
    #[error("a name has 1 to 200 characters, and none that control a terminal")]
    InvalidName,
}
