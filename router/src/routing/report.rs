//! What the launcher is told: what was counted of each version, and what each replica does.

use sconce_proto::fleet::{ReplicaReport, RouterReport};

use super::Shared;

impl Shared {
    /// The report of now.
    pub(super) fn report(&self, router: &str) -> RouterReport {
        // The table first: what is told of its replicas is then not from before it.
        let generation = self.table.load().as_ref().map_or(0, |table| table.generation);
        let versions = self.dispatcher.all_totals();
        let replicas = self.dispatcher.replica_loads();
        RouterReport {
            router: router.to_owned(),
            generation,
            versions: versions.iter().map(|(version, totals)| totals.report(version)).collect(),
            wanted: self.held.names(),
            replicas: replicas
                .into_iter()
                .map(|replica| ReplicaReport {
                    address: replica.address,
                    ready: replica.is_ready,
                    num_in_flight: replica.num_in_flight,
                    num_waiting: replica.num_waiting,
                    num_running: replica.num_running,
                })
                .collect(),
        }
    }
}
