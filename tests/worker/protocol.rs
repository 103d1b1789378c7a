//! What a router may say, and what it is answered.

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::router_message::Message as ToWorker;
use sconce_proto::worker::worker_message::Message as FromWorker;
use sconce_proto::worker::{
    Cancel, DescribeRequest, Finish, Hello, LogitBias, SamplingParams, Submit, TokenSequence,
    TokenizerRequest,
};
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::process::*;
use crate::session::{Session, channel, connect, submit};

#[tokio::test]
async fn invalid_requests_are_rejected_and_the_worker_lives() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--max-num-seqs", "8"]).await;
    let mut session = Session::open(&worker.address).await;

    for (id, (what, change)) in (1..).zip(invalid()) {
        let mut wrong = submit(id, &generation(1, 5));
        change(&mut wrong);
        session.submit(wrong);
        let Some(FromWorker::Rejected(rejected)) = session.notice().await else {
            panic!("{what} was not rejected")
        };
        assert_eq!((rejected.request_id, rejected.reason()), (id, Reason::Invalid), "{what}");
        let name = what.split(' ').next().unwrap();
        assert!(rejected.message.contains(name), "{what}: {}", rejected.message);
    }

    let right = generation(2, 30);
    session.submit(submit(10_000, &right));
    assert_eq!(tokens_of(&mut session, 10_000).await, expected(&right)[0]);
}

type Change = Box<dyn Fn(&mut Submit)>;

fn invalid() -> Vec<(&'static str, Change)> {
    let any =
        |what, change: fn(&mut Submit)| -> (&'static str, Change) { (what, Box::new(change)) };
    let mut all = vec![
        any("prompt empty", |submit| submit.prompt.clear()),
        any("prompt too long", |submit| submit.prompt = vec![1; 4096]),
        any("prompt token", |submit| submit.prompt[0] = 512),
        any("prompt token, greatest", |submit| submit.prompt[0] = u32::MAX),
        any("n 0", |submit| submit.n = 0),
        any("n 9", |submit| submit.n = 9),
        any("n greatest", |submit| submit.n = u32::MAX),
        any("sampling missing", |submit| submit.sampling = None),
        any("cache_salt short", |submit| submit.cache_salt = vec![1; 15]),
        any("cache_salt long", |submit| submit.cache_salt = vec![1; 17]),
    ];
    let sampling = |what, change: fn(&mut SamplingParams)| -> (&'static str, Change) {
        (what, Box::new(move |submit: &mut Submit| change(submit.sampling.as_mut().unwrap())))
    };
    all.extend([
        sampling("temperature NaN", |s| s.temperature = f32::NAN),
        sampling("temperature infinite", |s| s.temperature = f32::INFINITY),
        sampling("temperature negative", |s| s.temperature = -0.1),
        sampling("top_p 0", |s| s.top_p = 0.0),
        sampling("top_p 1.1", |s| s.top_p = 1.1),
        sampling("top_p NaN", |s| s.top_p = f32::NAN),
        sampling("min_p negative", |s| s.min_p = -0.1),
        sampling("min_p 2", |s| s.min_p = 2.0),
        sampling("typical_p 0", |s| s.typical_p = 0.0),
        sampling("repetition_penalty 0", |s| s.repetition_penalty = 0.0),
        sampling("repetition_penalty infinite", |s| s.repetition_penalty = f32::INFINITY),
        sampling("frequency_penalty NaN", |s| s.frequency_penalty = f32::NAN),
        sampling("presence_penalty infinite", |s| s.presence_penalty = f32::NEG_INFINITY),
        sampling("bad_words empty", |s| s.bad_words = vec![TokenSequence::default()]),
        sampling("bad_words token", |s| s.bad_words = vec![TokenSequence { tokens: vec![512] }]),
        sampling("bad_words too long", |s| {
            s.bad_words = vec![TokenSequence { tokens: vec![1; 1 << 10] }; 65];
        }),
        sampling("num_prompt_logprobs greatest", |s| s.num_prompt_logprobs = Some(u32::MAX)),
        sampling("logit_bias token", |s| s.logit_bias = vec![LogitBias { token: 512, bias: 1.0 }]),
        sampling("logit_bias NaN", |s| {
            s.logit_bias = vec![LogitBias { token: 1, bias: f32::NAN }];
        }),
        sampling("logit_bias count", |s| s.logit_bias = vec![LogitBias::default(); 513]),
        sampling("stop_token_ids token", |s| s.stop_token_ids = vec![512]),
        sampling("stop_token_ids count", |s| s.stop_token_ids = vec![1; 513]),
        sampling("max_tokens 0", |s| s.max_tokens = 0),
        sampling("min_tokens above max", |s| s.min_tokens = 6),
        sampling("num_logprobs 21", |s| s.num_logprobs = Some(21)),
    ]);
    all
}

async fn tokens_of(session: &mut Session, id: u64) -> Vec<u32> {
    let mut tokens = Vec::new();
    loop {
        for output in session.step().await.into_iter().filter(|output| output.request_id == id) {
            tokens.extend(output.token);
            if output.finish() != Finish::NotFinished {
                return tokens;
            }
        }
    }
}

#[tokio::test]
async fn a_request_that_can_never_fit_is_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--max-num-seqs", "8"]).await;
    let mut session = Session::open(&worker.address).await;

    // The whole context is allowed, and the completion ends with it.
    let mut whole = endless(1, u32::MAX);
    whole.prompt = vec![1; 4090];
    session.submit(submit(1, &whole));

    assert_eq!(tokens_of(&mut session, 1).await.len(), 6);
}

#[tokio::test]
async fn a_request_that_waits_too_long_ends_with_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--max-num-seqs", "1", "--hash-step-us", "1000"];
    let worker = Worker::start(&directory, &args).await;
    let mut session = Session::open(&worker.address).await;
    session.submit(submit(1, &endless(1, 4000)));
    session.step().await;

    session.submit(Submit { queue_deadline_ms: 40, ..submit(2, &generation(2, 5)) });

    loop {
        let outputs = session.step().await;
        if let Some(ended) = outputs.iter().find(|output| output.request_id == 2) {
            assert_eq!((ended.finish(), ended.token), (Finish::Deadline, None));
            break;
        }
    }
}

#[tokio::test]
async fn a_cancel_is_answered_once_and_strange_ones_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-step-us", "1000"]).await;
    let mut session = Session::open(&worker.address).await;
    let mut other = Session::open(&worker.address).await;
    let three = sconce_router::dispatch::Generation { n: 3, ..endless(1, 4000) };
    session.submit(submit(1, &three));
    session.step().await;

    for id in [0, 2, u64::MAX] {
        session.say(ToWorker::Cancel(Cancel { request_id: id }));
    }
    // Ids belong to their session.
    other.say(ToWorker::Cancel(Cancel { request_id: 1 }));
    other.probe(1);
    assert!(matches!(other.notice().await, Some(FromWorker::Alive(_))));
    session.say(ToWorker::Cancel(Cancel { request_id: 1 }));
    session.say(ToWorker::Cancel(Cancel { request_id: 1 }));

    let mut ended = Vec::new();
    while ended.len() < 3 {
        let outputs = session.step().await;
        ended.extend(outputs.into_iter().filter(|output| output.finish() != Finish::NotFinished));
    }
    ended.sort_by_key(|output| output.index);
    assert!((0..).zip(&ended).all(|(index, output)| {
        output.index == index && output.finish() == Finish::Cancelled && output.token.is_none()
    }));
    assert!(session.is_silent().await);
}

#[tokio::test]
async fn a_probe_is_a_step_idle_or_busy_and_nobody_elses_business() {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--max-num-seqs", "1", "--max-queue", "1", "--hash-step-us", "1000"];
    let worker = Worker::start(&directory, &args).await;
    let mut session = Session::open(&worker.address).await;

    session.probe(41);
    let Some(FromWorker::Alive(idle)) = session.notice().await else { panic!("not alive") };
    // No sequence and no place in the queue is free.
    session.submit(submit(1, &endless(1, 300)));
    session.submit(submit(2, &endless(2, 5)));
    session.step().await;
    session.probe(42);
    let Some(FromWorker::Alive(busy)) = session.notice().await else { panic!("not alive") };

    assert_eq!((idle.nonce, busy.nonce), (41, 42));
    assert_eq!(tokens_of(&mut session, 2).await, expected(&endless(2, 5))[0]);
    let dispatcher = dispatcher(&[&worker]).await;
    until("told", || stats(&dispatcher).num_blocks > 0).await;
    assert_eq!(stats(&dispatcher).num_generated_tokens, 305, "probes were counted");
}

#[tokio::test]
async fn a_router_that_breaks_the_protocol_is_hung_up_on_alone() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &[]).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let address = &worker.address;
    let hello = |protocol| ToWorker::Hello(Hello { protocol, router: "evil\n".to_owned() });
    let running = send(&dispatcher, endless(1, 2000)).unwrap();

    let wrong_version = Session::begin(address, vec![hello(99)]).await.err().unwrap();
    assert_eq!(wrong_version.code(), Code::FailedPrecondition);
    let no_hello = ToWorker::Submit(submit(1, &generation(1, 1)));
    let no_hello = Session::begin(address, vec![no_hello]).await.err().unwrap();
    assert_eq!(no_hello.code(), Code::InvalidArgument);

    let greeted_twice = Session::open(address).await;
    greeted_twice.say(hello(1));
    assert_eq!(greeted_twice.end().await.unwrap().code(), Code::InvalidArgument);
    let unknown = Session::open(address).await;
    unknown.say_nothing_known();
    assert_eq!(unknown.end().await.unwrap().code(), Code::InvalidArgument);
    let repeated = Session::open(address).await;
    repeated.submit(submit(5, &endless(1, 4000)));
    repeated.submit(submit(5, &endless(2, 4000)));
    assert_eq!(repeated.end().await.unwrap().code(), Code::InvalidArgument);
    let huge = Session::open(address).await;
    huge.submit(Submit { prompt: vec![u32::MAX; 2_000_000], ..submit(1, &generation(1, 1)) });
    assert!(huge.end().await.is_none_or(|status| status.code() != Code::Unknown));

    assert_eq!(read(running, 1).await.unwrap(), expected(&endless(1, 2000)));
    until_idle(&dispatcher).await;
}

#[tokio::test]
async fn the_description_the_tokenizer_and_the_health_service_answer() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-vocab", "100000"]).await;
    let mut client = connect(&worker.address).await;

    let info = client.describe(DescribeRequest {}).await.unwrap().into_inner();
    let mut pieces = client.tokenizer(TokenizerRequest {}).await.unwrap().into_inner();
    let (mut json, mut num_pieces) = (Vec::new(), 0);
    while let Some(piece) = pieces.message().await.unwrap() {
        assert!(piece.data.len() <= 1 << 20);
        json.extend(piece.data);
        num_pieces += 1;
    }
    let mut health = HealthClient::new(channel(&worker.address).await);
    let check = HealthCheckRequest { service: String::new() };
    let health = health.check(check).await.unwrap().into_inner();

    assert_eq!((info.model.as_str(), info.vocab_size), ("m", 100_000));
    assert_eq!(info.epoch, worker.ready["epoch"].as_u64().unwrap());
    let tokenizer = tokenizers::Tokenizer::from_bytes(&json).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 100_000);
    assert!(num_pieces > 1, "one piece shows nothing");
    assert_eq!(health.status, ServingStatus::Serving as i32);
}

#[tokio::test]
async fn a_worker_listens_on_tcp_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sconce"))
        .args(["worker", "--model", "hash", "--name", "m", "--version", "1"])
        .args(["--listen", "127.0.0.1:0", "--max-model-len", "4096"])
        .current_dir(directory.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.next_line().await.unwrap().unwrap();
    let ready: serde_json::Value =
        serde_json::from_str(line.strip_prefix("ready ").unwrap()).unwrap();
    let address = ready["address"].as_str().unwrap();

    let mut session = Session::open(address).await;
    session.submit(submit(1, &generation(1, 20)));

    assert!(address.starts_with("http://127.0.0.1:"), "{address}");
    assert_eq!(tokens_of(&mut session, 1).await, expected(&generation(1, 20))[0]);
}
