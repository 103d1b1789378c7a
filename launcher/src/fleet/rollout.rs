//! Moves a name's traffic from one version to another, and back if that was wrong.
//!
//! ```text
//! Starting → Checking → Warming → Observing → (all traffic)
//!     └──────────┴─────────┴──────────┴─────→ (as before)
//! ```
//!
//! The name leads to the old version until the new one gets its part, and the old one is there
//! until the new one has all. Where there is no room for both, `Clearing` comes first: requests
//! wait, at the routers, while the old version leaves; and if the new one is not taken, `Returning`
//! comes last, until the old one is back. After the last step the new version is on probation: if
//! it fails then, the name goes back by itself.

use std::time::Duration;

use crate::name::VersionId;

use super::event::{Plan, Portion, RolloutId};
use super::evidence::{find_failures, find_fault};
use super::history::{Deed, Entry, Reason};
use super::route::{Baseline, Kind, Probation, Rollout, Room, Stage};
use super::traffic::Counts;
use super::{Action, Fleet};

/// What a name's next rollout is.
pub(super) struct Course {
    pub(super) to: VersionId,
    pub(super) kind: Kind,
    pub(super) room: Room,
    pub(super) plan: Plan,
    pub(super) reason: Reason,
}

impl Fleet {
    pub(super) fn advance_rollouts(&mut self) {
        let names: Vec<String> = self.state.routes.keys().cloned().collect();
        for name in &names {
            self.watch_probation(name);
            while self.advance(name) {}
        }
    }

    pub(super) fn rollout(&self, name: &str) -> Option<&Rollout> {
        self.state.routes.get(name)?.rollout.as_ref()
    }

    /// Sets out. The name has no rollout.
    pub(super) fn set_out(&mut self, name: &str, course: Course) -> RolloutId {
        let Course { to, kind, room, plan, reason } = course;
        let from = self.state.routes.get(name).and_then(|route| route.current.clone());
        let deed = match (kind, plan.portion) {
            (Kind::Return, _) => Deed::Rollback,
            (_, Portion::All) => Deed::Promote,
            (_, Portion::Canary(_)) => Deed::Canary,
            (_, Portion::Shadow(_)) => Deed::Shadow,
        };
        let entry = self.note(name, deed, (from.as_ref(), Some(&to)), reason);
        self.state.next_rollout += 1;
        let id = RolloutId(self.state.next_rollout);
        let target = from.as_ref().map_or(1, |from| self.desired(from)).max(1);
        let is_ready = self.num_ready(&to) > 0;
        if let Some(version) = self.state.versions.get_mut(&to) {
            version.wake();
            version.was_ready &= is_ready;
            version.target = version.target.max(target);
        }
        if let Some(route) = self.state.routes.get_mut(name) {
            let stage = match room {
                Room::Beside => Stage::Starting,
                Room::Instead => Stage::Clearing,
            };
            let since = self.now;
            let baseline = None;
            route.rollout =
                Some(Rollout { id, entry, from, to, kind, plan, room, stage, since, baseline });
        }
        id
    }

    /// Goes on by one stage; false if it has to wait.
    fn advance(&mut self, name: &str) -> bool {
        let Some(rollout) = self.rollout(name).cloned() else { return false };
        let is_over = |patience: Duration| self.now.since(rollout.since) >= patience;
        let patience = self.settings.patience;
        if self.has_failed(&rollout.to) && !matches!(rollout.stage, Stage::Returning { .. }) {
            let why = format!("{} failed: {}", rollout.to, self.failure(&rollout.to));
            return self.take_back(name, &why);
        }
        match rollout.stage {
            Stage::Clearing => {
                let is_clear = rollout.from.as_ref().is_none_or(|from| !self.has_replicas(from));
                is_clear && self.enter(name, Stage::Starting)
            }
            Stage::Starting if self.has_enough(&rollout.to) => match &rollout.plan.golden {
                Some(golden) => self.check(name, &rollout, golden),
                None => self.enter(name, Stage::Warming),
            },
            Stage::Starting if is_over(patience.start) => {
                let why = format!("not ready after {} s", patience.start.as_secs());
                self.take_back(name, &why)
            }
            Stage::Checking if is_over(patience.check) => {
                let why =
                    format!("no answer to golden prompts within {} s", patience.check.as_secs());
                self.take_back(name, &why)
            }
            Stage::Warming if self.is_reached(&rollout.to) => match rollout.plan.portion {
                Portion::All => self.flip(name),
                Portion::Canary(_) | Portion::Shadow(_) => self.enter(name, Stage::Observing),
            },
            Stage::Warming if is_over(patience.warm) => {
                let why =
                    format!("not reached by all routers within {} s", patience.warm.as_secs());
                self.take_back(name, &why)
            }
            Stage::Observing => self.observe(name, &rollout),
            Stage::Returning { ref why, entry } => {
                let Some(from) = &rollout.from else { return self.end(name, why) };
                let is_back = self.num_ready(from) > 0;
                if !is_back && !self.has_failed(from) && !is_over(patience.start) {
                    return false;
                }
                let result = if is_back { "done" } else { "the version before did not start" };
                self.state.history.close(entry, result);
                self.end(name, why)
            }
            Stage::Starting | Stage::Checking | Stage::Warming => false,
        }
    }

    fn enter(&mut self, name: &str, stage: Stage) -> bool {
        let now = self.now;
        let Some(rollout) = self.rollout_mut(name) else { return false };
        rollout.stage = stage;
        rollout.since = now;
        rollout.baseline = None;
        true
    }

    fn rollout_mut(&mut self, name: &str) -> Option<&mut Rollout> {
        self.state.routes.get_mut(name)?.rollout.as_mut()
    }

    /// Whether as many replicas are ready as there should be, or can be.
    fn has_enough(&self, id: &VersionId) -> bool {
        let num_ready = self.num_ready(id);
        let no_more_fit = self.short.contains_key(id) && self.num_active(id) == num_ready;
        num_ready > 0 && (num_ready >= self.desired(id) || no_more_fit)
    }

    fn is_reached(&self, id: &VersionId) -> bool {
        let ready = self.replicas_of(id).filter(|replica| replica.is_ready());
        let addresses: Vec<&str> = ready.filter_map(|replica| replica.address.as_deref()).collect();
        !addresses.is_empty() && self.traffic.reaches(self.now, &addresses)
    }

    fn check(&mut self, name: &str, rollout: &Rollout, golden: &str) -> bool {
        let ready = self.replicas_of(&rollout.to).find(|replica| replica.is_ready());
        let Some(address) = ready.and_then(|replica| replica.address.clone()) else {
            return false;
        };
        self.actions.push(Action::Check {
            rollout: rollout.id,
            version: rollout.to.clone(),
            address,
            golden: golden.to_owned(),
        });
        self.enter(name, Stage::Checking)
    }

    /// Compares both, and goes on when there was time enough.
    fn observe(&mut self, name: &str, rollout: &Rollout) -> bool {
        let Some(from) = &rollout.from else { return self.flip(name) };
        let now =
            Baseline { from: self.traffic.counts(from), to: self.traffic.counts(&rollout.to) };
        let Some(before) = rollout.baseline else {
            if let Some(rollout) = self.rollout_mut(name) {
                rollout.baseline = Some(now);
            }
            return false;
        };
        let (to, from_counts) = (now.to - before.to, now.from - before.from);
        let limits = rollout.plan.limits;
        if let Some(why) = limits.and_then(|limits| find_fault(&to, &from_counts, &limits)) {
            return self.take_back(name, &why);
        }
        let is_canary = matches!(rollout.plan.portion, Portion::Canary(_));
        let is_alone = self.has_failed(from) && self.num_ready(from) == 0;
        if is_canary && is_alone && self.num_ready(&rollout.to) > 0 {
            return self.flip(name);
        }
        let Some(soak) = rollout.plan.soak else { return false };
        let lasted = self.now.since(rollout.since);
        let min = limits.map_or(0, |limits| u64::from(limits.min_requests));
        // Few requests say little: they get as much time again.
        let is_over =
            lasted >= soak.saturating_mul(2) || (lasted >= soak && to.num_requests >= min);
        match is_over {
            true if is_canary => self.num_ready(&rollout.to) > 0 && self.flip(name),
            true => self.end_shadow(name, &to),
            false => false,
        }
    }

    /// The new version gets all traffic, and the old one leaves.
    fn flip(&mut self, name: &str) -> bool {
        let now = self.now;
        let Some(route) = self.state.routes.get_mut(name) else { return false };
        let Some(rollout) = route.rollout.take() else { return false };
        route.current = Some(rollout.to.clone());
        route.probation = None;
        match (rollout.kind, rollout.from.clone()) {
            (Kind::Promotion, Some(from)) => {
                route.remember(from.clone());
                let counts = self.traffic.counts(&from);
                let Some(route) = self.state.routes.get_mut(name) else { return false };
                route.probation = Some(Probation {
                    until: now + self.settings.probation,
                    entry: rollout.entry,
                    limits: rollout.plan.limits,
                    num_before: counts.num_requests,
                    num_failed_before: counts.num_failures,
                    baseline: None,
                });
            }
            (Kind::Promotion, None) => {}
            (Kind::Return, _) => route.before.retain(|before| *before != rollout.to),
        }
        if let Some(from) = &rollout.from {
            self.release(from);
        }
        self.state.history.close(rollout.entry, "done");
        self.ended.push((rollout.id, Ok(format!("`{name}` is served by {}", rollout.to))));
        false
    }

    /// The old version has all traffic again, or keeps it.
    pub(super) fn take_back(&mut self, name: &str, why: &str) -> bool {
        let Some(rollout) = self.rollout(name).cloned() else { return false };
        if rollout.kind == Kind::Promotion {
            self.take_back_for(name, why, Reason::own(why));
        } else {
            self.end(name, why);
        }
        false
    }

    /// As [`Self::take_back`], for somebody's reason.
    pub(super) fn take_back_for(&mut self, name: &str, why: &str, reason: Reason) {
        let Some(rollout) = self.rollout(name).cloned() else { return };
        let course = (Some(&rollout.to), rollout.from.as_ref());
        let entry = self.note(name, Deed::Rollback, course, reason);
        let is_there = |from: &VersionId| {
            self.replicas_of(from).any(|replica| replica.is_ready() || replica.is_draining())
        };
        let must_return = rollout.room == Room::Instead
            && rollout.from.as_ref().is_some_and(|from| !is_there(from));
        if must_return {
            if let Some(version) =
                rollout.from.as_ref().and_then(|from| self.state.versions.get_mut(from))
            {
                version.wake();
            }
            self.enter(name, Stage::Returning { why: why.to_owned(), entry });
        } else {
            self.state.history.close(entry, "done");
            self.end(name, why);
        }
    }

    /// Ends a rollout that failed: the name is as it was.
    fn end(&mut self, name: &str, why: &str) -> bool {
        let Some(route) = self.state.routes.get_mut(name) else { return false };
        let Some(rollout) = route.rollout.take() else { return false };
        if route.current.is_none() {
            self.state.routes.remove(name);
        }
        let result = match rollout.kind {
            Kind::Promotion => format!("rolled back: {why}"),
            Kind::Return => format!("failed: {why}"),
        };
        self.release(&rollout.to);
        self.state.history.close(rollout.entry, &result);
        self.ended.push((rollout.id, Err(result)));
        false
    }

    fn end_shadow(&mut self, name: &str, counts: &Counts) -> bool {
        let Some(route) = self.state.routes.get_mut(name) else { return false };
        let Some(rollout) = route.rollout.take() else { return false };
        let result = format!(
            "done: {} of {} answers were not the same",
            counts.num_different, counts.num_shadowed
        );
        self.release(&rollout.to);
        self.state.history.close(rollout.entry, &result);
        self.ended.push((rollout.id, Ok(result)));
        false
    }

    /// Goes back by itself if the version that was promoted lately is no good.
    fn watch_probation(&mut self, name: &str) {
        let Some(route) = self.state.routes.get(name) else { return };
        let (Some(current), Some(probation)) = (&route.current, &route.probation) else { return };
        if route.rollout.is_some() {
            return;
        }
        let (current, probation) = (current.clone(), probation.clone());
        let counts = self.traffic.counts(&current);
        let baseline = probation.baseline.unwrap_or(counts);
        let why = if self.has_failed(&current) {
            Some(format!("{current} failed: {}", self.failure(&current)))
        } else {
            let before = (probation.num_before, probation.num_failed_before);
            let limits = probation.limits.as_ref();
            limits.and_then(|limits| find_failures(&(counts - baseline), before, limits))
        };
        let is_over = self.now >= probation.until;
        let Some(route) = self.state.routes.get_mut(name) else { return };
        match why {
            Some(why) if !is_over => {
                route.probation = None;
                self.go_back(name, Reason::own(why));
            }
            _ if is_over => route.probation = None,
            _ => {
                if let Some(probation) = &mut route.probation {
                    probation.baseline = Some(baseline);
                }
            }
        }
    }

    /// Sets out for the version before, if there is one that fits.
    pub(super) fn go_back(&mut self, name: &str, reason: Reason) -> Option<RolloutId> {
        let to = self.state.routes.get(name)?.before.last()?.clone();
        let plan = Plan::default();
        let room = self.room(name, &to, &plan).ok()?;
        Some(self.set_out(name, Course { to, kind: Kind::Return, room, plan, reason }))
    }

    pub(super) fn failure(&self, id: &VersionId) -> String {
        let failed = self.state.versions.get(id).and_then(|version| version.failed.as_ref());
        failed.map_or_else(|| "it is not in the store".to_owned(), |failed| failed.why.clone())
    }

    /// Writes into the history.
    pub(super) fn note(
        &mut self,
        name: &str,
        deed: Deed,
        (from, to): (Option<&VersionId>, Option<&VersionId>),
        reason: Reason,
    ) -> u64 {
        self.state.next_entry += 1;
        let entry = Entry {
            id: self.state.next_entry,
            time: self.now,
            name: name.to_owned(),
            deed,
            from: from.map(ToString::to_string),
            to: to.map(ToString::to_string),
            reason,
            result: None,
        };
        self.state.history.push(entry, self.settings.max_history);
        self.state.next_entry
    }
}
