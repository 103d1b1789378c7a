use crate::support::{error, header, start, status};

#[tokio::test]
async fn every_answer_has_a_request_id() {
    let router = start(|_| {}).await;
    for path in ["/live", "/who", "/nowhere", "/crash", "/metrics", "/ready"] {
        let answer = router.get(path, &[]).await;
        assert!(header(&answer, "x-request-id").unwrap().starts_with("req_"), "{path}");
    }
    let refused = router.get("/live", &[("host", "twice")]).await;
    assert_eq!(status(&refused), 400);
    assert!(header(&refused, "x-request-id").is_some());
}

#[tokio::test]
async fn a_clients_request_id_is_repeated() {
    let router = start(|_| {}).await;

    let answer = router.get("/who", &[("X-Request-Id", "trace-42")]).await;
    assert_eq!(header(&answer, "x-request-id"), Some("trace-42"));

    let answer = router.get("/live", &[("x-request-id", "two words")]).await;
    assert!(header(&answer, "x-request-id").unwrap().starts_with("req_"));
}

#[tokio::test]
async fn a_stream_has_a_request_id_before_its_first_event() {
    let router = start(|_| {}).await;
    let mut client = router.connect().await;
    client.send("GET /stream HTTP/1.1\r\nhost: localhost\r\n\r\n").await;

    let head = client.until("\r\n\r\n").await;

    assert!(header(&head, "x-request-id").is_some());
}

#[tokio::test]
async fn a_panic_is_one_answer_of_500_and_the_connection_lives() {
    let router = start(|_| {}).await;
    let mut client = router.connect().await;
    client.send("GET /crash HTTP/1.1\r\nhost: localhost\r\n\r\n").await;

    let answer = client.until("internal_error").await;
    assert_eq!(status(&answer), 500);
    assert!(!answer.contains("bug"), "the panic's message stays here");

    client.send("GET /live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(client.rest().await.contains("\r\n\r\nok"));
}

#[tokio::test]
async fn the_metrics_count_answers_by_route_and_status_and_never_by_path() {
    let router = start(|_| {}).await;
    router.get("/live", &[]).await;
    router.get("/secret-path?secret=query", &[]).await;

    let metrics = router.get("/metrics", &[("x-api-key", &router.key)]).await;

    assert!(metrics.contains(r#"sconce_http_requests_total{route="/live",status="200"} 1"#));
    assert!(metrics.contains(r#"sconce_http_requests_total{route="none",status="404"} 1"#));
    assert!(!metrics.contains("secret") && !metrics.contains(&router.key));
}

#[tokio::test]
async fn the_metrics_of_a_model_have_vllms_shape() {
    use sconce_router::metrics;
    use std::time::Duration;
    let router = start(|_| {}).await;
    let model = metrics::of("tiny", "1");
    model.accepted(7, 100, 1);
    model.first_token(Duration::from_millis(3));
    model.next_token(Duration::from_micros(300));
    model.completed(metrics::Finished::Stop, 2, Duration::from_micros(300));

    let text = router.get("/metrics", &[("x-api-key", &router.key)]).await;

    let labels = r#"{model_name="tiny",version="1""#;
    for line in [
        format!(r#"sconce_time_to_first_token_seconds_bucket{labels},le="0.005"}} 1"#),
        format!(r#"sconce_time_to_first_token_seconds_bucket{labels},le="0.0025"}} 0"#),
        format!(r#"sconce_inter_token_latency_seconds_bucket{labels},le="0.0005"}} 1"#),
        format!("sconce_request_prompt_tokens_sum{labels}}} 7"),
        format!("sconce_generation_tokens_total{labels}}} 2"),
        format!(r#"sconce_request_success_total{labels},finished_reason="stop"}} 1"#),
        "# HELP sconce_time_to_first_token_seconds".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[tokio::test]
async fn pages_of_other_origins_are_not_let_in_unless_named() {
    let origin = ("origin", "https://chat.example");
    let closed = start(|_| {}).await;
    let answer = closed.get("/live", &[origin]).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    assert_eq!(status(&closed.exchange(PREFLIGHT).await), 405);

    let open = start(|config| config.cors_origins = vec!["https://chat.example".to_owned()]).await;
    for path in ["/live", "/who", "/nowhere"] {
        let answer = open.get(path, &[origin]).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(origin.1), "{path}");
        assert!(header(&answer, "access-control-expose-headers").unwrap().contains("x-request-id"));
        assert_eq!(header(&answer, "access-control-allow-credentials"), None);
    }
    let other = open.get("/live", &[("origin", "https://chat.example.evil.example")]).await;
    assert_eq!(header(&other, "access-control-allow-origin"), None);

    let preflight = open.exchange(PREFLIGHT).await;
    assert_eq!(status(&preflight), 200);
    assert_eq!(
        header(&preflight, "access-control-allow-headers"),
        Some("authorization,content-type,x-stainless-os")
    );
}

const PREFLIGHT: &str = "OPTIONS /locked HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
    origin: https://chat.example\r\naccess-control-request-method: POST\r\n\
    access-control-request-headers: authorization,content-type,x-stainless-os\r\n\r\n";

#[tokio::test]
async fn no_workers_is_not_ready() {
    let router = start(|_| {}).await;

    for path in ["/ready", "/health"] {
        let answer = router.get(path, &[]).await;
        assert_eq!(status(&answer), 503);
        assert!(answer.contains(r#""status":"not_ready""#));
    }
    assert_eq!(error(&router.get("/nowhere", &[]).await)["code"], "unknown_url");
}
