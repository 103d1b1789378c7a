//! Exchanges outdated workers: those that another binary was started for, or with other flags than
//! now.
//!
//! One after another of a version, as in a rollout: one more is started, routers connect to it, and
//! the outdated one drains. Where there is no room for one more, the outdated one leaves first; if it
//! was the only one, requests wait at the routers meanwhile. A version that is on its way somewhere is
//! left alone until that is over.

use crate::name::VersionId;

use super::Fleet;
use super::event::ReplicaId;
use super::history::{Deed, Reason};
use super::memory::Memory;
use super::time::Time;
use super::version::{Exchange, Replica, Stage};

/// How the exchange of a version's workers goes. Starts over with the launcher.
#[derive(Clone, Debug, Default)]
pub(super) struct Renewal {
    /// Workers that left.
    num_exchanged: u32,
    /// New ones in a row that died before they took an outdated one's place.
    num_failures: u32,
    /// Before this, no other is started.
    not_before: Option<Time>,
    /// Why it does not go on, if it does not.
    why: Option<String>,
}

impl Fleet {
    /// Goes on with the exchange of a version's workers, if one is outdated.
    pub(super) fn renew(&mut self, id: &VersionId) {
        if let Some(fresh) = self.fresh(id) {
            return self.admit(id, fresh);
        }
        let is_outdated = |r: &Replica| r.is_active() && r.is_outdated;
        if !self.replicas_of(id).any(is_outdated) {
            return self.finish_renewal(id);
        }
        if !self.may_renew(id) {
            return;
        }
        let Some((outdated, place)) = self.next_outdated(id) else { return };
        let Some(version) = self.state.versions.get(id) else { return };
        let needs = version.needs.clone();
        if self.check_memory(id, &needs).is_ok() {
            let fresh = self.spawn(id, needs);
            self.set_exchange(fresh, Exchange::Fresh);
            if let Some(renewal) = self.renewals.get_mut(id) {
                renewal.why = None;
            }
        } else if let Err(shortage) = self.check_in_place(id, &needs, &place) {
            self.renewals.entry(id.clone()).or_default().why = Some(format!("it {shortage}"));
        } else {
            self.replace(id, outdated);
        }
    }

    /// Replicas that are one more than there should be, for as long as an exchange takes.
    pub(super) fn num_fresh(&self, id: &VersionId) -> u32 {
        u32::from(self.fresh(id).is_some())
    }

    /// A replica that was to take the place of another died.
    pub(super) fn note_failed_renewal(&mut self, id: &VersionId, why: String) {
        let (now, rules) = (self.now, self.settings.restart);
        let renewal = self.renewals.entry(id.clone()).or_default();
        let delay = rules.policy.first.saturating_mul(1 << renewal.num_failures.min(20));
        renewal.num_failures = renewal.num_failures.saturating_add(1);
        renewal.not_before = Some(now + delay.min(rules.retry.saturating_mul(4)));
        renewal.why = Some(why);
    }

    /// Why a version's outdated workers are still there.
    pub(super) fn renewal_fault(&self, id: &VersionId) -> Option<String> {
        let why = self.renewals.get(id)?.why.as_ref()?;
        Some(format!("its outdated workers go on: {why}"))
    }

    fn fresh(&self, id: &VersionId) -> Option<ReplicaId> {
        let mut replicas = self.state.replicas.iter();
        let is_fresh =
            |r: &Replica| r.version == *id && r.is_active() && r.exchange == Exchange::Fresh;
        replicas.find(|(_, replica)| is_fresh(replica)).map(|(id, _)| *id)
    }

    /// The new one takes its place once every router can send to it.
    fn admit(&mut self, id: &VersionId, fresh: ReplicaId) {
        if self.num_active(id) <= self.desired(id) {
            // The one that it was to replace has gone by itself.
            return self.set_exchange(fresh, Exchange::None);
        }
        let Some(replica) = self.state.replicas.get(&fresh) else { return };
        let address = replica.address.clone().unwrap_or_default();
        if replica.is_ready() && self.traffic.reaches(self.now, &[&address]) {
            self.set_exchange(fresh, Exchange::None);
            if let Some((outdated, _)) = self.next_outdated(id) {
                self.replace(id, outdated);
            }
            return;
        }
        let patience = self.settings.patience.start + self.settings.patience.warm;
        if self.now.since(replica.started) >= patience {
            let why = "not reached by all routers in time".to_owned();
            self.note_failed_renewal(id, why);
            self.set_exchange(fresh, Exchange::Leaving);
            self.retire(fresh);
        }
    }

    fn may_renew(&self, id: &VersionId) -> bool {
        let is_there = self.desired(id) > 0 && self.num_active(id) >= self.desired(id);
        let is_settled = self.replicas_of(id).all(|r| {
            r.stage == Stage::Ready && !r.is_missing
                || r.exchange == Exchange::None && r.is_leaving()
        });
        let is_on_its_way = self.users_of(id).any(|(_, route)| route.rollout.is_some());
        let may_now = self.renewals.get(id).and_then(|renewal| renewal.not_before);
        let is_due = may_now.is_none_or(|at| self.now >= at);
        is_there && is_settled && !is_on_its_way && !self.has_failed(id) && is_due
    }

    /// The oldest outdated replica that takes requests, and what it has.
    fn next_outdated(&self, id: &VersionId) -> Option<(ReplicaId, Memory)> {
        let mut replicas = self.state.replicas.iter();
        replicas
            .find(|(_, r)| r.version == *id && r.is_ready() && r.is_outdated)
            .map(|(replica, r)| (*replica, r.needs.clone()))
    }

    fn replace(&mut self, id: &VersionId, outdated: ReplicaId) {
        self.set_exchange(outdated, Exchange::Leaving);
        self.retire(outdated);
        let num_exchanged = self.renewals.get(id).map_or(0, |renewal| renewal.num_exchanged) + 1;
        self.renewals.insert(id.clone(), Renewal { num_exchanged, ..Renewal::default() });
    }

    fn set_exchange(&mut self, id: ReplicaId, exchange: Exchange) {
        if let Some(replica) = self.state.replicas.get_mut(&id) {
            replica.exchange = exchange;
        }
    }

    fn finish_renewal(&mut self, id: &VersionId) {
        let Some(Renewal { num_exchanged, .. }) = self.renewals.remove(id) else { return };
        if num_exchanged == 0 {
            return;
        }
        let reason = Reason::own("they ran another binary, or with other flags");
        let name = id.to_string();
        let entry = self.note(&name, Deed::Exchange, (Some(id), Some(id)), reason);
        let workers = if num_exchanged == 1 { "worker" } else { "workers" };
        self.state.history.close(entry, &format!("done: {num_exchanged} {workers}"));
    }
}
