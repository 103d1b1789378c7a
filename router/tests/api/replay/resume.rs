//! Streams that survive their connection.

use std::time::Duration;

use reqwest::{Method, Response};
use sconce_proto::worker::Finish;
use sconce_router::config::AuthMode;
use sconce_router::keys::Keys;
use sconce_router::shutdown::Stage;
use serde_json::{Value, json};

use super::{chat, metric, send};
use crate::service::{Service, answer, start, start_configured, start_with, wait};
use crate::streaming::{all, chunks, events, read, text_of};

const RESUMABLE: &[(&str, &str)] = &[("x-stream-resumable", "true")];

fn id(response: &Response) -> String {
    response.headers()["x-stream-id"].to_str().unwrap().to_owned()
}

async fn resume(service: &Service, id: &str, after: usize) -> Response {
    let path = format!("/v1/streams/{id}?after={after}");
    service.request(Method::GET, &path).send().await.unwrap()
}

/// Reads until there are so many events.
async fn read_events(response: &mut Response, num: usize) -> Vec<Value> {
    let mut received = Vec::new();
    while received.len() < num {
        received.extend(events(&read(response).await));
    }
    received
}

#[tokio::test]
async fn a_stream_goes_on_where_its_connection_broke() {
    let mut service = start().await;
    let response = chat(&service, true, RESUMABLE);
    let request = service.worker.submitted().await;
    request.say(0, "ab");
    let mut response = wait(response).await;
    let id = id(&response);
    let mut received = read_events(&mut response, 3).await;

    drop(response);
    request.say(0, "cd");
    request.finish(0, Finish::StopToken);
    let rest = all(resume(&service, &id, received.len()).await).await;

    received.extend(rest);
    assert_eq!(received.pop().unwrap(), "[DONE]");
    assert_eq!(text_of(&received, 0), "abcd");
    // For some time it can be had again, from any event.
    let again = chunks(resume(&service, &id, 0).await).await;
    assert_eq!(again, received);
    let nothing = resume(&service, &id, received.len() + 1).await;
    assert_eq!((nothing.status().as_u16(), nothing.text().await.unwrap()), (200, String::new()));
    assert!(service.worker.is_idle());
    assert_eq!(metric(&service, "sconce_streams_resumed_total").await, 3.0);
    assert_eq!(metric(&service, "sconce_detached_streams").await, 0.0);
}

#[tokio::test]
async fn a_stream_that_is_resumed_goes_on_live() {
    let mut service = start().await;
    let response = chat(&service, true, RESUMABLE);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let mut response = wait(response).await;
    let id = id(&response);
    read_events(&mut response, 2).await;
    drop(response);

    let mut resumed = resume(&service, &id, 2).await;
    request.say(0, "b");
    assert_eq!(text_of(&read_events(&mut resumed, 1).await, 0), "b");
    request.answer("c");
    assert_eq!(text_of(&chunks(resumed).await, 0), "c");
}

#[tokio::test]
async fn a_stream_that_nobody_comes_back_to_is_cancelled() {
    let grace = |limits: &mut sconce_router::config::Limits| {
        limits.stream_grace = Duration::from_millis(50);
    };
    let mut service = start_with(|_| {}, grace).await;
    let response = chat(&service, true, RESUMABLE);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    let id = id(&response);

    drop(response);

    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
    let missing = answer(resume(&service, &id, 0).await).await;
    assert_eq!((missing.status, &missing.body["error"]["code"]), (404, &json!("stream_not_found")));
    assert_eq!(metric(&service, "sconce_streams_abandoned_total").await, 1.0);
}

#[tokio::test]
async fn a_stream_that_did_not_ask_for_it_has_no_id() {
    let mut service = start().await;
    for headers in [&[][..], &[("x-stream-resumable", "false")]] {
        let response = chat(&service, true, headers);
        service.worker.submitted().await.say(0, "a");
        let response = wait(response).await;
        assert!(!response.headers().contains_key("x-stream-id"));
        drop(response);
        service.worker.cancelled().await;
    }
    let whole = chat(&service, false, RESUMABLE);
    service.worker.submitted().await.answer("a");
    let whole = wait(whole).await;
    assert!(whole.status() == 200 && !whole.headers().contains_key("x-stream-id"));
}

#[tokio::test]
async fn only_the_key_that_began_a_stream_can_resume_it() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("keys.db");
    let keys = Keys::open(&database).await.unwrap();
    let mut bearers = Vec::new();
    for name in ["owner", "other"] {
        let created = keys.create(name).await.unwrap();
        bearers.push(format!("Bearer {}", created.key.expose()));
    }
    let mut service = start_configured(
        |_| {},
        |config| {
            (config.database, config.auth) = ((&database).into(), AuthMode::Keys);
        },
    )
    .await;
    let headers = [RESUMABLE[0], ("authorization", &bearers[0])];
    let response = chat(&service, true, &headers);
    service.worker.submitted().await.answer("a");
    let response = wait(response).await;
    let path = format!("/v1/streams/{}", id(&response));

    let mut bodies = Vec::new();
    for (path, bearer) in [(&*path, &bearers[1]), ("/v1/streams/stream_0", &bearers[0])] {
        let request = service.request(Method::GET, path).header("authorization", bearer);
        let refused = answer(request.send().await.unwrap()).await;
        assert_eq!(refused.status, 404);
        bodies.push(refused.body);
    }
    assert_eq!(bodies[0], bodies[1]);
    let own = service.request(Method::GET, &path).header("authorization", &bearers[0]);
    assert_eq!(text_of(&chunks(own.send().await.unwrap()).await, 0), "a");
}

#[tokio::test]
async fn a_stream_says_when_events_are_gone_or_did_not_come_yet() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answer_bytes = 1000).await;
    let response = chat(&service, true, RESUMABLE);
    service.worker.submitted().await.answer("a text of some tokens");
    let response = wait(response).await;
    let id = id(&response);
    let num_events = all(response).await.len();

    let gone = answer(resume(&service, &id, 0).await).await;
    let error = &gone.body["error"];
    assert_eq!((gone.status, &error["code"]), (410, &json!("stream_events_gone")));
    assert_eq!(error["param"], "after");
    assert_eq!(all(resume(&service, &id, num_events - 1).await).await, ["[DONE]"]);
    for after in [(num_events + 1).to_string(), "x".to_owned()] {
        let path = format!("/v1/streams/{id}?after={after}");
        let refused = service.get(&path).await;
        assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!("after")));
    }
}

#[tokio::test]
async fn nothing_is_lost_of_what_comes_while_nobody_reads() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answer_bytes = 2000).await;
    let response = chat(&service, true, RESUMABLE);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let mut response = wait(response).await;
    let id = id(&response);
    let mut received = read_events(&mut response, 2).await;
    drop(response);

    let text = "far more than the buffer takes ".repeat(5);
    request.answer(&text);
    while metric(&service, "sconce_kept_answer_bytes").await < 1500.0 {
        tokio::task::yield_now().await;
    }

    received.extend(chunks(resume(&service, &id, received.len()).await).await);
    assert_eq!(text_of(&received, 0), format!("a{text}"));
}

#[tokio::test]
async fn a_message_is_resumed_in_its_own_format() {
    let mut service = start().await;
    let body = json!({
        "model": "org/tiny", "max_tokens": 100, "stream": true,
        "messages": [{"role": "user", "content": "hi"}],
    });
    let response = send(&service, "/v1/messages", (body.to_string(), RESUMABLE));
    service.worker.submitted().await.answer("ab");
    let response = wait(response).await;
    let id = id(&response);
    let whole = response.text().await.unwrap();

    let events: Vec<_> = whole.split_inclusive("\n\n").collect();
    assert!(events[0].starts_with("event: message_start\n"));
    for after in 0..=events.len() {
        let resumed = resume(&service, &id, after).await;
        assert_eq!(resumed.headers()["content-type"], "text/event-stream");
        assert_eq!(resumed.text().await.unwrap(), events[after..].concat());
    }
}

#[tokio::test]
async fn two_readers_both_get_everything() {
    let mut service = start().await;
    let response = chat(&service, true, RESUMABLE);
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    let second = resume(&service, &id(&response), 0).await;

    request.answer("b");

    let (first, second) = tokio::join!(chunks(response), chunks(second));
    assert_eq!(text_of(&first, 0), "ab");
    assert_eq!(first, second);
}

#[tokio::test]
async fn a_stream_without_reader_does_not_hold_a_shutdown_up() {
    let mut service = start().await;
    let response = chat(&service, true, RESUMABLE);
    service.worker.submitted().await.say(0, "a");
    drop(wait(response).await);

    service.stage.send_replace(Stage::Drain);

    service.worker.cancelled().await;
}

#[tokio::test]
async fn a_stream_that_there_is_no_room_for_is_served_all_the_same() {
    let mut service = start_with(|_| {}, |limits| limits.max_kept_answers = 1).await;
    let first = chat(&service, true, RESUMABLE);
    let running = service.worker.submitted().await;
    running.say(0, "a");
    let first = wait(first).await;
    let second = chat(&service, true, RESUMABLE);
    service.worker.submitted().await.answer("b");
    let second = wait(second).await;
    assert!(!second.headers().contains_key("x-stream-id"));
    assert_eq!(text_of(&chunks(second).await, 0), "b");

    // One that has ended makes room.
    running.answer("c");
    assert_eq!(text_of(&chunks(first).await, 0), "ac");
    let third = chat(&service, true, RESUMABLE);
    service.worker.submitted().await.answer("d");
    assert!(wait(third).await.headers().contains_key("x-stream-id"));
}
