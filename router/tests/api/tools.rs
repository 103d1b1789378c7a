//! Tools and reasoning: what the model is told, what it writes, and what clients get.

use sconce_proto::worker::grammar::Source;
use serde_json::{Value, json};

use crate::service::{Service, answer, start_with, wait};
use crate::streaming::{chunks, text_of};

const CALL: &str =
    "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>";

/// With room for prompts that have tools.
async fn start() -> Service {
    start_with(|info| info.max_model_len = 1024, |_| {}).await
}

fn tools() -> Value {
    let function = |name: &str| {
        json!({"type": "function", "function": {"name": name,
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}})
    };
    json!([function("add"), function("drop")])
}

fn calls(chunks: &[Value]) -> Vec<&Value> {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    choices.filter_map(|choice| choice["delta"]["tool_calls"].as_array()).flatten().collect()
}

async fn whole(service: &mut Service, change: Value, text: &str) -> Value {
    let response = service.chat(change);
    service.worker.submitted().await.answer(text);
    answer(wait(response).await).await.body["choices"][0].take()
}

#[tokio::test]
async fn a_call_is_taken_out_of_the_text() {
    let mut service = start().await;
    let choice = whole(&mut service, json!({"tools": tools()}), CALL).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!(message["content"], Value::Null);
    let call = &message["tool_calls"][0];
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("add")));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    assert_eq!(arguments, json!({"a": 1, "b": [2]}));
}

#[tokio::test]
async fn a_streamed_call_begins_with_its_name_and_goes_on_with_arguments() {
    let mut service = start().await;
    let response = service.chat(json!({"tools": tools(), "stream": true}));
    let request = service.worker.submitted().await;
    request.answer(&format!("Well. {CALL}\n{CALL}"));
    let chunks = chunks(wait(response).await).await;
    assert_eq!(text_of(&chunks, 0).trim(), "Well.");
    let calls = calls(&chunks);
    for index in 0..2 {
        let own: Vec<_> = calls.iter().filter(|call| call["index"] == index).collect();
        assert_eq!(own[0]["function"], json!({"name": "add", "arguments": ""}));
        assert!(own[0]["id"].is_string() && own[0]["type"] == "function");
        let fragments = own[1..].iter().map(|call| {
            assert!(call.get("id").is_none() && call["function"].get("name").is_none());
            call["function"]["arguments"].as_str().unwrap()
        });
        let arguments: Value = serde_json::from_str(&fragments.collect::<String>()).unwrap();
        assert_eq!(arguments, json!({"a": 1, "b": [2]}));
        assert!(own.len() > 3, "arguments are streamed");
    }
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn without_tools_a_call_is_text() {
    let mut service = start().await;
    for change in
        [json!({}), json!({"tools": []}), json!({"tools": tools(), "tool_choice": "none"})]
    {
        let choice = whole(&mut service, change, CALL).await;
        assert_eq!(choice["message"]["content"], CALL);
        assert_eq!(choice["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn no_second_call_follows_where_only_one_may() {
    let mut service = start().await;
    let change = json!({"tools": tools(), "parallel_tool_calls": false});
    let choice = whole(&mut service, change, &format!("{CALL}\n{CALL}")).await;
    assert_eq!(choice["message"]["tool_calls"].as_array().unwrap().len(), 1);
    assert_eq!(choice["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_forced_call_is_a_grammar_of_the_chosen_functions() {
    let mut service = start().await;
    let named = json!({"type": "function", "function": {"name": "drop"}});
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {"mode": "required",
        "tools": [{"type": "function", "function": {"name": "add"}}]}});
    for (choice, has_add, has_drop) in
        [(json!("required"), true, true), (named, false, true), (allowed, true, false)]
    {
        let _response = service.chat(json!({"tools": tools(), "tool_choice": choice}));
        let submit = service.worker.submitted().await.submit;
        let grammar = submit.sampling.unwrap().grammar.unwrap();
        let Some(Source::Lark(lark)) = grammar.source else { panic!("no Lark: {choice}") };
        let has = |name: &str| lark.contains(name);
        assert_eq!((has("add"), has("drop")), (has_add, has_drop), "{choice}: {lark}");
    }
    let _response = service.chat(json!({"tools": tools()}));
    assert_eq!(service.worker.submitted().await.submit.sampling.unwrap().grammar, None);
}

#[tokio::test]
async fn a_prescribed_answer_may_be_a_call_instead() {
    let mut service = start().await;
    let format = json!({"type": "json_schema",
        "json_schema": {"name": "x", "schema": {"type": "object", "title": "prescribed"}}});
    let _response = service.chat(json!({"tools": tools(), "response_format": format}));
    let submit = service.worker.submitted().await.submit;
    let Some(Source::Lark(lark)) = submit.sampling.unwrap().grammar.unwrap().source else {
        panic!("no Lark");
    };
    assert!(lark.contains("prescribed") && lark.contains("add"), "{lark}");
}

#[tokio::test]
async fn tools_calls_and_results_are_in_the_prompt() {
    let mut service = start().await;
    let messages = json!([
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c1", "type": "function",
            "function": {"name": "add", "arguments": "{\"a\":1}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "two"}]},
    ]);
    let _response = service.chat(json!({"tools": tools(), "messages": messages}));
    let prompt = service.worker.submitted().await.prompt();
    for part in ["\"name\":\"drop\"", "{\"name\":\"add\",\"arguments\":{\"a\":1}}", "two"] {
        assert!(prompt.contains(part), "{prompt} lacks {part}");
    }
}

#[tokio::test]
async fn reasoning_is_kept_apart_and_counted() {
    let template = "{{ messages[0].content }}<think>\n";
    let mut service = start_with(|info| info.chat_template = template.into(), |_| {}).await;
    let response = service.chat(json!({}));
    service.worker.submitted().await.answer("hmm</think>yes");
    let body = answer(wait(response).await).await.body;
    assert_eq!(body["choices"][0]["message"]["reasoning_content"], "hmm");
    assert_eq!(body["choices"][0]["message"]["content"], "yes");
    let reasoning = &body["usage"]["completion_tokens_details"]["reasoning_tokens"];
    assert!((1..=4).contains(&reasoning.as_u64().unwrap()), "{reasoning}");

    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await.answer("hmm</think>yes");
    let chunks = chunks(wait(response).await).await;
    let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]["reasoning_content"]);
    let reasoning: String = deltas.filter_map(Value::as_str).collect();
    assert_eq!((reasoning.as_str(), text_of(&chunks, 0).as_str()), ("hmm", "yes"));
}

#[tokio::test]
async fn tools_that_are_none_are_refused() {
    let mut service = start().await;
    let function = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let choice = |choice: Value| json!({"tools": tools(), "tool_choice": choice});
    let unknown = json!({"type": "function", "function": {"name": "x"}});
    let (missing, value) = ("missing_required_parameter", "invalid_value");
    let name = "tools[0].function.name";
    let parameters = "tools[0].function.parameters";
    let kind = "tools[0].function.parameters.type";
    let mut required = choice(json!("required"));
    required["min_tokens"] = 1.into();
    let mut formatted = choice(json!("required"));
    formatted["response_format"] = json!({"type": "json_object"});
    for (change, param, code) in [
        (json!({"tools": [{}]}), "tools[0].type", missing),
        (json!({"tools": [{"type": "custom"}]}), "tools[0].type", "unsupported_value"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", missing),
        (function(json!({})), name, missing),
        (function(json!({"name": "a b"})), name, value),
        (function(json!({"name": "a", "parameters": []})), parameters, "invalid_type"),
        (function(json!({"name": "a", "parameters": {"type": "array"}})), kind, value),
        (
            json!({"tools": [tools()[0], tools()[0]]}),
            "tools[1].function.name",
            "duplicate_parameter",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", value),
        (choice(json!("some")), "tool_choice", value),
        (choice(unknown), "tool_choice.function.name", value),
        (choice(json!({"type": "function"})), "tool_choice.function.name", missing),
        (choice(json!({"type": "custom"})), "tool_choice.type", "unsupported_value"),
        (required, "min_tokens", value),
        (formatted, "response_format", value),
        (
            json!({"chat_template_kwargs": {"messages": 1}}),
            "chat_template_kwargs.messages",
            "unsupported_value",
        ),
        (json!({"chat_template_kwargs": {"a": []}}), "chat_template_kwargs.a", "invalid_type"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            value,
        ),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort", value),
    ] {
        let answer = answer(wait(service.chat(change.clone())).await).await;
        let error = &answer.body["error"];
        let given = (answer.status, error["param"].as_str(), error["code"].as_str());
        assert_eq!(given, (400, Some(param), Some(code)), "{change}: {error}");
        assert!(service.worker.is_idle(), "{change}");
    }
}

/// What the model is only shown need not be enforceable.
#[tokio::test]
async fn a_schema_that_can_not_be_enforced_is_refused_where_it_would_be() {
    let mut service = start().await;
    let object = json!({"type": "json_object"});
    for (schema, code) in [
        (json!({"x-guidance": {"lenient": true}}), "unsupported_parameter"),
        (json!({"properties": {"a": {"$id": "b/", "$ref": "c"}}}), "unsupported_value"),
    ] {
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": schema}}]);
        for change in [
            json!({"tools": tools, "tool_choice": "required"}),
            json!({"tools": tools, "response_format": object}),
        ] {
            let error = answer(wait(service.chat(change.clone())).await).await.body["error"].take();
            assert_eq!(error["param"], "tools[0].function.parameters", "{change}");
            assert_eq!(error["code"], code, "{change}");
            assert!(service.worker.is_idle(), "{change}");
        }
        let choice = whole(&mut service, json!({"tools": tools}), "Hello").await;
        assert_eq!(choice["message"]["content"], "Hello");

        let tools = json!([{"name": "f", "input_schema": schema}]);
        let change = json!({"tools": tools, "tool_choice": {"type": "any"}});
        let error = answer(wait(service.message(change)).await).await.body["error"].take();
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("`tools[0].input_schema`"), "{error}");
    }
}

fn functions() -> Value {
    json!([{"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}, {"name": "b"}])
}

#[tokio::test]
async fn deprecated_functions_are_answered_as_openai_did() {
    let mut service = start().await;
    let choice = whole(&mut service, json!({"functions": functions()}), CALL).await;
    assert_eq!(choice["finish_reason"], "function_call");
    let message = &choice["message"];
    assert_eq!((&message["content"], message.get("tool_calls")), (&Value::Null, None));
    assert_eq!(message["function_call"]["name"], "add");
    let arguments = message["function_call"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).unwrap(), json!({"a": 1, "b": [2]}));

    for change in [json!({"function_call": "none"}), json!({"functions": []})] {
        let choice = whole(&mut service, change, CALL).await;
        assert_eq!(choice["message"]["content"], CALL);
    }
    let choice = whole(&mut service, json!({"functions": [], "tools": tools()}), CALL).await;
    assert_eq!(choice["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_streamed_function_call_is_one_and_has_no_index() {
    let mut service = start().await;
    let response = service.chat(json!({"functions": functions(), "stream": true}));
    service.worker.submitted().await.answer(&format!("{CALL}\n{CALL}"));
    let chunks = chunks(wait(response).await).await;
    assert!(calls(&chunks).is_empty());
    let choices = chunks.iter().map(|chunk| &chunk["choices"][0]);
    let calls: Vec<_> = choices
        .filter_map(|choice| choice["delta"].get("function_call"))
        .map(|call| (call["name"].as_str(), call["arguments"].as_str().unwrap()))
        .collect();
    assert_eq!(calls[0], (Some("add"), ""));
    assert!(calls[1..].iter().all(|(name, _)| name.is_none()));
    let arguments: String = calls.iter().map(|(_, arguments)| *arguments).collect();
    assert_eq!(serde_json::from_str::<Value>(&arguments).unwrap(), json!({"a": 1, "b": [2]}));
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "function_call");
}

#[tokio::test]
async fn a_named_function_is_forced_and_its_results_follow_its_call() {
    let mut service = start_with(
        |info| {
            info.max_model_len = 2048;
            info.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}\
                {% for c in m.tool_calls %}[{{ c.id }} {{ c.function.name }}]{% endfor %}\
                {{ m.tool_call_id }};{% endfor %}{{ tools | tojson }}"
                .into();
        },
        |_| {},
    )
    .await;
    let messages = json!([
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null,
         "function_call": {"name": "b", "arguments": "{}"}},
        {"role": "function", "name": "b", "content": "7"},
    ]);
    let change =
        json!({"functions": functions(), "function_call": {"name": "b"}, "messages": messages});
    let _response = service.chat(change);
    let request = service.worker.submitted().await;
    let prompt = request.prompt();
    assert!(prompt.contains("assistant:[fc0000001 b];tool:7fc0000001;"), "{prompt}");
    let grammar = request.submit.sampling.unwrap().grammar.unwrap();
    let Some(Source::Lark(lark)) = grammar.source else { panic!("no Lark") };
    assert!(lark.contains("\\\"b\\\"") && !lark.contains("add"), "{lark}");
}

#[tokio::test]
async fn functions_that_contradict_the_rest_are_refused() {
    let mut service = start().await;
    let moved = json!([{"name": "f", "parameters": {"$id": "a", "$ref": "b"}}]);
    for (change, param, code) in [
        (json!({"functions": functions(), "tools": tools()}), "functions", "invalid_value"),
        (json!({"function_call": "auto", "tools": tools()}), "function_call", "invalid_value"),
        (json!({"function_call": "required"}), "function_call", "invalid_value"),
        (json!({"function_call": {"name": "add"}}), "function_call.name", "invalid_value"),
        (json!({"function_call": {}}), "function_call.name", "missing_required_parameter"),
        (json!({"functions": [{"name": "a b"}]}), "functions[0].name", "invalid_value"),
        (
            json!({"functions": vec![json!({"name": "a"}); 2]}),
            "functions[1].name",
            "duplicate_parameter",
        ),
        (
            json!({"functions": vec![json!({"name": "a"}); 129]}),
            "functions",
            "array_above_max_length",
        ),
        (
            json!({"functions": moved, "function_call": {"name": "f"}}),
            "functions[0].parameters",
            "unsupported_value",
        ),
    ] {
        let error = answer(wait(service.chat(change.clone())).await).await.body["error"].take();
        assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{error}");
        assert!(service.worker.is_idle(), "{change}");
    }
}
