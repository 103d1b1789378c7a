//! Decides what a fleet of workers does: which versions have how many replicas, which names lead
//! to them, how traffic moves from one version to another, and when that is taken back.
//!
//! Pure data: no clock, no threads, no processes, no I/O, no randomly ordered maps. Whoever runs a
//! fleet tells it what happened and what time it is, and does what it says:
//!
//! ```text
//! let mut fleet = Fleet::new(settings);                  // or Fleet::restore(settings, snapshot, now)
//! fleet.order(now, Order::Add { version, needs })?;      // every version that can be served
//! fleet.order(now, Order::Route { name, version, … })?;  // what is served from the start
//! loop {
//!     let actions = fleet.step(now, event);              // or fleet.order(now, order)?
//!     for action in actions { … }                        // in their order: Save comes first
//! }
//! ```
//!
//! - [`Event::Tick`] comes some four times a second: all waiting ends by the clock at last.
//! - [`Action::Save`] asks for [`Fleet::snapshot`] to be kept before the actions after it are done,
//!   so that a launcher that dies at any moment leaves a record of every worker that it may have
//!   started. [`Fleet::restore`] goes on from there: it asks for each worker to be found
//!   ([`Action::Adopt`]), and meanwhile takes them to be alive.
//! - [`Action::Publish`] gives [`Fleet::table`] to the routers. What they report comes back as
//!   [`Event::Report`], as it comes.
//! - An [`Order`] is refused at once, with the reason, or taken; then its [`OperationId`] is told
//!   about ([`Action::Progress`]) until it ends ([`Action::Finished`]).
//!
//! [`Fleet::step`] reads: take what happened, move rollouts on, scale, start and stop replicas,
//! write the table. Each is a file.

mod convert;
mod demand;
mod event;
mod events;
mod evidence;
pub mod golden;
mod history;
mod memory;
mod operations;
mod orders;
mod placement;
mod publish;
mod renewal;
mod rollout;
mod route;
mod scale;
mod settings;
#[cfg(test)]
mod simulator;
mod snapshot;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod traffic;
mod version;

pub use convert::InvalidPlan;
pub use event::{
    Action, Event, Force, Make, OperationId, Order, Plan, Portion, Refusal, ReplicaId, RolloutId,
    Scale,
};
pub use history::{Deed, Entry, Reason};
pub use memory::{Memory, Shortage};
pub use settings::{Limits, Patience, Restart, Scaling, Settings, WHOLE};
pub use snapshot::Snapshot;
pub use status::{ReplicaStatus, RolloutStatus, Status, Usage, VersionState, VersionStatus};
pub use table::{RoutingTable, TableReplica, TableRoute};
pub use time::Time;
pub use traffic::{BUCKETS_MS, Counts, Histogram, ReplicaReport, RouterReport, VersionReport};

use std::collections::BTreeMap;

use crate::name::VersionId;

use operations::Operation;
use renewal::Renewal;
use scale::Scaler;
use traffic::Traffic;

/// A fleet of workers, and what is to become of it.
#[derive(Debug)]
pub struct Fleet {
    settings: Settings,
    /// What outlives the launcher.
    state: Snapshot,
    /// As it was saved last.
    saved: Snapshot,
    traffic: Traffic,
    scalers: BTreeMap<VersionId, Scaler>,
    table: RoutingTable,
    operations: Vec<Operation>,
    next_operation: u64,
    /// The latest time that it was told.
    now: Time,
    /// Versions that have fewer replicas than they should for want of memory.
    short: BTreeMap<VersionId, Shortage>,
    /// Versions whose workers are being exchanged.
    renewals: BTreeMap<VersionId, Renewal>,
    /// Rollouts that ended in this step, and how.
    ended: Vec<(RolloutId, Result<String, String>)>,
    actions: Vec<Action>,
}

impl Fleet {
    /// A fleet without versions.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: Snapshot::default(),
            saved: Snapshot::default(),
            traffic: Traffic::new(Time::default()),
            scalers: BTreeMap::new(),
            table: RoutingTable::default(),
            operations: Vec::new(),
            next_operation: 1,
            now: Time::default(),
            short: BTreeMap::new(),
            renewals: BTreeMap::new(),
            ended: Vec::new(),
            actions: Vec::new(),
        }
    }

    /// Goes on where a launcher ended. Its workers may be alive: each is to be found.
    pub fn restore(settings: Settings, snapshot: Snapshot, now: Time) -> (Self, Vec<Action>) {
        let mut fleet = Self::new(settings);
        fleet.now = now;
        fleet.traffic = Traffic::new(now + fleet.settings.patience.router);
        fleet.state = snapshot;
        // A table that was given out since is never taken for another.
        fleet.state.generation += 1;
        fleet.adopt();
        let actions = fleet.settle();
        (fleet, actions)
    }

    /// Takes what happened, and says what is to be done.
    #[must_use = "what is to be done is not done by itself"]
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        self.now = self.now.max(now);
        self.take(event);
        self.settle()
    }

    /// Takes an order, and says what is to be done.
    ///
    /// # Errors
    ///
    /// A reason why it can't be done. Then nothing has changed.
    pub fn order(
        &mut self,
        now: Time,
        order: Order,
    ) -> Result<(OperationId, Vec<Action>), Refusal> {
        self.now = self.now.max(now);
        let operation = self.obey(order)?;
        Ok((operation, self.settle()))
    }

    /// Memory of devices that were not known before may be used from now on.
    pub fn add_devices(&mut self, memory: &Memory) {
        self.settings.budget.add_devices(memory);
    }

    /// What routers are to follow.
    pub fn table(&self) -> &RoutingTable {
        &self.table
    }

    /// What is to be kept, and given to [`Self::restore`] by the next launcher.
    pub fn snapshot(&self) -> &Snapshot {
        &self.state
    }

    /// What was ordered and what became of it, newest first.
    pub fn history(&self) -> impl Iterator<Item = &Entry> {
        self.state.history.newest()
    }

    /// The version that a name's traffic goes to, canaries aside.
    pub fn current(&self, name: &str) -> Option<&VersionId> {
        self.state.routes.get(name)?.current.as_ref()
    }

    fn settle(&mut self) -> Vec<Action> {
        self.forget_the_silent();
        self.retry_failed();
        self.advance_rollouts();
        self.scale();
        self.place();
        self.publish();
        self.tell();
        let mut actions = std::mem::take(&mut self.actions);
        if self.state != self.saved {
            self.saved = self.state.clone();
            actions.insert(0, Action::Save);
        }
        actions
    }
}
