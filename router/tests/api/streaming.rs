//! The rules of streams that clients depend on, each with its test.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Response;
use sconce_proto::worker::Finish;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::service::{start, start_with, wait};
use crate::worker::{LONG, Received};

/// The data of a stream's events. Anything else than data and comments fails the test.
pub(crate) fn events(text: &str) -> Vec<Value> {
    assert!(text.ends_with("\n\n"), "{text:?}");
    let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    let data =
        events.map(|event| event.strip_prefix("data: ").unwrap_or_else(|| panic!("{event}")));
    data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
}

pub(crate) async fn all(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    events(&timeout(LONG, response.text()).await.expect("the stream did not end").unwrap())
}

/// The chunks of a whole stream, which must end with `[DONE]`.
pub(crate) async fn chunks(response: Response) -> Vec<Value> {
    let mut events = all(response).await;
    assert_eq!(events.pop().unwrap(), "[DONE]");
    events
}

pub(crate) fn text_of(chunks: &[Value], index: u64) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    let own = choices.filter(|choice| choice["index"] == index);
    own.filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}

pub(crate) async fn read(response: &mut Response) -> String {
    let bytes = timeout(LONG, response.chunk()).await.expect("nothing was sent").unwrap().unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn headers_say_that_events_follow_and_nobody_may_buffer() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await.answer("a");
    let response = wait(response).await;
    let headers = response.headers();
    assert_eq!(headers["content-type"], "text/event-stream");
    assert_eq!(headers["cache-control"], "no-cache");
    assert_eq!(headers["x-accel-buffering"], "no");
    assert!(headers.contains_key("x-request-id") && !headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn every_chunk_has_its_keys_and_one_identity() {
    let mut service = start().await;
    for chat in [true, false] {
        let change = json!({"stream": true, "n": 2, "stream_options": {"include_usage": true}});
        let response = if chat { service.chat(change) } else { service.complete(change) };
        service.worker.submitted().await.answer("hello world");

        let chunks = chunks(wait(response).await).await;

        let object = if chat { "chat.completion.chunk" } else { "text_completion" };
        for chunk in &chunks {
            assert!(chunk["choices"].is_array());
            assert_eq!(chunk["object"], object);
            assert_eq!(
                (&chunk["id"], &chunk["created"]),
                (&chunks[0]["id"], &chunks[0]["created"])
            );
            assert_eq!(chunk["model"], "org/tiny");
        }
        assert_eq!(
            (text_of(&chunks, 0), text_of(&chunks, 1)),
            ("hello world".into(), "hello world".into())
        );
    }
}

#[tokio::test]
async fn a_role_comes_once_and_choices_open_in_order() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true, "n": 3}));
    let request = service.worker.submitted().await;
    request.say(2, "hello");
    request.answer("a");

    let chunks = chunks(wait(response).await).await;

    for (i, chunk) in chunks.iter().enumerate() {
        let choice = &chunk["choices"][0];
        if i < 3 {
            assert_eq!(choice["index"], i);
            assert_eq!(choice["delta"], json!({"role": "assistant", "content": ""}));
        } else {
            assert!(choice["delta"].get("role").is_none());
        }
    }
}

#[tokio::test]
async fn every_choice_ends_with_one_finish_reason() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true, "n": 2, "stop": "x"}));
    let request = service.worker.submitted().await;
    request.say(0, "ax more");
    request.say(1, "b");
    request.finish(1, Finish::Length);

    let chunks = chunks(wait(response).await).await;

    for (index, expected) in [(0, "stop"), (1, "length")] {
        let own = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|c| c["index"] == index);
        let reasons: Vec<_> = own.map(|choice| &choice["finish_reason"]).collect();
        let (last, before) = reasons.split_last().unwrap();
        assert_eq!(*last, expected);
        assert!(before.iter().all(|reason| reason.is_null()));
    }
    assert_eq!((text_of(&chunks, 0), text_of(&chunks, 1)), ("a".into(), "b".into()));
}

#[tokio::test]
async fn usage_is_a_chunk_of_its_own_at_the_end() {
    let mut service = start().await;
    let change = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = service.chat(change);
    service.worker.submitted().await.answer("abc");

    let mut chunks = chunks(wait(response).await).await;

    let last = chunks.pop().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 4);
    assert_eq!(last["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert!(chunks.iter().all(|chunk| chunk.get("usage") == Some(&Value::Null)));
}

#[tokio::test]
async fn usage_may_come_with_every_chunk() {
    let mut service = start().await;
    let change = json!({"stream": true, "stream_options": {"continuous_usage_stats": true}});
    let response = service.complete(change);
    let request = service.worker.submitted().await;
    request.say(0, "abc");
    request.finish(0, Finish::Length);

    let chunks = chunks(wait(response).await).await;

    let counts: Vec<_> =
        chunks.iter().map(|c| c["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 2, 3, 3, 3]);
}

#[tokio::test]
async fn without_being_asked_no_chunk_has_usage() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await.answer("a");
    assert!(chunks(wait(response).await).await.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn headers_are_held_until_the_first_token() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    let mut response = response;
    let early = timeout(Duration::from_millis(100), &mut response).await;
    assert!(early.is_err(), "the headers came before a token");

    request.say(0, "a");
    assert_eq!(wait(response).await.status(), 200);
}

#[tokio::test]
async fn a_long_wait_is_commented_and_nothing_else() {
    let short = Duration::from_millis(30);
    let mut service = start_with(
        |_| {},
        |limits| {
            limits.hold_headers = short;
            limits.keep_alive = short;
        },
    )
    .await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    let mut response = wait(response).await;

    for _ in 0..3 {
        assert_eq!(read(&mut response).await.trim_matches(['\n', ' ']), ":");
    }
    request.answer("a");

    assert_eq!(text_of(&chunks(response).await, 0), "a");
}

#[tokio::test]
async fn a_lost_worker_is_an_error_event_and_not_the_end() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    service.worker.die().await;

    let events = all(response).await;

    let error = &events.last().unwrap()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("server_error"), &json!("worker_lost")));
    assert_eq!(error["param"], Value::Null);
    assert!(error["message"].is_string());
    assert!(!events.contains(&json!("[DONE]")));
}

#[tokio::test]
async fn a_character_is_never_split() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    let text = "a👩‍👧 é 漢字";
    for byte in request_tokens(&request, text) {
        request.step(vec![request.token(0, byte)]);
    }
    request.finish(0, Finish::Length);

    let chunks = chunks(wait(response).await).await;

    assert_eq!(text_of(&chunks, 0), text);
    assert!(!chunks.iter().any(|chunk| chunk.to_string().contains('\u{fffd}')));
}

fn request_tokens(request: &Received, text: &str) -> Vec<u32> {
    let tokenizer = crate::json::byte_level().to_string();
    let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer).unwrap();
    let _ = request;
    tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[tokio::test]
async fn hanging_up_cancels_the_request() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true, "n": 2}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let mut response = wait(response).await;
    read(&mut response).await;

    drop(response);

    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
}

#[tokio::test]
async fn hanging_up_before_the_first_token_cancels_the_request() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    response.abort();
    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
}

#[tokio::test]
async fn a_finished_stream_is_not_cancelled() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await.answer("a");
    chunks(wait(response).await).await;
    let response = service.chat(json!({"stream": true}));
    // The next message is the next request, not a cancellation.
    service.worker.submitted().await.answer("b");
    chunks(wait(response).await).await;
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn the_end_follows_done_at_once() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await.answer("a");
    let mut stream = wait(response).await.bytes_stream();
    let mut text = String::new();
    while let Some(bytes) = timeout(Duration::from_secs(2), stream.next()).await.expect("kept open")
    {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn a_client_that_is_behind_gets_all_of_the_text() {
    let mut service =
        start_with(|info| (info.max_model_len, info.num_blocks) = (100_000, 10_000), |_| {}).await;
    let response = service.chat(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    // Nobody reads yet; the tokens pile up.
    let text: String = (0..5000).map(|i| format!("{i} ")).collect();
    request.say(0, &text);
    request.finish(0, Finish::Length);

    assert_eq!(text_of(&chunks(response).await, 0), format!("a{text}"));
}

#[tokio::test]
async fn logprobs_are_streamed_with_their_text() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true, "logprobs": true}));
    let request = service.worker.submitted().await;
    for token in ["h", "e"] {
        let token = request.token(0, request.id_of(token));
        let logprobs = crate::worker::logprobs(-1.5, &[]);
        request.step(vec![sconce_proto::worker::TokenOutput { logprobs, ..token }]);
    }
    request.finish(0, Finish::StopToken);

    let chunks = chunks(wait(response).await).await;

    let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let entries: Vec<_> = choices
        .filter_map(|choice| choice["logprobs"]["content"].as_array())
        .flatten()
        .map(|entry| (entry["token"].as_str().unwrap(), entry["logprob"].as_f64().unwrap()))
        .collect();
    assert_eq!(entries, [("h", -1.5), ("e", -1.5)]);
}
