use std::time::{Duration, Instant};

use sconce_router::shutdown::Stage;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{LONG, start, status};

const STREAM: &str = "GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Waits until the port takes no connection any more.
async fn closed(address: std::net::SocketAddr) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            ticks.tick().await;
        }
    };
    timeout(LONG, refused).await.unwrap();
}

#[tokio::test]
async fn a_running_stream_is_finished_and_nothing_new_begins() {
    let router = start(|_| {}).await;
    let mut client = router.connect().await;
    client.send(STREAM).await;
    client.until("\r\n\r\n").await;

    router.stage.send_replace(Stage::Drain);
    closed(router.address).await;
    router.frames.send("after the drain began").unwrap();
    router.frames.send("end").unwrap();

    let rest = client.rest().await;
    assert!(rest.contains("after the drain began") && rest.ends_with("0\r\n\r\n"), "{rest}");
    router.end(Stage::Drain).await;
}

#[tokio::test]
async fn idle_and_silent_connections_do_not_hold_the_end_up() {
    let router = start(|_| {}).await;
    let mut idle = router.connect().await;
    idle.send("GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    idle.until("\r\n\r\nok").await;
    let silent = router.connect().await;

    let started = Instant::now();
    router.end(Stage::Drain).await;

    assert!(started.elapsed() < Duration::from_secs(20));
    assert_eq!(idle.rest().await, "");
    drop(silent);
}

#[tokio::test]
async fn a_stream_that_does_not_end_is_cut_at_the_deadline_without_looking_complete() {
    let router = start(|config| config.drain_timeout = Duration::from_millis(300)).await;
    let mut client = router.connect().await;
    client.send(STREAM).await;
    client.until("\r\n\r\n").await;

    router.end(Stage::Drain).await;

    assert!(!client.rest().await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let router = start(|_| {}).await;
    let mut client = router.connect().await;
    client.send(STREAM).await;
    client.until("\r\n\r\n").await;
    router.stage.send_replace(Stage::Drain);
    closed(router.address).await;

    let started = Instant::now();
    router.end(Stage::Stop).await;

    assert!(started.elapsed() < Duration::from_secs(20));
    assert!(!client.rest().await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn the_first_signal_drains_and_the_second_stops() {
    let mut stages = sconce_router::shutdown::on_signals(false).unwrap();
    for (signal, expected) in [("-TERM", Stage::Drain), ("-INT", Stage::Stop)] {
        let pid = std::process::id().to_string();
        std::process::Command::new("kill").args([signal, &pid]).status().unwrap();

        timeout(LONG, stages.changed()).await.unwrap().unwrap();
        assert_eq!(*stages.borrow_and_update(), expected);
    }
}

#[tokio::test]
async fn readiness_turns_before_the_port_closes() {
    let router = start(|config| config.shutdown_delay = Duration::from_secs(2)).await;

    router.stage.send_replace(Stage::Drain);

    let answer = router.get("/ready", &[]).await;
    assert_eq!(status(&answer), 503);
    assert!(answer.contains("draining"));
    assert_eq!(status(&router.get("/live", &[]).await), 200);
    router.end(Stage::Stop).await;
}
