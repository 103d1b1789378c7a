//! What the router knows of a worker, for health checks and operators.

use std::time::SystemTime;

use sconce_proto::worker::EngineStats;

/// A worker as the router sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// Where it listens.
    pub address: String,
    /// Name and version of the model that it serves, or served before it was lost.
    pub model: Option<(String, String)>,
    /// Whether it takes requests: it answered the last probe with a decode step.
    pub ready: bool,
    /// Whether the routing table says that it gets nothing new.
    pub is_draining: bool,
    /// When it came into its present state.
    pub since: SystemTime,
    /// Requests that were sent to it and have not ended.
    pub num_in_flight: u32,
    /// What its engine said last.
    pub stats: Option<EngineStats>,
    /// Why it is not ready.
    pub error: Option<String>,
}
