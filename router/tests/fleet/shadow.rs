//! A version that is being tried out gets copies, and changes nothing for anyone.

use sconce_proto::fleet::{Route, RouterReport, VersionReport};
use serde_json::{Value, json};

use crate::launcher::{route, table};
use crate::service::{Service, answering, serving, start, version, wait};
use crate::worker::Worker;

fn shadowed(share: u32) -> Route {
    Route { shadow: "m@2".into(), shadow_share: share, ..route("m", &[("m@1", 10_000)]) }
}

fn of<'a>(report: &'a RouterReport, version: &str) -> Option<&'a VersionReport> {
    report.versions.iter().find(|it| it.version == version)
}

/// Asks so many times, and expects the first version's answers.
async fn ask(service: &Service, num: usize) {
    for _ in 0..num {
        let answer = wait(service.router.complete("m", json!({"temperature": 0}))).await;
        assert_eq!((answer.status().as_u16(), version(&answer)), (200, "m@1".into()));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["choices"][0]["text"], "right");
    }
}

#[tokio::test]
async fn copies_are_compared_and_only_counted() {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (one, two) = (first.address(), second.address());
    answering(first, "right");
    let mut num = 0;
    serving(second, move |request| {
        assert!(request.submit.priority > 1000);
        num += 1;
        request.answer(if num % 2 == 0 { "wrong" } else { "right" });
    });
    let mut service = start(table(&[(&one, "m@1"), (&two, "m@2")], vec![shadowed(10_000)])).await;
    service.router.ready(2).await;

    ask(&service, 6).await;

    let compared = |report: &RouterReport| of(report, "m@2").is_some_and(|it| it.num_shadowed == 6);
    let report = service.launcher.report("six copies", compared).await;
    assert_eq!(of(&report, "m@2").unwrap().num_different, 3);
    assert_eq!(of(&report, "m@1").unwrap().num_shadowed, 0);
    assert_eq!(of(&report, "m@1").unwrap().num_requests, 6);
}

#[tokio::test]
async fn a_shadow_that_hangs_or_dies_or_is_not_there_harms_nobody() {
    let (first, mut second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (one, two) = (first.address(), second.address());
    answering(first, "right");
    let mut service = start(table(&[(&one, "m@1"), (&two, "m@2")], vec![shadowed(10_000)])).await;
    service.router.ready(2).await;

    // It answers nothing, and not more than so many copies wait for it.
    ask(&service, 40).await;
    for _ in 0..32 {
        second.submitted().await;
    }
    assert!(second.is_idle());
    second.die().await;
    ask(&service, 3).await;

    let skipped = |report: &RouterReport| of(report, "m@2").is_some_and(|it| it.num_failures == 32);
    let report = service.launcher.report("failed copies", skipped).await;
    assert_eq!(of(&report, "m@1").unwrap().num_failures, 0);
    assert_eq!(of(&report, "m@2").unwrap().num_shadowed, 0);
}

#[tokio::test]
async fn a_share_of_requests_is_copied() {
    let (first, second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (one, two) = (first.address(), second.address());
    answering(first, "right");
    answering(second, "right");
    let mut service = start(table(&[(&one, "m@1"), (&two, "m@2")], vec![shadowed(5_000)])).await;
    service.router.ready(2).await;

    ask(&service, 60).await;

    let report = service
        .launcher
        .report("all ended", |report| {
            of(report, "m@2").is_some_and(|it| it.num_shadowed > 0 && it.num_in_flight == 0)
        })
        .await;
    let num = of(&report, "m@2").unwrap().num_shadowed;
    assert!((10..50).contains(&num), "{num}");
}

#[tokio::test]
async fn who_hangs_up_ends_the_copy_too() {
    let (mut first, mut second) = (Worker::start(|_| {}), Worker::start(|_| {}));
    let (one, two) = (first.address(), second.address());
    let service = start(table(&[(&one, "m@1"), (&two, "m@2")], vec![shadowed(10_000)])).await;
    service.router.ready(2).await;
    let asked = service.router.complete("m", json!({}));
    first.submitted().await;
    second.submitted().await;

    asked.abort();

    first.cancelled().await;
    second.cancelled().await;
}
