//! Anthropic's Messages API: what reaches the worker, what comes back, and in which order.

use reqwest::Response;
use serde_json::{Value, json};
use tokio::time::timeout;

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::{Finish, ModelInfo, TokenOutput};

use crate::service::{Service, answer, start, start_with, wait};
use crate::worker::LONG;

/// A model whose template has a place for thoughts.
fn thinking(info: &mut ModelInfo) {
    info.reasoning_parser = "think".into();
    info.max_model_len = 4096;
    info.num_blocks = 1024;
}

fn roomy(info: &mut ModelInfo) {
    (info.max_model_len, info.num_blocks) = (4096, 1024);
}

fn weather() -> Value {
    json!([{
        "name": "weather", "description": "Tells the weather",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }])
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

/// The data of a stream's events, whose own lines must name their types.
async fn events(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = timeout(LONG, response.text()).await.expect("the stream did not end").unwrap();
    assert!(text.ends_with("\n\n"), "{text:?}");
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap_or_else(|| panic!("{event:?}"));
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_message_is_answered_with_usage() {
    let mut service = start().await;
    let response = service.message(json!({
        "system": "be kind", "temperature": 0.5, "top_p": 0.9, "top_k": 40, "max_tokens": 7,
        "metadata": {"user_id": null}, "service_tier": "auto", "unknown": 1,
    }));
    let request = service.worker.submitted().await;
    assert_eq!(
        request.prompt(),
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    let sampling = request.submit.sampling.clone().unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 40));
    assert_eq!(sampling.max_tokens, 7);
    request.step(vec![TokenOutput { num_cached: Some(16), ..request.token(0, 65) }]);
    request.say(0, " é");
    request.finish(0, Finish::StopToken);

    let answer = answer(wait(response).await).await;

    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["request-id"], answer.headers["x-request-id"]);
    let body = answer.body;
    assert!(body["id"].as_str().unwrap().starts_with("msg_"));
    assert_eq!((&body["type"], &body["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(body["model"], "org/tiny");
    assert_eq!(body["content"][0]["type"], "text");
    assert!(body["content"][0]["text"].as_str().unwrap().ends_with(" é"));
    assert_eq!((&body["stop_reason"], &body["stop_sequence"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(
        body["usage"],
        json!({
            "input_tokens": request.submit.prompt.len() - 16, "cache_read_input_tokens": 16,
            "cache_creation_input_tokens": 0, "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 0},
        })
    );
}

#[tokio::test]
async fn a_stream_has_its_events_in_order() {
    let mut service = start().await;
    let response = service.message(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request
        .step(vec![TokenOutput { num_cached: Some(16), ..request.token(0, request.id_of("h")) }]);
    request.say(0, "\"i\"\n");
    request.finish(0, Finish::Length);

    let events = events(wait(response).await).await;

    let types = types(&events);
    assert_eq!(types[..2], ["message_start", "content_block_start"]);
    assert_eq!(types[types.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let message = &events[0]["message"];
    assert_eq!((&message["content"], &message["stop_reason"]), (&json!([]), &Value::Null));
    assert_eq!(message["usage"]["cache_read_input_tokens"], 16);
    assert_eq!(
        events[1],
        json!({
            "type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""},
        })
    );
    let deltas = &events[2..events.len() - 3];
    assert!(deltas.iter().all(|event| event["index"] == 0));
    assert!(deltas.iter().all(|event| event["delta"]["type"] == "text_delta"));
    let text: String =
        deltas.iter().map(|event| event["delta"]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "h\"i\"\n");
    let end = &events[events.len() - 2];
    assert_eq!(end["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert_eq!(end["usage"]["output_tokens"], 5);
}

#[tokio::test]
async fn the_stop_sequence_that_matched_is_named() {
    let mut service = start().await;
    for stream in [false, true] {
        let change = json!({"stream": stream, "stop_sequences": ["never", "END"]});
        let response = service.message(change);
        let request = service.worker.submitted().await;
        request.say(0, "one END two");

        let response = wait(response).await;
        let end = if stream {
            let events = events(response).await;
            events[events.len() - 2]["delta"].clone()
        } else {
            let body = answer(response).await.body;
            assert_eq!(body["content"], json!([{"type": "text", "text": "one "}]));
            body
        };

        assert_eq!(end["stop_reason"], "stop_sequence");
        assert_eq!(end["stop_sequence"], "END");
        assert_eq!(service.worker.cancelled().await, request.submit.request_id);
    }
}

#[tokio::test]
async fn an_answer_of_nothing_has_an_empty_text() {
    let mut service = start().await;
    let response = service.message(json!({}));
    service.worker.submitted().await.finish(0, Finish::StopToken);
    let body = answer(wait(response).await).await.body;
    assert_eq!(body["content"], json!([{"type": "text", "text": ""}]));
}

#[tokio::test]
async fn thoughts_text_and_calls_are_blocks() {
    let mut service = start_with(thinking, |_| {}).await;
    for stream in [false, true] {
        let change = json!({"stream": stream, "tools": weather()});
        let response = service.message(change);
        let request = service.worker.submitted().await;
        request.say(0, "<think>\nhm\n</think>\n\nLet me see.\n");
        request.say(0, CALL);
        request.finish(0, Finish::StopToken);

        let response = wait(response).await;
        let content =
            if stream { streamed(&events(response).await) } else { whole(response).await };

        let blocks = content.as_array().unwrap();
        assert_eq!(blocks.len(), 3, "{content}");
        assert_eq!(blocks[0], json!({"type": "thinking", "thinking": "hm", "signature": ""}));
        assert_eq!(blocks[1], json!({"type": "text", "text": "Let me see."}));
        assert!(blocks[2]["id"].as_str().unwrap().starts_with("toolu_"));
        assert_eq!(
            (&blocks[2]["type"], &blocks[2]["name"], &blocks[2]["input"]),
            (&json!("tool_use"), &json!("weather"), &json!({"city": "Rome"}))
        );
    }
}

async fn whole(response: Response) -> Value {
    let body = answer(response).await.body;
    assert_eq!(body["stop_reason"], "tool_use");
    body["content"].clone()
}

/// The content that a stream's events build up.
fn streamed(events: &[Value]) -> Value {
    let mut content: Vec<Value> = Vec::new();
    let mut json = String::new();
    let mut is_open = false;
    for event in &events[1..events.len() - 2] {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert!(!is_open && event["index"] == content.len());
                is_open = true;
                content.push(event["content_block"].clone());
            }
            "content_block_delta" => {
                assert!(is_open && event["index"] == content.len() - 1);
                let (delta, block) = (&event["delta"], content.last_mut().unwrap());
                match delta["type"].as_str().unwrap() {
                    "input_json_delta" => json.push_str(delta["partial_json"].as_str().unwrap()),
                    kind => {
                        let field = kind.strip_suffix("_delta").unwrap();
                        let text = block[field].as_str().unwrap().to_owned();
                        block[field] = (text + delta[field].as_str().unwrap()).into();
                    }
                }
            }
            "content_block_stop" => {
                assert!(is_open);
                is_open = false;
                let block = content.last_mut().unwrap();
                if block["type"] == "tool_use" {
                    assert_eq!(block["input"], json!({}));
                    block["input"] = serde_json::from_str(&std::mem::take(&mut json)).unwrap();
                }
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    content.into()
}

#[tokio::test]
async fn a_call_that_was_cut_has_no_input_and_its_json_is_streamed_as_it_is() {
    let mut service = start_with(roomy, |_| {}).await;
    for stream in [false, true] {
        let response = service.message(json!({"stream": stream, "tools": weather()}));
        let request = service.worker.submitted().await;
        request.say(0, CALL.split_once("Rome").unwrap().0);
        request.finish(0, Finish::Length);

        let response = wait(response).await;
        if stream {
            let events = events(response).await;
            let parts = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str());
            assert_eq!(parts.collect::<String>(), "{\"city\": \"");
            assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], "max_tokens");
        } else {
            let body = answer(response).await.body;
            assert_eq!(body["content"][0]["input"], json!({}));
            assert_eq!(body["stop_reason"], "max_tokens");
        }
    }
}

#[tokio::test]
async fn a_forced_tool_has_a_grammar_and_results_go_back() {
    let mut service = start_with(roomy, |_| {}).await;
    let response = service.message(json!({
        "tools": weather(), "tool_choice": {"type": "tool", "name": "weather"},
    }));
    let request = service.worker.submitted().await;
    assert!(request.submit.sampling.as_ref().unwrap().grammar.is_some());
    request.answer(CALL);
    let content = whole(wait(response).await).await;

    let _response = service.message(json!({"tools": weather(), "messages": [
        {"role": "user", "content": "how is it?"},
        {"role": "assistant", "content": content},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": content[0]["id"], "content": "sunny"},
        ]},
    ]}));
    let prompt = service.worker.submitted().await.prompt();
    assert!(prompt.contains("\"city\":\"Rome\""), "{prompt}");
    assert!(prompt.contains("<tool_response>\nsunny\n</tool_response>"), "{prompt}");
}

#[tokio::test]
async fn an_assistants_last_turn_is_continued() {
    let mut service = start().await;
    let _response = service.message(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "The answer is ("},
    ]}));
    assert_eq!(
        service.worker.submitted().await.prompt(),
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nThe answer is ("
    );
}

#[tokio::test]
async fn tokens_are_counted_without_generating() {
    let mut service = start().await;
    let _response = service.message(json!({"system": "s"}));
    let num_prompt = service.worker.submitted().await.submit.prompt.len();
    let count = async |service: &Service, body: Value| {
        let response = service.post("/v1/messages/count_tokens", body.to_string());
        answer(wait(response).await).await
    };

    let messages = json!([{"role": "user", "content": "hi"}]);
    let body = json!({"model": "org/tiny", "system": "s", "messages": messages});
    let counted = count(&service, body).await;
    assert_eq!((counted.status, counted.body), (200, json!({"input_tokens": num_prompt})));

    // More than the context holds, which no generation could take.
    let messages = json!([{"role": "user", "content": "word ".repeat(100)}]);
    let long = count(&service, json!({"model": "org/tiny", "messages": messages})).await;
    assert!(long.body["input_tokens"].as_u64().unwrap() > 256, "{}", long.body);

    let wrong = count(&service, json!({"model": "org/tiny"})).await;
    assert_eq!(
        (wrong.status, &wrong.body["error"]["type"]),
        (400, &json!("invalid_request_error"))
    );
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn errors_have_anthropics_shape() {
    let mut service = start().await;
    let text = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    for (change, status, kind, named) in [
        (json!({"max_tokens": null}), 400, "invalid_request_error", "max_tokens"),
        (json!({"temperature": 1.5}), 400, "invalid_request_error", "temperature"),
        (json!({"max_tokens": 100_000}), 400, "invalid_request_error", "context"),
        (json!({"stop_sequences": [""]}), 400, "invalid_request_error", "stop_sequences[0]"),
        (json!({"container": "c"}), 400, "invalid_request_error", "container"),
        (json!({"mcp_servers": [{}]}), 400, "invalid_request_error", "mcp_servers"),
        (
            text(json!({"type": "image", "source": {"type": "url", "url": "x"}})),
            400,
            "invalid_request_error",
            "messages[0].content[0]",
        ),
        (json!({"model": "nobody"}), 404, "not_found_error", "nobody"),
    ] {
        let refused = answer(wait(service.message(change)).await).await;

        let error = &refused.body["error"];
        assert_eq!((refused.status, error["type"].as_str()), (status, Some(kind)), "{error}");
        assert_eq!(refused.body["type"], "error");
        assert_eq!(refused.body["request_id"], refused.headers["request-id"].to_str().unwrap());
        assert!(error["message"].as_str().unwrap().contains(named), "{error}");
        assert!(service.worker.is_idle());
    }
}

#[tokio::test]
async fn what_the_worker_refuses_can_be_retried() {
    let mut service = start().await;
    let response = service.message(json!({"stream": true}));
    service.worker.submitted().await.reject(Reason::QueueFull, "full");
    let full = answer(wait(response).await).await;
    assert_eq!((full.status, &full.body["error"]["type"]), (429, &json!("rate_limit_error")));
    assert!(full.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error() {
    let mut service = start().await;
    let response = service.message(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    service.worker.die().await;

    let events = events(response).await;

    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")));
    assert!(!types(&events).contains(&"message_stop"));
}

#[tokio::test]
async fn a_silent_stream_is_pinged() {
    let hasty = |limits: &mut sconce_router::config::Limits| {
        limits.hold_headers = std::time::Duration::from_millis(1);
        limits.keep_alive = std::time::Duration::from_millis(1);
    };
    let mut service = start_with(|_| {}, hasty).await;
    let response = service.message(json!({"stream": true}));
    let request = service.worker.submitted().await;
    let response = wait(response).await;
    request.answer("a");

    let events = events(response).await;

    assert_eq!(events[0], json!({"type": "ping"}));
    assert_eq!(types(&events).last(), Some(&"message_stop"));
}

#[tokio::test]
async fn anthropics_clients_get_models_in_pages() {
    const VERSION: (&str, &str) = ("anthropic-version", "2023-06-01");
    let service = start().await;
    let model = json!({
        "id": "org/tiny", "type": "model", "display_name": "org/tiny",
        "created_at": "2023-11-14T22:13:20Z", "lifecycle": "active",
        "max_input_tokens": 256, "max_tokens": 256,
    });

    let page = service.get_with("/v1/models?limit=1", VERSION).await;
    let next = service.get_with("/v1/models?limit=1&after_id=org%2Ftiny", VERSION).await;
    let one = service.get_with("/v1/models/org/tiny", VERSION).await;

    let expected = json!({
        "data": [model], "has_more": false, "first_id": "org/tiny", "last_id": "org/tiny",
    });
    assert_eq!((page.status, page.body), (200, expected));
    let expected = json!({"data": [], "has_more": false, "first_id": null, "last_id": null});
    assert_eq!((next.status, next.body), (200, expected));
    assert_eq!((one.status, one.body), (200, model));
    for (path, status, kind) in [
        ("/v1/models?limit=0", 400, "invalid_request_error"),
        ("/v1/models?limit=%ff", 400, "invalid_request_error"),
        ("/v1/models/nobody", 404, "not_found_error"),
    ] {
        let refused = service.get_with(path, VERSION).await;
        assert_eq!((refused.status, refused.body["type"].as_str()), (status, Some("error")));
        assert_eq!(refused.body["error"]["type"], kind);
        assert_eq!(refused.headers["request-id"], *refused.body["request_id"].as_str().unwrap());
    }
    // Others ignore what is not theirs.
    assert_eq!(service.get("/v1/models?limit=0").await.body["object"], "list");
}
