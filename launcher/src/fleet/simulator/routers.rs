//! Routers: they follow tables late, connect late, lag with their reports, and send requests.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::world::{FAILS, NAMES, SLOW, World, address, replica_of};

/// A router process.
#[derive(Clone, Debug)]
pub(super) struct Router {
    pub(super) id: String,
    pub(super) table: RoutingTable,
    /// Tables on their way to it.
    pub(super) inbox: Vec<(Time, RoutingTable)>,
    /// Since when it is connected to an address.
    pub(super) sessions: BTreeMap<String, Time>,
    /// Requests, with the ends that they will have.
    pub(super) in_flight: BTreeMap<String, Vec<Time>>,
    pub(super) totals: BTreeMap<VersionId, Counts>,
    wanted: BTreeSet<String>,
    reports_at: Time,
}

impl Router {
    /// Parts with a worker that has ended. The requests that it had are over; returns how many.
    pub(super) fn drop_session(&mut self, id: ReplicaId, version: &VersionId) -> u64 {
        let over = self.in_flight.remove(&address(id)).unwrap_or_default().len() as u64;
        self.totals.entry(version.clone()).or_default().num_requests += over;
        self.sessions.remove(&address(id));
        over
    }
}

impl World {
    pub(super) fn start_router(&mut self) {
        self.num_routers += 1;
        let table = self.fleet.table().clone();
        let router = Router {
            id: format!("r{}", self.num_routers),
            table: RoutingTable::default(),
            inbox: vec![(self.now, table)],
            sessions: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            totals: BTreeMap::new(),
            wanted: BTreeSet::new(),
            reports_at: self.now,
        };
        self.routers.push(router);
        // It reports at its start.
        let index = self.routers.len() - 1;
        self.report(index);
    }

    pub(super) fn run_router(&mut self, index: usize) {
        let now = self.now;
        self.read_tables(index);
        self.connect(index);
        self.end_requests(index);
        self.send_requests(index);
        if self.routers[index].reports_at <= now {
            self.report(index);
            // Now and then it has no time for it, and not so long that it is taken for gone.
            let next = if self.one_in(5) {
                self.soon(1200) + Duration::from_millis(2300)
            } else {
                self.soon(1200)
            };
            self.routers[index].reports_at = next;
        }
    }

    fn read_tables(&mut self, index: usize) {
        let now = self.now;
        let router = &mut self.routers[index];
        let due = router.inbox.iter().take_while(|(at, _)| *at <= now).count();
        if let Some((_, table)) = router.inbox.drain(..due).next_back() {
            router.table = table;
        }
    }

    fn connect(&mut self, index: usize) {
        let in_table: BTreeSet<String> =
            self.routers[index].table.replicas.iter().map(|r| r.address.clone()).collect();
        for address in &in_table {
            let at = self.soon(800);
            self.routers[index].sessions.entry(address.clone()).or_insert(at);
        }
        let router = &mut self.routers[index];
        let in_flight = &router.in_flight;
        router.sessions.retain(|a, _| in_table.contains(a) || in_flight.contains_key(a));
    }

    fn end_requests(&mut self, index: usize) {
        let now = self.now;
        let addresses: Vec<String> = self.routers[index].in_flight.keys().cloned().collect();
        for address in addresses {
            let id = replica_of(&address);
            let Some(process) = self.processes.get(&id) else { continue };
            if process.is_hung {
                continue;
            }
            let version = process.version.clone();
            let requests = self.routers[index].in_flight.remove(&address).unwrap_or_default();
            let (over, going): (Vec<Time>, _) = requests.into_iter().partition(|end| *end <= now);
            for _ in over {
                let fails = version.to_string() == FAILS && self.one_in(3);
                let totals = self.routers[index].totals.entry(version.clone()).or_default();
                totals.num_requests += 1;
                totals.num_failures += u64::from(fails);
                totals.num_tokens += 20;
                totals.ttft.0[if version.to_string() == SLOW { 10 } else { 4 }] += 1;
                totals.queue.0[0] += 1;
            }
            if !going.is_empty() {
                self.routers[index].in_flight.insert(address, going);
            }
        }
    }

    fn send_requests(&mut self, index: usize) {
        self.routers[index].wanted.clear();
        for (name, _, _) in NAMES {
            let is_busy = if name == "small" { self.one_in(100) } else { self.below(3) < 2 };
            if is_busy {
                self.send_request(index, name);
            }
        }
        // A pinned name, now and then.
        if self.one_in(400) {
            self.send_request(index, "p@1");
        }
    }

    fn send_request(&mut self, index: usize, name: &str) {
        self.seen.requests += 1;
        let mut point = self.below(10_000);
        let Some(route) = self.routers[index].table.route(name).cloned() else { return };
        let chosen = route.shares.iter().find(|(_, share)| {
            let is_it = point < u64::from(*share);
            point = point.saturating_sub(u64::from(*share));
            is_it
        });
        let version = chosen.expect("shares add up to 10,000").0.clone();
        let shadow = route.shadow.filter(|_| point.is_multiple_of(2)).map(|(version, _)| version);
        if !self.send_to(index, &version) {
            self.seen.held += 1;
            self.routers[index].wanted.insert(name.to_owned());
            // The launcher is told at once.
            self.report(index);
        }
        if let Some(shadow) = shadow {
            self.send_to(index, &shadow);
        }
    }

    fn send_to(&mut self, index: usize, version: &VersionId) -> bool {
        let now = self.now;
        let router = &self.routers[index];
        let usable = |r: &&TableReplica| {
            r.version == *version
                && !r.draining
                && router.sessions.get(&r.address).is_some_and(|at| *at <= now)
                && self.processes.contains_key(&replica_of(&r.address))
        };
        let Some(replica) = router.table.replicas.iter().find(usable) else { return false };
        let (address, id) = (replica.address.clone(), replica_of(&replica.address));
        self.check_send(index, id);
        // Some answers are long.
        let most = if self.one_in(20) { 15_000 } else { 4000 };
        let end = self.soon(most);
        self.routers[index].in_flight.entry(address).or_default().push(end);
        true
    }

    fn report(&mut self, index: usize) {
        let now = self.now;
        let router = &self.routers[index];
        let replicas = router.sessions.iter().map(|(address, at)| {
            let in_flight = router.in_flight.get(address).map_or(0, Vec::len);
            let process = self.processes.get(&replica_of(address));
            let ready = *at <= now && process.is_some_and(|process| !process.is_hung);
            let num_in_flight = u32::try_from(in_flight).unwrap();
            (address.clone(), ReplicaReport { ready, num_in_flight, ..ReplicaReport::default() })
        });
        let versions = router.totals.iter();
        let report = RouterReport {
            router: router.id.clone(),
            generation: router.table.generation,
            versions: versions
                .map(|(id, counts)| {
                    let addresses = router.in_flight.iter().filter(|(address, _)| {
                        let process = self.processes.get(&replica_of(address));
                        process.is_some_and(|process| process.version == *id)
                    });
                    let num_in_flight = addresses.map(|(_, r)| r.len()).sum::<usize>();
                    let num_in_flight = u32::try_from(num_in_flight).unwrap();
                    (id.clone(), VersionReport { counts: *counts, num_in_flight })
                })
                .collect(),
            wanted: router.wanted.iter().cloned().collect(),
            replicas: replicas.collect(),
        };
        self.step(Event::Report(report));
    }
}
