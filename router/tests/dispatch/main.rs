//! The dispatcher against workers that behave, die, freeze and lie, over the real protocol.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should stop")]

mod worker;

use std::time::Duration;

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as FromRouter;
use sconce_proto::worker::worker_message::Message as ToRouter;
use sconce_proto::worker::{
    Draining, Finish, Rejected, SamplingParams, TokenLogprobs, TokenOutput, TopLogprob, Welcome,
};
use sconce_router::dispatch::{Dispatcher, Error, Generation, Outputs};

use worker::{Session, Worker, dispatcher, end, info, token, until};

/// A dispatcher with one worker that is ready.
async fn one_worker() -> (Dispatcher, Worker, Session, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&directory, "w", info("m"));
    let dispatcher = dispatcher(&[&worker.address]);
    let session = worker.ready_session().await;
    until(&dispatcher, "ready", |workers| workers[0].ready).await;
    (dispatcher, worker, session, directory)
}

fn generate(dispatcher: &Dispatcher, n: u32) -> Result<Outputs, Error> {
    let model = dispatcher.model("m").unwrap();
    let sampling = SamplingParams { max_tokens: 5, ..SamplingParams::default() };
    let (prompt, cache_salt) = (vec![1, 2], [9; 16]);
    let generation =
        Generation { prompt, n, sampling, cache_salt, priority: 0, report_progress: false };
    dispatcher.generate(&model, generation)
}

async fn next(outputs: &mut Outputs) -> Option<Result<TokenOutput, Error>> {
    tokio::time::timeout(Duration::from_secs(20), outputs.next()).await.expect("nothing came")
}

#[tokio::test]
async fn every_completions_outputs_arrive_in_order_and_then_nothing() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;

    let mut outputs = generate(&dispatcher, 2).unwrap();
    let submit = session.submitted().await;
    let id = submit.request_id;
    let second = |output: TokenOutput| TokenOutput { index: 1, ..output };
    session.step(vec![token(id, 1), second(token(id, 2))]);
    session.step(vec![second(end(id, Finish::Length)), token(id, 3)]);
    session.step(vec![TokenOutput { finish: Finish::StopToken.into(), ..token(id, 0) }]);

    assert_eq!((submit.prompt, submit.n, submit.cache_salt), (vec![1, 2], 2, vec![9; 16]));
    assert_eq!(submit.queue_deadline_ms, 60_000);
    let mut seen = Vec::new();
    while let Some(output) = next(&mut outputs).await {
        let output = output.unwrap();
        seen.push((output.index, output.token));
    }
    let expected = [(0, Some(1)), (1, Some(2)), (1, None), (0, Some(3)), (0, Some(0))];
    assert_eq!(seen, expected);
    assert!(outputs.try_next().is_none());
    drop(outputs);
    until(&dispatcher, "done", |workers| workers[0].num_in_flight == 0).await;
}

#[tokio::test]
async fn dropping_the_outputs_cancels_the_request_once() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;
    let mut finished = generate(&dispatcher, 1).unwrap();
    let first = session.submitted().await.request_id;
    session.step(vec![end(first, Finish::Length)]);
    assert!(next(&mut finished).await.unwrap().is_ok());
    let dropped = generate(&dispatcher, 1).unwrap();
    let second = session.submitted().await.request_id;

    drop(finished);
    drop(dropped);

    let Some(FromRouter::Cancel(cancel)) = session.next().await else { panic!("no Cancel") };
    assert_eq!(cancel.request_id, second);
    assert_eq!(dispatcher.status()[0].num_in_flight, 1);
    session.step(vec![end(second, Finish::Cancelled)]);
    until(&dispatcher, "freed", |workers| workers[0].num_in_flight == 0).await;
    let metrics = sconce_router::metrics::render();
    let count = "sconce_cancel_to_free_seconds_count{model_name=\"m\",version=\"1\"} ";
    let line = metrics.lines().find(|line| line.starts_with(count)).unwrap();
    assert_ne!(line.strip_prefix(count), Some("0"));
}

#[tokio::test]
async fn a_dead_workers_streams_end_and_its_model_stays_listed() {
    let (dispatcher, worker, mut session, directory) = one_worker().await;
    let mut streams: Vec<_> = (0..50).map(|_| generate(&dispatcher, 1).unwrap()).collect();
    for _ in &streams {
        let id = session.submitted().await.request_id;
        session.step(vec![token(id, 1)]);
    }
    for stream in &mut streams {
        assert!(next(stream).await.unwrap().is_ok());
    }

    worker.die();
    for stream in &mut streams {
        assert!(matches!(next(stream).await, Some(Err(Error::WorkerLost))));
        assert!(next(stream).await.is_none());
    }

    until(&dispatcher, "lost", |workers| !workers[0].ready).await;
    assert!(matches!(generate(&dispatcher, 1), Err(Error::NoWorker { model }) if model == "m"));
    assert_eq!(dispatcher.models().len(), 1);

    let mut next_process = Worker::start(&directory, "w", info("m"));
    next_process.describe_as(|info| info.epoch = 8);
    let mut session = next_process.session().await;
    session.hello().await;
    session.welcome(8);
    session.answer_probe().await;
    until(&dispatcher, "ready again", |workers| workers[0].ready).await;
    let _outputs = generate(&dispatcher, 1).unwrap();
    session.submitted().await;
}

#[tokio::test]
async fn a_frozen_worker_is_found_and_fenced() {
    let (dispatcher, mut worker, mut session, _directory) = one_worker().await;
    let mut outputs = generate(&dispatcher, 1).unwrap();
    let id = session.submitted().await.request_id;

    assert!(matches!(next(&mut outputs).await, Some(Err(Error::WorkerLost))));
    until(&dispatcher, "lost", |workers| !workers[0].ready).await;
    assert!(matches!(generate(&dispatcher, 1), Err(Error::NoWorker { .. })));

    // It wakes up and goes on where it was: nobody listens.
    session.step(vec![token(id, 1)]);
    let mut second = worker.session().await;
    second.hello().await;
    second.welcome(7);
    assert!(!dispatcher.status()[0].ready, "ready before a decode step");
    second.answer_probe().await;
    until(&dispatcher, "ready again", |workers| workers[0].ready).await;
    let mut outputs = generate(&dispatcher, 1).unwrap();
    let second_id = second.submitted().await.request_id;
    assert_ne!(second_id, id);
    second.step(vec![token(id, 3), token(second_id, 2)]);
    assert_eq!(next(&mut outputs).await.unwrap().unwrap().token, Some(2));
    session.ended().await;
}

#[tokio::test]
async fn a_worker_that_loads_its_weights_is_listed_and_not_chosen() {
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&directory, "w", info("m"));
    worker.set_loading(true);
    let dispatcher = dispatcher(&[&worker.address]);

    until(&dispatcher, "described", |workers| workers[0].model.is_some()).await;
    assert_eq!(dispatcher.models().len(), 1);
    assert!(matches!(generate(&dispatcher, 1), Err(Error::NoWorker { .. })));

    worker.set_loading(false);
    let mut session = worker.ready_session().await;
    until(&dispatcher, "ready", |workers| workers[0].ready).await;
    let _outputs = generate(&dispatcher, 1).unwrap();
    session.submitted().await;
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_is_hung_up_on() {
    type Evil = Box<dyn Fn(&Session, u64)>;
    let (dispatcher, mut worker, mut session, _directory) = one_worker().await;
    let output = |change: fn(&mut TokenOutput)| -> Evil {
        Box::new(move |session, id| {
            let mut output = token(id, 1);
            change(&mut output);
            session.step(vec![output]);
        })
    };
    let evils: Vec<(&str, Evil)> = vec![
        ("token", output(|output| output.token = Some(4))),
        ("index", output(|output| output.index = 2)),
        ("huge index", output(|output| output.index = u32::MAX)),
        ("finish", output(|output| output.finish = 99)),
        ("nothing", output(|output| output.token = None)),
        (
            "top token",
            output(|output| {
                let top = vec![TopLogprob { token: 4, logprob: 0.0 }];
                output.logprobs = Some(TokenLogprobs { logprob: 0.0, top });
            }),
        ),
        (
            "many logprobs",
            output(|output| {
                let top = vec![TopLogprob::default(); 3];
                output.logprobs = Some(TokenLogprobs { logprob: 0.0, top });
            }),
        ),
        (
            "after the end",
            Box::new(|session, id| {
                let first = TokenOutput { finish: Finish::NotFinished.into(), ..token(id, 1) };
                let second = |output| TokenOutput { index: 0, ..output };
                session.step(vec![first, second(end(id, Finish::Length)), token(id, 1)]);
            }),
        ),
        ("unasked cancel", Box::new(|session, id| session.step(vec![end(id, Finish::Cancelled)]))),
        (
            "second welcome",
            Box::new(|session, _| {
                session.say(ToRouter::Welcome(Welcome { epoch: 7, step_ms: 0 }));
            }),
        ),
        ("no kind", Box::new(|session, _| session.say_nothing_known())),
        ("too large", Box::new(|session, id| session.step(vec![token(id, 1); 2_000_000]))),
    ];
    for (what, evil) in evils {
        // The second completion keeps the request alive when the first has ended.
        let mut outputs = generate(&dispatcher, 2).unwrap();
        let id = session.submitted().await.request_id;
        evil(&session, id);
        let mut last = None;
        while let Some(output) = next(&mut outputs).await {
            last = Some(output);
        }
        assert!(matches!(last, Some(Err(Error::WorkerLost))), "{what}: {last:?}");
        session.ended().await;
        session = worker.ready_session().await;
        until(&dispatcher, what, |workers| workers[0].ready).await;
    }
}

#[tokio::test]
async fn outputs_of_unknown_requests_are_dropped() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;
    let mut outputs = generate(&dispatcher, 1).unwrap();
    let id = session.submitted().await.request_id;

    session.step(vec![token(id + 1000, 1), end(0, Finish::Length), token(id, 2)]);

    assert_eq!(next(&mut outputs).await.unwrap().unwrap().token, Some(2));
}

#[tokio::test]
async fn a_worker_of_another_epoch_is_described_again() {
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&directory, "w", info("m"));
    let dispatcher = dispatcher(&[&worker.address]);

    let mut session = worker.session().await;
    session.hello().await;
    session.welcome(8);
    session.ended().await;
    assert!(!dispatcher.status()[0].ready);

    let _session = worker.ready_session().await;
    until(&dispatcher, "ready", |workers| workers[0].ready).await;
}

#[tokio::test]
async fn refusals_are_the_first_output() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;
    let mut refuse = async |reason: Reason| {
        let mut outputs = generate(&dispatcher, 1).unwrap();
        let request_id = session.submitted().await.request_id;
        let (reason, message) = (reason.into(), "because".to_owned());
        session.say(ToRouter::Rejected(Rejected { request_id, reason, message }));
        let refused = next(&mut outputs).await.unwrap().unwrap_err();
        assert!(next(&mut outputs).await.is_none());
        refused
    };

    assert!(matches!(refuse(Reason::QueueFull).await, Error::QueueFull { max_queue: 3 }));
    assert!(matches!(refuse(Reason::Invalid).await, Error::Refused(why) if why == "because"));
    assert!(matches!(refuse(Reason::TooLarge).await, Error::Refused(why) if why == "because"));
    assert!(dispatcher.status()[0].ready);
    assert!(matches!(refuse(Reason::Draining).await, Error::NoWorker { .. }));
    assert!(!dispatcher.status()[0].ready);
    assert_eq!(dispatcher.status()[0].num_in_flight, 0);
    assert!(matches!(generate(&dispatcher, 0), Err(Error::Refused(_))));
    assert!(matches!(generate(&dispatcher, 9), Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_deadline_ends_the_request() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;
    let mut outputs = generate(&dispatcher, 2).unwrap();
    let id = session.submitted().await.request_id;

    let second = TokenOutput { index: 1, ..end(id, Finish::Deadline) };
    session.step(vec![end(id, Finish::Deadline), second]);

    assert!(matches!(next(&mut outputs).await, Some(Err(Error::Deadline))));
    assert!(next(&mut outputs).await.is_none());
    until(&dispatcher, "ended", |workers| workers[0].num_in_flight == 0).await;
}

#[tokio::test]
async fn a_draining_worker_finishes_and_gets_nothing_new() {
    let (dispatcher, _worker, mut session, _directory) = one_worker().await;
    let mut outputs = generate(&dispatcher, 1).unwrap();
    let id = session.submitted().await.request_id;

    session.say(ToRouter::Draining(Draining {}));
    until(&dispatcher, "draining", |workers| !workers[0].ready).await;

    assert!(matches!(generate(&dispatcher, 1), Err(Error::NoWorker { .. })));
    session.step(vec![token(id, 1), end(id, Finish::Length)]);
    assert!(next(&mut outputs).await.unwrap().is_ok());
    assert!(next(&mut outputs).await.unwrap().is_ok());
    assert!(next(&mut outputs).await.is_none());
}

#[tokio::test]
async fn the_least_loaded_worker_is_chosen_and_others_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut first = Worker::start(&directory, "1", info("m"));
    let mut second = Worker::start(&directory, "2", info("m"));
    let mut other = Worker::start(&directory, "3", info("other"));
    let dispatcher = dispatcher(&[&first.address, &second.address, &other.address]);
    let (mut a, mut b, mut c) =
        tokio::join!(first.ready_session(), second.ready_session(), other.ready_session());
    until(&dispatcher, "ready", |workers| workers.iter().all(|worker| worker.ready)).await;
    assert_eq!(dispatcher.models().len(), 2);

    let mut held: Vec<_> = (0..4).map(|_| generate(&dispatcher, 1).unwrap()).collect();
    a.submitted().await;
    a.submitted().await;
    b.submitted().await;
    b.submitted().await;

    // Another router's requests count as well.
    a.stats(9);
    let busy = |workers: &[sconce_router::dispatch::WorkerStatus]| {
        workers[0].stats.is_some_and(|stats| stats.num_running == 9)
    };
    until(&dispatcher, "told", busy).await;
    held.extend((0..4).map(|_| generate(&dispatcher, 1).unwrap()));
    for _ in 0..4 {
        b.submitted().await;
    }

    first.die();
    until(&dispatcher, "lost", |workers| !workers[0].ready).await;
    held.push(generate(&dispatcher, 1).unwrap());
    b.submitted().await;
    dispatcher.remove_worker(&second.address);
    b.ended().await;
    assert!(
        matches!(generate(&dispatcher, 1), Err(Error::NoWorker { .. })) || {
            // The link closes when the session's task has ended.
            until(&dispatcher, "removed", |workers| workers.len() == 2).await;
            generate(&dispatcher, 1).is_err()
        }
    );
    assert!(tokio::time::timeout(Duration::from_millis(50), c.submitted()).await.is_err());
}
