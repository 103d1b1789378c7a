//! What the router knows of a worker, for health checks and operators.

use std::time::SystemTime;

use sconce_proto::worker::EngineStats;

/// A worker as the router sees it.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Where it listens.
    pub address: String,
    /// The model it serves, or served before it was lost.
    pub model: Option<String>,
    /// That model's version.
    pub version: Option<String>,
    /// Whether it can take requests.
    pub state: WorkerState,
    /// When it came into this state.
    pub since: SystemTime,
    /// Requests that were sent to it and have not ended.
    pub num_in_flight: u32,
    /// What its engine said last. Absent while there is no session.
    pub stats: Option<EngineStats>,
    /// Why it was lost, or could not be reached.
    pub error: Option<String>,
}

/// Whether a worker can take requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// There is no session: the worker is starting, dead or frozen.
    Lost,
    /// It answered the last probe with a decode step.
    Ready,
    /// It finishes what it runs and takes nothing more.
    Draining,
}

impl WorkerStatus {
    /// Whether the worker takes requests.
    pub fn ready(&self) -> bool {
        self.state == WorkerState::Ready
    }
}
