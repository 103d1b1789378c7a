//! A worker that serves an encoder.

use rustix::process::Signal;
use sconce_proto::worker::embedded::End;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as ToWorker;
use sconce_proto::worker::worker_message::Message as FromWorker;
use sconce_proto::worker::{Cancel, DescribeRequest, Embed, EmbedInput, Task};
use tempfile::TempDir;

use crate::process::*;
use crate::session::{Session, connect, submit};
use crate::tiny_encoder::{HIDDEN, write};

const MAX_TOKENS: usize = 600;

async fn start(directory: &TempDir, args: &[&str]) -> Worker {
    let model = write("BertModel", "", |path, _| {
        std::fs::write(path.join("tokenizer.json"), "{}").unwrap();
    });
    // The worker has read everything once it is ready.
    Worker::serve(model.path(), directory, args).await
}

fn embed(request_id: u64, lens: &[usize]) -> Embed {
    let input = |len: &usize| EmbedInput { tokens: vec![7; *len], second_start: None };
    let inputs = lens.iter().map(input).collect();
    Embed { request_id, inputs, queue_deadline_ms: 0, priority: 0 }
}

/// Reads a request to its end: its vectors, and how it ended.
async fn vectors_of(session: &mut Session, request_id: u64) -> (Vec<f32>, End) {
    let mut values = Vec::new();
    loop {
        let Some(FromWorker::Embedded(part)) = session.notice().await else {
            panic!("expected vectors")
        };
        assert_eq!(part.request_id, request_id);
        values.extend_from_slice(&part.values);
        if part.end() != End::NotEnded {
            return (values, part.end());
        }
    }
}

#[tokio::test]
async fn every_input_gets_its_vector() {
    let directory = tempfile::tempdir().unwrap();
    let worker = start(&directory, &[]).await;
    let info = connect(&worker.address).await.describe(DescribeRequest {}).await;
    let info = info.unwrap().into_inner();
    assert_eq!(info.tasks, [Task::Embed as i32]);
    assert_eq!((info.num_outputs as usize, info.max_model_len as usize), (HIDDEN, MAX_TOKENS));
    let mut session = Session::open(&worker.address).await;

    session.say(ToWorker::Embed(embed(1, &[3, MAX_TOKENS, 1])));
    let (together, end) = vectors_of(&mut session, 1).await;
    session.say(ToWorker::Embed(embed(2, &[MAX_TOKENS])));
    let (alone, _) = vectors_of(&mut session, 2).await;

    assert_eq!(end, End::Complete);
    assert_eq!(together.len(), 3 * HIDDEN);
    assert_eq!(together[HIDDEN..2 * HIDDEN], alone);
}

#[tokio::test]
async fn what_does_not_fit_is_rejected_and_the_worker_lives() {
    let directory = tempfile::tempdir().unwrap();
    let worker = start(&directory, &[]).await;
    let mut session = Session::open(&worker.address).await;
    let mut outside = embed(4, &[1]);
    outside.inputs[0].tokens[0] = 100;
    let requests = [
        ToWorker::Embed(embed(1, &[])),
        ToWorker::Embed(embed(2, &[1, 0])),
        ToWorker::Embed(embed(3, &[1, MAX_TOKENS + 1])),
        ToWorker::Embed(outside),
        ToWorker::Submit(submit(5, &generation(1, 5))),
    ];

    for (id, request) in (1..).zip(requests) {
        session.say(request);
        let Some(FromWorker::Rejected(rejected)) = session.notice().await else {
            panic!("{id} was not rejected")
        };
        assert_eq!((rejected.request_id, rejected.reason()), (id, Reason::Invalid));
    }

    session.say(ToWorker::Embed(embed(9, &[1])));
    assert_eq!(vectors_of(&mut session, 9).await.1, End::Complete);
    session.probe(3);
    assert!(matches!(session.notice().await, Some(FromWorker::Alive(_))));
}

#[tokio::test]
async fn a_model_that_generates_does_not_embed() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &[]).await;
    let mut session = Session::open(&worker.address).await;

    session.say(ToWorker::Embed(embed(1, &[1])));

    let Some(FromWorker::Rejected(rejected)) = session.notice().await else { panic!("no answer") };
    assert_eq!(rejected.reason(), Reason::Invalid);
    assert!(rejected.message.contains("does not embed"));
}

#[tokio::test]
async fn a_cancelled_request_ends_early() {
    let directory = tempfile::tempdir().unwrap();
    let worker = start(&directory, &["--threads", "1"]).await;
    let mut session = Session::open(&worker.address).await;

    session.say(ToWorker::Embed(embed(1, &[500; 2000])));
    session.say(ToWorker::Cancel(Cancel { request_id: 1 }));
    let (values, end) = vectors_of(&mut session, 1).await;

    assert_eq!(end, End::Cancelled);
    assert!(values.len() < 2000 * HIDDEN);
    session.say(ToWorker::Embed(embed(2, &[1])));
    assert_eq!(vectors_of(&mut session, 2).await.1, End::Complete);
}

#[tokio::test]
async fn requests_beyond_the_queue_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let worker = start(&directory, &["--threads", "1", "--max-queue", "2"]).await;
    let mut session = Session::open(&worker.address).await;

    for id in 1..=3 {
        session.say(ToWorker::Embed(embed(id, &[500; 1000])));
    }

    loop {
        match session.notice().await {
            Some(FromWorker::Rejected(rejected)) => {
                assert_eq!((rejected.request_id, rejected.reason()), (3, Reason::QueueFull));
                break;
            }
            Some(FromWorker::Embedded(_)) => {}
            other => panic!("expected a refusal and got {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_drained_worker_finishes_what_it_has() {
    let directory = tempfile::tempdir().unwrap();
    let worker = start(&directory, &["--threads", "1"]).await;
    let mut session = Session::open(&worker.address).await;
    session.say(ToWorker::Embed(embed(1, &[500; 100])));
    // The request is there once a probe behind it is answered.
    session.probe(1);
    let mut num_values = 0;
    loop {
        match session.notice().await {
            Some(FromWorker::Alive(_)) => break,
            Some(FromWorker::Embedded(part)) => num_values += part.values.len(),
            other => panic!("{other:?}"),
        }
    }

    worker.signal(Signal::TERM);
    while let Some(message) = session.notice().await {
        if let FromWorker::Embedded(part) = message {
            num_values += part.values.len();
        }
    }

    assert_eq!(num_values, 100 * HIDDEN);
    let (status, log) = worker.ended().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn what_an_encoder_can_not_do_is_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let encoder = write("BertModel", "", |_, _| {});
    let classifier = write("BertForSequenceClassification", "bert.", |_, _| {});
    for (model, args, expected) in [
        (&encoder, ["--task", "generate"], "an encoder does not generate"),
        (&classifier, ["--task", "embed"], "the model has a classifier's head"),
        (&classifier, ["--pooling", "mean"], "--pooling is for embeddings"),
    ] {
        let listen = format!("unix:{}/w", directory.path().display());
        let worker = tokio::process::Command::new(env!("CARGO_BIN_EXE_sconce"))
            .args(["worker", "--listen", &listen, "--model"])
            .arg(model.path())
            .args(args)
            .output();

        let output = worker.await.unwrap();

        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
}
