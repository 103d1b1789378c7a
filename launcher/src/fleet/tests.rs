use std::time::Duration;

use super::*;

/// A fleet with a clock, whose workers are ready when told.
struct Stage {
    fleet: Fleet,
    now: Time,
}

impl Stage {
    fn new(settings: Settings) -> Self {
        Self { fleet: Fleet::new(settings), now: Time::from_unix_ms(1_000_000) }
    }

    fn order(&mut self, order: Order) -> Vec<Action> {
        self.fleet.order(self.now, order).unwrap().1
    }

    fn refused(&mut self, order: Order) -> Refusal {
        self.fleet.order(self.now, order).unwrap_err()
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.fleet.step(self.now, event)
    }

    fn pass(&mut self, ms: u64) -> Vec<Action> {
        self.now = self.now + Duration::from_millis(ms);
        self.step(Event::Tick)
    }

    fn ready(&mut self, replica: u64) -> Vec<Action> {
        let address = format!("unix:/{replica}");
        self.step(Event::Ready { replica: ReplicaId(replica), address })
    }

    fn add(&mut self, text: &str, bytes: u64) {
        self.order(Order::Add { version: version(text), needs: Memory::on("cpu", bytes) });
    }

    fn serve(&mut self, name: &str, text: &str) {
        let scale = Scale { min: 1, max: 4 };
        let version = version(text);
        self.order(Order::Route { name: name.to_owned(), version, scale, hidden: false });
    }

    fn shares(&self, name: &str) -> Vec<(String, u16)> {
        let route = self.fleet.table().route(name).unwrap();
        route.shares.iter().map(|(version, share)| (version.to_string(), *share)).collect()
    }
}

fn version(text: &str) -> VersionId {
    text.parse().unwrap()
}

fn reason() -> Reason {
    Reason { who: "ann".to_owned(), why: "test".to_owned() }
}

fn settings(bytes: u64) -> Settings {
    Settings { budget: Memory::on("cpu", bytes), ..Settings::default() }
}

fn promote(name: &str, text: &str, plan: Plan) -> Order {
    Order::Promote { name: name.to_owned(), version: version(text), plan, reason: reason() }
}

fn spawned(actions: &[Action]) -> Vec<(u64, String)> {
    let spawns = actions.iter().filter_map(|action| match action {
        Action::Spawn { replica, version } => Some((replica.0, version.to_string())),
        _ => None,
    });
    spawns.collect()
}

fn stopped(actions: &[Action]) -> Vec<u64> {
    let stops = actions.iter().filter_map(|action| match action {
        Action::Stop { replica } => Some(replica.0),
        _ => None,
    });
    stops.collect()
}

#[test]
fn a_version_is_started_promoted_and_the_one_before_drained() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);

    stage.serve("m", "m@1");
    stage.ready(1);
    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);

    let actions = stage.order(promote("m", "m@2", Plan::default()));
    assert_eq!(actions[0], Action::Save);
    assert_eq!(spawned(&actions), [(2, "m@2".to_owned())]);
    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);

    let actions = stage.ready(2);
    assert_eq!(stage.shares("m"), [("m@2".to_owned(), 10_000)]);
    assert!(actions.contains(&Action::Publish));
    let draining: Vec<bool> = stage.fleet.table().replicas.iter().map(|r| r.draining).collect();
    assert_eq!(draining, [true, false]);

    let actions = stage.pass(250);
    assert_eq!(stopped(&actions), [1]);
    assert_eq!(stage.fleet.table().replicas.len(), 1);
    stage.step(Event::Ended { replica: ReplicaId(1), why: "exit 0".to_owned() });
    let history: Vec<_> = stage.fleet.history().map(|e| (e.deed, e.result.clone())).collect();
    assert_eq!(history, [(Deed::Promote, Some("done".to_owned()))]);
}
