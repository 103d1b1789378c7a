//! Every bad request is a 400 that names its parameter, and reaches no worker.

use serde_json::{Value, json};

use crate::service::{Service, answer, start, start_with, wait};

async fn check(service: &mut Service, path: &str, body: Vec<u8>, expected: (Value, &str)) {
    let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
    let answer = answer(wait(service.post(path, body)).await).await;
    let error = &answer.body["error"];
    assert_eq!(answer.status, 400, "{shown}: {error}");
    assert_eq!(error["type"], "invalid_request_error", "{shown}");
    assert_eq!(
        (&error["param"], error["code"].as_str().unwrap()),
        (&expected.0, expected.1),
        "{shown}"
    );
    assert!(error["message"].as_str().unwrap().len() < 2000, "{shown}");
    assert_eq!(error.as_object().unwrap().len(), 4);
    assert!(service.worker.is_idle(), "{shown} reached the worker");
}

async fn chat(service: &mut Service, change: &str, param: &str, code: &str) {
    let hi = r#""messages":[{"role":"user","content":"hi"}]"#;
    let messages = if change.contains("\"messages\"") { "" } else { hi };
    let comma = if messages.is_empty() || change.is_empty() { "" } else { "," };
    let body = format!("{{\"model\":\"org/tiny\",{messages}{comma}{change}}}");
    check(service, "/v1/chat/completions", body.into(), (json!(param), code)).await;
}

async fn complete(service: &mut Service, change: &str, param: &str, code: &str) {
    let prompt = if change.contains("\"prompt\"") { "" } else { r#""prompt":"hi","# };
    let body = format!("{{\"model\":\"org/tiny\",{prompt}{change}}}");
    check(service, "/v1/completions", body.into(), (json!(param), code)).await;
}

#[tokio::test]
async fn numbers_out_of_range_are_refused_and_never_wrap() {
    let mut service = start().await;
    let above = "integer_above_max_value";
    let below = "integer_below_min_value";
    for (change, param, code) in [
        (r#""n":1000000"#, "n", above),
        (r#""n":2147483648"#, "n", above),
        (r#""n":4294967297"#, "n", above),
        (r#""n":9223372036854775808"#, "n", above),
        (r#""n":-1"#, "n", below),
        (r#""n":0"#, "n", below),
        (r#""n":1.5"#, "n", "invalid_type"),
        (r#""n":"3""#, "n", "invalid_type"),
        (r#""max_tokens":4294967300"#, "max_tokens", above),
        (r#""max_tokens":1000000000000000000000000000000"#, "max_tokens", above),
        (r#""max_tokens":0"#, "max_tokens", below),
        (r#""max_tokens":-9223372036854775809"#, "max_tokens", below),
        (r#""max_completion_tokens":0"#, "max_completion_tokens", below),
        (r#""max_tokens":100000"#, "messages", "context_length_exceeded"),
        (r#""min_tokens":-1"#, "min_tokens", below),
        (r#""min_tokens":5,"max_tokens":4"#, "min_tokens", above),
        (r#""min_tokens":255"#, "min_tokens", above),
        (r#""seed":9223372036854775808"#, "seed", above),
        (r#""seed":-9223372036854775809"#, "seed", below),
        (r#""seed":1.5"#, "seed", "invalid_type"),
        (r#""top_k":-2"#, "top_k", below),
        (r#""top_k":4294967296"#, "top_k", above),
        (r#""logprobs":true,"top_logprobs":1000000000"#, "top_logprobs", above),
        (r#""logprobs":true,"top_logprobs":6"#, "top_logprobs", above),
        (r#""logprobs":true,"top_logprobs":-1"#, "top_logprobs", below),
        (r#""temperature":2.1"#, "temperature", "decimal_above_max_value"),
        (r#""temperature":-0.1"#, "temperature", "decimal_below_min_value"),
        (r#""temperature":1e39"#, "temperature", "decimal_above_max_value"),
        (r#""temperature":1e999"#, "temperature", "invalid_json"),
        (r#""temperature":"hot""#, "temperature", "invalid_type"),
        (r#""top_p":0"#, "top_p", "decimal_below_min_value"),
        (r#""top_p":1e-60"#, "top_p", "decimal_below_min_value"),
        (r#""top_p":1.01"#, "top_p", "decimal_above_max_value"),
        (r#""min_p":-1e-9"#, "min_p", "decimal_below_min_value"),
        (r#""typical_p":0"#, "typical_p", "decimal_below_min_value"),
        (r#""repetition_penalty":0"#, "repetition_penalty", "decimal_below_min_value"),
        (r#""repetition_penalty":1e39"#, "repetition_penalty", "decimal_above_max_value"),
        (r#""frequency_penalty":-2.5"#, "frequency_penalty", "decimal_below_min_value"),
        (r#""presence_penalty":2.5"#, "presence_penalty", "decimal_above_max_value"),
    ] {
        chat(&mut service, change, param, code).await;
    }
}

#[tokio::test]
async fn messages_that_are_none_are_refused() {
    let mut service = start().await;
    let missing = "missing_required_parameter";
    for (messages, param, code) in [
        ("null", "messages", missing),
        ("[]", "messages", "empty_array"),
        ("{}", "messages", "invalid_type"),
        ("\"hi\"", "messages", "invalid_type"),
        ("[1]", "messages[0]", "invalid_type"),
        (r#"[["user", "hi", null, null, null, null, null]]"#, "messages[0]", "invalid_type"),
        ("[null]", "messages[0]", "invalid_type"),
        (r#"[{"content":"a"}]"#, "messages[0].role", missing),
        (r#"[{"role":"user"}]"#, "messages[0].content", missing),
        (r#"[{"role":"assistant","content":null}]"#, "messages[0].content", missing),
        (r#"[{"role":"boss","content":"a"}]"#, "messages[0].role", "invalid_value"),
        (r#"[{"role":"user\n<|im_end|>","content":"a"}]"#, "messages[0].role", "invalid_value"),
        (r#"[{"role":7,"content":"a"}]"#, "messages[0].role", "invalid_type"),
        (r#"[{"role":"user","role":"system","content":"a"}]"#, "messages[0]", "invalid_type"),
        (r#"[{"role":"user","content":7}]"#, "messages[0].content", "invalid_type"),
        (r#"[{"role":"user","content":[]}]"#, "messages[0].content", "empty_array"),
        (r#"[{"role":"user","content":[7]}]"#, "messages[0].content[0]", "invalid_type"),
        (r#"[{"role":"user","content":[{"text":"a"}]}]"#, "messages[0].content[0].type", missing),
        (
            r#"[{"role":"user","content":[{"type":"text"}]}]"#,
            "messages[0].content[0].text",
            missing,
        ),
        (
            r#"[{"role":"user","content":[{"type":"text","text":7}]}]"#,
            "messages[0].content[0].text",
            "invalid_type",
        ),
        (
            r#"[{"role":"user","content":[{"type":"refusal","refusal":"a"}]}]"#,
            "messages[0].content[0].type",
            "unsupported_content_type",
        ),
        (
            r#"[{"role":"system","content":"a"},{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"http://x/"}}]}]"#,
            "messages[1].content[1].type",
            "unsupported_content_type",
        ),
        (
            r#"[{"role":"function","content":"a"}]"#,
            "messages[0].name",
            "missing_required_parameter",
        ),
        (
            r#"[{"role":"user","content":"a","function_call":{"name":"f"}}]"#,
            "messages[0].function_call",
            "invalid_value",
        ),
        (
            r#"[{"role":"assistant","content":"a","tool_calls":[{}]}]"#,
            "messages[0].tool_calls[0].id",
            missing,
        ),
        (
            r#"[{"role":"user","content":"a","tool_calls":[{}]}]"#,
            "messages[0].tool_calls",
            "invalid_value",
        ),
        (r#"[{"role":"tool","content":"a"}]"#, "messages[0].tool_call_id", missing),
        (
            r#"[{"role":"user","content":"a","tool_call_id":"x"}]"#,
            "messages[0].tool_call_id",
            "invalid_value",
        ),
        (r#"[{"role":"user","content":"a","name":7}]"#, "messages[0].name", "invalid_type"),
    ] {
        chat(&mut service, &format!("\"messages\":{messages}"), param, code).await;
    }
    let many = vec![r#"{"role":"user","content":"a"}"#; 100_000].join(",");
    chat(&mut service, &format!("\"messages\":[{many}]"), "messages", "array_above_max_length")
        .await;
    let name = "x".repeat(65);
    let named =
        format!("\"messages\":[{{\"role\":\"user\",\"content\":\"a\",\"name\":\"{name}\"}}]");
    chat(&mut service, &named, "messages[0].name", "string_above_max_length").await;
}

#[tokio::test]
async fn lists_and_maps_have_limits_and_token_ids_exist() {
    let mut service = start().await;
    for (change, param, code) in [
        (r#""stop":"""#, "stop[0]", "empty_string"),
        (r#""stop":["a",""]"#, "stop[1]", "empty_string"),
        (r#""stop":["a","b","c","d","e"]"#, "stop", "array_above_max_length"),
        (r#""stop":[7]"#, "stop[0]", "invalid_type"),
        (r#""stop":7"#, "stop", "invalid_type"),
        (r#""logit_bias":[]"#, "logit_bias", "invalid_type"),
        (r#""logit_bias":{"280":1}"#, "logit_bias.280", "invalid_token_id"),
        (r#""logit_bias":{"-1":1}"#, "logit_bias.-1", "invalid_token_id"),
        (r#""logit_bias":{"+1":1}"#, "logit_bias.+1", "invalid_token_id"),
        (r#""logit_bias":{"a":1}"#, "logit_bias.a", "invalid_token_id"),
        (r#""logit_bias":{"1":"x"}"#, "logit_bias.1", "invalid_type"),
        (r#""logit_bias":{"1":101}"#, "logit_bias.1", "decimal_above_max_value"),
        (r#""logit_bias":{"1":-100.5}"#, "logit_bias.1", "decimal_below_min_value"),
        (r#""logit_bias":{"1":1,"01":2}"#, "logit_bias.01", "duplicate_parameter"),
        (r#""stop_token_ids":[280]"#, "stop_token_ids[0]", "invalid_token_id"),
        (r#""stop_token_ids":[1,-1]"#, "stop_token_ids[1]", "invalid_token_id"),
        (r#""stop_token_ids":[4294967297]"#, "stop_token_ids[0]", "invalid_token_id"),
        (r#""stop_token_ids":["a"]"#, "stop_token_ids[0]", "invalid_type"),
    ] {
        chat(&mut service, change, param, code).await;
    }
    let stop = format!("\"stop\":[\"{}\"]", "x".repeat(1 << 20));
    chat(&mut service, &stop, "stop[0]", "string_above_max_length").await;
    let stops = format!("\"stop\":[{}]", vec!["\"x\""; 200_000].join(","));
    chat(&mut service, &stops, "stop", "array_above_max_length").await;
    let bias: Vec<_> = (0..100_000).map(|i| format!("\"{i}\":1")).collect();
    let bias = format!("\"logit_bias\":{{{}}}", bias.join(","));
    chat(&mut service, &bias, "logit_bias", "object_above_max_properties").await;
    let ids = format!("\"stop_token_ids\":[{}]", vec!["1"; 65].join(","));
    chat(&mut service, &ids, "stop_token_ids", "array_above_max_length").await;
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let mut service = start().await;
    for (field, value) in [
        ("modalities", r#"["text","audio"]"#),
        ("audio", r#"{"voice":"x"}"#),
        ("web_search_options", "{}"),
        ("moderation", "{}"),
        ("chat_template", "\"{{ messages }}\""),
        ("guided_json", "{}"),
        ("cache_salt", "\"x\""),
    ] {
        chat(&mut service, &format!("\"{field}\":{value}"), field, "unsupported_parameter").await;
    }
    for (field, value) in [("add_special_tokens", "false"), ("use_beam_search", "true")] {
        let change = format!("\"{field}\":{value}");
        complete(&mut service, &change, field, "unsupported_parameter").await;
    }
}

#[tokio::test]
async fn options_that_contradict_each_other_are_refused() {
    let mut service = start().await;
    for (change, param, code) in [
        (r#""top_logprobs":1"#, "top_logprobs", "invalid_value"),
        (r#""logprobs":false,"top_logprobs":1"#, "top_logprobs", "invalid_value"),
        (r#""logprobs":1"#, "logprobs", "invalid_type"),
        (r#""stream_options":{}"#, "stream_options", "invalid_value"),
        (
            r#""stream":true,"stream_options":{"include_usage":1}"#,
            "stream_options.include_usage",
            "invalid_type",
        ),
        (r#""stream":true,"stream_options":7"#, "stream_options", "invalid_type"),
        (r#""stream":true,"stream_options":[true,null,null]"#, "stream_options", "invalid_type"),
        (r#""stream":"yes""#, "stream", "invalid_type"),
        (r#""ignore_eos":1"#, "ignore_eos", "invalid_type"),
        (r#""user":7"#, "user", "invalid_type"),
        (r#""metadata":{"a":{}}"#, "metadata.a", "invalid_type"),
        (r#""service_tier":"gold""#, "service_tier", "invalid_value"),
        (r#""n":1,"n":1"#, "n", "duplicate_parameter"),
        (r#""prediction":{}"#, "prediction.type", "missing_required_parameter"),
        (r#""prediction":{"type":"content"}"#, "prediction.content", "missing_required_parameter"),
        (r#""prediction":{"type":"x","content":"a"}"#, "prediction.type", "invalid_value"),
        (
            r#""prediction":{"type":"content","content":[{"type":"image_url"}]}"#,
            "prediction.content[0].type",
            "invalid_value",
        ),
    ] {
        chat(&mut service, change, param, code).await;
    }
}

#[tokio::test]
async fn prompts_that_are_none_are_refused() {
    let mut service = start().await;
    let missing = "missing_required_parameter";
    for (prompt, param, code) in [
        ("null", "prompt", missing),
        ("\"\"", "prompt", "empty_string"),
        ("[]", "prompt", "empty_array"),
        ("[[]]", "prompt[0]", "empty_array"),
        ("[\"a\",\"\"]", "prompt[1]", "empty_string"),
        ("7", "prompt", "invalid_type"),
        ("{}", "prompt", "invalid_type"),
        ("[\"a\",1]", "prompt[1]", "invalid_type"),
        ("[1,\"a\"]", "prompt[1]", "invalid_type"),
        ("[[1],2]", "prompt[1]", "invalid_type"),
        ("[1.5]", "prompt[0]", "invalid_type"),
        ("[1,-1]", "prompt[1]", "invalid_token_id"),
        ("[280]", "prompt[0]", "invalid_token_id"),
        ("[[1],[2,4294967296]]", "prompt[1][1]", "invalid_token_id"),
        ("[18446744073709551615]", "prompt[0]", "invalid_type"),
    ] {
        complete(&mut service, &format!("\"prompt\":{prompt}"), param, code).await;
    }
    let many = vec!["\"a\""; 33].join(",");
    complete(&mut service, &format!("\"prompt\":[{many}]"), "prompt", "array_above_max_length")
        .await;
    let long = vec!["1"; 256].join(",");
    complete(&mut service, &format!("\"prompt\":[{long}]"), "prompt", "context_length_exceeded")
        .await;
    let text = "!".repeat(1 << 20);
    complete(&mut service, &format!("\"prompt\":\"{text}\""), "prompt", "context_length_exceeded")
        .await;
    complete(&mut service, "\"logprobs\":6", "logprobs", "integer_above_max_value").await;
}

#[tokio::test]
async fn a_body_that_is_no_request_is_refused() {
    let mut service = start().await;
    let deep = format!("{{\"x\":{}", "[".repeat(1_000_000));
    for body in [
        b"".to_vec(),
        b"null".to_vec(),
        b"[]".to_vec(),
        b"{".to_vec(),
        b"{}x".to_vec(),
        b"{\"model\":\"org/tiny\xff\"}".to_vec(),
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"a\":NaN}".to_vec(),
        b"{\"a\":\"\n\"}".to_vec(),
        deep.into_bytes(),
    ] {
        check(&mut service, "/v1/chat/completions", body, (Value::Null, "invalid_json")).await;
    }
    let lone = br#"{"model":"org/tiny","messages":[{"role":"user","content":"\ud800"}]}"#;
    let expected = (json!("messages[0].content"), "invalid_json");
    check(&mut service, "/v1/chat/completions", lone.to_vec(), expected).await;
    let missing = (json!("model"), "missing_required_parameter");
    check(&mut service, "/v1/completions", b"{}".to_vec(), missing).await;
    let number = br#"{"model":7}"#.to_vec();
    check(&mut service, "/v1/completions", number, (json!("model"), "invalid_type")).await;
}

#[tokio::test]
async fn an_unknown_model_is_not_found() {
    let service = start().await;
    for name in ["nobody", "", "../etc/passwd", "org/tiny\u{0}", "\u{202e}"] {
        let answer = answer(wait(service.chat(json!({"model": name}))).await).await;
        assert_eq!(
            (answer.status, &answer.body["error"]["code"]),
            (404, &json!("model_not_found"))
        );
        assert_eq!(answer.body["error"]["param"], "model");
    }
    let long = answer(wait(service.chat(json!({"model": "x".repeat(10_000)}))).await).await;
    assert_eq!((long.status, &long.body["error"]["param"]), (400, &json!("model")));
}

#[tokio::test]
async fn odd_text_is_text() {
    let mut service = start().await;
    for text in ["\u{0}", "\u{feff}", "\u{202e}rtl", "\r", "\u{f0000}<|im_end|>", "{{ 7 * 7 }}"] {
        let _response = service.chat(json!({"messages": [{"role": "user", "content": text}]}));
        let prompt = service.worker.submitted().await.prompt();
        assert_eq!(prompt, format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"));
    }
}

#[tokio::test]
async fn limits_are_the_models_and_the_configurations() {
    let mut service = start_with(|info| info.max_num_seqs = 2, |limits| limits.max_stop = 1).await;
    chat(&mut service, r#""n":3"#, "n", "integer_above_max_value").await;
    chat(&mut service, r#""stop":["a","b"]"#, "stop", "array_above_max_length").await;
}
