//! The workers that a routing table names: they come, drain and go as it says.
//!
//! A worker that the table has dropped gets nothing new, and its session ends when nothing runs in it
//! any more.

use std::sync::Arc;

use super::{Connected, Dispatcher};
use crate::metrics::Totals;
use crate::model::Model;

/// A worker as a routing table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// `unix:/path/to/socket` or `http://host:port`.
    pub address: String,
    /// What it serves, such as `smollm2@2`.
    pub version: Arc<str>,
    /// Whether it gets nothing new.
    pub is_draining: bool,
}

/// How far a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Readiness {
    /// No worker is to serve it.
    Absent,
    /// A worker is on its way.
    Starting,
    /// A request would be served now.
    Ready,
}

/// A worker of a version, for the launcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReplicaLoad {
    pub(crate) address: String,
    pub(crate) is_ready: bool,
    /// What it has, and what it may yet get although it drains.
    pub(crate) num_in_flight: u32,
    /// Of all routers, as its engine said last.
    pub(crate) num_waiting: u32,
    pub(crate) num_running: u32,
}

impl Dispatcher {
    /// Makes the table's workers these. Those that it does not name any more drain.
    pub fn set_replicas(&self, replicas: &[Replica]) {
        for replica in replicas {
            self.add(&replica.address, Some(&replica.version));
        }
        for connected in self.shared.workers.load().iter() {
            let worker = &connected.worker;
            let Some(version) = worker.version() else { continue };
            let named = replicas.iter().find(|replica| worker.is(&replica.address, Some(version)));
            worker.set_draining(named.is_none_or(|replica| replica.is_draining));
            worker.set_leaving(named.is_none());
            debug_assert!(named.is_none_or(|replica| replica.version == *version));
        }
        self.announce();
        self.sweep();
    }

    /// Ends the sessions of workers that the table does not name and that have nothing left to do.
    pub(crate) fn sweep(&self) {
        let is_done = |connected: &Arc<Connected>| {
            let worker = &connected.worker;
            let pending = worker.version().map_or(0, |version| self.totals(version).num_pending());
            worker.is_leaving() && pending == 0 && worker.num_in_flight() == 0
        };
        if self.shared.workers.load().iter().any(is_done) {
            self.shared.workers.rcu(|workers| {
                workers.iter().filter(|worker| !is_done(worker)).cloned().collect::<Vec<_>>()
            });
        }
    }

    /// Whether the launcher waits to hear that some worker has nothing left to do.
    pub(crate) fn is_any_draining(&self) -> bool {
        self.shared.workers.load().iter().any(|connected| connected.worker.is_draining())
    }

    /// The model of a version, if a request for it would be served now.
    pub(crate) fn ready(&self, version: &Arc<str>) -> Option<Arc<Model>> {
        let workers = self.shared.workers.load();
        let of_version = workers.iter().map(|connected| &connected.worker);
        let mut of_version = of_version.filter(|worker| worker.version() == Some(version));
        of_version.find(|worker| worker.takes_requests())?.model()
    }

    /// The model of a version, if a worker has ever said what it is.
    pub(crate) fn described(&self, version: &Arc<str>) -> Option<Arc<Model>> {
        let workers = self.shared.workers.load();
        let of_version = workers.iter().map(|connected| &connected.worker);
        let mut of_version = of_version.filter(|worker| worker.version() == Some(version));
        of_version.find_map(|worker| worker.model())
    }

    /// How far a version is.
    pub(crate) fn readiness(&self, version: &Arc<str>) -> Readiness {
        let workers = self.shared.workers.load();
        let of_version = workers.iter().map(|connected| &connected.worker);
        let of_version = of_version.filter(|worker| worker.version() == Some(version));
        let readiness = of_version.map(|worker| match worker.is_draining() {
            true => Readiness::Absent,
            false if worker.takes_requests() => Readiness::Ready,
            false => Readiness::Starting,
        });
        readiness.max().unwrap_or(Readiness::Absent)
    }

    /// The table's workers.
    pub(crate) fn replica_loads(&self) -> Vec<ReplicaLoad> {
        let workers = self.shared.workers.load();
        let of_table = workers.iter().map(|connected| &connected.worker);
        let of_table = of_table.filter_map(|worker| Some((worker, worker.version()?)));
        let load = of_table.map(|(worker, version)| {
            // First what is on its way: it is never counted in neither.
            let pending = match worker.is_draining() {
                true => self.totals(version).num_pending(),
                false => 0,
            };
            let status = worker.status();
            let stats = status.stats.unwrap_or_default();
            ReplicaLoad {
                address: status.address,
                is_ready: status.ready,
                num_in_flight: status.num_in_flight.saturating_add(pending),
                num_waiting: stats.num_waiting,
                num_running: stats.num_running,
            }
        });
        load.collect()
    }

    /// What is counted of a version of the table.
    pub(crate) fn totals(&self, version: &Arc<str>) -> Arc<Totals> {
        self.shared.models.totals(version)
    }

    /// Every version of which something was counted.
    pub(crate) fn all_totals(&self) -> Vec<(Arc<str>, Arc<Totals>)> {
        self.shared.models.all_totals()
    }
}
