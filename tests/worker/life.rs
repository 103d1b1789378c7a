//! How a worker starts, drains and stops.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use sconce_proto::worker::DrainRequest;
use sconce_router::dispatch::Error;

use crate::process::*;
use crate::session::connect;

#[tokio::test]
async fn the_ready_line_says_what_is_served_and_what_the_start_took() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &[]).await;

    assert_eq!(worker.ready["model"], "m");
    assert_eq!(worker.ready["version"], "1");
    assert_eq!(worker.ready["max_model_len"], 4096);
    for phase in ["load", "first_step", "total"] {
        assert!(worker.ready["phases_ms"][phase].is_number(), "{phase}: {}", worker.ready);
    }
}

#[tokio::test]
async fn an_idle_worker_costs_nothing_and_dumps_no_core() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-depth", "2"]).await;
    let file = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", worker.pid()));
    let ticks = || {
        let stat = file("stat").unwrap();
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split(' ').collect();
        fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
    };

    let limits = file("limits").unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    let before = ticks();
    #[expect(clippy::disallowed_methods, reason = "the time in which nothing may happen")]
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ticks() - before <= 20, "{} ticks", ticks() - before);
}

#[tokio::test]
async fn a_terminated_worker_finishes_refuses_and_exits_well() {
    for depth in DEPTHS {
        a_worker_is_terminated(depth).await;
    }
}

async fn a_worker_is_terminated(depth: &str) {
    let directory = tempfile::tempdir().unwrap();
    let args = ["--hash-step-us", "2000", "--hash-depth", depth];
    let worker = Worker::start(&directory, &args).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let running = send(&dispatcher, endless(1, 150)).unwrap();
    let waiting = send(&dispatcher, endless(2, 100)).unwrap();
    until("running", || stats(&dispatcher).num_running > 0).await;

    worker.signal(Signal::TERM);
    until("draining", || !dispatcher.status()[0].ready).await;

    assert!(matches!(send(&dispatcher, generation(3, 1)), Err(Error::NoWorker { .. })));
    assert_eq!(read(running, 1).await.unwrap(), expected(&endless(1, 150)));
    assert_eq!(read(waiting, 1).await.unwrap(), expected(&endless(2, 100)));
    let (status, log) = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(!directory.path().join("w").exists(), "the socket was left behind");
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-step-us", "50000"]).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let running = send(&dispatcher, endless(1, 4000)).unwrap();
    until("running", || stats(&dispatcher).num_running > 0).await;

    worker.signal(Signal::TERM);
    until("draining", || !dispatcher.status()[0].ready).await;
    let stopped = Instant::now();
    worker.signal(Signal::TERM);

    assert!(matches!(read(running, 1).await, Err(Error::WorkerLost)));
    let (status, log) = worker.ended().await;
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(stopped.elapsed() < Duration::from_secs(20), "{:?}", stopped.elapsed());
}

#[tokio::test]
async fn drain_answers_at_its_deadline_and_again_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let worker = Worker::start(&directory, &["--hash-step-us", "2000"]).await;
    let dispatcher = dispatcher(&[&worker]).await;
    let running = send(&dispatcher, endless(1, 200)).unwrap();
    until("running", || stats(&dispatcher).num_running > 0).await;
    let mut client = connect(&worker.address).await;

    let early = client.drain(DrainRequest { deadline_ms: 20 }).await.unwrap().into_inner();
    let late = client.drain(DrainRequest { deadline_ms: 60_000 });
    let (late, tokens) = tokio::join!(late, read(running, 1));

    assert_eq!(early.num_unfinished, 1);
    assert_eq!(late.unwrap().into_inner().num_unfinished, 0);
    assert_eq!(tokens.unwrap(), expected(&endless(1, 200)));
    let (status, log) = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn a_worker_ends_with_its_launcher_when_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(&directory, &["--exit-with-stdin"]).await;

    worker.close_stdin();

    let (status, log) = worker.ended().await;
    assert_eq!(status.code(), Some(0), "{log}");
}

#[tokio::test]
async fn a_worker_that_cannot_start_says_why_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let running = Worker::start(&directory, &[]).await;
    let broken = directory.path().join("broken.gguf");
    std::fs::write(&broken, b"GGUF and then nothing of use").unwrap();
    let other = tempfile::tempdir().unwrap();
    let long = ["--block-size", "1", "--num-blocks", "16777216", "--max-model-len", "16777216"];
    let cases: [(&tempfile::TempDir, &[&str], &str); 5] = [
        (&directory, &[], "another process listens there"),
        (&other, &["--model", broken.to_str().unwrap()], "broken.gguf"),
        (&other, &["--listen", "0.0.0.0:0"], "--allow-remote"),
        (&other, &["--max-model-len", "1000000"], "--max-model-len"),
        (&other, &long, "lower --max-num-seqs or --max-model-len"),
    ];
    for (directory, args, reason) in cases {
        let mut command = command(directory, &[]);
        if args.first() == Some(&"--model") || args.first() == Some(&"--listen") {
            // Given twice, a flag is refused for that.
            command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sconce"));
            let listen = format!("unix:{}/w", directory.path().display());
            let defaults = [("--model", "hash"), ("--listen", listen.as_str())];
            command.arg("worker").args(args);
            for (flag, value) in defaults.iter().filter(|(flag, _)| *flag != args[0]) {
                command.args([flag, value]);
            }
        } else if !args.is_empty() {
            command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sconce"));
            let listen = format!("unix:{}/w", directory.path().display());
            command.args(["worker", "--model", "hash", "--listen", &listen]).args(args);
        }
        let output = tokio::time::timeout(LONG, command.output()).await.unwrap().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{args:?}: {log}");
        assert!(log.contains(reason), "{args:?}: {log}");
        assert!(output.stdout.is_empty(), "{args:?}");
    }
    let dispatcher = dispatcher(&[&running]).await;
    assert!(dispatcher.status()[0].ready);
}
