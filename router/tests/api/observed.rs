//! What requests leave in the metrics.

use serde_json::json;

use sconce_proto::worker::TokenOutput;
use sconce_proto::worker::rejected::Reason;

use crate::service::{answer, start, wait};

/// The value of the first series whose line begins so and has all of these labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let mut lines = metrics.lines().filter(|line| line.starts_with(name));
    let line = lines.find(|line| labels.iter().all(|label| line.contains(label)))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_request_is_measured() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    let first = TokenOutput { num_cached: Some(16), ..request.token(0, 65) };
    request.step(vec![first]);
    let response = wait(response).await;
    let metrics = service.text("/metrics").await;
    assert_eq!(value(&metrics, "sconce_open_streams", &[]), Some(1.0));
    request.answer("b");
    response.text().await.unwrap();

    let rejected = service.chat(json!({}));
    service.worker.submitted().await.reject(Reason::QueueFull, "full");
    assert_eq!(answer(wait(rejected).await).await.status, 429);

    let metrics = service.text("/metrics").await;
    let num_prompt = request.submit.prompt.len() as f64;
    for (name, labels, expected) in [
        ("sconce_open_streams", &[][..], 0.0),
        ("sconce_prompt_tokens_total", &[], 2.0 * num_prompt),
        ("sconce_generation_tokens_total", &[], 3.0),
        ("sconce_time_to_first_token_seconds_count", &[], 1.0),
        ("sconce_inter_token_latency_seconds_count", &[], 2.0),
        ("sconce_requests_rejected_total", &["reason=\"queue_full\""], 1.0),
        ("sconce_request_success_total", &["finished_reason=\"stop\""], 1.0),
    ] {
        assert_eq!(value(&metrics, name, labels), Some(expected), "{name}\n{metrics}");
    }
    assert_eq!(value(&metrics, "sconce_request_success_total", &["\"abort\""]), None);
}
