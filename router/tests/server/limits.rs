use std::time::{Duration, Instant};

use crate::support::{Client, Router, error, header, start, status};

const SHORT: Duration = Duration::from_millis(300);

fn post(path: &str, extra: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{extra}\r\n"
    )
}

async fn takes_about(limit: Duration, wait: impl Future<Output = String>) -> String {
    let started = Instant::now();
    let answer = wait.await;
    let took = started.elapsed();
    assert!(took >= limit.mul_f32(0.8) && took < limit + Duration::from_secs(20), "{took:?}");
    answer
}

async fn patient(idle: Duration) -> Router {
    start(|config| {
        config.limits.header_timeout = SHORT;
        config.limits.body_timeout = SHORT;
        config.limits.idle_timeout = idle;
    })
    .await
}

#[tokio::test]
async fn a_half_sent_head_is_closed_when_its_time_is_over() {
    let router = patient(Duration::from_secs(60)).await;
    let mut client = router.connect().await;
    client.send("GET /live HTTP/1.1\r\nhost: local").await;

    let answer = takes_about(SHORT, client.rest()).await;

    assert_eq!(answer, "");
}

#[tokio::test]
async fn a_head_that_drips_does_not_buy_time() {
    let router = patient(Duration::from_secs(60)).await;
    let (mut read, mut write) = tokio::io::split(router.connect().await.0);
    let dripping = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let mut ticks = tokio::time::interval(SHORT / 10);
        for byte in "GET /live HTTP/1.1\r\nx-filler: ".bytes().chain(std::iter::repeat(b'x')) {
            ticks.tick().await;
            if write.write_all(&[byte]).await.is_err() {
                return;
            }
        }
    });

    takes_about(SHORT, async {
        use tokio::io::AsyncReadExt;
        let mut bytes = Vec::new();
        let _ = read.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    })
    .await;
    dripping.abort();
}

#[tokio::test]
async fn an_idle_connection_outlives_the_head_limit_but_not_the_idle_limit() {
    let idle = 4 * SHORT;
    let router = patient(idle).await;
    let mut client = router.connect().await;
    client.send("GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    client.until("\r\n\r\nok").await;

    takes_about(idle, client.rest()).await;
}

#[tokio::test]
async fn a_half_sent_second_head_is_closed_by_the_head_limit() {
    let router = patient(Duration::from_secs(60)).await;
    let mut client = router.connect().await;
    client.send("GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    client.until("\r\n\r\nok").await;
    client.send("GET /li").await;

    takes_about(SHORT, client.rest()).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_408() {
    let router = patient(Duration::from_secs(60)).await;
    let mut client = router.connect().await;
    client.send(post("/echo", "content-length: 100\r\n") + "{").await;

    let answer = takes_about(SHORT, client.until("\"error\"")).await;

    assert_eq!(status(&answer), 408);
    assert_eq!(header(&answer, "x-should-retry"), Some("false"));
}

#[tokio::test]
async fn a_long_url_is_answered_414() {
    let router = start(|_| {}).await;

    let answer = router.get(&format!("/live?{}", "x".repeat(2048)), &[]).await;
    assert_eq!(status(&answer), 414);
    assert_eq!(error(&answer)["code"], "url_too_long");

    let fits = router.get(&format!("/live?{}", "x".repeat(2000)), &[]).await;
    assert_eq!(status(&fits), 200);
}

#[tokio::test]
async fn too_many_and_too_long_headers_are_answered_431() {
    let router = start(|_| {}).await;
    let many: Vec<String> = (0..70).map(|index| format!("x-{index}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    let (long, huge) = ("v".repeat(17 << 10), "v".repeat(1 << 20));

    let answer = router.get("/live", &many).await;
    assert_eq!((status(&answer), &error(&answer)["code"]), (431, &"headers_too_large".into()));
    let answer = router.get("/live", &[("x-long", &long)]).await;
    assert_eq!((status(&answer), &error(&answer)["code"]), (431, &"headers_too_large".into()));
    // Beyond what is read at all, hyper answers, without a body.
    assert_eq!(status(&router.get("/live", &[("x-huge", &huge)]).await), 431);
    let many: Vec<String> = (0..10_000).map(|index| format!("x-{index}")).collect();
    let many: Vec<_> = many.iter().map(|name| (name.as_str(), "v")).collect();
    assert_eq!(status(&router.get("/live", &many).await), 431);
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_comes() {
    let router = start(|_| {}).await;
    for length in ["4194305", "52428800", "2147483648", "9223372036854775807"] {
        let mut client = router.connect().await;
        client.send(post("/echo", &format!("content-length: {length}\r\n"))).await;

        let answer = client.until("\"error\"").await;
        assert_eq!(status(&answer), 413, "{length}");
        assert_eq!(header(&answer, "connection"), Some("close"));
    }
}

#[tokio::test]
async fn the_refusal_of_a_large_body_arrives_although_the_client_goes_on_sending() {
    let router = start(|_| {}).await;
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let request = post("/echo", "transfer-encoding: chunked\r\n") + &chunk.repeat(8) + "0\r\n\r\n";

    let answer = router.exchange(request).await;

    assert_eq!(status(&answer), 413);
    assert_eq!(error(&answer)["code"], "request_too_large");
}

#[tokio::test]
async fn the_largest_body_fits_in_one_piece_or_in_bytes() {
    let router = start(|config| config.limits.max_body_bytes = 20_000).await;
    let whole =
        post("/echo", "connection: close\r\ncontent-length: 20000\r\n") + &"x".repeat(20_000);
    let bytes = "1\r\nx\r\n".repeat(20_000) + "0\r\n\r\n";
    let chunked = post("/echo", "connection: close\r\ntransfer-encoding: chunked\r\n") + &bytes;

    assert!(router.exchange(whole).await.ends_with("\r\n\r\n20000"));
    assert!(router.exchange(chunked).await.ends_with("\r\n\r\n20000"));
}

#[tokio::test]
async fn broken_framing_is_refused() {
    let router = start(|_| {}).await;
    for (headers, body) in [
        ("transfer-encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n"),
        ("transfer-encoding: chunked\r\n", "ffffffffffffffffff\r\nx\r\n"),
        ("content-length: 1\r\ncontent-length: 2\r\n", "xx"),
        ("content-length: -1\r\n", ""),
        ("content-length: 0x10\r\n", ""),
        ("transfer-encoding: gzip\r\n", ""),
    ] {
        let answer = router.exchange(post("/echo", headers) + body).await;
        assert_eq!(status(&answer), 400, "{headers:?} {body:?}: {answer}");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_does_not_smuggle_a_request() {
    let router = start(|_| {}).await;
    let smuggling = post("/echo", "content-length: 5\r\ntransfer-encoding: chunked\r\n")
        + "0\r\n\r\nGET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

    let answer = router.exchange(smuggling).await;

    // Chunks win (RFC 9112, 6.3), or the request is refused; the length is never what counts.
    assert!(!answer.ends_with("5"), "{answer}");
}

#[tokio::test]
async fn only_plain_json_is_taken() {
    let router = start(|_| {}).await;
    for (headers, code) in [
        ("content-type: text/plain\r\n", "unsupported_media_type"),
        ("", "unsupported_media_type"),
        ("content-type: multipart/form-data; boundary=x\r\n", "unsupported_media_type"),
        (
            "content-type: application/json\r\ncontent-encoding: gzip\r\n",
            "unsupported_content_encoding",
        ),
    ] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n{headers}\r\n{{}}"
        );
        let answer = router.exchange(request).await;
        assert_eq!((status(&answer), &error(&answer)["code"]), (415, &code.into()));
    }
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let router = start(|config| config.limits.max_connections = 2).await;
    let mut first = router.connect().await;
    let mut second = router.connect().await;
    for client in [&mut first, &mut second] {
        client.send("GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        client.until("\r\n\r\nok").await;
    }

    let answer = router.get("/live", &[]).await;
    assert_eq!(status(&answer), 503);
    assert_eq!(error(&answer)["type"], "service_unavailable_error");

    drop(first);
    second.send("GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    second.rest().await;
    assert_eq!(status(&router.get("/live", &[]).await), 200);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_hung_up_on() {
    let router = start(|config| config.limits.write_timeout = SHORT).await;
    let mut client = router.connect().await;
    client.send("GET /endless HTTP/1.1\r\nhost: localhost\r\n\r\n").await;

    // Nothing is read until the server must have given up; then what was buffered, and the end.
    let mut ticks = tokio::time::interval(SHORT * 5);
    ticks.tick().await;
    ticks.tick().await;
    let answer = client.rest().await;

    assert!(!answer.ends_with("0\r\n\r\n"), "a cut answer must not look complete");
}

#[tokio::test]
async fn many_slow_clients_do_not_hold_up_an_honest_one() {
    // Far beyond the test's own patience: it is answered while all of them are still there.
    let router = start(|config| config.limits.header_timeout = Duration::from_secs(600)).await;
    let _slow = half_sent_heads(&router).await;

    let answer = tokio::time::timeout(Duration::from_secs(60), router.get("/live", &[])).await;

    assert_eq!(status(&answer.expect("the honest client waits")), 200);
}

#[tokio::test]
async fn many_slow_clients_are_all_closed() {
    let router = patient(Duration::from_secs(60)).await;

    for client in &mut half_sent_heads(&router).await {
        assert_eq!(client.rest().await, "");
    }
}

async fn half_sent_heads(router: &Router) -> Vec<Client> {
    let mut slow = Vec::new();
    for _ in 0..300 {
        let mut client = router.connect().await;
        client.send("POST /echo HTTP/1.1\r\nhost: loc").await;
        slow.push(client);
    }
    slow
}

#[tokio::test]
async fn an_idle_stream_takes_little_memory() {
    const STREAMS: usize = 2_000;
    let router = start(|_| {}).await;
    let mut clients = Vec::with_capacity(STREAMS);
    let before = resident_bytes();
    for _ in 0..STREAMS {
        let mut client = router.connect().await;
        client.send("GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        client.until("\r\n\r\n").await;
        clients.push(client);
    }

    // The client's sockets are in this process too.
    let each = (resident_bytes() - before) / STREAMS;
    println!("{each} bytes for each idle stream");
    assert!(each < 40 << 10, "{each}");
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
