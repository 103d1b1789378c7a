//! A router that ends tells those whose answers it can't finish.

use std::time::Duration;

use sconce_router::shutdown::Stage;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::launcher::{holding, route, table};
use crate::service::{Service, serving, start_with, wait};
use crate::worker::{LONG, Worker};

/// A router with these requests under way: a stream that has begun, an answer that has not, and one
/// that waits for a replica. None of them ends by itself.
async fn busy(
    drain_timeout: Duration,
) -> (Service, [tokio::task::JoinHandle<reqwest::Response>; 3]) {
    let worker = Worker::start(|_| {});
    let address = worker.address();
    let (sender, mut received) = mpsc::unbounded_channel();
    serving(worker, move |request| drop(sender.send(request)));
    let routes = vec![
        route("m", &[("m@1", 10_000)]),
        holding(route("cold", &[("cold@1", 10_000)]), 10, 3_600_000),
    ];
    let tables = table(&[(&address, "m@1")], routes);
    let mut service = start_with(tables, |config| config.drain_timeout = drain_timeout).await;
    service.router.ready(1).await;
    let stream = service.router.complete("m", json!({"stream": true}));
    received.recv().await.unwrap().say(0, "x");
    let whole = service.router.complete("m", json!({}));
    received.recv().await.unwrap();
    let held = service.router.complete("cold", json!({}));
    service.launcher.report("cold", |report| report.wanted == ["cold"]).await;
    (service, [stream, whole, held])
}

async fn are_told(asked: [tokio::task::JoinHandle<reqwest::Response>; 3]) {
    let [stream, whole, held] = asked;
    let stream = wait(stream).await;
    assert_eq!(stream.status(), 200);
    // It is whole as a message, and says that it is not as an answer.
    let events = stream.text().await.unwrap();
    let last = events.trim_end().lines().last().unwrap().strip_prefix("data: ").unwrap();
    let last: Value = serde_json::from_str(last).unwrap();
    assert_eq!(last["error"]["code"], "server_stopping", "{events}");
    for answer in [wait(whole).await, wait(held).await] {
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["code"], "server_stopping");
    }
}

#[tokio::test]
async fn what_does_not_end_in_time_ends_with_a_word() {
    let (service, asked) = busy(Duration::from_millis(300)).await;

    service.router.stage.send_replace(Stage::Drain);

    are_told(asked).await;
    timeout(LONG, service.router.serving).await.expect("still serving").unwrap();
}

#[tokio::test]
async fn the_second_signal_ends_everything_with_a_word() {
    let (service, asked) = busy(Duration::from_hours(1)).await;

    service.router.stage.send_replace(Stage::Drain);
    service.router.stage.send_replace(Stage::Stop);

    are_told(asked).await;
    timeout(LONG, service.router.serving).await.expect("still serving").unwrap();
}
