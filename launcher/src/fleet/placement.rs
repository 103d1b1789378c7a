//! Starts, drains and ends workers until there are as many as there should be, within memory.
//!
//! A worker takes its memory from the order to start it to the end of its process. Memory that is
//! promised (replicas that a name always has, and that died) is not given to others meanwhile.

use std::collections::BTreeSet;

use crate::name::VersionId;

use super::demand::Demand;
use super::event::ReplicaId;
use super::memory::{Memory, Purse, Shortage};
use super::version::{Exchange, Replica, Stage};
use super::{Action, Fleet};

impl Fleet {
    pub(super) fn place(&mut self) {
        let mut ids: Vec<VersionId> = self.state.versions.keys().cloned().collect();
        for id in &ids {
            self.shed(id);
        }
        self.end_those_drained();
        self.kill_those_late();
        self.short.clear();
        // What is promised comes before what is only of use.
        ids.sort_by_key(|id| self.demand(id).floor == 0);
        for id in &ids {
            self.fill(id);
        }
        for id in &ids {
            self.renew(id);
        }
    }

    /// Takes replicas away until there are no more than there should be: those that start first,
    /// then those that are outdated, then the youngest.
    fn shed(&mut self, id: &VersionId) {
        let desired = self.desired(id);
        let most = if desired == 0 { 0 } else { desired + self.num_fresh(id) };
        let excess = self.num_active(id).saturating_sub(most);
        for _ in 0..excess {
            let replicas = self.state.replicas.iter();
            let active = replicas.filter(|(_, r)| {
                r.version == *id && r.is_active() && (most == 0 || r.exchange == Exchange::None)
            });
            let order = |(id, r): &(&ReplicaId, &Replica)| (!r.is_ready(), r.is_outdated, **id);
            let Some(replica) = active.max_by_key(order).map(|(id, _)| *id) else {
                return;
            };
            self.retire(replica);
        }
    }

    pub(super) fn retire(&mut self, id: ReplicaId) {
        let now = self.now;
        let Some(replica) = self.state.replicas.get_mut(&id) else { return };
        if replica.is_ready() {
            replica.stage = Stage::Draining { since: now, generation: None };
        } else {
            replica.stage = Stage::Stopping;
            self.actions.push(Action::Stop { replica: id });
        }
    }

    fn end_those_drained(&mut self) {
        let (now, patience) = (self.now, self.settings.patience.drain);
        for (id, replica) in &mut self.state.replicas {
            let Stage::Draining { since, generation: Some(generation) } = replica.stage else {
                continue;
            };
            let address = replica.address.as_deref().unwrap_or_default();
            let is_over = now.since(since) >= patience;
            if is_over || self.traffic.has_left(now, address, generation) {
                replica.stage = Stage::Stopping;
                self.actions.push(Action::Stop { replica: *id });
            }
        }
    }

    fn kill_those_late(&mut self) {
        let (now, patience) = (self.now, self.settings.patience.start);
        let is_late = |r: &Replica| r.stage == Stage::Starting && now.since(r.started) >= patience;
        let replicas = self.state.replicas.iter().filter(|(_, replica)| is_late(replica));
        let late: Vec<ReplicaId> = replicas.map(|(id, _)| *id).collect();
        for id in late {
            let Some(replica) = self.state.replicas.get_mut(&id) else { continue };
            replica.stage = Stage::Stopping;
            let replica = replica.clone();
            self.actions.push(Action::Kill { replica: id });
            self.bury(&replica, format!("was not ready after {} s", patience.as_secs()));
        }
    }

    /// Starts replicas until there are as many as there should be.
    fn fill(&mut self, id: &VersionId) {
        while self.num_active(id) < self.desired(id) {
            if self.take_up_again(id) {
                continue;
            }
            let Some(version) = self.state.versions.get(id) else { return };
            if version.restart_at.is_some_and(|at| self.now < at) {
                return;
            }
            let needs = version.needs.clone();
            if let Err(shortage) = self.check_memory(id, &needs) {
                self.short.insert(id.clone(), shortage);
                if self.num_active(id) < self.demand(id).floor.max(1) {
                    self.make_room(id, &needs);
                }
                return;
            }
            self.spawn(id, needs);
        }
    }

    /// A replica that drains is as good as a new one, and there at once.
    fn take_up_again(&mut self, id: &VersionId) -> bool {
        let mut replicas = self.state.replicas.values_mut();
        let may_stay = |r: &&mut Replica| {
            r.version == *id && r.is_draining() && r.exchange != Exchange::Leaving
        };
        let Some(replica) = replicas.find(may_stay) else {
            return false;
        };
        replica.stage = Stage::Ready;
        true
    }

    pub(super) fn spawn(&mut self, id: &VersionId, needs: Memory) -> ReplicaId {
        self.state.next_replica += 1;
        let replica = ReplicaId(self.state.next_replica);
        self.actions.push(Action::Spawn { replica, version: id.clone() });
        self.state.replicas.insert(
            replica,
            Replica {
                version: id.clone(),
                needs,
                stage: Stage::Starting,
                address: None,
                pid: None,
                started: self.now,
                adopted: false,
                is_outdated: false,
                exchange: Exchange::None,
                is_missing: false,
            },
        );
        replica
    }

    /// Whether one more replica fits beside what is there and what is promised.
    pub(super) fn check_memory(&self, id: &VersionId, needs: &Memory) -> Result<(), Shortage> {
        let purse = self.settings.purse(&id.model);
        let mut used = self.used(&purse);
        used.add(&self.promised(&purse, id));
        needs.check(&used, &self.settings.limit(&purse))
    }

    /// Whether one replica fits in the place of another of its version.
    pub(super) fn check_in_place(
        &self,
        id: &VersionId,
        needs: &Memory,
        place: &Memory,
    ) -> Result<(), Shortage> {
        let purse = self.settings.purse(&id.model);
        let mut used = self.used(&purse);
        used.add(&self.promised(&purse, id));
        used.subtract(place);
        needs.check(&used, &self.settings.limit(&purse))
    }

    fn is_of(&self, purse: &Purse, id: &VersionId) -> bool {
        self.settings.purse(&id.model) == *purse
    }

    /// What all workers that pay from a purse take.
    pub(super) fn used(&self, purse: &Purse) -> Memory {
        self.sum(purse, |_| true)
    }

    fn sum(&self, purse: &Purse, counts: impl Fn(&Replica) -> bool) -> Memory {
        let mut sum = Memory::default();
        let replicas = self.state.replicas.values();
        for replica in replicas.filter(|r| self.is_of(purse, &r.version) && counts(r)) {
            sum.add(&replica.needs);
        }
        sum
    }

    /// What others were promised and don't have, and a further replica of a version has to leave to
    /// them. Of two that were promised something, the first by name goes first, so that they do not
    /// wait for each other; a replica beyond what was promised comes after all of them.
    fn promised(&self, purse: &Purse, id: &VersionId) -> Memory {
        let is_promised = self.num_active(id) < self.demand(id).floor;
        let mut sum = Memory::default();
        for (other, version) in &self.state.versions {
            let goes_first = !is_promised || other < id;
            if other == id || !goes_first || version.failed.is_some() || !self.is_of(purse, other) {
                continue;
            }
            let num_there = super::demand::count(self.replicas_of(other));
            for _ in num_there..self.demand(other).floor {
                sum.add(&version.needs);
            }
        }
        sum
    }

    /// Unloads versions that nobody uses, the longest unused first, if that makes enough room.
    fn make_room(&mut self, id: &VersionId, needs: &Memory) {
        let purse = self.settings.purse(&id.model);
        let limit = self.settings.limit(&purse);
        let mut used = self.used(&purse);
        used.add(&self.promised(&purse, id));
        used.subtract(&self.sum(&purse, Replica::is_leaving));
        let mut victims = Vec::new();
        for victim in self.idle_versions(id) {
            if needs.check(&used, &limit).is_ok() {
                break;
            }
            used.subtract(&self.active_memory(&purse, &victim));
            victims.push(victim);
        }
        if needs.check(&used, &limit).is_err() {
            return;
        }
        for victim in &victims {
            if let Some(version) = self.state.versions.get_mut(victim) {
                version.sleep();
            }
            self.shed(victim);
        }
    }

    fn active_memory(&self, purse: &Purse, id: &VersionId) -> Memory {
        self.sum(purse, |replica| replica.version == *id && replica.is_active())
    }

    /// Versions that can be unloaded for another: not promised to anybody, and without a request
    /// for a while. The longest unused first.
    fn idle_versions(&self, other_than: &VersionId) -> Vec<VersionId> {
        let wanted = self.traffic.wanted();
        let wanted: BTreeSet<VersionId> =
            wanted.iter().flat_map(|name| self.versions_of(name)).collect();
        let purse = self.settings.purse(&other_than.model);
        let is_idle = |id: &&VersionId| {
            let Demand { floor, .. } = self.demand(id);
            let last_used = self.traffic.last_used(id).unwrap_or_default();
            *id != other_than
                && floor == 0
                && self.is_of(&purse, id)
                && self.num_active(id) > 0
                && self.traffic.num_in_flight(id) == 0
                && !wanted.contains(*id)
                && self.now.since(last_used) >= self.settings.scaling.min_idle
        };
        let mut idle: Vec<VersionId> =
            self.state.versions.keys().filter(is_idle).cloned().collect();
        idle.sort_by_key(|id| self.traffic.last_used(id));
        idle
    }

    /// Whether `num` replicas of a version can be had once what is idle or on its way out is gone,
    /// and what `instead` has, too.
    pub(super) fn check_fit(
        &self,
        id: &VersionId,
        num: u32,
        instead: Option<&VersionId>,
    ) -> Result<(), Shortage> {
        let Some(version) = self.state.versions.get(id) else { return Ok(()) };
        let purse = self.settings.purse(&id.model);
        let mut used = self.used(&purse);
        used.add(&self.promised_to_all_but(&purse, id));
        // Its own are counted with those that it is to have.
        used.subtract(&self.sum(&purse, |r| r.is_leaving() || r.version == *id));
        for idle in self.idle_versions(id) {
            used.subtract(&self.active_memory(&purse, &idle));
        }
        if let Some(instead) = instead {
            used.subtract(&self.active_memory(&purse, instead));
        }
        let mut needs = Memory::default();
        for _ in 0..num {
            needs.add(&version.needs);
        }
        needs.check(&used, &self.settings.limit(&purse))
    }

    fn promised_to_all_but(&self, purse: &Purse, id: &VersionId) -> Memory {
        let mut sum = Memory::default();
        for (other, version) in &self.state.versions {
            if other == id || version.failed.is_some() || !self.is_of(purse, other) {
                continue;
            }
            let num_there = self.num_active(other);
            for _ in num_there..self.demand(other).floor {
                sum.add(&version.needs);
            }
        }
        sum
    }
}
