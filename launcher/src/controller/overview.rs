//! What a person who looks at a terminal wants to know of a fleet, a few times a second.

use std::time::Instant;

use crate::fleet::{Fleet, TableRoute, Time, VersionState};

/// Entries of the history that are told.
const NUM_EVENTS: usize = 3;

/// How a fleet is.
#[derive(Clone, Debug)]
pub(crate) struct Overview {
    pub(crate) at: Instant,
    /// What names lead to, but for those that are hidden.
    pub(crate) routes: Vec<TableRoute>,
    pub(crate) versions: Vec<VersionOverview>,
    /// Names that are on their way, in words.
    pub(crate) rollouts: Vec<String>,
    /// Bytes that workers take of the memory that they may have, by device.
    pub(crate) memory: Vec<(String, u64, u64)>,
    /// What was done last, newest first.
    pub(crate) events: Vec<(Time, String)>,
}

/// How a version is, that has workers or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionOverview {
    pub(crate) version: String,
    pub(crate) state: VersionState,
    pub(crate) num_ready: u32,
    pub(crate) num_wanted: u32,
    pub(crate) num_running: u32,
    pub(crate) num_waiting: u32,
    /// Tokens of completions since this launcher started.
    pub(crate) num_tokens: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) error: Option<String>,
}

/// Looks at a fleet.
pub(super) fn of(fleet: &Fleet) -> Overview {
    let status = fleet.status();
    let versions = status.versions.into_iter().filter_map(|it| {
        let usage = fleet.usage(&it.version);
        let is_shown = it.state != VersionState::Unloaded || it.num_wanted > 0;
        is_shown.then(|| VersionOverview {
            version: it.version.to_string(),
            state: it.state,
            num_ready: it.num_ready,
            num_wanted: it.num_wanted,
            num_running: usage.num_running,
            num_waiting: usage.num_waiting,
            num_tokens: usage.num_tokens,
            memory_bytes: usage.memory.total(),
            error: it.error,
        })
    });
    let rollouts = status.rollouts.iter();
    let events = fleet.history().take(NUM_EVENTS).map(|entry| {
        let what = entry.deed.as_str();
        let to = entry.to.as_ref().or(entry.from.as_ref()).cloned().unwrap_or_default();
        let result = entry.result.as_deref().unwrap_or("under way");
        (entry.time, format!("{what} {} {to}: {result}", entry.name))
    });
    Overview {
        at: Instant::now(),
        routes: fleet.table().routes.iter().filter(|route| !route.hidden).cloned().collect(),
        versions: versions.collect(),
        rollouts: rollouts.map(|it| format!("{} to {}: {}", it.name, it.to, it.state)).collect(),
        memory: fleet.memory(),
        events: events.collect(),
    }
}
