//! Many doors, one verdict: what chat refuses, the others refuse for the same reason.

use sconce_proto::worker::{ModelInfo, SamplingDefaults, SamplingParams};
use serde_json::{Value, json};

use super::responses::{Checked, input, user};
use super::tools::Function;
use super::{GenerateRequest, PromptEnd, Prompts, Role, chat, completions, messages, response};
use crate::api::chat::request::ChatCompletionRequest;
use crate::api::completions::request::CompletionRequest;
use crate::api::fields::{self, Door};
use crate::api::messages::request::MessagesRequest;
use crate::api::responses::request::{Input, ResponsesRequest};
use crate::config::Limits;
use crate::error::ApiError;

fn info() -> ModelInfo {
    ModelInfo { max_model_len: 256, vocab_size: 280, max_num_seqs: 8, ..ModelInfo::default() }
}

fn with(mut body: Value, change: &Value) -> Vec<u8> {
    for (name, value) in change.as_object().unwrap() {
        body[name] = value.clone();
    }
    body.to_string().into_bytes()
}

fn by_chat(change: &Value) -> Result<GenerateRequest, ApiError> {
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
    });
    let request = ChatCompletionRequest::read(&with(body, change))?;
    chat(request, &info(), &Limits::default())
}

fn by_messages(change: &Value) -> Result<GenerateRequest, ApiError> {
    let body = json!({
        "model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}],
    });
    let request = MessagesRequest::read(&with(body, change))?;
    messages(request, &info(), &Limits::default())
}

fn by_completions(change: &Value) -> Result<GenerateRequest, ApiError> {
    let request = CompletionRequest::read(&with(
        json!({"model": "m", "prompt": "hi", "max_tokens": 9}),
        change,
    ))?;
    completions(request, &info(), &Limits::default())
}

fn by_responses(change: &Value) -> Result<GenerateRequest, ApiError> {
    let mut request = ResponsesRequest::read(&with(
        json!({"model": "m", "input": "hi", "max_output_tokens": 9}),
        change,
    ))?;
    let limits = Limits::default();
    let given = match std::mem::replace(&mut request.input, Input::Items(Vec::new())) {
        Input::Text(text) => vec![Checked::Item(user(text))],
        Input::Items(items) => input(items, &limits)?,
    };
    let items = given.into_iter().map(|given| match given {
        Checked::Item(item) => item,
        Checked::Reference { path, .. } => panic!("{path}"),
    });
    response(&mut request, &items.collect::<Vec<_>>(), (&info(), &limits))
}

fn code(result: Result<GenerateRequest, ApiError>) -> Option<&'static str> {
    match result {
        Ok(_) => None,
        Err(ApiError::Invalid { code, .. }) => Some(code),
        Err(other) => panic!("{other}"),
    }
}

fn function(name: &str, parameters: &Value) -> Value {
    let function = json!({"name": name, "parameters": parameters});
    json!({"type": "function", "function": function})
}

fn tool(name: &str, schema: &Value) -> Value {
    json!({"name": name, "input_schema": schema})
}

#[test]
fn a_value_that_one_door_refuses_the_other_refuses_alike() {
    let object = json!({"type": "object"});
    let texts = |n: usize| vec!["x"; n];
    let calls = |n: usize| -> Vec<_> {
        (0..n).map(|i| json!({"id": format!("{i}"), "function": {"name": "f"}})).collect()
    };
    let uses = |n: usize| -> Vec<_> {
        let block = |i| json!({"type": "tool_use", "id": format!("{i}"), "name": "f", "input": {}});
        (0..n).map(block).collect()
    };
    let user = json!({"role": "user", "content": "hi"});
    let long = "x".repeat(300);
    for (for_chat, for_messages) in [
        (json!({}), json!({})),
        (json!({"model": null}), json!({"model": null})),
        (json!({"model": 7}), json!({"model": 7})),
        (json!({"max_tokens": 0}), json!({"max_tokens": 0})),
        (json!({"max_tokens": -1}), json!({"max_tokens": -1})),
        (json!({"max_tokens": 1.5}), json!({"max_tokens": 1.5})),
        (json!({"max_tokens": 1_u64 << 32}), json!({"max_tokens": 1_u64 << 32})),
        (json!({"temperature": -0.1}), json!({"temperature": -0.1})),
        (json!({"temperature": "hot"}), json!({"temperature": "hot"})),
        (json!({"temperature": 2.1}), json!({"temperature": 1.1})),
        (json!({"top_p": 0}), json!({"top_p": 0})),
        (json!({"top_p": 1.1}), json!({"top_p": 1.1})),
        (json!({"top_k": -2}), json!({"top_k": -1})),
        (json!({"top_k": 1_u64 << 32}), json!({"top_k": 1_u64 << 32})),
        (json!({"stream": "yes"}), json!({"stream": "yes"})),
        (json!({"stop": texts(5)}), json!({"stop_sequences": texts(5)})),
        (json!({"stop": [""]}), json!({"stop_sequences": [""]})),
        (json!({"stop": [long]}), json!({"stop_sequences": [long]})),
        (json!({"stop": [7]}), json!({"stop_sequences": [7]})),
        (json!({"messages": null}), json!({"messages": null})),
        (json!({"messages": []}), json!({"messages": []})),
        (json!({"messages": {}}), json!({"messages": {}})),
        (json!({"messages": vec![&user; 5000]}), json!({"messages": vec![&user; 5000]})),
        (json!({"messages": [{"content": "a"}]}), json!({"messages": [{"content": "a"}]})),
        (json!({"messages": [{"role": "user"}]}), json!({"messages": [{"role": "user"}]})),
        (
            json!({"messages": [{"role": "boss", "content": "a"}]}),
            json!({"messages": [{"role": "boss", "content": "a"}]}),
        ),
        (
            json!({"messages": [{"role": "user", "content": []}]}),
            json!({"messages": [{"role": "user", "content": []}]}),
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}),
        ),
        (
            json!({"messages": [{"role": "assistant", "tool_calls": calls(129)}, user]}),
            json!({"messages": [{"role": "assistant", "content": uses(129)}, user]}),
        ),
        (
            json!({"messages": [{"role": "tool", "content": "a"}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}),
        ),
        (
            json!({"messages": [{"role": "tool", "content": "a", "tool_call_id": long}]}),
            json!({"messages": [
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": long}]},
            ]}),
        ),
        (json!({"tools": [function("f", &object)]}), json!({"tools": [tool("f", &object)]})),
        (json!({"tools": [function("a b", &object)]}), json!({"tools": [tool("a b", &object)]})),
        (
            json!({"tools": [function("f", &json!({"type": "array"}))]}),
            json!({"tools": [tool("f", &json!({"type": "array"}))]}),
        ),
        (
            json!({"tools": [function("f", &object), function("f", &object)]}),
            json!({"tools": [tool("f", &object), tool("f", &object)]}),
        ),
        (
            json!({"tools": (0..129).map(|i| function(&i.to_string(), &object)).collect::<Vec<_>>()}),
            json!({"tools": (0..129).map(|i| tool(&i.to_string(), &object)).collect::<Vec<_>>()}),
        ),
        (
            json!({"tools": [{"type": "web_search"}]}),
            json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ),
        (json!({"tool_choice": "required"}), json!({"tool_choice": {"type": "any"}})),
        (json!({"tool_choice": "sometimes"}), json!({"tool_choice": {"type": "sometimes"}})),
        (
            json!({"tools": [function("f", &object)], "tool_choice":
                {"type": "function", "function": {"name": "g"}}}),
            json!({"tools": [tool("f", &object)], "tool_choice": {"type": "tool", "name": "g"}}),
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            json!({"output_config": {"format": {"type": "json_schema"}}}),
        ),
        (
            json!({"response_format":
                {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}}),
            json!({"output_config": {"format": {"type": "json_schema", "schema": 7}}}),
        ),
    ] {
        let verdicts = (code(by_chat(&for_chat)), code(by_messages(&for_messages)));
        assert_eq!(verdicts.0, verdicts.1, "{for_chat} {for_messages}");
    }
}

/// Every field that several doors know, with values of all kinds.
#[test]
fn a_field_that_several_doors_know_has_one_verdict() {
    type Read = fn(&Value) -> Result<GenerateRequest, ApiError>;
    let doors: [(Door, Read); 3] = [
        (Door::Chat, by_chat),
        (Door::Completions, by_completions),
        (Door::Responses, by_responses),
    ];
    let object = json!({"type": "object"});
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(2.5),
        json!(-9),
        json!(200),
        json!(1_u64 << 31),
        json!(1_u64 << 32),
        json!(u64::MAX),
        json!(1e9),
        json!(""),
        json!("x"),
        json!("none"),
        json!("auto"),
        json!([]),
        json!([1]),
        json!([""]),
        json!(["x"]),
        json!(vec!["x"; 5]),
        json!(vec![1; 2000]),
        json!([1e9]),
        json!({}),
        json!({"1": 1}),
        json!({"1": 101}),
        json!({"x": 1}),
        json!({"json": object}),
        json!({"regex": "a", "json": {}}),
        json!({"grammar": 7}),
        json!("x".repeat(2000)),
        json!([[[[1]]]]),
    ];
    // Where one door has what another has not.
    let apart =
        ["tools", "tool_choice", "stream_options", "logprobs", "top_logprobs", "max_tokens"];
    let mut num_compared = 0;
    for field in fields::FIELDS.iter().filter(|field| !apart.contains(&field.name)) {
        for value in &values {
            let known = doors.iter().filter(|(door, _)| {
                fields::find(*door, field.name).is_some_and(|it| it.treatment == field.treatment)
            });
            let verdicts: Vec<_> =
                known.map(|(door, read)| (door, code(read(&json!({field.name: value}))))).collect();
            for (door, verdict) in verdicts.iter().skip(1) {
                assert_eq!(*verdict, verdicts[0].1, "{} {value} {door:?}", field.name);
                num_compared += 1;
            }
        }
    }
    assert!(num_compared > 1000, "{num_compared}");
}

#[test]
fn what_chat_refuses_of_a_conversation_responses_refuses_alike() {
    let object = json!({"type": "object"});
    let flat = |name: &str, schema: &Value| json!({"type": "function", "name": name, "parameters": schema});
    let user = json!({"role": "user", "content": "hi"});
    let long = "x".repeat(300);
    for (for_chat, for_responses) in [
        (json!({"messages": []}), json!({"input": []})),
        (json!({"messages": {}}), json!({"input": {}})),
        (json!({"messages": vec![&user; 5000]}), json!({"input": vec![&user; 5000]})),
        (json!({"messages": [{"content": "a"}]}), json!({"input": [{"content": "a"}]})),
        (json!({"messages": [{"role": "user"}]}), json!({"input": [{"role": "user"}]})),
        (
            json!({"messages": [{"role": "boss", "content": "a"}]}),
            json!({"input": [{"role": "boss", "content": "a"}]}),
        ),
        (
            json!({"messages": [{"role": "user", "content": []}]}),
            json!({"input": [{"role": "user", "content": []}]}),
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
        ),
        (
            json!({"messages": [{"role": "tool", "content": "a"}]}),
            json!({"input": [{"type": "function_call_output", "output": "a"}]}),
        ),
        (
            json!({"messages": [{"role": "tool", "content": "a", "tool_call_id": long}]}),
            json!({"input": [{"type": "function_call_output", "output": "a", "call_id": long}]}),
        ),
        (json!({"max_tokens": 0}), json!({"max_output_tokens": 0})),
        (json!({"max_tokens": 1_u64 << 32}), json!({"max_output_tokens": 1_u64 << 32})),
        (
            json!({"max_tokens": 1, "min_tokens": 2}),
            json!({"max_output_tokens": 1, "min_tokens": 2}),
        ),
        (json!({"logprobs": true, "top_logprobs": 9}), json!({"top_logprobs": 9})),
        (json!({"reasoning_effort": "hard"}), json!({"reasoning": {"effort": "hard"}})),
        (json!({"tools": [function("a b", &object)]}), json!({"tools": [flat("a b", &object)]})),
        (
            json!({"tools": [function("f", &json!({"type": "array"}))]}),
            json!({"tools": [flat("f", &json!({"type": "array"}))]}),
        ),
        (
            json!({"tools": vec![function("f", &object); 2]}),
            json!({"tools": vec![flat("f", &object); 2]}),
        ),
        (
            json!({"tools": (0..129).map(|i| function(&i.to_string(), &object)).collect::<Vec<_>>()}),
            json!({"tools": (0..129).map(|i| flat(&i.to_string(), &object)).collect::<Vec<_>>()}),
        ),
        (json!({"tools": [{"type": "web_search"}]}), json!({"tools": [{"type": "web_search"}]})),
        (json!({"tool_choice": "required"}), json!({"tool_choice": "required"})),
        (json!({"tool_choice": "sometimes"}), json!({"tool_choice": "sometimes"})),
        (
            json!({"tools": [function("f", &object)], "tool_choice":
                {"type": "function", "function": {"name": "g"}}}),
            json!({"tools": [flat("f", &object)], "tool_choice":
                {"type": "function", "name": "g"}}),
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
            json!({"text": {"format": {"type": "json_schema", "name": "x"}}}),
        ),
        (
            json!({"response_format":
                {"type": "json_schema", "json_schema": {"name": "x", "schema": 7}}}),
            json!({"text": {"format": {"type": "json_schema", "name": "x", "schema": 7}}}),
        ),
        (
            json!({"response_format": {"type": "json_object"}, "min_tokens": 1}),
            json!({"text": {"format": {"type": "json_object"}}, "min_tokens": 1}),
        ),
    ] {
        let mut for_responses = for_responses;
        if for_chat.get("logprobs").is_some() {
            for_responses["include"] = json!(["message.output_text.logprobs"]);
        }
        let verdicts = (code(by_chat(&for_chat)), code(by_responses(&for_responses)));
        assert_eq!(verdicts.0, verdicts.1, "{for_chat} {for_responses}");
    }
}

#[test]
fn a_conversation_of_items_is_the_chat_that_it_means() {
    let of_chat = by_chat(&json!({
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "c", "reasoning_content": "d", "tool_calls": [
                {"id": "1", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "2", "function": {"name": "g", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "e\nf"},
            {"role": "tool", "tool_call_id": "2", "content": "g"},
            {"role": "user", "content": "h"},
        ],
        "tools": [function("f", &json!({})), function("g", &json!({}))],
        "tool_choice": "required", "parallel_tool_calls": false,
    }));
    let of_items = by_responses(&json!({
        "instructions": "s",
        "input": [
            {"role": "user", "content": [
                {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "r", "summary": [],
             "content": [{"type": "reasoning_text", "text": "d"}]},
            {"type": "message", "role": "assistant", "content": [
                {"type": "output_text", "text": "c", "annotations": []}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\":1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": [
                {"type": "input_text", "text": "e"}, {"type": "input_text", "text": "f"}]},
            {"type": "function_call_output", "call_id": "2", "output": "g"},
            {"role": "user", "content": "h"},
        ],
        "tools": [
            {"type": "function", "name": "f", "parameters": {}},
            {"type": "function", "name": "g", "parameters": {}, "strict": true},
        ],
        "tool_choice": "required", "parallel_tool_calls": false,
    }));

    let chat_of = |request: Result<GenerateRequest, ApiError>| match request.unwrap().prompts {
        Prompts::Chat(chat) => {
            let functions: Vec<_> = chat.tools.functions.iter().map(Function::as_json).collect();
            let forced = (chat.tools.choice, chat.tools.parallel);
            format!("{:?} {functions:?} {forced:?} {:?}", chat.messages, chat.end)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(chat_of(of_chat), chat_of(of_items));
}

#[test]
fn only_a_function_that_is_named_is_called_once() {
    let object = json!({"type": "object"});
    let chat_tools = json!([function("f", &object)]);
    let response_tools = json!([{"type": "function", "name": "f", "parameters": object}]);
    let allowed = |tool: Value| json!({"mode": "required", "tools": [tool]});
    let mut flat = allowed(json!({"type": "function", "name": "f"}));
    flat["type"] = "allowed_tools".into();
    let nested = allowed(json!({"type": "function", "function": {"name": "f"}}));
    let named = json!({"type": "function", "name": "f", "function": {"name": "f"}});
    for (for_chat, for_responses, expected) in [
        (named.clone(), named, false),
        (json!({"type": "allowed_tools", "allowed_tools": nested}), flat, true),
        (json!("required"), json!("required"), true),
    ] {
        let parallel = |request: Result<GenerateRequest, ApiError>| match request.unwrap().prompts {
            Prompts::Chat(chat) => chat.tools.parallel,
            other => panic!("{other:?}"),
        };
        let chat = by_chat(&json!({"tools": chat_tools, "tool_choice": for_chat}));
        let responses =
            by_responses(&json!({"tools": response_tools, "tool_choice": for_responses}));
        assert_eq!((parallel(chat), parallel(responses)), (expected, expected), "{for_chat}");
    }
}

#[test]
fn a_conversation_of_blocks_is_the_chat_that_it_means() {
    let of_chat = by_chat(&json!({
        "messages": [
            {"role": "system", "content": "s\nt"},
            {"role": "user", "content": "a\nb"},
            {"role": "assistant", "content": "c", "reasoning_content": "d", "tool_calls": [
                {"id": "1", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "2", "function": {"name": "g", "arguments": "{}"}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "e\nf"},
            {"role": "tool", "tool_call_id": "2", "content": "Error: g"},
            {"role": "user", "content": "h"},
        ],
        "tools": [function("f", &json!({})), function("g", &json!({}))],
        "tool_choice": "required", "parallel_tool_calls": false, "stop": ["x"],
    }));
    let of_messages = by_messages(&json!({
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}},
                   {"type": "text", "text": "t"}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [
                {"type": "redacted_thinking", "data": "?"},
                {"type": "thinking", "thinking": "d", "signature": ""},
                {"type": "text", "text": "c"},
                {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "2", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "1", "content":
                    [{"type": "text", "text": "e"}, {"type": "text", "text": "f"}]},
                {"type": "tool_result", "tool_use_id": "2", "content": "g", "is_error": true},
                {"type": "text", "text": "h"},
            ]},
        ],
        "tools": [tool("f", &json!({})), tool("g", &json!({}))],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "stop_sequences": ["x"],
    }));

    let (of_chat, of_messages) = (of_chat.unwrap(), of_messages.unwrap());
    // But for what errors would name.
    let of_chat_prompts =
        format!("{:?}", of_chat.prompts).replace("function.parameters", "input_schema");
    assert_eq!(of_chat_prompts, format!("{:?}", of_messages.prompts));
    assert_eq!((of_chat.stop, of_chat.n), (of_messages.stop, of_messages.n));
}

#[test]
fn an_assistants_last_turn_goes_on() {
    let request = by_messages(&json!({"messages": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]}));
    let Prompts::Chat(chat) = request.unwrap().prompts else { panic!("it is a chat") };
    assert_eq!(chat.end, PromptEnd::OpenMessage);
    assert_eq!(chat.messages.last().unwrap().role, Role::Assistant);

    let calls = by_messages(&json!({"messages": [{"role": "assistant", "content": [
        {"type": "tool_use", "id": "1", "name": "f", "input": {}},
    ]}]}));
    assert_eq!(code(calls), Some("invalid_value"));
}

#[test]
fn thinking_is_a_variable_of_the_template() {
    let variables = |change: Value| {
        by_messages(&change).map(|request| match request.prompts {
            Prompts::Chat(chat) => Value::Object(chat.variables.into_iter().collect()),
            other => panic!("{other:?}"),
        })
    };
    for (change, expected) in [
        (json!({}), json!({})),
        (json!({"thinking": {"type": "disabled"}}), json!({"enable_thinking": false})),
        (json!({"thinking": {"type": "adaptive"}}), json!({"enable_thinking": true})),
        (
            json!({"max_tokens": 2000, "thinking": {"type": "enabled", "budget_tokens": 1024}}),
            json!({"enable_thinking": true}),
        ),
        (json!({"output_config": {"effort": "low"}}), json!({"reasoning_effort": "low"})),
    ] {
        assert_eq!(variables(change).unwrap(), expected);
    }
    for thinking in [
        json!({}),
        json!({"type": "between_tools"}),
        json!({"type": "enabled"}),
        json!({"type": "enabled", "budget_tokens": 1023}),
        json!({"type": "enabled", "budget_tokens": 2000}),
        json!({"type": "adaptive", "display": "omitted"}),
    ] {
        let change = json!({"max_tokens": 2000, "thinking": thinking});
        assert!(variables(change).is_err());
    }
}

#[test]
fn what_a_request_leaves_open_is_as_the_model_says_at_every_door() {
    let defaults = SamplingDefaults {
        temperature: Some(0.6),
        top_k: Some(20),
        top_p: Some(0.95),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        frequency_penalty: Some(0.2),
        presence_penalty: Some(0.3),
        max_tokens: Some(33),
        stop: vec!["END".into()],
    };
    let info = ModelInfo { sampling_defaults: Some(defaults), ..info() };
    let limits = Limits::default();
    let by_chat = |body: Value| {
        let request = ChatCompletionRequest::read(body.to_string().as_bytes()).unwrap();
        chat(request, &info, &limits).unwrap()
    };
    let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});

    let request = by_chat(body.clone());
    let sampling = request.fit(5, &info).unwrap();
    let SamplingParams { temperature, top_k, top_p, min_p, .. } = sampling;
    assert_eq!((temperature, top_k, top_p, min_p), (0.6, 20, 0.95, 0.1));
    assert_eq!(sampling.repetition_penalty, 1.1);
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (0.2, 0.3));
    assert_eq!((sampling.max_tokens, request.stop), (33, vec!["END".to_owned()]));

    let said = json!({"temperature": 0, "top_k": -1, "max_tokens": 9, "stop": "x"});
    let request = by_chat(serde_json::from_slice(&with(body, &said)).unwrap());
    let sampling = request.fit(5, &info).unwrap();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p), (0.0, 0, 0.95));
    assert_eq!((sampling.max_tokens, request.stop), (9, vec!["x".to_owned()]));

    // Completions have OpenAI's 16 only where nobody says more.
    let body = json!({"model": "m", "prompt": "hi"}).to_string();
    let read = || CompletionRequest::read(body.as_bytes()).unwrap();
    let request = completions(read(), &info, &limits).unwrap();
    assert_eq!(request.fit(5, &info).unwrap().max_tokens, 33);
    let plain = ModelInfo { sampling_defaults: None, ..info.clone() };
    let request = completions(read(), &plain, &limits).unwrap();
    assert_eq!(request.fit(5, &plain).unwrap().max_tokens, 16);

    let body = json!({"model": "m", "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}]});
    let request = MessagesRequest::read(body.to_string().as_bytes()).unwrap();
    let request = messages(request, &info, &limits).unwrap();
    assert_eq!((request.sampling.top_k, request.stop), (20, vec!["END".to_owned()]));
}
