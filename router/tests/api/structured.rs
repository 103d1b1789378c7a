//! What a completion's text must be: as the worker gets it, and what becomes of what it refuses.

use sconce_proto::worker::Finish;
use sconce_proto::worker::grammar::Source;
use sconce_proto::worker::rejected::Reason;
use serde_json::{Value, json};

use crate::service::{Service, answer, start, start_with, wait};

async fn source(service: &mut Service, change: Value) -> Option<Source> {
    let _response = service.chat(change);
    let submit = service.worker.submitted().await.submit;
    submit.sampling.unwrap().grammar.map(|grammar| grammar.source.unwrap())
}

#[tokio::test]
async fn schemas_reach_the_worker_as_they_were_written() {
    let mut service = start().await;
    let schema = r#"{"type":"object","properties":{"z":{},"a":{}}, "required":["z"]}"#;
    let body = format!(
        r#"{{"model":"org/tiny","messages":[{{"role":"user","content":"hi"}}],"response_format":
        {{"type":"json_schema","json_schema":{{"name":"x","strict":true,"schema":{schema}}}}}}}"#
    );
    let _response = service.post("/v1/chat/completions", body);
    let sampling = service.worker.submitted().await.submit.sampling.unwrap();
    let source = sampling.grammar.unwrap().source.unwrap();
    assert_eq!(source, Source::JsonSchema(schema.into()));
}

#[tokio::test]
async fn every_way_to_ask_becomes_a_grammar() {
    let mut service = start().await;
    let object = || Some(Source::JsonSchema(r#"{"type":"object"}"#.into()));
    for (change, expected) in [
        (json!({"response_format": {"type": "text"}}), None),
        (json!({"response_format": {"type": "json_object"}}), object()),
        (json!({"structured_outputs": {"json_object": true}}), object()),
        (json!({"structured_outputs": {"json": {"type": "object"}}}), object()),
        (json!({"structured_outputs": {"json": "{\"type\":\"object\"}"}}), object()),
        (json!({"structured_outputs": {"regex": "a|b"}}), Some(Source::Regex("a|b".into()))),
        (
            json!({"structured_outputs": {"choice": ["a\"b", "c"]}}),
            Some(Source::Lark(r#"start: "a\"b" | "c""#.into())),
        ),
        (
            json!({"structured_outputs": {"grammar": "start: \"a\""}}),
            Some(Source::Lark("start: \"a\"".into())),
        ),
    ] {
        assert_eq!(source(&mut service, change.clone()).await, expected, "{change}");
    }
}

#[tokio::test]
async fn what_says_two_things_or_none_is_refused() {
    let mut service = start().await;
    let missing = "missing_required_parameter";
    let named = |name: Value, schema: Value| {
        json!({"response_format": {"type": "json_schema",
            "json_schema": {"name": name, "schema": schema}}})
    };
    let format = |format: Value| json!({ "response_format": format });
    let outputs = |outputs: Value| json!({ "structured_outputs": outputs });
    let object = json!({"type": "json_object"});
    let schema = "response_format.json_schema.schema";
    let moved = json!({"properties": {"a": {"$id": "b/", "$ref": "c"}}});
    let name = "response_format.json_schema.name";
    for (change, param, code) in [
        (format(json!({})), "response_format.type", missing),
        (format(json!({"type": "xml"})), "response_format.type", "invalid_value"),
        (format(json!({"type": "json_schema"})), "response_format.json_schema", missing),
        (named(Value::Null, json!({})), name, missing),
        (named(json!("a b"), json!({})), name, "invalid_value"),
        (named(json!("a"), Value::Null), schema, missing),
        (named(json!("a"), json!(7)), schema, "invalid_type"),
        (named(json!("a"), json!({"x-guidance": {}})), schema, "unsupported_parameter"),
        (named(json!("a"), moved.clone()), schema, "unsupported_value"),
        (outputs(json!({"json": moved})), "structured_outputs.json", "unsupported_value"),
        (
            outputs(json!({"json": moved.to_string()})),
            "structured_outputs.json",
            "unsupported_value",
        ),
        (json!({"response_format": object, "min_tokens": 2}), "min_tokens", "invalid_value"),
        (
            json!({"response_format": object, "allowed_token_ids": [1]}),
            "allowed_token_ids",
            "invalid_value",
        ),
        (
            json!({"response_format": object, "structured_outputs": {"regex": "a"}}),
            "structured_outputs",
            "invalid_value",
        ),
        (outputs(json!({})), "structured_outputs", "invalid_value"),
        (outputs(json!({"regex": "a", "grammar": "b"})), "structured_outputs", "invalid_value"),
        (outputs(json!({"choice": []})), "structured_outputs.choice", "empty_array"),
        (outputs(json!({"choice": ["a", ""]})), "structured_outputs.choice[1]", "empty_string"),
        (outputs(json!({"xgrammar": "a"})), "structured_outputs.xgrammar", "invalid_type"),
        (json!({"allowed_token_ids": []}), "allowed_token_ids", "empty_array"),
        (json!({"bad_words": "a"}), "bad_words", "invalid_type"),
        (json!({"bad_words": ["a", ""]}), "bad_words[1]", "empty_string"),
        (json!({"bad_words": vec!["a"; 129]}), "bad_words", "array_above_max_length"),
        (json!({"bad_words": ["a".repeat(257)]}), "bad_words[0]", "string_above_max_length"),
        (json!({"allowed_token_ids": [1, 99999]}), "allowed_token_ids[1]", "invalid_token_id"),
    ] {
        let answer = answer(wait(service.chat(change.clone())).await).await;
        let error = &answer.body["error"];
        let given = (answer.status, error["param"].as_str(), error["code"].as_str());
        assert_eq!(given, (400, Some(param), Some(code)), "{change}: {error}");
        assert!(service.worker.is_idle(), "{change}");
    }
}

#[tokio::test]
async fn a_grammar_that_the_worker_refuses_is_an_error_that_names_the_parameter() {
    let mut service = start().await;
    for stream in [false, true] {
        let change = json!({"structured_outputs": {"regex": "("}, "stream": stream});
        let response = service.chat(change);
        service.worker.submitted().await.reject(Reason::Grammar, "unclosed group");
        let answer = answer(wait(response).await).await;
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.body["error"],
            json!({
                "message": "`structured_outputs` can't be enforced: unclosed group",
                "type": "invalid_request_error", "param": "structured_outputs",
                "code": "invalid_grammar",
            })
        );
    }
}

#[tokio::test]
async fn the_last_token_of_a_complete_text_is_part_of_it() {
    let mut service = start().await;
    let response = service.chat(json!({"structured_outputs": {"choice": ["he", "ll"]}}));
    let request = service.worker.submitted().await;
    let mut last = request.token(0, request.id_of("he"));
    last.set_finish(Finish::GrammarEnd);
    request.step(vec![last]);
    let body = answer(wait(response).await).await.body;
    assert_eq!(body["choices"][0]["message"]["content"], "he");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["usage"]["completion_tokens"], 1);
}

#[tokio::test]
async fn a_text_that_can_not_be_followed_ends_with_an_error() {
    let mut service = start().await;
    let response = service.chat(json!({"response_format": {"type": "json_object"}}));
    service.worker.submitted().await.finish(0, Finish::GrammarLimit);
    let answer = answer(wait(response).await).await;
    assert_eq!(
        (answer.status, &answer.body["error"]["code"]),
        (400, &json!("grammar_too_complex"))
    );
}

/// A model that reasons does so before it writes what is prescribed.
#[tokio::test]
async fn reasoning_comes_before_what_is_prescribed() {
    let template = "{{ messages[0].content }}<think>\n";
    let mut service = start_with(|info| info.chat_template = template.into(), |_| {}).await;
    let change = json!({"response_format": {"type": "json_object"}});
    let Some(Source::Lark(lark)) = source(&mut service, change).await else { panic!("no Lark") };
    assert!(lark.contains("</think>") && lark.contains("%json"), "{lark}");
}

#[tokio::test]
async fn bad_words_reach_the_worker_as_tokens_with_and_without_a_space() {
    let mut service = start().await;
    let words = json!(["hello", " no", "\n", "<|im_end|>", "hello"]);
    let _response = service.chat(json!({"bad_words": words, "response_format":
        {"type": "json_object"}}));
    let request = service.worker.submitted().await;
    let bad_words = &request.submit.sampling.as_ref().unwrap().bad_words;
    let texts: Vec<_> = bad_words.iter().map(|word| request.text(&word.tokens)).collect();
    assert_eq!(texts, ["hello", " hello", " no", "\n", "<|im_end|>", " <|im_end|>"]);
    let end = request.id_of("<|im_end|>");
    assert!(bad_words.iter().all(|word| !word.tokens.contains(&end)), "a text is a text");

    let _response = service.complete(json!({"bad_words": []}));
    assert!(service.worker.submitted().await.submit.sampling.unwrap().bad_words.is_empty());
}

#[tokio::test]
async fn a_text_that_only_bad_words_could_go_on_ends_with_an_error() {
    let mut service = start().await;
    let response = service.chat(json!({"bad_words": ["a"], "structured_outputs": {"regex": "a"}}));
    service.worker.submitted().await.finish(0, Finish::BadWord);
    let answer = answer(wait(response).await).await;
    let error = &answer.body["error"];
    assert_eq!((answer.status, &error["code"]), (400, &json!("no_token_left")));
    assert_eq!(error["param"], "bad_words");
}
