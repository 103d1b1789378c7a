//! What an operator wants to know of a fleet.

use crate::name::VersionId;

use super::event::{ReplicaId, RolloutId};
use super::memory::Memory;
use super::time::Time;

/// How a version or a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionState {
    /// Without a replica.
    Unloaded,
    /// A replica is starting.
    Loading,
    /// A replica takes requests.
    Ready,
    /// What replicas there are take no new requests.
    Draining,
    /// It died too often, or could not be loaded.
    Failed,
}

/// How a fleet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// All versions that are known.
    pub versions: Vec<VersionStatus>,
    /// All workers.
    pub replicas: Vec<ReplicaStatus>,
    /// Names on their way.
    pub rollouts: Vec<RolloutStatus>,
}

/// How a version is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionStatus {
    /// Which.
    pub version: VersionId,
    /// How.
    pub state: VersionState,
    /// Why it failed, or why it has fewer replicas than it should.
    pub error: Option<String>,
    /// Replicas that take requests.
    pub num_ready: u32,
    /// Replicas that there should be.
    pub num_wanted: u32,
}

/// How a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// Which.
    pub replica: ReplicaId,
    /// What it serves.
    pub version: VersionId,
    /// Where it listens, once it does.
    pub address: Option<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// How.
    pub state: VersionState,
    /// When it was started.
    pub started: Time,
    /// Deaths of its version since that was loaded.
    pub num_restarts: u32,
    /// Requests that it has.
    pub num_in_flight: u32,
    /// Another launcher started it.
    pub adopted: bool,
    /// It was started otherwise than it would be now, and will be exchanged.
    pub is_outdated: bool,
}

/// What a version is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Requests that are being computed.
    pub num_running: u32,
    /// Requests that wait for that, in workers.
    pub num_waiting: u32,
    /// Tokens of completions since this launcher started.
    pub num_tokens: u64,
    /// Memory that its workers have.
    pub memory: Memory,
}

/// How a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutStatus {
    /// Which.
    pub rollout: RolloutId,
    /// The name.
    pub name: String,
    /// Where from.
    pub from: Option<VersionId>,
    /// Where to.
    pub to: VersionId,
    /// What the new version gets now, of 10,000.
    pub share: u16,
    /// Whether it gets copies only.
    pub shadow: bool,
    /// What is going on, in words.
    pub state: String,
}
