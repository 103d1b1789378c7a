//! What the launcher is told.

use sconce_proto::BUCKETS_MS;
use sconce_proto::fleet::{RouterReport, VersionReport};
use sconce_proto::worker::{Finish, TokenOutput};
use serde_json::json;

use crate::launcher::{route, table};
use crate::service::{start, wait};
use crate::worker::Worker;

fn of<'a>(report: &'a RouterReport, version: &str) -> Option<&'a VersionReport> {
    report.versions.iter().find(|it| it.version == version)
}

#[tokio::test]
async fn requests_are_counted_by_version_and_failures_apart_from_clients_errors() {
    let mut worker = Worker::start(|_| {});
    let address = worker.address();
    let routes = vec![route("m", &[("m@7", 10_000)])];
    let mut service = start(table(&[(&address, "m@7")], routes)).await;
    service.router.ready(1).await;

    // One that takes its time, and is in flight meanwhile.
    let slow = service.router.complete("m", json!({"stream": true}));
    let request = worker.submitted().await;
    request.step(vec![TokenOutput { queue_us: Some(3_000), ..request.token(0, 65) }]);
    let running = service
        .launcher
        .report("in flight", |report| of(report, "m@7").is_some_and(|it| it.num_in_flight == 1))
        .await;
    let replica = &running.replicas[0];
    assert_eq!(
        (replica.address.as_str(), replica.ready, replica.num_in_flight),
        (&*address, true, 1)
    );
    request.finish(0, Finish::Length);
    wait(slow).await.text().await.unwrap();
    // The client's fault, and the queue's.
    let wrong = wait(service.router.complete("m", json!({"max_tokens": 100_000}))).await;
    assert_eq!(wrong.status(), 400);
    // One that breaks off.
    let broken = service.router.complete("m", json!({"stream": true}));
    let request = worker.submitted().await;
    request.say(0, "x");
    worker.die().await;
    wait(broken).await.text().await.unwrap();

    let done = |report: &RouterReport| {
        of(report, "m@7").is_some_and(|it| it.num_failures == 1 && it.num_in_flight == 0)
    };
    let report = service.launcher.report("the failure", done).await;

    let counts = of(&report, "m@7").unwrap();
    assert_eq!((counts.num_requests, counts.num_completion_tokens), (2, 2));
    assert_eq!(
        (counts.ttft.len(), counts.queue.len()),
        (BUCKETS_MS.len() + 1, BUCKETS_MS.len() + 1)
    );
    assert_eq!((counts.ttft.iter().sum::<u64>(), counts.queue.iter().sum::<u64>()), (2, 1));
    assert_eq!(counts.queue[2], 1, "3 ms is more than 2 and at most 5");
    assert!(counts.last_used_ms > 1_700_000_000_000);
    assert!(!report.replicas[0].ready);
    assert!(!report.router.is_empty());
    let metrics = service.router.text("/metrics").await;
    let failed = "sconce_requests_failed_total{model_name=\"org/tiny\",version=\"m@7\"} 1";
    assert!(metrics.contains(failed), "{metrics}");
    assert!(metrics.contains("sconce_launcher_connected 1"));
}

#[tokio::test]
async fn reports_go_on_when_nothing_happens() {
    let mut service = start(table(&[], vec![])).await;
    for _ in 0..2 {
        service.launcher.report("anything", |_| true).await;
    }
    assert!(service.launcher.is_silent_about(|report| !report.wanted.is_empty()).await);
}
