//! What a prompt is to the model.

use serde_json::{Value, json};

use crate::service::{Answer, Service, answer, start, wait};

const PROMPT: &str = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";

async fn post(service: &Service, path: &str, body: Value) -> Answer {
    answer(wait(service.post(path, body.to_string())).await).await
}

#[tokio::test]
async fn a_text_is_tokenized_and_put_together_again() {
    let service = start().await;
    let body = json!({"model": "org/tiny", "prompt": "hello é", "return_token_strs": true});
    let reply = post(&service, "/tokenize", body).await;
    assert_eq!(reply.status, 200);
    let tokens = &reply.body["tokens"];
    assert_eq!(reply.body["count"], tokens.as_array().unwrap().len());
    assert_eq!(reply.body["max_model_len"], 256);
    assert_eq!(reply.body["token_strs"][0], "hello");

    let body = json!({"model": "org/tiny", "tokens": tokens});
    let reply = post(&service, "/detokenize", body).await;
    assert_eq!(reply.body, json!({"prompt": "hello é"}));
}

/// What is shown is what is sent to a worker.
#[tokio::test]
async fn a_conversation_is_rendered_as_it_would_be_asked() {
    let mut service = start().await;
    let chat = json!({
        "model": "org/tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3,
    });
    let rendered = post(&service, "/v1/chat/completions/render", chat.clone()).await;
    assert_eq!(rendered.body["prompt"], PROMPT);
    let tokenized = post(&service, "/tokenize", chat).await;
    assert_eq!(tokenized.body["tokens"], rendered.body["prompt_token_ids"]);
    assert!(tokenized.body.get("token_strs").is_none());
    assert!(service.worker.is_idle());

    let _response = service.chat(json!({}));
    let sent = service.worker.submitted().await.submit.prompt;
    assert_eq!(rendered.body["prompt_token_ids"], json!(sent));
}

#[tokio::test]
async fn mistakes_are_named() {
    let service = start().await;
    let with = |mut body: Value| {
        body["model"] = "org/tiny".into();
        body
    };
    let hi = json!([{"role": "user", "content": "hi"}]);
    let missing = "missing_required_parameter";
    let (to, from) = ("/tokenize", "/detokenize");
    for (path, body, param, code) in [
        (to, with(json!({})), "prompt", missing),
        (to, json!({"prompt": "a"}), "model", missing),
        (to, with(json!({"prompt": "a", "messages": hi})), "prompt", "invalid_value"),
        (to, with(json!({"prompt": ["a", "b"]})), "prompt", "invalid_type"),
        (to, with(json!({"messages": []})), "messages", "empty_array"),
        (from, with(json!({})), "tokens", missing),
        (from, with(json!({"tokens": [1, 280]})), "tokens[1]", "invalid_token_id"),
        (from, with(json!({"tokens": [1, "a"]})), "tokens[1]", "invalid_type"),
    ] {
        let reply = post(&service, path, body.clone()).await;
        let error = &reply.body["error"];
        let given = (reply.status, error["param"].as_str(), error["code"].as_str());
        assert_eq!(given, (400, Some(param), Some(code)), "{path} {body}: {error}");
    }
    let reply = post(&service, from, json!({"model": "x", "tokens": []})).await;
    assert_eq!((reply.status, &reply.body["error"]["code"]), (404, &json!("model_not_found")));
}
