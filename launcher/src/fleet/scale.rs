//! How many replicas a version's traffic asks for.
//!
//! One more when requests wait in the queue, one less when none does *and* those that are left
//! would suffice. The second condition keeps the number from going up and down under a constant
//! load: when one replica is too few and two are enough, nobody waits with two, which says nothing
//! about one. So what a replica can do, in tokens per second, is learnt when all are too few.

use std::time::Duration;

use crate::name::VersionId;

use super::Fleet;
use super::settings::Scaling;
use super::time::Time;
use super::traffic::Counts;

/// How much of what the others can do they may have to do, for one to be taken away.
const SPARE: f64 = 0.8;

/// What is known of a version's traffic.
#[derive(Clone, Debug)]
pub(super) struct Scaler {
    /// When this window began, with how many replicas, and what had been counted then.
    since: Time,
    num_ready: u32,
    before: Counts,
    /// When the number of replicas was changed.
    changed: Time,
    /// Since when nobody waits.
    calm_since: Option<Time>,
    /// Tokens per second that a replica can do, once all were too few.
    capacity: Option<f64>,
}

/// What a window showed.
#[derive(Clone, Copy, Debug)]
struct Load {
    tokens_per_second: f64,
    queue: Queue,
    num_ready: u32,
}

/// How requests wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Long,
    Middling,
    Short,
}

impl Fleet {
    pub(super) fn scale(&mut self) {
        let ids: Vec<VersionId> = self.state.versions.keys().cloned().collect();
        for id in &ids {
            if self.is_idle(id)
                && let Some(version) = self.state.versions.get_mut(id)
            {
                version.sleep();
            }
            if self.num_ready(id) == 0 {
                self.scalers.remove(id);
            } else {
                self.scale_version(id);
            }
        }
    }

    /// Whether a version that may have no replica was without a request for long enough.
    fn is_idle(&self, id: &VersionId) -> bool {
        let Some(version) = self.state.versions.get(id) else { return false };
        let last_used = self.traffic.last_used(id).unwrap_or_default();
        version.awake
            && self.demand(id).floor == 0
            && self.traffic.num_in_flight(id) == 0
            && self.num_active(id) == self.num_ready(id)
            && self.now.since(last_used) >= self.settings.scaling.idle
    }

    fn scale_version(&mut self, id: &VersionId) {
        let (now, rules) = (self.now, self.settings.scaling);
        let (counts, num_ready) = (self.traffic.counts(id), self.num_ready(id));
        let num_waiting = self.num_waiting(id);
        let demand = self.demand(id);
        let fresh = || Scaler::new(now, num_ready, counts);
        let scaler = self.scalers.entry(id.clone()).or_insert_with(fresh);
        if scaler.num_ready != num_ready {
            scaler.begin(now, num_ready, counts);
        }
        let lasted = now.since(scaler.since);
        if lasted < rules.window {
            return;
        }
        let load = Load::new(counts - scaler.before, lasted, num_waiting, num_ready, &rules);
        scaler.begin(now, num_ready, counts);
        scaler.learn(now, &load);
        let Some(version) = self.state.versions.get_mut(id) else { return };
        let (min, max) = (demand.floor.max(1), demand.max.max(1));
        let target = version.target.clamp(min, max.max(min));
        let target = scaler.target(now, target, &load, &rules).clamp(min, max.max(min));
        if target != version.target {
            version.target = target;
            scaler.changed = now;
            scaler.calm_since = None;
        }
    }

    fn num_waiting(&self, id: &VersionId) -> u32 {
        let addresses = self.replicas_of(id).filter_map(|replica| replica.address.as_deref());
        addresses.fold(0, |sum, address| sum.saturating_add(self.traffic.num_waiting_at(address)))
    }
}

impl Scaler {
    fn new(now: Time, num_ready: u32, counts: Counts) -> Self {
        Self {
            since: now,
            num_ready,
            before: counts,
            changed: now,
            calm_since: None,
            capacity: None,
        }
    }

    fn begin(&mut self, now: Time, num_ready: u32, counts: Counts) {
        self.since = now;
        self.num_ready = num_ready;
        self.before = counts;
    }

    fn learn(&mut self, now: Time, load: &Load) {
        let each = load.tokens_per_second / f64::from(load.num_ready.max(1));
        match load.queue {
            Queue::Long => {
                self.calm_since = None;
                if each > 0.0 {
                    self.capacity = Some(each);
                }
            }
            // It can do what it does.
            Queue::Middling => {
                self.calm_since = None;
                self.capacity = self.capacity.map(|known| known.max(each));
            }
            Queue::Short => {
                self.calm_since.get_or_insert(now);
                self.capacity = self.capacity.map(|known| known.max(each));
            }
        }
    }

    /// How many replicas there should be, where there should have been `target`.
    fn target(&self, now: Time, target: u32, load: &Load, rules: &Scaling) -> u32 {
        let rested = |pause: Duration| now.since(self.changed) >= pause;
        if load.num_ready != target {
            return target;
        }
        match load.queue {
            Queue::Long if rested(rules.up_cooldown) => target.saturating_add(1),
            Queue::Short if rested(rules.down_cooldown) && self.can_do_with(target - 1, load) => {
                let is_calm = self.calm_since.is_some_and(|s| now.since(s) >= rules.down_cooldown);
                if is_calm { target - 1 } else { target }
            }
            Queue::Long | Queue::Middling | Queue::Short => target,
        }
    }

    fn can_do_with(&self, num: u32, load: &Load) -> bool {
        let enough = |each: f64| load.tokens_per_second <= SPARE * each * f64::from(num);
        num > 0 && self.capacity.is_none_or(enough)
    }
}

impl Load {
    fn new(
        counts: Counts,
        lasted: Duration,
        num_waiting: u32,
        num_ready: u32,
        rules: &Scaling,
    ) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let num = counts.queue.num();
        let longest = counts.queue.percentile_ms(90);
        let queue = match longest {
            // None of those that wait got its turn.
            None if num == 0 && num_waiting > 0 => Queue::Long,
            None if num == 0 => Queue::Short,
            None => Queue::Long,
            Some(longest) if longest > ms(rules.high) => Queue::Long,
            Some(longest) if longest <= ms(rules.low) && num_waiting == 0 => Queue::Short,
            Some(_) => Queue::Middling,
        };
        #[expect(clippy::cast_precision_loss, reason = "tokens of some seconds")]
        let tokens_per_second = counts.num_tokens as f64 / lasted.as_secs_f64();
        Self { tokens_per_second, queue, num_ready }
    }
}

#[cfg(test)]
mod tests {
    use crate::fleet::{
        Event, Memory, Order, Reason, ReplicaId, ReplicaReport, RouterReport, Scale, Settings,
        VersionReport,
    };

    use super::*;

    /// Tokens per second that a replica can do, in the tests' world.
    const EACH: f64 = 100.0;

    /// Replicas that share what is asked of them, and a queue.
    struct World {
        fleet: Fleet,
        now: Time,
        backlog: f64,
        counts: Counts,
        num_changes: u32,
    }

    impl World {
        fn new() -> Self {
            let settings = Settings { budget: Memory::on("cpu", 100), ..Settings::default() };
            let mut fleet = Fleet::new(settings);
            let now = Time::from_unix_ms(1_000_000);
            let id: VersionId = "m@1".parse().unwrap();
            let needs = Memory::on("cpu", 1);
            fleet.order(now, Order::Add { version: id.clone(), needs }).unwrap();
            let (scale, name) = (Scale { min: 1, max: 4 }, "m".to_owned());
            let order = Order::Route { name, version: id, scale, hidden: false };
            fleet.order(now, order).unwrap();
            let counts = Counts::default();
            Self { fleet, now, backlog: 0.0, counts, num_changes: 0 }
        }

        /// One second in which so many tokens are asked for, 10 a request.
        fn second(&mut self, asked: f64) {
            self.now = self.now + Duration::from_secs(1);
            let before = self.num();
            for replica in self.fleet.status().replicas {
                let address = format!("unix:/{}", replica.replica.0);
                let event = if replica.address.is_none() {
                    Event::Ready { replica: replica.replica, address }
                } else {
                    Event::Tick
                };
                let actions = self.fleet.step(self.now, event);
                self.end_stopped(&actions);
            }
            let can = EACH * f64::from(self.num());
            let wait_ms = self.backlog / can * 1000.0;
            let done = can.min(self.backlog + asked);
            self.backlog += asked - done;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
            let (tokens, requests) = (done as u64, (done / 10.0) as u64);
            self.counts.num_tokens += tokens;
            self.counts.num_requests += requests;
            let ends = crate::fleet::BUCKETS_MS;
            let range = ends.iter().position(|end| wait_ms <= f64::from(*end));
            self.counts.queue.0[range.unwrap_or(ends.len())] += requests;
            self.report();
            self.num_changes += u32::from(self.num() != before);
        }

        fn num(&self) -> u32 {
            self.fleet.num_ready(&"m@1".parse().unwrap())
        }

        fn report(&mut self) {
            let ready = ReplicaReport { ready: true, ..ReplicaReport::default() };
            let rows = self.fleet.table().replicas.iter();
            let report = RouterReport {
                router: "r".to_owned(),
                generation: self.fleet.table().generation,
                versions: [(
                    "m@1".parse().unwrap(),
                    VersionReport { counts: self.counts, num_in_flight: 1 },
                )]
                .into(),
                wanted: Vec::new(),
                replicas: rows.map(|row| (row.address.clone(), ready)).collect(),
            };
            let actions = self.fleet.step(self.now, Event::Report(report));
            self.end_stopped(&actions);
        }

        fn end_stopped(&mut self, actions: &[crate::fleet::Action]) {
            for action in actions {
                if let crate::fleet::Action::Stop { replica: ReplicaId(id) } = action {
                    let (replica, why) = (ReplicaId(*id), "exit 0".to_owned());
                    let _ = self.fleet.step(self.now, Event::Ended { replica, why });
                }
            }
        }
    }

    #[test]
    fn under_a_constant_load_the_number_settles_and_suffices() {
        for tenths in 1..=39 {
            let mut world = World::new();
            let asked = EACH * f64::from(tenths) / 10.0;
            for _ in 0..900 {
                world.second(asked);
            }
            let settled = world.num();
            world.num_changes = 0;
            for _ in 0..7200 {
                world.second(asked);
            }

            assert_eq!(world.num_changes, 0, "{asked} tokens/s: oscillates");
            assert!(f64::from(settled) * EACH >= asked, "{settled} for {asked} tokens/s");
            let num_needed = (asked / EACH).ceil();
            assert!(f64::from(settled) <= num_needed + 1.0, "{settled} for {asked} tokens/s");
        }
    }

    #[test]
    fn a_load_that_ends_leaves_the_minimum() {
        let mut world = World::new();
        for _ in 0..900 {
            world.second(EACH * 3.5);
        }
        assert_eq!(world.num(), 4);

        for _ in 0..3000 {
            world.second(EACH * 0.2);
        }

        assert_eq!(world.num(), 1);
    }

    #[test]
    fn a_request_that_never_gets_its_turn_counts_as_one_that_waits() {
        let rules = Scaling::default();
        let second = Duration::from_secs(1);

        assert_eq!(Load::new(Counts::default(), second, 1, 1, &rules).queue, Queue::Long);
        assert_eq!(Load::new(Counts::default(), second, 0, 1, &rules).queue, Queue::Short);
    }

    #[test]
    fn no_more_replicas_than_allowed_are_asked_for() {
        let mut world = World::new();
        let (name, reason) = ("m".to_owned(), Reason::own("test"));
        let scale = Scale { min: 1, max: 2 };
        world.fleet.order(world.now, Order::Scale { name, scale, reason }).unwrap().1.clear();
        for _ in 0..600 {
            world.second(EACH * 3.9);
        }

        assert_eq!(world.num(), 2);
    }
}
