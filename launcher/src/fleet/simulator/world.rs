//! Workers, routers, operators, and the launcher's executing half.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::checks::Memo;
use super::routers::Router;
use super::settings;

/// A worker's process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) version: VersionId,
    pub(super) ready_at: Time,
    pub(super) dies_at: Option<Time>,
    pub(super) is_hung: bool,
    pub(super) is_stopped: bool,
    pub(super) was_killed: bool,
    /// Of what it was started from.
    build: u64,
    /// The launcher that is alive watches it, and was told that it is ready.
    is_watched: bool,
    was_told: bool,
    was_compared: bool,
}

/// How often what happened.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) promoted: u32,
    pub(super) rolled_back: u32,
    pub(super) returned: u32,
    pub(super) cleared: u32,
    pub(super) restarts: u32,
    pub(super) deaths: u32,
    pub(super) departures: u32,
    pub(super) hangs: u32,
    pub(super) shortages: u32,
    pub(super) requests: u64,
    pub(super) held: u64,
    pub(super) refused_orders: u32,
    pub(super) exchanged: u32,
    /// Versions that were unloaded though their names still mean them.
    pub(super) unloaded: u32,
    /// Workers that were started while memory was promised to others.
    pub(super) promises: u32,
    /// Canaries that went on, and those that were taken back, for what became of their requests.
    pub(super) judged: u32,
    pub(super) refused: u32,
}

pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) now: Time,
    pub(super) processes: BTreeMap<ReplicaId, Process>,
    pub(super) routers: Vec<Router>,
    pub(super) seen: Seen,
    pub(super) memo: Memo,
    /// Golden prompts that fail, by the orders that named them.
    pub(super) doomed: BTreeSet<OperationId>,
    saved: String,
    verdicts: Vec<(Time, RolloutId, Result<(), String>)>,
    pub(super) num_routers: u64,
    /// What is started now.
    build: u64,
    is_quiet: bool,
    random: u64,
    seed: u64,
}

/// The names that clients use, and how many replicas they are to have.
pub(super) const NAMES: [(&str, &str, u32); 4] =
    [("m", "m@1", 1), ("m:prod", "m@1", 1), ("n", "n@1", 1), ("small", "o@1", 0)];

/// Versions and what they take, of 100. `b` and `c` do not fit side by side.
const VERSIONS: [(&str, u64); 10] = [
    ("m@1", 10),
    ("m@2", 10),
    ("m@3", 10),
    ("m@4", 10),
    ("m@5", 10),
    ("m@6", 10),
    ("n@1", 35),
    ("n@2", 40),
    ("o@1", 10),
    ("p@1", 15),
];

/// Fails a third of its requests.
pub(super) const FAILS: &str = "m@3";
/// Is slow.
pub(super) const SLOW: &str = "m@4";
/// Dies before it is ready.
pub(super) const NEVER_READY: &str = "m@5";
/// Dies soon after.
const CRASHES: &str = "m@6";

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            fleet: Fleet::new(settings()),
            now: Time::from_unix_ms(1_000_000),
            processes: BTreeMap::new(),
            routers: Vec::new(),
            seen: Seen::default(),
            memo: Memo::default(),
            doomed: BTreeSet::new(),
            saved: serde_json::to_string(&Snapshot::default()).unwrap(),
            verdicts: Vec::new(),
            num_routers: 0,
            build: 0,
            is_quiet: false,
            random: seed,
            seed,
        };
        for (version, bytes) in VERSIONS {
            let needs = Memory::on("cpu", bytes);
            world.order(Order::Add { version: version.parse().unwrap(), needs });
        }
        for (name, version, min) in NAMES {
            let scale = Scale { min, max: 2 };
            let version = version.parse().unwrap();
            world.order(Order::Route { name: name.to_owned(), version, scale, hidden: false });
        }
        world.start_router();
        world.start_router();
        world
    }

    /// Fails with what is needed to see it again.
    pub(super) fn ensure(&self, holds: bool, what: impl FnOnce() -> String) {
        assert!(
            holds,
            "seed {}, {} s: {}\n{:#?}",
            self.seed,
            self.now.since(Time::from_unix_ms(1_000_000)).as_secs_f64(),
            what(),
            self.fleet.status(),
        );
    }

    /// No more faults and orders.
    pub(super) fn calm_down(&mut self) {
        self.is_quiet = true;
        for process in self.processes.values_mut() {
            if !process.is_hung && !process.is_stopped {
                process.dies_at = None;
            }
        }
    }

    pub(super) fn tick(&mut self) {
        self.now = self.now + Duration::from_millis(250);
        if !self.is_quiet {
            self.break_something();
            self.order_something();
        }
        self.tell_of_processes();
        for (_, rollout, verdict) in self.take_due_verdicts() {
            self.step(Event::Checked { rollout, verdict });
        }
        for index in 0..self.routers.len() {
            self.run_router(index);
        }
        self.step(Event::Tick);
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        // SplitMix64.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn soon(&mut self, max_ms: u64) -> Time {
        let ms = self.below(max_ms);
        self.now + Duration::from_millis(ms)
    }

    pub(super) fn step(&mut self, event: Event) {
        let versions = self.fleet.state.versions.iter();
        let awake = versions.filter(|(_, version)| version.awake);
        let awake = awake.map(|(id, _)| (id.clone(), self.is_used(id))).collect();
        let actions = self.fleet.step(self.now, event);
        self.check_unloaded(&awake);
        self.execute(&actions);
    }

    fn order(&mut self, order: Order) {
        let plan_is_doomed =
            matches!(&order, Order::Promote { plan, .. } if plan.golden.as_deref() == Some("bad"));
        match self.fleet.order(self.now, order) {
            Ok((operation, actions)) => {
                if plan_is_doomed {
                    self.doomed.insert(operation);
                }
                self.execute(&actions);
            }
            Err(_) => self.seen.refused_orders += 1,
        }
    }

    /// Does what it is told, unless it dies before it is through.
    fn execute(&mut self, actions: &[Action]) {
        let dies = !self.is_quiet && !actions.is_empty() && self.one_in(60);
        let end = if dies { self.below(actions.len() as u64 + 1) } else { actions.len() as u64 };
        self.check_actions(actions);
        for (index, action) in actions.iter().enumerate() {
            if index as u64 >= end {
                break;
            }
            self.execute_one(action);
        }
        if dies {
            self.restart_launcher();
        } else {
            self.check_state();
        }
    }

    fn execute_one(&mut self, action: &Action) {
        match action {
            Action::Save => self.saved = serde_json::to_string(self.fleet.snapshot()).unwrap(),
            Action::Publish => {
                let table = self.fleet.table().clone();
                self.check_table(&table);
                for index in 0..self.routers.len() {
                    let at = self.soon(600);
                    // They arrive in order.
                    let inbox = &mut self.routers[index].inbox;
                    let at = inbox.last().map_or(at, |(last, _)| at.max(*last));
                    inbox.push((at, table.clone()));
                }
            }
            Action::Spawn { replica, version } => {
                self.check_promises(version);
                self.spawn(*replica, version);
            }
            Action::Adopt { replica, .. } => self.adopt(*replica),
            Action::Stop { replica } => {
                self.check_stop(*replica);
                let ends = self.soon(3000);
                if let Some(process) = self.processes.get_mut(replica) {
                    process.is_stopped = true;
                    process.was_killed |= process.is_hung;
                    process.is_hung = false;
                    process.dies_at = Some(ends);
                }
            }
            Action::Kill { replica } => {
                let now = self.now;
                if let Some(process) = self.processes.get_mut(replica) {
                    process.is_stopped = true;
                    process.was_killed = true;
                    process.is_hung = false;
                    process.dies_at = Some(now);
                }
            }
            Action::Check { rollout, golden, .. } => {
                let at = self.soon(4000);
                let verdict = if golden == "bad" { Err("line 1".to_owned()) } else { Ok(()) };
                self.verdicts.push((at, *rollout, verdict));
            }
            Action::Progress { .. } => {}
            Action::Finished { operation, result, .. } => self.check_result(*operation, result),
        }
    }

    fn spawn(&mut self, id: ReplicaId, version: &VersionId) {
        let name = version.to_string();
        let ready_at = self.now + Duration::from_millis(500) + self.spread(5000);
        let ready_at = if !self.is_quiet && self.one_in(30) {
            ready_at + self.spread(60_000)
        } else {
            ready_at
        };
        let ready_at =
            if name == NEVER_READY { ready_at + Duration::from_secs(600) } else { ready_at };
        let dies_at = match name.as_str() {
            NEVER_READY => Some(self.now + self.spread(3000)),
            CRASHES => Some(ready_at + self.spread(4000)),
            _ => None,
        };
        let process = Process {
            version: version.clone(),
            ready_at,
            dies_at,
            is_hung: false,
            is_stopped: false,
            was_killed: false,
            build: self.build,
            is_watched: true,
            was_told: false,
            was_compared: true,
        };
        self.ensure(!self.processes.contains_key(&id), || format!("{id:?} was started twice"));
        self.processes.insert(id, process);
        self.check_memory();
        // Sometimes it dies before it hears of the process's number.
        if !self.one_in(10) {
            let pid = u32::try_from(id.0).unwrap();
            // What follows from it comes with the next step.
            let actions = self.fleet.step(self.now, Event::Spawned { replica: id, pid });
            self.execute_saves(&actions);
        }
    }

    /// As `execute`, within another.
    fn execute_saves(&mut self, actions: &[Action]) {
        for action in actions {
            self.execute_one(action);
        }
    }

    fn spread(&mut self, max_ms: u64) -> Duration {
        Duration::from_millis(self.below(max_ms))
    }

    fn adopt(&mut self, id: ReplicaId) {
        match self.processes.get_mut(&id) {
            Some(process) => {
                process.is_watched = true;
                process.was_told = false;
                process.was_compared = false;
            }
            None => {
                self.step(Event::Ended { replica: id, why: "not found".to_owned() });
            }
        }
    }

    fn restart_launcher(&mut self) {
        self.seen.restarts += 1;
        self.verdicts.clear();
        self.doomed.clear();
        for process in self.processes.values_mut() {
            process.is_watched = false;
        }
        if self.one_in(3) {
            self.build += 1;
        }
        let down = self.spread(3000);
        self.now = self.now + down;
        let snapshot: Snapshot = serde_json::from_str(&self.saved).unwrap();
        let (fleet, actions) = Fleet::restore(settings(), snapshot, self.now);
        self.fleet = fleet;
        self.memo.was_restarted(self.now);
        for action in &actions {
            self.execute_one(action);
        }
        self.check_state();
    }

    fn tell_of_processes(&mut self) {
        let now = self.now;
        let ids: Vec<ReplicaId> = self.processes.keys().copied().collect();
        for id in ids {
            let Some(process) = self.processes.get_mut(&id) else { continue };
            if process.dies_at.is_some_and(|at| at <= now) && !process.is_hung {
                self.end_process(id);
                continue;
            }
            if process.is_watched && !process.was_compared {
                process.was_compared = true;
                let is_outdated = process.build != self.build;
                let make = if is_outdated { Make::Outdated } else { Make::Current };
                self.step(Event::Found { replica: id, make });
            }
            let Some(process) = self.processes.get_mut(&id) else { continue };
            if !process.is_watched || process.was_told || process.ready_at > now {
                continue;
            }
            process.was_told = true;
            self.step(Event::Ready { replica: id, address: address(id) });
        }
    }

    fn end_process(&mut self, id: ReplicaId) {
        let Some(process) = self.processes.remove(&id) else { return };
        for router in &mut self.routers {
            let lost = router.drop_session(id, &process.version);
            router.totals.entry(process.version.clone()).or_default().num_failures += lost;
        }
        if process.is_watched {
            self.step(Event::Ended { replica: id, why: "exit 1".to_owned() });
        }
    }

    /// Somebody tells a worker to end: it answers what it has, and does.
    fn leave(&mut self, id: ReplicaId) {
        let is_asked = |process: &&mut Process| {
            process.was_told && process.is_watched && !process.is_stopped && !process.is_hung
        };
        if self.processes.get_mut(&id).filter(is_asked).is_none() {
            return;
        }
        let Some(process) = self.processes.remove(&id) else { return };
        for router in &mut self.routers {
            router.drop_session(id, &process.version);
        }
        let had_failed = self.fleet.has_failed(&process.version);
        self.seen.departures += 1;
        self.step(Event::Left { replica: id });
        let has_failed = self.fleet.has_failed(&process.version);
        self.ensure(!has_failed || had_failed, || {
            format!("{} failed because somebody told {id:?} to end", process.version)
        });
    }

    fn take_due_verdicts(&mut self) -> Vec<(Time, RolloutId, Result<(), String>)> {
        let now = self.now;
        let (due, later) = std::mem::take(&mut self.verdicts).into_iter().partition(|v| v.0 <= now);
        self.verdicts = later;
        due
    }

    fn break_something(&mut self) {
        let ids: Vec<ReplicaId> = self.processes.keys().copied().collect();
        for id in ids {
            if self.one_in(3000) {
                self.seen.deaths += 1;
                self.end_process(id);
            } else if self.one_in(3000) {
                self.leave(id);
            } else if self.one_in(6000) {
                self.seen.hangs += 1;
                let Some(process) = self.processes.get_mut(&id) else { continue };
                if process.is_stopped || process.ready_at > self.now {
                    continue;
                }
                process.is_hung = true;
                if process.is_watched {
                    self.step(Event::Hung { replica: id });
                }
            }
        }
        if self.one_in(800) {
            self.restart_launcher();
        }
        if self.one_in(800) {
            let index = self.below(self.routers.len() as u64);
            self.routers.remove(usize::try_from(index).unwrap());
            self.start_router();
        }
    }

    fn order_something(&mut self) {
        if !self.one_in(40) {
            return;
        }
        let (name, _, _) = NAMES[usize::try_from(self.below(NAMES.len() as u64)).unwrap()];
        let model = if name == "n" { "n" } else { "m" };
        let most = if name == "n" { 2 } else { 6 };
        let number = self.below(most) + 1;
        let version: VersionId = format!("{model}@{number}").parse().unwrap();
        let name = name.to_owned();
        let reason = Reason { who: "sim".to_owned(), why: String::new() };
        let order = match self.below(10) {
            0..5 => Order::Promote { name, version, plan: self.plan(), reason },
            5 | 6 => Order::Rollback { name, reason },
            7 => {
                let max = u32::try_from(self.below(2) + 1).unwrap();
                let min = if name == "small" { 0 } else { 1 };
                Order::Scale { name, scale: Scale { min, max }, reason }
            }
            8 => Order::Start { version, replicas: None, reason },
            _ => Order::Unload { version, force: Force::Gentle, reason },
        };
        self.order(order);
    }

    fn plan(&mut self) -> Plan {
        let portion = match self.below(4) {
            0 | 1 => Portion::All,
            2 => Portion::Canary(3000),
            _ => Portion::Shadow(5000),
        };
        let soak = Duration::from_secs(self.below(30) + 1);
        Plan {
            portion,
            soak: (!self.one_in(6)).then_some(soak),
            golden: match self.below(4) {
                0 => Some("bad".to_owned()),
                1 => Some("good".to_owned()),
                _ => None,
            },
            limits: Some(Limits::default()),
        }
    }
}

pub(super) fn address(id: ReplicaId) -> String {
    format!("unix:/{}", id.0)
}

pub(super) fn replica_of(address: &str) -> ReplicaId {
    ReplicaId(address.trim_start_matches("unix:/").parse().unwrap())
}

impl Seen {
    pub(super) fn add(&mut self, other: &Self) {
        self.promoted += other.promoted;
        self.rolled_back += other.rolled_back;
        self.returned += other.returned;
        self.cleared += other.cleared;
        self.restarts += other.restarts;
        self.deaths += other.deaths;
        self.departures += other.departures;
        self.hangs += other.hangs;
        self.shortages += other.shortages;
        self.requests += other.requests;
        self.held += other.held;
        self.refused_orders += other.refused_orders;
        self.exchanged += other.exchanged;
        self.unloaded += other.unloaded;
        self.promises += other.promises;
        self.judged += other.judged;
        self.refused += other.refused;
    }

    pub(super) fn check(&self) {
        for (what, num) in [
            ("promoted", self.promoted),
            ("rolled back", self.rolled_back),
            ("returned", self.returned),
            ("cleared", self.cleared),
            ("restarts", self.restarts),
            ("deaths", self.deaths),
            ("departures", self.departures),
            ("hangs", self.hangs),
            ("shortages", self.shortages),
            ("refused orders", self.refused_orders),
            ("exchanged", self.exchanged),
            ("unloaded", self.unloaded),
            ("promises", self.promises),
            ("judged", self.judged),
            ("refused canaries", self.refused),
        ] {
            assert!(num > 0, "{what}: never");
        }
    }
}
