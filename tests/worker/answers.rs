//! Every token is the right one, however many requests run and are cancelled.

use futures::future::join_all;
use sconce_proto::worker::TokenSequence;
use sconce_router::dispatch::Error;

use crate::process::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_requests_at_once_are_answered_as_each_alone() {
    for depth in DEPTHS {
        two_hundred_requests_at_once(depth).await;
    }
}

async fn two_hundred_requests_at_once(depth: &str) {
    let directory = tempfile::tempdir().unwrap();
    // Too few blocks for the sequences that may run: some are preempted.
    let args = ["--num-blocks", "256", "--max-num-seqs", "48", "--max-num-batched-tokens", "200"];
    let args = [&args[..], &["--hash-depth", depth]].concat();
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;

    let generations: Vec<_> = (0..200)
        .map(|number| {
            let n = if number % 10 == 0 { 3 } else { 1 };
            let mut one = sconce_router::dispatch::Generation { n, ..generation(number, 150) };
            // The hash model knows no bad words, and so no step is begun ahead of this one's.
            if number == 7 {
                one.sampling.bad_words = vec![TokenSequence { tokens: vec![300, 301] }];
            }
            one
        })
        .collect();
    let answers = join_all(generations.iter().map(async |generation| {
        let outputs = send(&dispatcher, generation.clone()).unwrap();
        read(outputs, generation.n).await.unwrap()
    }))
    .await;

    for (number, (generation, answer)) in generations.iter().zip(answers).enumerate() {
        assert_eq!(answer, expected(generation), "request {number}");
    }
    until_idle(&dispatcher).await;
    let stats = stats(&dispatcher);
    assert!(stats.num_preemptions > 0, "the pool was never short: {stats:?}");
    assert!(stats.num_cached_tokens > 0, "no prefix was shared: {stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_cancels_leaves_no_blocks_and_other_streams_right() {
    for depth in DEPTHS {
        a_storm_of_cancels(depth).await;
    }
}

async fn a_storm_of_cancels(depth: &str) {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--num-blocks", "300", "--max-num-seqs", "32", "--max-queue", "4000"];
    let args = [&args[..], &["--hash-depth", depth]].concat();
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;

    let canaries = join_all((0..8).map(async |number| {
        let generation = endless(number, 1000);
        let outputs = send(&dispatcher, generation.clone()).unwrap();
        assert_eq!(read(outputs, 1).await.unwrap(), expected(&generation), "canary {number}");
    }));
    let storm = join_all((0..2000).map(async |number: u32| {
        let generation = endless(number, 500);
        let mut outputs = send(&dispatcher, generation.clone()).unwrap();
        // Some before they have begun, some in between.
        let num = (number * 7 % 41).saturating_sub(10) as usize;
        let tokens = read_some(&mut outputs, num).await;
        assert_eq!(tokens, expected(&generation)[0][..tokens.len()], "request {number}");
    }));
    tokio::join!(canaries, storm);

    until_idle(&dispatcher).await;
    let outputs = send(&dispatcher, generation(4, 40)).unwrap();
    assert_eq!(read(outputs, 1).await.unwrap(), expected(&generation(4, 40)));
}

#[tokio::test]
async fn a_prompt_in_chunks_tells_how_far_it_is_where_that_was_asked() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--max-num-seqs", "4", "--max-num-batched-tokens", "32"];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut generation = generation(1, 3);
    generation.prompt = (0..100).map(|token| 5 + token).collect();

    for asked in [true, false] {
        generation.cache_salt = [u8::from(asked); 16];
        generation.report_progress = asked;
        let mut outputs = send(&dispatcher, generation.clone()).unwrap();
        let (mut told, mut waits) = (Vec::new(), Vec::new());
        while let Some(output) = outputs.next().await {
            let output = output.unwrap();
            told.extend(output.num_computed);
            waits.push(output.queue_us.is_some());
        }

        assert_eq!(told.last(), asked.then_some(&100));
        assert_eq!(told.len() >= 4, asked, "{told:?}");
        assert!(told.is_sorted() && waits[0] && !waits[1..].contains(&true));
    }
}

#[tokio::test]
async fn a_full_queue_refuses_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--max-num-seqs", "1", "--max-queue", "2", "--hash-step-us", "2000"];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let mut running = send(&dispatcher, endless(0, 200)).unwrap();
    read_some(&mut running, 1).await;

    let waiting: Vec<_> =
        (1..=2).map(|number| send(&dispatcher, generation(number, 5)).unwrap()).collect();
    let refused = read(send(&dispatcher, generation(3, 5)).unwrap(), 1).await;

    assert!(matches!(refused, Err(Error::QueueFull { max_queue: 2 })), "{refused:?}");
    drop(running);
    for (number, outputs) in (1..).zip(waiting) {
        assert_eq!(read(outputs, 1).await.unwrap(), expected(&generation(number, 5)));
    }
}
