//! Requests that are answered once, however often they are sent.

use sconce_proto::worker::rejected::Reason;
use serde_json::json;

use super::{chat, metric, send};
use crate::service::{answer, start, start_with, wait};
use crate::streaming::{chunks, text_of};

const KEY: &[(&str, &str)] = &[("idempotency-key", "order-1")];

#[tokio::test]
async fn a_repeated_request_gets_the_answer_to_the_first() {
    let mut service = start().await;
    let first = chat(&service, false, KEY);
    service.worker.submitted().await.answer("a");
    let first = answer(wait(first).await).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));

    let again = answer(wait(chat(&service, false, KEY)).await).await;

    assert_eq!((again.status, &again.body), (200, &first.body));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_ne!(again.headers["x-request-id"], first.headers["x-request-id"]);
    assert!(service.worker.is_idle());
    assert_eq!(metric(&service, "sconce_idempotent_replays_total").await, 1.0);
}

#[tokio::test]
async fn a_request_that_is_repeated_too_early_waits_even_if_the_first_hung_up() {
    let mut service = start().await;
    let first = chat(&service, false, KEY);
    let request = service.worker.submitted().await;
    let second = chat(&service, false, KEY);
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());

    request.answer("a");

    let second = answer(wait(second).await).await;
    assert_eq!(second.body["choices"][0]["message"]["content"], "a");
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn a_repeated_stream_begins_at_its_first_event() {
    let mut service = start().await;
    let first = chat(&service, true, KEY);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    drop(wait(first).await);

    let second = wait(chat(&service, true, KEY)).await;
    request.answer("b");

    assert_eq!(second.headers()["idempotent-replayed"], "true");
    let id = second.headers()["x-stream-id"].clone();
    assert_eq!(text_of(&chunks(second).await, 0), "ab");
    let third = wait(chat(&service, true, KEY)).await;
    assert_eq!(third.headers()["x-stream-id"], id);
    assert_eq!(text_of(&chunks(third).await, 0), "ab");
}

#[tokio::test]
async fn another_body_is_refused_and_another_endpoint_or_key_is_not_concerned() {
    let mut service = start().await;
    let first = chat(&service, false, KEY);
    service.worker.submitted().await.answer("a");
    wait(first).await;

    let refused = answer(wait(chat(&service, true, KEY)).await).await;
    let error = &refused.body["error"];
    assert_eq!((refused.status, &error["code"]), (422, &json!("idempotency_key_reused")));
    assert_eq!(error["param"], "idempotency-key");

    let body = json!({"model": "org/tiny", "prompt": "hi"}).to_string();
    let other = send(&service, "/v1/completions", (body, KEY));
    service.worker.submitted().await.answer("b");
    assert!(!wait(other).await.headers().contains_key("idempotent-replayed"));
    let other = chat(&service, false, &[("idempotency-key", "order-2")]);
    service.worker.submitted().await.answer("c");
    assert_eq!(wait(other).await.status(), 200);
}

#[tokio::test]
async fn what_failed_is_tried_again() {
    let mut service = start().await;
    let first = chat(&service, false, KEY);
    service.worker.submitted().await.reject(Reason::QueueFull, "full");
    let first = wait(first).await;
    assert_eq!(first.status(), 429);
    assert!(first.headers().contains_key("retry-after"));

    let again = chat(&service, false, KEY);
    service.worker.submitted().await.answer("a");
    let again = wait(again).await;
    assert_eq!(again.status(), 200);
    assert!(!again.headers().contains_key("idempotent-replayed"));
}

#[tokio::test]
async fn a_stream_that_broke_off_is_made_again() {
    let mut service = start().await;
    let first = chat(&service, true, KEY);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let first = wait(first).await;
    request.reject(Reason::Invalid, "broken");
    assert!(first.text().await.unwrap().contains("data: {\"error\""));

    let again = chat(&service, true, KEY);
    service.worker.submitted().await.answer("b");
    let again = wait(again).await;
    assert!(!again.headers().contains_key("idempotent-replayed"));
    assert_eq!(text_of(&chunks(again).await, 0), "b");
}

#[tokio::test]
async fn an_answer_that_was_too_long_to_keep_is_not_made_twice() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answer_bytes = 100).await;
    let first = chat(&service, false, KEY);
    service.worker.submitted().await.answer("a");
    let first = answer(wait(first).await).await;
    assert_eq!(first.body["choices"][0]["message"]["content"], "a");
    while metric(&service, "sconce_kept_answer_bytes").await > 0.0 {
        tokio::task::yield_now().await;
    }

    let again = answer(wait(chat(&service, false, KEY)).await).await;

    assert_eq!(again.status, 409);
    assert_eq!(again.body["error"]["code"], "idempotent_answer_gone");
    assert_eq!(again.headers["x-should-retry"], "false");
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn a_stream_that_was_too_long_to_keep_is_not_made_twice() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answer_bytes = 1000).await;
    let first = chat(&service, true, KEY);
    service.worker.submitted().await.answer("a text of some tokens");
    assert_eq!(text_of(&chunks(wait(first).await).await, 0), "a text of some tokens");

    let again = answer(wait(chat(&service, true, KEY)).await).await;

    assert_eq!(again.status, 409);
    assert_eq!(again.body["error"]["code"], "idempotent_answer_gone");
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn a_refused_message_is_worded_as_ever() {
    let service = start().await;
    for _ in 0..2 {
        let refused = answer(wait(send(&service, "/v1/messages", ("{}".into(), KEY))).await).await;
        assert_eq!((refused.status, &refused.body["type"]), (400, &json!("error")));
        assert_eq!(refused.headers["request-id"], refused.body["request_id"].as_str().unwrap());
        assert!(!refused.headers.contains_key("idempotent-replayed"));
    }
}

#[tokio::test]
async fn a_key_that_does_not_fit_is_refused() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answers = 1).await;
    let running = chat(&service, false, KEY);
    let request = service.worker.submitted().await;

    let refused = wait(chat(&service, false, &[("idempotency-key", "order-2")])).await;
    assert_eq!(refused.headers()["retry-after"], "1");
    let refused = answer(refused).await;
    assert_eq!((refused.status, &refused.body["error"]["code"]), (429, &json!("idempotency_full")));
    let unfit =
        answer(wait(chat(&service, false, &[("idempotency-key", "two words")])).await).await;
    assert_eq!((unfit.status, &unfit.body["error"]["param"]), (400, &json!("idempotency-key")));

    request.answer("a");
    assert_eq!(wait(running).await.status(), 200);
}
