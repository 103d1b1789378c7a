//! Takes in what happened.

use crate::name::VersionId;

use super::event::{Event, Make, ReplicaId, RolloutId};
use super::route::Stage as RolloutStage;
use super::traffic::RouterReport;
use super::version::{Exchange, Replica, Stage};
use super::{Action, Fleet};

impl Fleet {
    pub(super) fn take(&mut self, event: Event) {
        match event {
            Event::Tick => {}
            Event::Spawned { replica, pid } => {
                if let Some(replica) = self.state.replicas.get_mut(&replica) {
                    replica.pid = Some(pid);
                }
            }
            Event::Found { replica, make } => {
                if let Some(replica) = self.state.replicas.get_mut(&replica) {
                    replica.is_outdated = make == Make::Outdated;
                }
            }
            Event::Ready { replica, address } => self.take_ready(replica, address),
            Event::Ended { replica, why } => self.take_end(replica, why),
            Event::Left { replica } => self.take_leave(replica),
            Event::Hung { replica } => self.take_hang(replica),
            Event::Checked { rollout, verdict } => self.take_verdict(rollout, verdict),
            Event::Report(report) => self.take_report(report),
        }
    }

    fn take_ready(&mut self, id: ReplicaId, address: String) {
        let now = self.now;
        let Some(replica) = self.state.replicas.get_mut(&id) else { return };
        replica.address = Some(address);
        replica.is_missing = false;
        match replica.stage {
            Stage::Starting => {
                replica.stage = Stage::Ready;
                let version = replica.version.clone();
                self.traffic.touch(now, &version);
                if let Some(version) = self.state.versions.get_mut(&version) {
                    version.was_ready = true;
                }
            }
            Stage::Ready | Stage::Draining { .. } => {}
            // The launcher that told it to end may have died before it did.
            Stage::Stopping => self.actions.push(Action::Stop { replica: id }),
        }
    }

    fn take_end(&mut self, id: ReplicaId, why: String) {
        let Some(replica) = self.state.replicas.remove(&id) else { return };
        // One that ended while no launcher looked may have been told to.
        if replica.is_active() && !replica.is_missing {
            self.bury(&replica, why);
        }
    }

    /// Another takes its place. It did as it was told, so that nothing is wrong with its version.
    fn take_leave(&mut self, id: ReplicaId) {
        let Some(replica) = self.state.replicas.remove(&id) else { return };
        if !replica.is_active() || replica.is_missing {
            return;
        }
        if replica.exchange == Exchange::Fresh {
            let why = "it was told to end by another than the launcher".to_owned();
            return self.note_failed_renewal(&replica.version, why);
        }
        let lived = self.now.since(replica.started);
        if let Some(version) = self.state.versions.get_mut(&replica.version) {
            version.part_with(self.now, lived, &self.settings.restart);
        }
    }

    fn take_hang(&mut self, id: ReplicaId) {
        let Some(replica) = self.state.replicas.get_mut(&id) else { return };
        self.actions.push(Action::Kill { replica: id });
        let was_active = replica.is_active();
        replica.stage = Stage::Stopping;
        let replica = replica.clone();
        if was_active {
            self.bury(&replica, "did not answer any more".to_owned());
        }
    }

    pub(super) fn bury(&mut self, replica: &Replica, why: String) {
        if replica.exchange == Exchange::Fresh {
            // Those that it was to replace are there: the version is as good as before.
            return self.note_failed_renewal(&replica.version, why);
        }
        let lived = self.now.since(replica.started);
        if let Some(version) = self.state.versions.get_mut(&replica.version) {
            version.bury(self.now, lived, why, &self.settings.restart);
        }
    }

    fn take_verdict(&mut self, id: RolloutId, verdict: Result<(), String>) {
        let routes = self.state.routes.iter_mut();
        let rollouts = routes.filter_map(|(name, route)| Some((name, route.rollout.as_mut()?)));
        let Some((name, rollout)) = rollouts
            .into_iter()
            .find(|(_, rollout)| rollout.id == id && rollout.stage == RolloutStage::Checking)
        else {
            return;
        };
        match verdict {
            Ok(()) => {
                rollout.stage = RolloutStage::Warming;
                rollout.since = self.now;
            }
            Err(why) => {
                let name = name.clone();
                self.take_back(&name, &format!("golden prompts: {why}"));
            }
        }
    }

    fn take_report(&mut self, report: RouterReport) {
        let wanted = report.wanted.clone();
        self.traffic.take(self.now, report);
        for name in &wanted {
            for version in self.versions_of(name) {
                self.want(&version);
            }
        }
    }

    /// Versions that serve a name.
    pub(super) fn versions_of(&self, name: &str) -> Vec<VersionId> {
        match (self.state.routes.get(name), name.parse::<VersionId>()) {
            (Some(route), _) => route.current.iter().cloned().collect(),
            (None, Ok(version)) => vec![version],
            (None, Err(_)) => Vec::new(),
        }
    }

    /// A client waits for a version.
    fn want(&mut self, id: &VersionId) {
        let now = self.now;
        let Some(version) = self.state.versions.get_mut(id) else { return };
        self.traffic.touch(now, id);
        if !self.settings.autoload {
            return;
        }
        let may_start = match &version.failed {
            Some(failure) => now.since(failure.at) >= self.settings.restart.retry,
            None => !version.awake,
        };
        if may_start {
            version.wake();
        }
    }

    /// Versions that failed and that a name needs are tried again.
    pub(super) fn retry_failed(&mut self) {
        let (now, retry) = (self.now, self.settings.restart.retry);
        for version in self.state.versions.values_mut() {
            let is_due = version.failed.as_ref().is_some_and(|f| now.since(f.at) >= retry);
            if is_due && version.awake && version.was_ready {
                version.forgive();
            }
        }
    }

    pub(super) fn forget_the_silent(&mut self) {
        let versions = &self.state.versions;
        self.traffic
            .expire(self.now, self.settings.patience.router, |id| versions.contains_key(id));
    }
}
