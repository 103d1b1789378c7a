//! Workers of another launcher, or with other flags, are exchanged.

use super::*;

/// A launcher starts again, as another binary, beside workers that are ready.
fn start_again(stage: &mut Stage, settings: Settings, replicas: &[u64]) {
    let snapshot = stage.fleet.snapshot().clone();
    stage.now = stage.now + Duration::from_secs(1);
    stage.fleet = Fleet::restore(settings, snapshot, stage.now).0;
    for replica in replicas {
        let replica = ReplicaId(*replica);
        stage.step(Event::Found { replica, make: Make::Outdated });
        stage.ready(replica.0);
    }
    // No router reports: the launcher waits until one would have.
    stage.pass(15_000);
}

fn outdated(stage: &Stage) -> Vec<u64> {
    let status = stage.fleet.status();
    let outdated = status.replicas.iter().filter(|replica| replica.is_outdated);
    outdated.map(|replica| replica.replica.0).collect()
}

#[test]
fn outdated_workers_are_exchanged_one_after_another() {
    let mut stage = Stage::new(settings(100));
    stage.add("m@1", 10);
    let (name, version) = ("m".to_owned(), version("m@1"));
    let scale = Scale { min: 2, max: 2 };
    stage.order(Order::Route { name, version, scale, hidden: false });
    stage.ready(1);
    stage.ready(2);

    start_again(&mut stage, settings(100), &[1, 2]);
    assert_eq!(outdated(&stage), [1, 2]);
    // One more starts, and none leaves before it can be used.
    let draining = |stage: &Stage| -> Vec<String> {
        let replicas = stage.fleet.table().replicas.iter();
        replicas.filter(|r| r.draining).map(|r| r.address.clone()).collect()
    };
    assert_eq!(stage.fleet.status().replicas.len(), 3);
    assert!(draining(&stage).is_empty());
    stage.ready(3);
    assert_eq!(draining(&stage), ["unix:/1"]);
    assert_eq!(stopped(&stage.pass(250)), [1]);

    assert_eq!(spawned(&stage.end(1)), [(4, "m@1".to_owned())]);
    stage.ready(4);
    stage.pass(250);
    stage.end(2);
    assert_eq!(outdated(&stage), [0; 0]);
    let entry = stage.fleet.history().next().unwrap();
    assert_eq!((entry.deed, entry.result.as_deref()), (Deed::Exchange, Some("done: 2 workers")));
}

#[test]
fn an_outdated_worker_leaves_first_where_there_is_no_room_beside_it() {
    let mut stage = Stage::new(settings(15));
    stage.add("m@1", 10);
    stage.serve("m", "m@1");
    stage.ready(1);

    start_again(&mut stage, settings(15), &[1]);

    // Requests wait meanwhile.
    assert!(stage.fleet.table().route("m").unwrap().max_hold_ms > 0);
    assert!(stage.fleet.table().replicas.iter().all(|replica| replica.draining));
    stage.pass(250);
    assert_eq!(spawned(&stage.end(1)), [(2, "m@1".to_owned())]);
    stage.ready(2);
    assert_eq!((outdated(&stage), stage.fleet.status().replicas.len()), (vec![], 1));
}

#[test]
fn an_outdated_worker_stays_while_no_new_one_can_be_had() {
    let mut stage = Stage::new(settings(30));
    stage.add("m@1", 10);
    stage.serve("m", "m@1");
    stage.ready(1);

    start_again(&mut stage, settings(30), &[1]);
    stage.end(2);
    let [version] = &stage.fleet.status().versions[..] else { panic!("not one") };
    assert_eq!((version.state, version.num_ready), (VersionState::Ready, 1));
    assert!(version.error.as_ref().unwrap().contains("exit 1"), "{version:?}");
    // It is tried again, and where it would never fit, it is not.
    assert_eq!(spawned(&stage.pass(60_000)).len(), 1);
    stage.end(3);
    stage.add("m@1", 50);
    assert!(spawned(&stage.pass(600_000)).is_empty());
    assert_eq!(outdated(&stage), [1]);
    assert!(stage.fleet.table().replicas.iter().all(|replica| !replica.draining));
}
