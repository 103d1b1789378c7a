mod renewal;

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

#[test]
fn a_version_that_fails_its_golden_prompts_gets_no_traffic() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);
    stage.serve("m", "m@1");
    stage.ready(1);
    let before = stage.fleet.table().route("m").cloned();

    let plan = Plan { golden: Some("g.jsonl".to_owned()), ..Plan::default() };
    stage.order(promote("m", "m@2", plan));
    let actions = stage.ready(2);
    let rollout = actions.iter().find_map(|action| match action {
        Action::Check { rollout, .. } => Some(*rollout),
        _ => None,
    });
    let verdict = Err("line 3: the answer is not JSON".to_owned());
    let actions = stage.step(Event::Checked { rollout: rollout.unwrap(), verdict });

    assert!(actions.iter().any(|action| matches!(action,
        Action::Finished { result: Err(why), .. } if why.contains("line 3"))));
    assert_eq!(stage.fleet.table().route("m").cloned(), before);
    assert!(stage.fleet.table().replicas[1].draining);
    let deeds: Vec<_> = stage.fleet.history().map(|e| (e.deed, e.reason.who.clone())).collect();
    assert_eq!(deeds, [(Deed::Rollback, "launcher".to_owned()), (Deed::Promote, "ann".to_owned())]);
}

#[test]
fn a_rollback_takes_up_the_replica_that_still_drains() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);
    stage.serve("m", "m@1");
    stage.ready(1);
    stage.report(RouterReport::default(), 1);
    stage.order(promote("m", "m@2", Plan::default()));
    stage.ready(2);
    stage.report(reaching(&[1, 2]), 2);
    assert_eq!(stage.shares("m"), [("m@2".to_owned(), 10_000)]);

    let actions = stage.order(Order::Rollback { name: "m".to_owned(), reason: reason() });
    assert!(spawned(&actions).is_empty());
    stage.report(reaching(&[1, 2]), 3);

    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);
    let rows = stage.fleet.table().replicas.iter();
    let draining: Vec<bool> = rows.map(|replica| replica.draining).collect();
    assert_eq!(draining, [false, true]);
}

#[test]
fn what_does_not_fit_beside_the_other_takes_its_place_and_gives_it_back() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 60);
    stage.add("m@2", 70);
    stage.add("m@3", 101);
    stage.serve("m", "m@1");
    stage.ready(1);

    let refusal = stage.refused(promote("m", "m@3", Plan::default())).to_string();
    assert!(
        refusal.contains("needs 101 B of cpu memory, and 100 B of 100 B are free"),
        "{refusal}"
    );
    let canary = Plan { portion: Portion::Canary(100), ..Plan::default() };
    let refusal = stage.refused(promote("m", "m@2", canary)).to_string();
    assert!(refusal.contains("needs 70 B of cpu memory, and 40 B of 100 B"), "{refusal}");

    stage.order(promote("m", "m@2", Plan::default()));
    let actions = stage.pass(250);
    assert_eq!(stopped(&actions), [1]);
    assert!(stage.fleet.table().route("m").unwrap().max_hold_ms > 0);
    assert_eq!(spawned(&stage.end(1)), [(2, "m@2".to_owned())]);

    // It dies before it is ready: the old version comes back.
    let actions = [stage.end(2), stage.pass(250)].concat();
    assert_eq!(spawned(&actions), [(3, "m@1".to_owned())]);
    stage.ready(3);
    stage.pass(250);
    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);
    assert!(stage.fleet.status().rollouts.is_empty());
}

#[test]
fn a_crash_loop_after_a_promotion_goes_back_by_itself() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);
    stage.serve("m", "m@1");
    stage.ready(1);
    stage.order(promote("m", "m@2", Plan::default()));
    stage.ready(2);
    stage.pass(250);
    stage.end(1);

    let mut last = 2;
    for _ in 0..3 {
        let actions = [stage.end(last), stage.pass(2000)].concat();
        if let Some((id, version)) = spawned(&actions).first() {
            last = *id;
            if version == "m@2" {
                stage.ready(last);
            }
        }
    }

    assert_eq!(stage.fleet.version_state(&version("m@2")), VersionState::Failed);
    stage.ready(last);
    stage.pass(250);
    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);
    let entry = stage.fleet.history().next().unwrap();
    assert_eq!((entry.deed, entry.reason.who.as_str()), (Deed::Rollback, "launcher"));
    assert!(entry.reason.why.contains("died 3 times within 60 s"), "{}", entry.reason.why);
}

#[test]
fn a_worker_that_somebody_else_ends_is_replaced_and_its_version_is_as_good_as_before() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.serve("m", "m@1");
    stage.ready(1);

    for replica in 1..=10 {
        let mut actions = stage.step(Event::Left { replica: ReplicaId(replica) });
        // The more often, the later.
        while spawned(&actions).is_empty() {
            actions = stage.pass(250);
            assert!(!stage.fleet.has_failed(&version("m@1")));
        }
        assert_eq!(spawned(&actions), [(replica + 1, "m@1".to_owned())]);
        stage.ready(replica + 1);
    }

    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 10_000)]);
    assert_eq!(stage.fleet.status().replicas[0].num_restarts, 10);
}

#[test]
fn a_canary_that_fails_requests_is_rolled_back_and_one_failure_is_not_enough() {
    for (num_failures, is_kept) in [(1, true), (12, false)] {
        let mut stage = canary();
        let mut counts = Counts { num_requests: 40, num_failures, ..Counts::default() };
        counts.ttft.0[4] = 40;
        stage.report_counts(&[("m@1", good(360)), ("m@2", counts)]);

        let shares = stage.shares("m").len();
        assert_eq!(shares == 2, is_kept, "{num_failures} failures");
    }
}

#[test]
fn a_canary_whose_first_tokens_come_late_is_rolled_back() {
    for (bucket, is_kept) in [(5, true), (9, false)] {
        let mut stage = canary();
        let mut counts = Counts { num_requests: 60, ..Counts::default() };
        counts.ttft.0[bucket] = 60;
        stage.report_counts(&[("m@1", good(360)), ("m@2", counts)]);

        assert_eq!(stage.shares("m").len() == 2, is_kept, "range {bucket}");
    }
}

#[test]
fn a_router_that_restarts_takes_nothing_from_the_counts_and_adds_nothing_twice() {
    let mut traffic = traffic::Traffic::new(Time::default());
    let id = version("m@1");
    let mut report = |router: &str, num_requests| {
        let counts = Counts { num_requests, ..Counts::default() };
        let versions = [(id.clone(), VersionReport { counts, num_in_flight: 0 })].into();
        let router = router.to_owned();
        traffic.take(Time::default(), RouterReport { router, versions, ..RouterReport::default() });
        traffic.counts(&id).num_requests
    };

    // What was counted before it was first heard of may be from before this launcher.
    assert_eq!(report("a", 100), 0);
    assert_eq!(report("a", 110), 10);
    assert_eq!(report("b", 0), 10);
    assert_eq!(report("b", 5), 15);
    assert_eq!(report("a", 110), 15);
}

#[test]
fn an_idle_model_leaves_for_one_that_is_wanted_the_longest_unused_first() {
    let mut stage = Stage::new(settings(100));
    for model in ["a@1", "b@1", "c@1"] {
        stage.add(model, 40);
    }
    for (replica, model) in [(1, "a@1"), (2, "b@1")] {
        stage.want(model);
        stage.ready(replica);
        stage.pass(1000);
    }
    stage.pass(10_000);
    stage.want("b@1");
    stage.pass(6000);

    let actions = stage.want("c@1");

    assert_eq!(stopped(&actions), [1]);
    assert_eq!(spawned(&stage.end(1)), [(3, "c@1".to_owned())]);
}

#[test]
fn a_model_that_answers_a_request_stays_whenever_that_was_reported() {
    let mut stage = Stage::new(settings(100));
    for model in ["a@1", "b@1", "c@1"] {
        stage.add(model, 40);
    }
    for (replica, model) in [(1, "a@1"), (2, "b@1")] {
        stage.want(model);
        stage.ready(replica);
    }
    let answering = VersionReport { num_in_flight: 1, ..VersionReport::default() };
    stage.step(Event::Report(RouterReport {
        router: "late".to_owned(),
        generation: u64::MAX,
        versions: [(version("a@1"), answering)].into(),
        ..RouterReport::default()
    }));
    stage.pass(500);
    stage.want("b@1");
    stage.pass(6000);

    let actions = stage.want("c@1");

    // Though it was used later.
    assert_eq!(stopped(&actions), [2]);
}

#[test]
fn a_model_stays_within_its_share_and_others_stay_out_of_it() {
    let mut rules = settings(100);
    rules.shares = [("a".parse().unwrap(), 4000)].into();
    let mut stage = Stage::new(rules);
    stage.add("a@1", 50);
    stage.add("a@2", 40);
    stage.add("b@1", 61);
    stage.add("b@2", 60);
    let start = |text: &str| {
        let (version, reason) = (version(text), reason());
        Order::Start { version, replicas: Some(1), reason }
    };

    let refusal = stage.refused(start("a@1")).to_string();
    assert!(refusal.contains("needs 50 B of cpu memory, and 40 B of 40 B"), "{refusal}");
    let refusal = stage.refused(start("b@1")).to_string();
    assert!(refusal.contains("needs 61 B of cpu memory, and 60 B of 60 B"), "{refusal}");
    assert_eq!(spawned(&stage.order(start("a@2"))).len(), 1);
    assert_eq!(spawned(&stage.order(start("b@2"))).len(), 1);
}

#[test]
fn a_name_without_a_minimum_sleeps_and_is_woken_by_a_request() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    let scale = Scale { min: 0, max: 1 };
    let (name, hidden) = ("m".to_owned(), false);
    stage.order(Order::Route { name, version: version("m@1"), scale, hidden });
    assert!(stage.fleet.status().replicas.is_empty());

    stage.want("m");
    assert_eq!(stage.fleet.status().replicas.len(), 1);
    stage.ready(1);
    stage.pass(599_000);
    assert!(!stage.fleet.table().replicas[0].draining);
    stage.pass(2000);
    let actions = stage.pass(250);
    assert_eq!(stopped(&actions), [1]);
    assert!(stage.fleet.table().route("m").unwrap().max_hold_ms > 0);
}

#[test]
fn a_version_that_could_not_be_loaded_is_tried_again_by_a_request_after_a_while() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    let hold = |stage: &Stage| stage.fleet.table().route("m@1").unwrap().max_hold_ms;
    stage.want("m@1");
    stage.end(1);

    assert_eq!(hold(&stage), 0);
    assert!(spawned(&stage.want("m@1")).is_empty());
    stage.pass(60_000);
    assert!(hold(&stage) > 0);
    assert_eq!(spawned(&stage.want("m@1")), [(2, "m@1".to_owned())]);
}

#[test]
fn a_snapshot_goes_on_where_it_was_taken() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.serve("m", "m@1");
    stage.step(Event::Spawned { replica: ReplicaId(1), pid: 77 });
    stage.ready(1);
    let table = stage.fleet.table().clone();
    let text = serde_json::to_string(stage.fleet.snapshot()).unwrap();

    let snapshot: Snapshot = serde_json::from_str(&text).unwrap();
    let (mut fleet, actions) = Fleet::restore(settings(100), snapshot, stage.now);

    assert!(actions.contains(&Action::Adopt {
        replica: ReplicaId(1),
        version: version("m@1"),
        pid: Some(77),
        address: Some("unix:/1".to_owned()),
    }));
    assert!(fleet.table().generation > table.generation);
    assert!(fleet.table().says_same(&table));
    // One that is not found is no death, and another is started.
    let gone = Event::Ended { replica: ReplicaId(1), why: "not found".to_owned() };
    let actions = fleet.step(stage.now, gone);
    assert_eq!(spawned(&actions), [(2, "m@1".to_owned())]);
}

#[test]
fn orders_that_make_no_sense_are_refused_with_the_reason() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);
    stage.serve("m", "m@1");
    let unload = |force| Order::Unload { version: version("m@1"), force, reason: reason() };
    let canary = |share| Plan { portion: Portion::Canary(share), ..Plan::default() };
    let back = || Order::Rollback { name: "m".to_owned(), reason: reason() };
    let scale = |min, max| {
        let (scale, reason) = (Scale { min, max }, reason());
        Order::Scale { name: "m".to_owned(), scale, reason }
    };
    let cases = [
        (unload(Force::Gentle), "m@1 is in use by `m`"),
        (promote("m", "m@9", Plan::default()), "there is no version m@9"),
        (promote("m", "m@1", Plan::default()), "`m` is already served by m@1 alone"),
        (promote("m", "m@2", canary(10_000)), "canary is 10000: expected 1 to 9999"),
        (promote("x", "m@2", canary(100)), "`x` has no version yet"),
        (promote("x\n", "m@2", Plan::default()), "a name has 1 to 200 characters"),
        (back(), "no version served `m` before"),
        (scale(3, 2), "min is 3: expected at most max"),
        (scale(0, 65), "max is 65: expected 1 to 64"),
        (scale(11, 11), "needs 110 B of cpu memory"),
        (Order::Remove { version: version("m@1") }, "m@1 is in use by `m`"),
    ];
    for (order, why) in cases {
        let refusal = stage.refused(order).to_string();
        assert!(refusal.contains(why), "{refusal}");
    }
}

/// 10 % of the requests for `m` go to m@2.
fn canary() -> Stage {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    stage.add("m@2", 10);
    stage.serve("m", "m@1");
    stage.ready(1);
    stage.report_counts(&[]);
    let portion = Portion::Canary(1000);
    let limits = Some(Limits::default());
    stage.order(promote("m", "m@2", Plan { portion, limits, ..Plan::default() }));
    stage.ready(2);
    stage.report_counts(&[]);
    stage.pass(250);
    assert_eq!(stage.shares("m"), [("m@1".to_owned(), 9000), ("m@2".to_owned(), 1000)]);
    stage
}

fn good(num_requests: u64) -> Counts {
    let mut counts = Counts { num_requests, ..Counts::default() };
    counts.ttft.0[4] = num_requests;
    counts
}

/// Of a router that is connected to replicas.
fn reaching(replicas: &[u64]) -> RouterReport {
    let ready = ReplicaReport { ready: true, num_in_flight: 1, ..ReplicaReport::default() };
    let replicas = replicas.iter().map(|id| (format!("unix:/{id}"), ready)).collect();
    RouterReport { replicas, ..RouterReport::default() }
}

impl Stage {
    fn report(&mut self, report: RouterReport, generation: u64) -> Vec<Action> {
        let router = "r".to_owned();
        self.step(Event::Report(RouterReport { router, generation, ..report }))
    }

    fn report_counts(&mut self, counts: &[(&str, Counts)]) {
        let versions = counts.iter().map(|(text, counts)| {
            (version(text), VersionReport { counts: *counts, num_in_flight: 0 })
        });
        let report = RouterReport { versions: versions.collect(), ..reaching(&[1, 2]) };
        self.report(report, self.fleet.table().generation);
    }

    fn want(&mut self, name: &str) -> Vec<Action> {
        let report = RouterReport { wanted: vec![name.to_owned()], ..RouterReport::default() };
        let actions = self.report(report, self.fleet.table().generation);
        // Then it does not wait any more.
        let then = self.report(RouterReport::default(), self.fleet.table().generation);
        [actions, then].concat()
    }

    fn end(&mut self, replica: u64) -> Vec<Action> {
        self.step(Event::Ended { replica: ReplicaId(replica), why: "exit 1".to_owned() })
    }
}
