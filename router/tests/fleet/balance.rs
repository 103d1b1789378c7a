//! Which replica gets what: the one that has the prompt's beginning, unless it has too much to do.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use sconce_proto::worker::rejected::Reason;
use serde_json::json;

use crate::launcher::{route, table};
use crate::service::{Service, serving, start, wait};
use crate::worker::{Received, Worker};

const BLOCK: usize = 16;

/// Prompts in the order of their arrival, and which replica got them.
type Trace = Arc<Mutex<Vec<(usize, Vec<u32>)>>>;

/// So many replicas of one version that do this with each request.
async fn replicas(num: usize, serve: impl Fn(usize, Received) + Clone + Send + 'static) -> Service {
    let workers: Vec<_> = (0..num).map(|_| Worker::start(|_| {})).collect();
    let addresses: Vec<_> = workers.iter().map(Worker::address).collect();
    for (i, worker) in workers.into_iter().enumerate() {
        let serve = serve.clone();
        serving(worker, move |request| serve(i, request));
    }
    let named: Vec<_> = addresses.iter().map(|address| (address.as_str(), "m@1")).collect();
    let service = start(table(&named, vec![route("m", &[("m@1", 10_000)])])).await;
    service.router.ready(num).await;
    service
}

fn traced() -> (Trace, impl Fn(usize, Received) + Clone + Send + 'static) {
    let trace = Trace::default();
    let noted = Arc::clone(&trace);
    let serve = move |i, request: Received| {
        noted.lock().unwrap().push((i, request.submit.prompt.clone()));
        request.answer("x");
    };
    (trace, serve)
}

/// Tokens that caches without a limit would have had, for this assignment.
fn num_hits(trace: &[(usize, Vec<u32>)]) -> usize {
    let mut caches: HashSet<(usize, &[u32])> = HashSet::new();
    let mut num = 0;
    for (replica, prompt) in trace {
        let prefixes = (1..=prompt.len() / BLOCK).map(|blocks| &prompt[..blocks * BLOCK]);
        num += prefixes.clone().take_while(|prefix| caches.contains(&(*replica, *prefix))).count();
        caches.extend(prefixes.map(|prefix| (*replica, prefix)));
    }
    num * BLOCK
}

#[tokio::test]
async fn conversations_go_back_to_their_cache_more_often_than_by_turns() {
    let (trace, serve) = traced();
    let service = replicas(3, serve).await;
    // Twenty conversations, each of which grows by two blocks a turn, in turns.
    for turn in 1..=5 {
        for conversation in 0..20 {
            let prompt: Vec<u32> =
                (0..turn * 2 * BLOCK as u32).map(|i| (conversation * 7 + i) % 250).collect();
            let asked = service.router.complete("m", json!({"prompt": prompt}));
            assert_eq!(wait(asked).await.status(), 200);
        }
    }

    let trace = trace.lock().unwrap().clone();
    let by_turns: Vec<_> =
        trace.iter().enumerate().map(|(i, (_, prompt))| (i % 3, prompt.clone())).collect();

    let (ours, theirs) = (num_hits(&trace), num_hits(&by_turns));
    // All that was ever computed is found again: 20 conversations, 2 + 4 + 6 + 8 blocks.
    assert_eq!(ours, 20 * 20 * BLOCK);
    assert!(ours > 2 * theirs, "{ours} {theirs}");
    // And nobody does nothing.
    let replicas: HashSet<_> = trace.iter().map(|(replica, _)| *replica).collect();
    assert_eq!(replicas.len(), 3);
}

#[tokio::test]
async fn a_hot_prefix_spreads_when_its_replica_has_too_much_to_do() {
    let (got, mut received) = tokio::sync::mpsc::unbounded_channel();
    // They take requests and never answer.
    let service = replicas(3, move |i, _| {
        let _ = got.send(i);
    })
    .await;
    let prompt: Vec<u32> = (0..128).collect();

    let mut num = [0_u64; 3];
    let mut asked = Vec::new();
    for _ in 0..200 {
        asked.push(service.router.complete("m", json!({"prompt": prompt})));
        num[received.recv().await.unwrap()] += 1;
    }

    let (most, least) = (num.iter().max().unwrap(), num.iter().min().unwrap());
    // The first of a replica costs 136 tokens, the others 32: the balance's bound in requests.
    assert!(32 * most <= 2 * (136 + 32 * least) + 1024 + 136, "{num:?}");
    assert!(*least > 10, "{num:?}");
}

#[tokio::test]
async fn prompts_with_nothing_in_common_are_shared_out() {
    let (trace, serve) = traced();
    let service = replicas(2, serve).await;
    for first in 0..40_u32 {
        let prompt: Vec<u32> = (0..32).map(|i| (first + i * 3) % 250).collect();
        wait(service.router.complete("m", json!({"prompt": prompt}))).await;
    }
    let trace = trace.lock().unwrap();
    let num_first = trace.iter().filter(|(replica, _)| *replica == 0).count();
    assert!((5..35).contains(&num_first), "{num_first}");
}

#[tokio::test]
async fn what_a_full_or_dying_replica_refuses_another_one_gets() {
    let refusing = |i, request: Received| match i {
        0 => request.reject(Reason::QueueFull, "full"),
        1 => request.reject(Reason::Draining, "ending"),
        _ => request.answer("x"),
    };
    let service = replicas(3, refusing).await;

    for _ in 0..20 {
        assert_eq!(wait(service.router.complete("m", json!({}))).await.status(), 200);
    }
    let metrics = service.router.text("/metrics").await;
    assert!(metrics.contains("sconce_requests_resent_total"), "{metrics}");
}

#[tokio::test]
async fn a_request_that_takes_two_replicas_with_it_gets_no_third() {
    let (got, mut received) = tokio::sync::mpsc::unbounded_channel();
    let service = replicas(3, move |i, request: Received| {
        let _ = got.send(i);
        // The session ends, and with it everything in it.
        let _ = request.session.send(Err(tonic::Status::unavailable("killed")));
    })
    .await;

    let answer = wait(service.router.complete("m", json!({}))).await;

    assert_eq!(answer.status(), 502);
    let replicas = [received.recv().await.unwrap(), received.recv().await.unwrap()];
    assert_ne!(replicas[0], replicas[1]);
    assert!(received.try_recv().is_err());
}
