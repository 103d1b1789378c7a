//! The Responses API: what reaches the worker, what comes back and in which order, and what is kept.

use reqwest::Response;
use sconce_proto::worker::grammar::Source;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::{Finish, ModelInfo, TokenOutput};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::service::{Service, answer, start, start_with, wait};
use crate::worker::{LONG, logprobs};

/// A model whose template has a place for thoughts.
fn thinking(info: &mut ModelInfo) {
    info.reasoning_parser = "think".into();
    roomy(info);
}

fn roomy(info: &mut ModelInfo) {
    (info.max_model_len, info.num_blocks) = (4096, 1024);
}

fn weather() -> Value {
    json!([{
        "type": "function", "name": "weather", "description": "Tells the weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }])
}

const CALL: &str =
    "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

/// The data of a stream's events, whose own lines must name their types, and which are numbered.
pub(crate) async fn events(response: Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = timeout(LONG, response.text()).await.expect("the stream did not end").unwrap();
    assert!(text.ends_with("\n\n"), "{text:?}");
    let event = |(number, event): (usize, &str)| {
        let (name, data) = event.split_once('\n').unwrap_or_else(|| panic!("{event:?}"));
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        assert_eq!(data["sequence_number"], number);
        data
    };
    text.split_terminator("\n\n").enumerate().map(event).collect()
}

pub(crate) fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// Asks, lets the worker answer, and returns the response.
async fn respond(service: &mut Service, change: Value, text: &str) -> Value {
    let response = service.respond(change);
    service.worker.submitted().await.answer(text);
    let answer = answer(wait(response).await).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

/// The prompt that the worker gets.
async fn prompt(service: &mut Service, change: Value) -> String {
    let response = service.respond(change);
    let request = service.worker.submitted().await;
    request.answer("x");
    wait(response).await;
    request.prompt()
}

#[tokio::test]
async fn a_response_repeats_the_request_and_has_output_and_usage() {
    let mut service = start().await;
    let response = service.respond(json!({
        "instructions": "be kind", "temperature": 0.5, "top_p": 0.9, "max_output_tokens": 7,
        "metadata": {"a": "b"}, "include": [], "tools": [], "user": "u", "unknown": 1,
    }));
    let request = service.worker.submitted().await;
    assert_eq!(
        request.prompt(),
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n\
         <|im_start|>assistant\n"
    );
    assert_eq!(request.submit.sampling.as_ref().unwrap().max_tokens, 7);
    request.step(vec![TokenOutput { num_cached: Some(16), ..request.token(0, 65) }]);
    request.say(0, " é");
    request.finish(0, Finish::StopToken);

    let body = answer(wait(response).await).await.body;

    assert!(body["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!((&body["object"], &body["status"]), (&json!("response"), &json!("completed")));
    assert_eq!((&body["model"], &body["metadata"]), (&json!("org/tiny"), &json!({"a": "b"})));
    assert_eq!((&body["instructions"], &body["user"]), (&json!("be kind"), &json!("u")));
    assert_eq!((&body["temperature"], &body["tool_choice"]), (&json!(0.5), &json!("auto")));
    assert_eq!(body["text"], json!({"format": {"type": "text"}}));
    let message = &body["output"][0];
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        (&message["status"], message["content"].as_array().unwrap().len()),
        (&json!("completed"), 1)
    );
    assert!(message["content"][0]["text"].as_str().unwrap().ends_with(" é"));
    assert_eq!(message["content"][0]["annotations"], json!([]));
    assert_eq!(
        body["usage"],
        json!({
            "input_tokens": request.submit.prompt.len(),
            "input_tokens_details": {"cached_tokens": 16, "cache_write_tokens": 0},
            "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": request.submit.prompt.len() + 5,
        })
    );
}

#[tokio::test]
async fn a_stream_has_its_events_in_order() {
    let mut service = start().await;
    let response = service.respond(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "h\"i\"\n");
    request.finish(0, Finish::StopToken);

    let events = events(wait(response).await).await;

    let types = types(&events);
    assert_eq!(
        types[..4],
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
    );
    assert_eq!(
        types[types.len() - 4..],
        [
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    let deltas = &events[4..events.len() - 4];
    assert!(deltas.iter().all(|event| event["type"] == "response.output_text.delta"));
    assert!(deltas.iter().all(|event| event["logprobs"] == json!([])));
    let text: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert_eq!(text, "h\"i\"\n");
    let (item, end) = (&events[events.len() - 2]["item"], &events[events.len() - 1]["response"]);
    assert_eq!(events[events.len() - 4]["text"], text);
    assert_eq!((&events[2]["item"]["id"], &deltas[0]["item_id"]), (&item["id"], &item["id"]));
    assert_eq!(end["output"], json!([item]));
    assert_eq!(events[0]["response"]["id"], end["id"]);
    assert_eq!(
        (&events[0]["response"]["output"], &end["status"]),
        (&json!([]), &json!("completed"))
    );
    assert_eq!(end["usage"]["output_tokens"], 6);

    let stored = service.get(&format!("/v1/responses/{}", end["id"].as_str().unwrap())).await;
    assert_eq!(&stored.body, end);
}

#[tokio::test]
async fn thoughts_text_and_calls_are_items() {
    let mut service = start_with(thinking, |_| {}).await;
    for stream in [false, true] {
        let response = service.respond(json!({"stream": stream, "tools": weather()}));
        let request = service.worker.submitted().await;
        request.say(0, "<think>\nhm\n</think>\n\nLet me see.\n");
        request.say(0, CALL);
        request.finish(0, Finish::StopToken);

        let response = wait(response).await;
        let body = if stream {
            let events = events(response).await;
            check_deltas(&events);
            events.last().unwrap()["response"].clone()
        } else {
            answer(response).await.body
        };

        let items = body["output"].as_array().unwrap();
        assert_eq!(items.len(), 3, "{body}");
        assert_eq!(items[0]["type"], "reasoning");
        assert_eq!(items[0]["content"], json!([{"type": "reasoning_text", "text": "hm"}]));
        assert_eq!(items[1]["content"][0]["text"], "Let me see.");
        assert_eq!(
            (&items[2]["type"], &items[2]["name"]),
            (&json!("function_call"), &json!("weather"))
        );
        assert_eq!(items[2]["arguments"], "{\"city\": \"Rome\"}");
        assert!(items[2]["call_id"].as_str().unwrap().starts_with("call_"));
        assert!(items.iter().all(|item| item["status"] == "completed"));
        assert!(body["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    }
}

/// The deltas of each item add up to what it is in the end.
fn check_deltas(events: &[Value]) {
    let mut grown = String::new();
    for event in events {
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => grown.clear(),
            kind if kind.ends_with(".delta") => grown.push_str(event["delta"].as_str().unwrap()),
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], grown);
            }
            "response.function_call_arguments.done" => assert_eq!(event["arguments"], grown),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_conversation_goes_on_without_its_instructions() {
    let mut service = start_with(roomy, |_| {}).await;
    let change = json!({"instructions": "be kind", "tools": weather(), "input": "how is it?"});
    let first = respond(&mut service, change, CALL).await;
    let call_id = first["output"][0]["call_id"].clone();

    let result = json!([{"type": "function_call_output", "call_id": call_id, "output": "sunny"}]);
    let change = json!({"previous_response_id": first["id"], "tools": weather(), "input": result});
    let second = respond(&mut service, change, "It is sunny.").await;
    assert_eq!(second["previous_response_id"], first["id"]);
    let change = json!({"previous_response_id": second["id"], "instructions": "be rude"});
    let prompt = prompt(&mut service, change).await;

    assert!(prompt.starts_with("<|im_start|>system\nbe rude<|im_end|>\n<|im_start|>user\nhow is"));
    assert!(!prompt.contains("be kind"), "{prompt}");
    assert!(prompt.contains("\"city\":\"Rome\"") && prompt.contains("sunny"), "{prompt}");
    assert!(prompt.ends_with(
        "<|im_start|>assistant\nIt is sunny.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n\
         <|im_start|>assistant\n"
    ));

    let listed = service
        .get(&format!("/v1/responses/{}/input_items?order=asc", second["id"].as_str().unwrap()))
        .await
        .body;
    let kinds: Vec<_> = listed["data"].as_array().unwrap().iter().map(|it| &it["type"]).collect();
    assert_eq!(kinds, ["message", "function_call", "function_call_output"]);
    assert_eq!(
        (&listed["has_more"], &listed["first_id"]),
        (&json!(false), &listed["data"][0]["id"])
    );
}

#[tokio::test]
async fn output_can_be_sent_back_as_it_came_or_by_reference() {
    let mut service = start_with(thinking, |_| {}).await;
    let text = format!("<think>\nhm\n</think>\n\nLet me see.\n{CALL}");
    let body = respond(&mut service, json!({"tools": weather()}), &text).await;
    let items = body["output"].as_array().unwrap().clone();
    let user = json!({"role": "user", "content": [{"type": "input_text", "text": "a"},
                                                  {"type": "input_text", "text": "b"}]});
    let result = json!({"type": "function_call_output", "call_id": items[2]["call_id"],
                        "output": [{"type": "input_text", "text": "sunny"}]});
    let reference = |item: &Value| json!({"type": "item_reference", "id": item["id"]});
    let copied = json!([user, items[0], items[1], items[2], result]);
    let referred =
        json!([user, reference(&items[0]), reference(&items[1]), reference(&items[2]), result]);

    let of_copies = prompt(&mut service, json!({"tools": weather(), "input": copied})).await;
    let of_references = prompt(&mut service, json!({"tools": weather(), "input": referred})).await;

    assert!(of_copies.contains("user\na\nb<|im_end|>\n<|im_start|>assistant\nLet me see."));
    assert_eq!(of_copies, of_references);
}

#[tokio::test]
async fn what_is_stored_can_be_listed_in_pages_and_deleted() {
    let mut service = start().await;
    let input = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]);
    let body = respond(&mut service, json!({"input": input}), "d").await;
    let path = format!("/v1/responses/{}", body["id"].as_str().unwrap());
    let texts = |list: &Value| -> Vec<String> {
        let items = list["data"].as_array().unwrap().iter();
        items.map(|item| item["content"][0]["text"].as_str().unwrap().to_owned()).collect()
    };

    assert_eq!(service.get(&path).await.body, body);
    let first = service.get(&format!("{path}/input_items?limit=2")).await.body;
    assert_eq!((texts(&first), &first["has_more"]), (vec!["c".into(), "b".into()], &json!(true)));
    let after = first["last_id"].as_str().unwrap();
    let second = service.get(&format!("{path}/input_items?limit=2&after={after}")).await.body;
    assert_eq!((texts(&second), &second["has_more"]), (vec!["a".into()], &json!(false)));
    for (query, param) in [("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order")] {
        let refused = service.get(&format!("{path}/input_items?{query}")).await;
        assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!(param)));
    }

    let deleted = service.delete(&path).await;
    assert_eq!((deleted.status, &deleted.body["deleted"]), (200, &json!(true)));
    for gone in [service.get(&path).await, service.delete(&path).await] {
        assert_eq!((gone.status, &gone.body["error"]["code"]), (404, &json!("not_found")));
    }
    let change = json!({"previous_response_id": body["id"]});
    let refused = answer(wait(service.respond(change)).await).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.body["error"]["code"], "previous_response_not_found");
}

#[tokio::test]
async fn what_is_not_stored_can_not_be_asked_for() {
    let mut service = start().await;
    let body = respond(&mut service, json!({"store": false}), "a").await;
    let path = format!("/v1/responses/{}", body["id"].as_str().unwrap());
    assert_eq!((&body["store"], service.get(&path).await.status), (&json!(false), 404));
}

#[tokio::test]
async fn a_response_that_was_cut_is_incomplete() {
    let mut service = start_with(roomy, |_| {}).await;
    for stream in [false, true] {
        let response = service.respond(json!({"stream": stream, "tools": weather()}));
        let request = service.worker.submitted().await;
        request.say(0, "Let me see.\n");
        request.say(0, CALL.split_once("Rome").unwrap().0);
        request.finish(0, Finish::Length);

        let response = wait(response).await;
        let body = if stream {
            let events = events(response).await;
            assert_eq!(types(&events).last(), Some(&"response.incomplete"));
            events.last().unwrap()["response"].clone()
        } else {
            answer(response).await.body
        };

        assert_eq!(body["status"], "incomplete");
        assert_eq!(body["incomplete_details"], json!({"reason": "max_output_tokens"}));
        assert_eq!(body["output"][0]["status"], "completed");
        assert_eq!(body["output"][1]["status"], "incomplete");
        assert_eq!(body["output"][1]["arguments"], "{\"city\": \"");
        assert_eq!(body["completed_at"], Value::Null);
    }
}

#[tokio::test]
async fn formats_and_forced_calls_are_grammars() {
    let mut service = start_with(roomy, |_| {}).await;
    let schema = json!({"type": "json_schema", "name": "x", "schema": {"type": "object"}});
    for (change, of_schema) in [
        (json!({"text": {"format": schema}}), true),
        (json!({"text": {"format": {"type": "json_object"}}}), true),
        (json!({"tools": weather(), "tool_choice": "required"}), false),
        (
            json!({"tools": weather(), "tool_choice": {"type": "function", "name": "weather"}}),
            false,
        ),
        (
            json!({"tools": weather(), "tool_choice": {"type": "allowed_tools", "mode": "required",
                "tools": [{"type": "function", "name": "weather"}]}}),
            false,
        ),
    ] {
        let _response = service.respond(change.clone());
        let sampling = service.worker.submitted().await.submit.sampling.unwrap();
        let source = sampling.grammar.unwrap().source.unwrap();
        assert_eq!(matches!(source, Source::JsonSchema(_)), of_schema, "{change}");
    }
}

#[tokio::test]
async fn log_probabilities_are_included_where_they_are_asked_for() {
    let mut service = start().await;
    for stream in [false, true] {
        let include = json!(["message.output_text.logprobs"]);
        let change = json!({"stream": stream, "include": include, "top_logprobs": 1});
        let response = service.respond(change);
        let request = service.worker.submitted().await;
        assert_eq!(request.submit.sampling.as_ref().unwrap().num_logprobs, Some(1));
        let id = request.id_of("a");
        let logprobs = logprobs(-0.5, &[(id, -0.5)]);
        request.step(vec![TokenOutput { logprobs, ..request.token(0, id) }]);
        request.finish(0, Finish::StopToken);

        let response = wait(response).await;
        let body = if stream {
            let events = events(response).await;
            let delta = events.iter().find(|event| event["delta"] == "a").unwrap();
            assert_eq!(delta["logprobs"][0]["token"], "a");
            events.last().unwrap()["response"].clone()
        } else {
            answer(response).await.body
        };

        let tokens = &body["output"][0]["content"][0]["logprobs"];
        assert_eq!((&tokens[0]["token"], &tokens[0]["logprob"]), (&json!("a"), &json!(-0.5)));
        assert_eq!(tokens[0]["top_logprobs"][0]["token"], "a");
    }
}

#[tokio::test]
async fn tokens_are_counted_without_generating() {
    let mut service = start().await;
    let _response = service.respond(json!({"instructions": "s"}));
    let num_prompt = service.worker.submitted().await.submit.prompt.len();
    let body = json!({"model": "org/tiny", "instructions": "s", "input": "hi"});

    let counted = service.post("/v1/responses/input_tokens", body.to_string());
    let counted = answer(wait(counted).await).await;

    let expected = json!({"object": "response.input_tokens", "input_tokens": num_prompt});
    assert_eq!((counted.status, counted.body), (200, expected));
    assert!(service.worker.is_idle());
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let mut service = start().await;
    let item = |item: Value| json!({"input": [item]});
    let missing = "missing_required_parameter";
    for (change, param, code) in [
        (json!({"input": null}), "input", missing),
        (json!({"input": []}), "input", "empty_array"),
        (json!({"input": 7}), "input", "invalid_type"),
        (json!({"input": [7]}), "input[0]", "invalid_type"),
        (item(json!({"content": "a"})), "input[0].role", missing),
        (item(json!({"role": "boss", "content": "a"})), "input[0].role", "invalid_value"),
        (item(json!({"role": "tool", "content": "a"})), "input[0].role", "invalid_value"),
        (item(json!({"role": "user"})), "input[0].content", missing),
        (item(json!({"role": "user", "content": []})), "input[0].content", "empty_array"),
        (
            item(json!({"role": "user", "content": [{"type": "input_image"}]})),
            "input[0].content[0].type",
            "unsupported_content_type",
        ),
        (item(json!({"type": "function_call", "name": "f"})), "input[0].call_id", missing),
        (item(json!({"type": "function_call_output"})), "input[0].output", missing),
        (item(json!({"type": "web_search_call"})), "input[0].type", "unsupported_value"),
        (item(json!({"type": "item_reference", "id": "x"})), "input[0].id", "item_not_found"),
        (
            json!({"previous_response_id": "x"}),
            "previous_response_id",
            "previous_response_not_found",
        ),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "unsupported_value"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name", missing),
        (json!({"tool_choice": "required"}), "tool_choice", "invalid_value"),
        (json!({"include": ["x"]}), "include[0]", "invalid_value"),
        (json!({"top_logprobs": 1}), "top_logprobs", "invalid_value"),
        (json!({"reasoning": {"effort": "hard"}}), "reasoning.effort", "invalid_value"),
        (json!({"reasoning": {"summary": "concise"}}), "reasoning.summary", "unsupported_value"),
        (json!({"text": {"verbosity": "low"}}), "text.verbosity", "unsupported_value"),
        (json!({"text": {"format": {"type": "json_schema"}}}), "text.format.name", missing),
        (json!({"stream_options": {}}), "stream_options", "invalid_value"),
        (json!({"truncation": "auto"}), "truncation", "unsupported_parameter"),
        (json!({"conversation": "c"}), "conversation", "unsupported_parameter"),
        (json!({"max_tokens": 5}), "max_tokens", "unsupported_parameter"),
        (json!({"max_output_tokens": 0}), "max_output_tokens", "integer_below_min_value"),
        (json!({"max_output_tokens": 100_000}), "input", "context_length_exceeded"),
    ] {
        let refused = answer(wait(service.respond(change.clone())).await).await;
        let error = &refused.body["error"];
        assert_eq!(refused.status, 400, "{change}");
        assert_eq!(
            (error["param"].as_str(), error["code"].as_str()),
            (Some(param), Some(code)),
            "{error}"
        );
        assert!(service.worker.is_idle());
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error() {
    let mut service = start().await;
    let response = service.respond(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let response = wait(response).await;
    service.worker.die().await;

    let events = events(response).await;

    let [.., failed, error] = &events[..] else { panic!("{events:?}") };
    assert_eq!((&failed["type"], &error["type"]), (&json!("response.failed"), &json!("error")));
    assert_eq!(failed["response"]["status"], "failed");
    assert_eq!(failed["response"]["error"]["code"], "worker_lost");
    assert_eq!(failed["response"]["output"][0]["content"][0]["text"], "a");
    assert_eq!(
        (&error["code"], &error["error"]["code"]),
        (&json!("worker_lost"), &json!("worker_lost"))
    );
}

#[tokio::test]
async fn what_fails_before_the_first_token_is_no_stream() {
    let mut service = start().await;
    let response = service.respond(json!({"stream": true}));
    service.worker.submitted().await.reject(Reason::QueueFull, "full");
    let full = answer(wait(response).await).await;
    assert_eq!((full.status, &full.body["error"]["code"]), (429, &json!("queue_full")));
}

#[tokio::test]
async fn hanging_up_cancels_and_stores_nothing() {
    let mut service = start().await;
    let response = service.respond(json!({"stream": true}));
    let request = service.worker.submitted().await;
    request.say(0, "a");
    let mut response = wait(response).await;
    let first = timeout(LONG, response.chunk()).await.unwrap().unwrap().unwrap();
    let first = String::from_utf8(first.to_vec()).unwrap();
    let data = first.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let id = serde_json::from_str::<Value>(data).unwrap()["response"]["id"].clone();

    drop(response);

    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
    let path = format!("/v1/responses/{}", id.as_str().unwrap());
    assert_eq!(service.get(&path).await.status, 404);
}
