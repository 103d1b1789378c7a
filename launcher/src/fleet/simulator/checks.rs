//! What must hold, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::route::{Rollout, Room, Stage};
use super::super::version::{Exchange, Stage as ReplicaStage};
use super::super::*;
use super::world::{NAMES, NEVER_READY, Process, SLOW, World, address};

/// What was seen before.
#[derive(Default)]
pub(super) struct Memo {
    generation: u64,
    table: RoutingTable,
    /// Rollouts under way, as they began: when, and what their names' routes said.
    rollouts: BTreeMap<RolloutId, Begun>,
    restarted: Option<Time>,
    ended: BTreeSet<u64>,
}

#[derive(Clone)]
struct Begun {
    name: String,
    since: Time,
    route: Option<TableRoute>,
    rollout: Rollout,
    /// What had been counted when both versions began to be compared: of the new one, and of the one
    /// before.
    counts: Option<(Counts, Counts)>,
}

impl Memo {
    pub(super) fn was_restarted(&mut self, now: Time) {
        self.restarted = Some(now);
    }
}

impl World {
    /// Never more memory than there is, whatever the books say.
    pub(super) fn check_memory(&self) {
        let bytes =
            |process: &Process| self.fleet.state.versions[&process.version].needs.bytes("cpu");
        let sum: u64 = self.processes.values().map(bytes).sum();
        self.ensure(sum <= 100, || format!("{sum} of 100 are taken"));
    }

    /// What is saved comes first, and what is gone from the table before what is done to it.
    pub(super) fn check_actions(&self, actions: &[Action]) {
        for (index, action) in actions.iter().enumerate() {
            let is_late = index > 0 && *action == Action::Save;
            self.ensure(!is_late, || "something is done before it is saved".to_owned());
        }
    }

    pub(super) fn check_table(&mut self, table: &RoutingTable) {
        self.ensure(table.generation > self.memo.generation, || {
            format!("generation {} after {}", table.generation, self.memo.generation)
        });
        for route in &table.routes {
            self.check_route(table, route);
        }
        for (name, _, min) in NAMES {
            self.check_canary(name, table);
            if min > 0 {
                self.check_still_there(name, table);
            }
        }
        self.memo.generation = table.generation;
        self.memo.table = table.clone();
    }

    fn check_route(&self, table: &RoutingTable, route: &TableRoute) {
        let sum: u32 = route.shares.iter().map(|(_, share)| u32::from(*share)).sum();
        self.ensure(sum == 10_000, || format!("{route:?} adds up to {sum}"));
        let ready = |version: &VersionId| has_ready(table, version);
        let any_ready = route.shares.iter().any(|(version, _)| ready(version));
        // A request that finds no replica has to wait, unless its version can't be had.
        let failed = route.shares.iter().all(|(version, _)| self.fleet.has_failed(version));
        self.ensure(any_ready || route.max_hold_ms > 0 || failed, || {
            format!("requests for {route:?} are refused")
        });
        for (version, share) in &route.shares {
            self.ensure(*share > 0, || format!("{route:?} has a share of nothing"));
            self.ensure(!any_ready || ready(version), || {
                format!("{route:?} gives {version} a share without a replica")
            });
        }
        if let Some((shadow, _)) = &route.shadow {
            self.ensure(ready(shadow), || format!("{route:?} copies to nobody"));
        }
    }

    /// A canary gets the share that was ordered, as long as both versions can answer.
    fn check_canary(&self, name: &str, table: &RoutingTable) {
        let Some(rollout) = self.fleet.rollout(name) else { return };
        let (Portion::Canary(share), Stage::Observing) = (rollout.plan.portion, &rollout.stage)
        else {
            return;
        };
        let from = rollout.from.as_ref();
        let both_ready =
            has_ready(table, &rollout.to) && from.is_some_and(|it| has_ready(table, it));
        let shares = table.route(name).map(|route| route.shares.clone()).unwrap_or_default();
        self.ensure(!both_ready || shares.contains(&(rollout.to.clone(), share)), || {
            format!("`{name}` is to give {} of 10,000 to {}, and has {shares:?}", share, rollout.to)
        });
    }

    /// What was counted of a canary and of the version before, while they were compared. `None`: a
    /// launcher was not there all the time, or nobody wanted to know.
    fn evidence(&self, begun: &Begun) -> Option<(Counts, Counts)> {
        let Begun { rollout, since, counts, .. } = begun;
        let was_restarted = self.memo.restarted.is_some_and(|at| at >= *since);
        let is_canary = matches!(rollout.plan.portion, Portion::Canary(_));
        if was_restarted || !is_canary || rollout.plan.limits.is_none() {
            return None;
        }
        let ((to, from), traffic) = ((*counts)?, &self.fleet.traffic);
        let before = rollout.from.as_ref()?;
        Some((traffic.counts(&rollout.to) - to, traffic.counts(before) - from))
    }

    /// A canary that went on by itself, or by an order, was not by far worse than may be.
    fn check_canary_taken(&mut self, begun: &Begun) {
        let Some((to, from)) = self.evidence(begun) else { return };
        let Begun { name, rollout, .. } = begun;
        // With failures of its own, the version before is another measure.
        let is_clean = from.num_failures < 3;
        self.seen.judged += u32::from(is_clean && to.num_requests >= 25);
        let fails = to.num_requests >= 25 && to.num_failures * 10 >= to.num_requests * 3;
        self.ensure(!is_clean || !fails, || {
            let Counts { num_requests, num_failures, .. } = to;
            format!("`{name}` was promoted with {num_failures} of {num_requests} requests failed")
        });
        let is_slower = rollout.to.to_string() == SLOW && to.ttft.num() >= 30;
        let was_quick = from.ttft.num() >= 30 && from.ttft.num_longer(1000) == 0;
        self.ensure(!is_slower || !was_quick, || {
            format!("`{name}` was promoted to {SLOW} with {} late tokens", to.ttft.num())
        });
    }

    /// A canary that was taken back for what became of its requests did worse than may be.
    fn check_canary_refused(&mut self, begun: &Begun) {
        let Some((to, _)) = self.evidence(begun) else { return };
        let Begun { name, rollout, .. } = begun;
        let entry = self.fleet.history().find(|entry| entry.id == rollout.entry);
        let Some(result) = entry.and_then(|entry| entry.result.clone()) else { return };
        let (for_failures, for_delay) =
            (result.contains("requests failed"), result.contains("their first token after"));
        self.seen.refused += u32::from(for_failures || for_delay);
        // One in twenty may be chance.
        self.ensure(!for_failures || to.num_failures > 1 && to.num_requests >= 20, || {
            format!("`{name}`: {result}, with {to:?}")
        });
        self.ensure(!for_delay || rollout.to.to_string() == SLOW, || format!("`{name}`: {result}"));
    }

    /// Memory that is promised, as others always have replicas that are away for a moment, is given to
    /// nobody else: not to what is only of use, and of two that were promised something, first to
    /// the first by name.
    pub(super) fn check_promises(&mut self, spawned: &VersionId) {
        let state = &self.fleet.state;
        let num_of = |id: &VersionId| self.fleet.replicas_of(id).count();
        let floor_of = |id: &VersionId| self.fleet.demand(id).floor as usize;
        let is_extra = self.fleet.num_active(spawned) as usize > floor_of(spawned);
        let goes_before = |id: &VersionId| id != spawned && (is_extra || id < spawned);
        let mut sum: u64 = state.replicas.values().map(|it| it.needs.bytes("cpu")).sum();
        let mut promised = 0;
        for (id, version) in state.versions.iter().filter(|(id, _)| goes_before(id)) {
            let num_away = floor_of(id).saturating_sub(num_of(id)) as u64;
            if version.failed.is_none() {
                promised += num_away * version.needs.bytes("cpu");
            }
        }
        sum += promised;
        self.seen.promises += u32::from(promised > 0);
        self.ensure(sum <= 100, || {
            format!("{spawned} was given memory of which {promised} are promised to others")
        });
    }

    /// Nothing that answers requests is unloaded, unless somebody orders it or its name has moved on.
    pub(super) fn check_unloaded(&mut self, awake: &BTreeMap<VersionId, bool>) {
        for (id, was_used) in awake {
            let Some(version) = self.fleet.state.versions.get(id) else { continue };
            let is_same = *was_used == self.is_used(id) && version.failed.is_none();
            let is_busy = self.fleet.traffic.num_in_flight(id) > 0;
            self.seen.unloaded += u32::from(is_same && !version.awake);
            self.ensure(version.awake || !is_same || !is_busy, || {
                format!("{id} is unloaded with requests")
            });
        }
    }

    /// Whether a name leads to a version, or is to.
    pub(super) fn is_used(&self, id: &VersionId) -> bool {
        self.fleet.state.routes.values().any(|route| route.uses(id))
    }

    /// A version that a name has left leaves, unless something else keeps it.
    fn check_left(&self, id: &VersionId) {
        let version = self.fleet.state.versions.get(id);
        let is_kept = self.is_used(id) || version.is_some_and(|version| version.held > 0);
        let num = self.fleet.num_active(id);
        self.ensure(is_kept || num == 0, || format!("{num} of {id} stay, and nobody needs them"));
    }

    /// A name that had a replica keeps one, unless it died or there is no room for two versions.
    fn check_still_there(&self, name: &str, table: &RoutingTable) {
        let has_one = |table: &RoutingTable| {
            let route = table.route(name)?;
            Some(route.shares.iter().any(|(version, _)| has_ready(table, version)))
        };
        let had_one = has_one(&self.memo.table) == Some(true);
        if !had_one || has_one(table) == Some(true) {
            return;
        }
        let rollout = self.fleet.rollout(name);
        let is_clearing =
            rollout.is_some_and(|rollout| rollout.room == Room::Instead) || self.is_exchanged(name);
        let died = |version: &VersionId| {
            let before = self.memo.table.replicas.iter().filter(|r| r.version == *version);
            before.into_iter().any(|replica| {
                let id = super::world::replica_of(&replica.address);
                self.processes.get(&id).is_none_or(|p| p.is_hung || p.is_stopped)
            })
        };
        let route = self.memo.table.route(name).unwrap();
        let has_died = route.shares.iter().any(|(version, _)| died(version));
        let is_awaited = self.is_taken_back_to_the_dead(name);
        self.ensure(is_clearing || has_died || is_awaited, || {
            format!("`{name}` lost its last replica")
        });
    }

    /// Whether a canary that was alone with its name's traffic has just lost it again, to a version that
    /// had died and is being started: requests wait for that.
    fn is_taken_back_to_the_dead(&self, name: &str) -> bool {
        let current = self.fleet.current(name);
        let mut begun = self.memo.rollouts.values();
        let was_canary =
            begun.any(|begun| begun.name == name && begun.rollout.from.as_ref() == current);
        let version = current.and_then(|id| self.fleet.state.versions.get(id));
        let has_died = version.is_some_and(|version| version.num_restarts > 0);
        was_canary && has_died && self.fleet.rollout(name).is_none()
    }

    /// Whether an outdated worker of what a name stands for leaves before another starts.
    fn is_exchanged(&self, name: &str) -> bool {
        let current = self.fleet.current(name);
        self.fleet.state.replicas.values().any(|replica| {
            Some(&replica.version) == current && replica.exchange == Exchange::Leaving
        })
    }

    /// Nothing is sent to a worker that was told to end.
    pub(super) fn check_send(&self, router: usize, id: ReplicaId) {
        let process = &self.processes[&id];
        self.ensure(!process.is_stopped || process.was_killed, || {
            format!("{} sends to {id:?}, which was told to end", self.routers[router].id)
        });
    }

    /// A worker that is told to end has no requests, unless they took too long.
    pub(super) fn check_stop(&self, id: ReplicaId) {
        let Some(process) = self.processes.get(&id) else { return };
        if process.is_stopped || process.is_hung || process.ready_at > self.now {
            return;
        }
        let requests = self.routers.iter().filter_map(|r| r.in_flight.get(&address(id)));
        let num: usize = requests.map(Vec::len).sum();
        self.ensure(num == 0, || format!("{id:?} is told to end with {num} requests"));
    }

    pub(super) fn check_result(&mut self, operation: OperationId, result: &Result<String, String>) {
        // By another order, or not at all.
        let went_on = result.as_ref().is_ok_and(|text| text.contains("goes on"));
        let is_doomed = self.doomed.remove(&operation);
        self.ensure(!is_doomed || result.is_err() || went_on, || {
            format!("{operation:?} succeeded with golden prompts that do not hold: {result:?}")
        });
    }

    pub(super) fn check_state(&mut self) {
        self.check_memory();
        let state = &self.fleet.state;
        for (id, process) in &self.processes {
            self.ensure(state.replicas.contains_key(id), || {
                format!("nobody knows of {id:?} of {}", process.version)
            });
        }
        for replica in state.replicas.values() {
            let is_leaving = matches!(replica.stage, ReplicaStage::Draining { since, .. }
                if self.now.since(since) > Duration::from_secs(25));
            self.ensure(!is_leaving, || format!("{replica:?} drains for too long"));
            let is_late = replica.stage == ReplicaStage::Starting
                && self.now.since(replica.started) > Duration::from_secs(45);
            self.ensure(!is_late, || format!("{replica:?} has started for too long"));
        }
        for (name, route) in &state.routes {
            let current = route.current.as_ref().map(ToString::to_string);
            self.ensure(current.as_deref() != Some(NEVER_READY), || {
                format!("`{name}` leads to a version that was never ready")
            });
        }
        self.check_rollouts();
        self.check_ends();
    }

    fn check_rollouts(&mut self) {
        let routes = self.fleet.state.routes.clone();
        let mut going = BTreeMap::new();
        for (name, route) in &routes {
            let Some(rollout) = &route.rollout else { continue };
            let begun = self.memo.rollouts.get(&rollout.id).cloned().unwrap_or_else(|| Begun {
                name: name.clone(),
                since: self.now,
                route: self.memo.table.route(name).cloned(),
                rollout: rollout.clone(),
                counts: None,
            });
            let counts = match rollout.stage {
                Stage::Observing => begun.counts.or_else(|| {
                    let from = rollout.from.as_ref()?;
                    let traffic = &self.fleet.traffic;
                    Some((traffic.counts(&rollout.to), traffic.counts(from)))
                }),
                _ => None,
            };
            let age = self.now.since(begun.since);
            let is_open = rollout.plan.soak.is_none() && rollout.stage == Stage::Observing;
            self.ensure(is_open || age < Duration::from_secs(400), || {
                format!("`{name}` is on its way for {age:?}: {rollout:?}")
            });
            if rollout.stage == Stage::Clearing {
                self.seen.cleared += 1;
            }
            going.insert(rollout.id, Begun { rollout: rollout.clone(), counts, ..begun });
        }
        let over = std::mem::replace(&mut self.memo.rollouts, going);
        for (id, begun) in over {
            if !self.memo.rollouts.contains_key(&id) {
                self.check_end(&begun);
            }
        }
    }

    /// A rollout is over: all traffic goes where it was to go, or all is as before.
    fn check_end(&mut self, begun: &Begun) {
        let Begun { name, rollout, route: before, .. } = begun;
        let Some(route) = self.fleet.state.routes.get(name) else { return };
        if route.rollout.is_some() {
            return;
        }
        let table = self.fleet.table().route(name).cloned();
        if route.current.as_ref() == Some(&rollout.to) {
            self.seen.promoted += 1;
            let shares = table.map(|route| route.shares);
            self.ensure(shares == Some(vec![(rollout.to.clone(), WHOLE)]), || {
                format!("`{name}` was promoted, and its shares are {shares:?}")
            });
            rollout.from.iter().for_each(|from| self.check_left(from));
            self.check_canary_taken(begun);
            return;
        }
        self.seen.rolled_back += 1;
        self.check_canary_refused(begun);
        self.check_left(&rollout.to);
        if matches!(rollout.stage, Stage::Returning { .. }) {
            self.seen.returned += 1;
        }
        let (Some(before), Some(after)) = (before, &table) else { return };
        // How long requests wait depends on what else happened.
        let said = |route: &TableRoute| (route.shares.clone(), route.shadow.clone(), route.hidden);
        let is_same = said(before) == said(after) || begun.is_second(before);
        self.ensure(is_same, || format!("`{name}` was rolled back: {before:?} to {after:?}"));
    }

    /// What became of an order is not changed.
    fn check_ends(&mut self) {
        let entries: Vec<Entry> = self.fleet.history().take(3).cloned().collect();
        for entry in entries {
            if entry.result.is_some() {
                self.memo.ended.insert(entry.id);
            }
            self.ensure(entry.result.is_some() || !self.memo.ended.contains(&entry.id), || {
                format!("{entry:?} is open again")
            });
        }
        if self.memo.restarted.is_some_and(|at| self.now.since(at) < Duration::from_secs(5)) {
            // What the launcher did since it saved last is not known to the next.
            self.memo.ended.clear();
        }
        let exchanges = self.fleet.history().filter(|entry| entry.deed == Deed::Exchange);
        self.seen.exchanged += u32::try_from(exchanges.count()).unwrap_or(u32::MAX);
        if !self.fleet.short.is_empty() {
            self.seen.shortages += 1;
        }
    }

    /// After a while without faults and orders.
    pub(super) fn check_peace(&mut self) {
        let state = &self.fleet.state;
        for (name, route) in &state.routes {
            let is_open = route.rollout.as_ref().is_none_or(|r| r.plan.soak.is_none());
            self.ensure(is_open, || format!("`{name}` is still on its way"));
            let Some(current) = &route.current else { continue };
            let is_served = self.fleet.num_ready(current) > 0 || route.scale.min == 0;
            let is_crashing = current.to_string() == "m@6";
            self.ensure(is_served || is_crashing, || format!("`{name}` has no replica"));
        }
        for replica in state.replicas.values() {
            // What may have no replica comes and goes.
            let is_promised = self.fleet.demand(&replica.version).floor > 0;
            let may_leave = !is_promised || replica.version.to_string() == "m@6";
            self.ensure(replica.is_active() || may_leave, || format!("{replica:?} is leaving"));
            let mut users = self.fleet.users_of(&replica.version);
            let is_open = users.any(|(_, route)| route.rollout.is_some());
            self.ensure(!replica.is_outdated || may_leave || is_open, || {
                format!("{replica:?} is still outdated")
            });
        }
    }
}

impl Begun {
    /// It went on from another plan: the table at its begin had its own canary in it.
    fn is_second(&self, before: &TableRoute) -> bool {
        let to = &self.rollout.to;
        before.shares.iter().any(|(version, _)| version == to)
            || before.shadow.as_ref().is_some_and(|(version, _)| version == to)
    }
}

fn has_ready(table: &RoutingTable, version: &VersionId) -> bool {
    table.replicas.iter().any(|replica| replica.version == *version && !replica.draining)
}
