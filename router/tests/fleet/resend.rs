//! Requests whose worker ends or dies before it has said anything of them go to the next one of their
//! version, which they wait for as long as their route lets them.

use std::time::Duration;

use futures::future::select_all;
use sconce_proto::fleet::{RouterReport, RoutingTable};
use sconce_proto::worker::Task;
use sconce_proto::worker::embedded::End;
use sconce_proto::worker::rejected::Reason;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::launcher::{holding, replica, route, table};
use crate::service::{Router, Service, answering, serving, start, version, wait};
use crate::worker::{LONG, Received, Worker};

/// One worker of the version behind `m`, whose requests the test gets.
async fn one_worker(
    max_held: u32,
    max_hold_ms: u32,
) -> (Service, mpsc::UnboundedReceiver<Received>) {
    let worker = Worker::start(|_| {});
    let address = worker.address();
    let (sender, received) = mpsc::unbounded_channel();
    serving(worker, move |request| drop(sender.send(request)));
    let routes = vec![holding(route("m", &[("m@1", 10_000)]), max_held, max_hold_ms)];
    let service = start(table(&[(&address, "m@1")], routes)).await;
    service.router.ready(1).await;
    (service, received)
}

/// Puts another worker of the version in the place of the one before.
fn replace(service: &Service, worker: &Worker) {
    let address = worker.address();
    service.launcher.change(|table| table.replicas = vec![replica(&address, "m@1")]);
}

async fn got(received: &mut mpsc::UnboundedReceiver<Received>) -> Received {
    timeout(LONG, received.recv()).await.expect("no request").unwrap()
}

fn wants_m(report: &RouterReport) -> bool {
    report.wanted == ["m"]
}

fn die(request: &Received) {
    let _ = request.session.send(Err(tonic::Status::unavailable("killed")));
}

async fn metric(router: &Router, line: &str) -> f64 {
    let metrics = router.text("/metrics").await;
    let values = metrics.lines().filter_map(|sample| sample.strip_prefix(line)?.strip_prefix(' '));
    values.map(|value| value.parse::<f64>().unwrap()).sum()
}

#[tokio::test]
async fn what_an_ending_worker_refuses_waits_for_the_next_one() {
    let (mut service, mut received) = one_worker(10, 60_000).await;
    let asked: Vec<_> =
        (0..3).map(|i| service.router.complete("m", json!({"stream": i > 0, "n": 2}))).collect();
    for _ in &asked {
        got(&mut received).await.reject(Reason::Draining, "ending");
    }
    // The launcher hears that a worker is wanted, as when there was none at first.
    service.launcher.report("wanted", wants_m).await;

    let next = Worker::start(|_| {});
    replace(&service, &next);
    answering(next, "here");

    for asked in asked {
        let answer = wait(asked).await;
        assert_eq!((answer.status().as_u16(), version(&answer)), (200, "m@1".into()));
        let text = answer.text().await.unwrap();
        assert!(!text.contains("error"), "{text}");
    }
    let name =
        "sconce_requests_resent_total{model_name=\"org/tiny\",version=\"m@1\",reason=\"draining\"}";
    assert!(metric(&service.router, name).await >= 3.0);
    service.launcher.report("nothing wanted", |report| report.wanted.is_empty()).await;
}

#[tokio::test]
async fn what_waits_in_a_dying_worker_is_computed_by_its_successor() {
    let (mut service, mut received) = one_worker(10, 60_000).await;
    let asked = [(); 2].map(|()| service.router.complete("m", json!({"stream": true})));
    let first = got(&mut received).await;
    got(&mut received).await;

    die(&first);
    service.launcher.report("wanted", wants_m).await;
    let next = Worker::start(|_| {});
    replace(&service, &next);
    answering(next, "here");

    for asked in asked {
        let answer = wait(asked).await;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
}

#[tokio::test]
async fn a_request_that_takes_two_workers_with_it_waits_for_no_third() {
    let (mut service, mut received) = one_worker(10, 60_000).await;
    let asked = service.router.complete("m", json!({}));

    die(&got(&mut received).await);
    service.launcher.report("wanted", wants_m).await;
    let mut next = Worker::start(|_| {});
    replace(&service, &next);
    die(&next.submitted().await);

    assert_eq!(wait(asked).await.status(), 502);
}

#[tokio::test]
async fn what_was_begun_to_be_answered_is_not_begun_again() {
    let (service, mut received) = one_worker(10, 60_000).await;
    let asked = service.router.complete("m", json!({"stream": true}));
    let request = got(&mut received).await;
    request.say(0, "x");
    let answer = wait(asked).await;

    die(&request);
    let mut next = Worker::start(|_| {});
    replace(&service, &next);

    let text = answer.text().await.unwrap();
    assert!(text.contains("worker_lost") && !text.contains("[DONE]"), "{text}");
    service.router.ready(1).await;
    assert!(next.is_idle());
}

#[tokio::test]
async fn of_several_prompts_those_go_on_that_no_worker_has_begun() {
    let (mut service, mut received) = one_worker(10, 60_000).await;
    let asked = service.router.complete("m", json!({"prompt": ["a", "b", "c"], "n": 2}));
    for _ in 0..3 {
        let request = got(&mut received).await;
        match request.prompt().as_str() {
            "a" => request.answer("1"),
            _ => request.reject(Reason::Draining, "ending"),
        }
    }
    service.launcher.report("wanted", wants_m).await;
    let next = Worker::start(|_| {});
    replace(&service, &next);
    serving(next, |request| {
        let text = if request.prompt() == "b" { "2" } else { "3" };
        request.answer(text);
    });

    let answer: Value = wait(asked).await.json().await.unwrap();

    let texts = answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str());
    assert_eq!(texts.map(Option::unwrap).collect::<String>(), "112233");
}

#[tokio::test]
async fn vectors_and_scores_wait_too() {
    let score = json!(0.0);
    for (path, body, pointer, expected) in [
        (
            "/v1/embeddings",
            json!({"model": "m", "input": ["a", "b"]}),
            "/data/0/embedding",
            &json!([1.0, 0.0]),
        ),
        ("/v1/score", json!({"model": "m", "text_1": "a", "text_2": "b"}), "/data/0/score", &score),
        (
            "/v1/rerank",
            json!({"model": "m", "query": "a", "documents": ["b"]}),
            "/results/0/relevance_score",
            &score,
        ),
    ] {
        let embedder = || {
            Worker::start(|info| {
                info.tasks = vec![Task::Embed.into()];
                info.num_outputs = 2;
            })
        };
        let mut first = embedder();
        let routes = vec![holding(route("m", &[("m@1", 10_000)]), 10, 60_000)];
        let mut service = start(table(&[(&first.address(), "m@1")], routes)).await;
        service.router.ready(1).await;
        let asked = service.router.request(path, &body);
        let asked = tokio::spawn(async move { asked.send().await.unwrap() });

        // Of what is not complete, nothing is kept.
        let request = first.embed().await;
        request.vectors(&[9.0, 9.0], End::NotEnded);
        first.die().await;
        service.launcher.report("wanted", wants_m).await;
        let mut second = embedder();
        replace(&service, &second);
        second.embed().await.reject(Reason::Draining, "ending");
        service.launcher.report("wanted", wants_m).await;
        let mut third = embedder();
        replace(&service, &third);
        let request = third.embed().await;
        request.vectors(&[1.0, 0.0, 0.0, 1.0], End::Complete);

        let answer = wait(asked).await;
        assert_eq!(answer.status(), 200, "{path}");
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer.pointer(pointer), Some(expected), "{answer}");
    }
}

#[tokio::test]
async fn none_waits_longer_than_it_may() {
    let (service, mut received) = one_worker(1, 100).await;
    let asked = service.router.complete("m", json!({}));

    got(&mut received).await.reject(Reason::Draining, "ending");

    let answer = wait(asked).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let (service, mut received) = one_worker(1, 60_000).await;
    let asked = [(); 2].map(|()| service.router.complete("m", json!({})));
    let requests = [got(&mut received).await, got(&mut received).await];

    requests.iter().for_each(|request| request.reject(Reason::Draining, "ending"));

    let (refused, _, waiting) = timeout(LONG, select_all(asked)).await.expect("none is refused");
    assert_eq!(refused.unwrap().status(), 503);
    let next = Worker::start(|_| {});
    replace(&service, &next);
    answering(next, "here");
    for waiting in waiting {
        assert_eq!(wait(waiting).await.status(), 200);
    }
}

#[tokio::test]
async fn nobody_waits_for_a_version_that_the_name_does_not_stand_for_any_more() {
    let (mut service, mut received) = one_worker(10, 3_600_000).await;
    let asked = service.router.complete("m", json!({}));
    got(&mut received).await.reject(Reason::Draining, "ending");
    service.launcher.report("wanted", wants_m).await;

    service.launcher.change(|table: &mut RoutingTable| {
        table.routes = vec![holding(route("m", &[("m@2", 10_000)]), 10, 3_600_000)];
    });

    let answer = wait(asked).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn who_hangs_up_waits_no_longer() {
    let (mut service, mut received) = one_worker(1, 60_000).await;
    let asked = service.router.complete("m", json!({}));
    got(&mut received).await.reject(Reason::Draining, "ending");
    service.launcher.report("wanted", wants_m).await;

    asked.abort();

    service.launcher.report("no one waits", |report| report.wanted.is_empty()).await;
    let mut next = Worker::start(|_| {});
    replace(&service, &next);
    service.router.ready(1).await;
    assert!(timeout(Duration::from_millis(50), next.submitted()).await.is_err());
}
