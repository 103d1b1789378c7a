//! The routing table: which names mean which versions, and where their replicas are.

use crate::name::VersionId;

/// What routers follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingTable {
    /// Grows with each change, also over restarts of the launcher.
    pub generation: u64,
    /// Workers, in the order of their start.
    pub replicas: Vec<TableReplica>,
    /// Names, in alphabetical order.
    pub routes: Vec<TableRoute>,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableReplica {
    /// `unix:/path/to/socket` or `http://host:port`.
    pub address: String,
    /// What it serves.
    pub version: VersionId,
    /// It takes no new requests.
    pub draining: bool,
}

/// A name, and what stands behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoute {
    /// The name.
    pub name: String,
    /// Versions with their shares of 10,000, none of which is 0.
    pub shares: Vec<(VersionId, u16)>,
    /// A version that gets a copy of so many of 10,000.
    pub shadow: Option<(VersionId, u16)>,
    /// Not in lists of models.
    pub hidden: bool,
    /// Milliseconds that a request waits for a replica. 0: it is refused.
    pub max_hold_ms: u32,
    /// How many wait.
    pub max_held: u32,
}

impl RoutingTable {
    /// Whether it says the same as another, whatever their generations.
    pub fn says_same(&self, other: &Self) -> bool {
        self.replicas == other.replicas && self.routes == other.routes
    }

    /// The route of a name.
    pub fn route(&self, name: &str) -> Option<&TableRoute> {
        self.routes.iter().find(|route| route.name == name)
    }
}
