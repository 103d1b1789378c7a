//! Requests wait for a replica, so many and so long as their route says.

use serde_json::json;

use crate::launcher::{holding, replica, route, table};
use crate::service::{answering, start, version, wait};
use crate::worker::Worker;

#[tokio::test]
async fn a_cold_name_is_reported_at_once_and_served_when_its_replica_is_there() {
    let routes = vec![holding(route("m", &[("m@1", 10_000)]), 10, 60_000)];
    let mut service = start(table(&[], routes)).await;
    assert_eq!(service.router.get("/ready").await.0, 200, "it would be held");

    let held: Vec<_> = (0..3).map(|_| service.router.complete("m", json!({}))).collect();
    service.launcher.report("the name", |report| report.wanted == ["m"]).await;
    let worker = Worker::start(|_| {});
    let address = worker.address();
    answering(worker, "woken");
    service.launcher.change(|table| table.replicas = vec![replica(&address, "m@1")]);

    for response in held {
        let response = wait(response).await;
        assert_eq!((response.status().as_u16(), version(&response)), (200, "m@1".into()));
    }
    service.launcher.report("nothing wanted", |report| report.wanted.is_empty()).await;
}

#[tokio::test]
async fn a_swap_that_does_not_fit_side_by_side_holds_and_loses_nothing() {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (old, new) = (first.address(), second.address());
    answering(first, "1");
    answering(second, "2");
    let route = |version: &str| holding(route("m", &[(version, 10_000)]), 100, 60_000);
    let mut service = start(table(&[(&old, "m@1")], vec![route("m@1")])).await;
    service.router.ready(1).await;

    let mut answers = Vec::new();
    let ask = |answers: &mut Vec<_>| {
        answers.extend((0..10).map(|_| service.router.complete("m", json!({}))));
    };
    ask(&mut answers);
    service.launcher.change(|table| table.replicas[0].draining = true);
    ask(&mut answers);
    let generation = service.launcher.generation();
    let drained = |report: &sconce_proto::fleet::RouterReport| {
        report.generation == generation
            && report.replicas.iter().all(|replica| replica.num_in_flight == 0)
    };
    service.launcher.report("drained", drained).await;
    service.launcher.change(|table| table.replicas.clear());
    ask(&mut answers);
    service.launcher.change(|table| {
        table.routes = vec![route("m@2")];
        table.replicas = vec![replica(&new, "m@2")];
    });
    ask(&mut answers);

    let mut versions = Vec::new();
    for answer in answers {
        let answer = wait(answer).await;
        assert_eq!(answer.status(), 200);
        versions.push(version(&answer));
    }
    assert!(versions.contains(&"m@2".to_owned()), "{versions:?}");
}

#[tokio::test]
async fn no_more_wait_than_may_and_none_longer_than_it_may() {
    let routes = vec![
        holding(route("short", &[("m@1", 10_000)]), 1, 50),
        holding(route("full", &[("m@1", 10_000)]), 2, 60_000),
        holding(route("never", &[("m@1", 10_000)]), 10, 0),
    ];
    let mut service = start(table(&[], routes)).await;

    let late = wait(service.router.complete("short", json!({}))).await;
    let _held = [(); 2].map(|()| service.router.complete("full", json!({})));
    service.launcher.report("full", |report| report.wanted == ["full"]).await;
    let full = loop {
        // The second one may be on its way yet.
        let answer = tokio::time::timeout(
            std::time::Duration::from_millis(200),
            service.router.complete("full", json!({})),
        );
        if let Ok(answer) = answer.await {
            break answer.unwrap();
        }
    };
    let never = wait(service.router.complete("never", json!({}))).await;

    for answer in [late, full, never] {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let body: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "model_unavailable");
    }
}

#[tokio::test]
async fn who_hangs_up_waits_no_longer() {
    let routes = vec![holding(route("m", &[("m@1", 10_000)]), 1, 60_000)];
    let mut service = start(table(&[], routes)).await;
    let held = service.router.complete("m", json!({}));
    service.launcher.report("wanted", |report| report.wanted == ["m"]).await;

    held.abort();

    service.launcher.report("no one waits", |report| report.wanted.is_empty()).await;
    let metrics = service.router.text("/metrics").await;
    assert!(metrics.contains("sconce_request_holds_total{outcome=\"abort\"}"), "{metrics}");
}
