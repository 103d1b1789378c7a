//! What workers have left, for requests that wait until there is some.

use std::sync::Arc;

use super::Dispatcher;
use super::worker::Worker;

/// How much a worker that takes requests has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerRoom {
    /// Most sequences that it runs at once.
    pub(crate) max_num_seqs: u32,
    /// Sequences that it runs, of all routers, as its engine said last.
    pub(crate) num_running: usize,
    /// Requests that wait there.
    pub(crate) num_waiting: usize,
}

impl Dispatcher {
    /// The workers of a version that take requests.
    pub(crate) fn room_of_version(&self, version: &Arc<str>) -> Vec<WorkerRoom> {
        self.room(|worker| worker.version() == Some(version))
    }

    /// The workers that the command line names, serve this model, and take requests.
    pub(crate) fn room_of_model(&self, name: &str) -> Vec<WorkerRoom> {
        self.room(|worker| worker.own_model().is_some_and(|model| model.info.model == name))
    }

    fn room(&self, is_meant: impl Fn(&Worker) -> bool) -> Vec<WorkerRoom> {
        let workers = self.shared.workers.load();
        let workers = workers.iter().map(|connected| &connected.worker);
        let workers = workers.filter(|worker| worker.takes_requests() && is_meant(worker));
        let room = |worker: &Arc<Worker>| {
            let max_num_seqs = worker.model()?.info.max_num_seqs;
            let stats = worker.status().stats.unwrap_or_default();
            let (num_running, num_waiting) =
                (stats.num_running as usize, stats.num_waiting as usize);
            Some(WorkerRoom { max_num_seqs, num_running, num_waiting })
        };
        workers.filter_map(room).collect()
    }
}
