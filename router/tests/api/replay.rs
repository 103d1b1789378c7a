//! Clients that come back: to a stream whose connection broke, and with a request that was answered.

mod idempotency;
mod resume;

use reqwest::{Method, Response};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::service::Service;

/// Sends a chat request with these headers; its answer is awaited apart.
fn chat(service: &Service, stream: bool, headers: &[(&str, &str)]) -> JoinHandle<Response> {
    let body = json!({
        "model": "org/tiny", "stream": stream, "messages": [{"role": "user", "content": "hi"}],
    });
    send(service, "/v1/chat/completions", (body.to_string(), headers))
}

fn send(
    service: &Service,
    path: &str,
    (body, headers): (String, &[(&str, &str)]),
) -> JoinHandle<Response> {
    let request = service.request(Method::POST, path).body(body);
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    tokio::spawn(async move { request.send().await.unwrap() })
}

/// The value of a metric without labels.
async fn metric(service: &Service, name: &str) -> f64 {
    let metrics = service.text("/metrics").await;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}
