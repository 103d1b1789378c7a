//! Workers that are killed, frozen and broken, and routers that vanish or stop reading.

use std::time::{Duration, Instant};

use futures::future::join_all;
use rustix::process::Signal;
use sconce_router::dispatch::Error;

use crate::process::*;
use crate::session::{Session, submit};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_workers_streams_end_at_once_and_the_next_one_serves() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--hash-step-us", "1000", "--max-num-seqs", "128"];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut streams: Vec<_> =
        (0..100).map(|number| send(&dispatcher, endless(number, 3000)).unwrap()).collect();
    let begun = join_all(streams.iter_mut().map(|stream| read_some(stream, 3))).await;

    let killed = Instant::now();
    worker.signal(Signal::KILL);
    let ends = join_all(streams.into_iter().map(|stream| read(stream, 1))).await;

    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());
    assert!(ends.iter().all(|end| matches!(end, Err(Error::WorkerLost))));
    for (number, tokens) in (0..).zip(begun) {
        assert_eq!(tokens, expected(&endless(number, 3000))[0][..tokens.len()]);
    }
    assert!(matches!(send(&dispatcher, generation(1, 1)), Err(Error::NoWorker { .. })));
    assert_eq!(dispatcher.models().len(), 1);
    worker.ended().await;

    // On the same path: the dead worker's socket is replaced.
    let _second = Worker::start(&directory, &args).await;
    until_ready(&dispatcher).await;
    let outputs = send(&dispatcher, generation(1, 50)).unwrap();
    assert_eq!(read(outputs, 1).await.unwrap(), expected(&generation(1, 50)));
}

#[tokio::test]
async fn a_frozen_worker_is_found_and_readmitted_when_it_wakes_up() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-step-us", "1000"]).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut stream = send(&dispatcher, endless(1, 4000)).unwrap();
    read_some(&mut stream, 3).await;

    let frozen = Instant::now();
    worker.signal(Signal::STOP);
    assert!(matches!(read(stream, 1).await, Err(Error::WorkerLost)));
    assert!(frozen.elapsed() < Duration::from_secs(20), "{:?}", frozen.elapsed());
    until("lost", || !dispatcher.status()[0].ready).await;

    worker.signal(Signal::CONT);
    until_ready(&dispatcher).await;
    let outputs = send(&dispatcher, generation(2, 50)).unwrap();
    assert_eq!(read(outputs, 1).await.unwrap(), expected(&generation(2, 50)));
    until_idle(&dispatcher).await;
}

#[tokio::test]
async fn an_engine_that_fails_ends_the_process_and_names_its_requests() {
    for depth in DEPTHS {
        an_engine_fails(depth).await;
    }
}

async fn an_engine_fails(depth: &str) {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--hash-fail-at", "300", "--hash-depth", depth];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;

    let failed = Instant::now();
    let poison = send(&dispatcher, endless(1, 1000)).unwrap();
    assert!(matches!(read(poison, 1).await, Err(Error::WorkerLost)));
    assert!(failed.elapsed() < Duration::from_secs(20), "{:?}", failed.elapsed());

    let (status, log) = worker.ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    let line = log.lines().find(|line| line.contains("the engine failed")).unwrap();
    assert!(line.contains("requests=1/1"), "{line}");
}

#[tokio::test]
async fn a_router_that_vanishes_leaves_no_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-step-us", "500"]).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut vanishing = Session::open(&worker.address).await;
    for id in 0..50 {
        vanishing.submit(submit(id, &endless(id as u32, 4000)));
    }
    vanishing.step().await;
    let mut canary = send(&dispatcher, endless(7, 300)).unwrap();
    let begun = read_some(&mut canary, 2).await;
    assert!(stats(&dispatcher).num_running > 1);

    drop(vanishing);

    let rest = read(canary, 1).await.unwrap();
    assert_eq!([begun, rest[0].clone()].concat(), expected(&endless(7, 300))[0]);
    until_idle(&dispatcher).await;
}

#[tokio::test]
async fn a_router_that_stops_reading_is_hung_up_on_and_delays_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--num-blocks", "16384", "--max-num-seqs", "64"];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut stuck = Session::open(&worker.address).await;
    for id in 0..60 {
        stuck.submit(submit(id, &endless(id as u32, 3900)));
    }
    stuck.step().await;

    let outputs = send(&dispatcher, endless(3, 1500)).unwrap();
    assert_eq!(read(outputs, 1).await.unwrap(), expected(&endless(3, 1500)));

    // Only what it took of the 234,000 tokens was computed: it was hung up on.
    until_idle(&dispatcher).await;
    let end = stuck.end().await;
    assert_eq!(end.unwrap().code(), tonic::Code::ResourceExhausted);
    assert!(stats(&dispatcher).num_generated_tokens < 200_000);
}
