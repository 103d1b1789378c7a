use serde_json::{Value, json};

use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::{Finish, TokenOutput};

use crate::service::{answer, start, start_with, wait};
use crate::worker::logprobs;

#[tokio::test]
async fn a_chat_is_answered_with_usage() {
    let mut service = start().await;
    let response = service.chat(json!({"max_tokens": 9}));
    let request = service.worker.submitted().await;
    assert_eq!(request.prompt(), "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    let first = TokenOutput { num_cached: Some(16), ..request.token(0, request.id_of("he")) };
    request.step(vec![first]);
    request.say(0, "y é");
    request.finish(0, Finish::StopToken);

    let answer = answer(wait(response).await).await;

    let num_prompt = request.submit.prompt.len();
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("x-request-id"));
    let body = answer.body;
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "org/tiny");
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0, "finish_reason": "stop", "logprobs": null,
            "message": {"role": "assistant", "content": "hey é", "refusal": null},
        }])
    );
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": num_prompt, "completion_tokens": 6, "total_tokens": num_prompt + 6,
            "prompt_tokens_details": {"cached_tokens": 16},
            "completion_tokens_details": {
                "reasoning_tokens": 0, "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        })
    );
}

#[tokio::test]
async fn answers_name_what_they_depend_on() {
    let mut service = start_with(|info| info.fingerprint = "fp_1".into(), |_| {}).await;
    let response = service.chat(json!({}));
    service.worker.submitted().await.answer("a");
    assert_eq!(answer(wait(response).await).await.body["system_fingerprint"], "fp_1");

    let response = service.complete(json!({"stream": true}));
    service.worker.submitted().await.answer("a");
    let chunks = crate::streaming::chunks(wait(response).await).await;
    assert!(chunks.iter().all(|chunk| chunk["system_fingerprint"] == "fp_1"));
}

#[tokio::test]
async fn sampling_parameters_reach_the_worker() {
    let mut service = start().await;
    let _response = service.chat(json!({
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "typical_p": 0.8,
        "repetition_penalty": 1.1, "frequency_penalty": -0.5, "presence_penalty": 0.25,
        "logit_bias": {"7": -100, "3": 1.5}, "seed": -1, "stop_token_ids": [5, 6],
        "min_tokens": 2, "max_completion_tokens": 4, "max_tokens": 99, "ignore_eos": true,
        "logprobs": true, "top_logprobs": 3, "n": 3,
        "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto",
        "tools": [], "response_format": {"type": "text"}, "somebodys_extension": {"x": 1},
    }));
    let submit = service.worker.submitted().await.submit;

    let sampling = submit.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (0.5, 0.9, 40));
    assert_eq!((sampling.min_p, sampling.typical_p), (0.1, 0.8));
    assert_eq!(sampling.repetition_penalty, 1.1);
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (-0.5, 0.25));
    let bias: Vec<_> = sampling.logit_bias.iter().map(|bias| (bias.token, bias.bias)).collect();
    assert_eq!(bias, [(3, 1.5), (7, -100.0)]);
    assert_eq!((sampling.seed, sampling.stop_token_ids), (u64::MAX, vec![5, 6]));
    assert_eq!((sampling.min_tokens, sampling.max_tokens), (2, 4));
    assert_eq!((sampling.ignore_eos, sampling.num_logprobs), (true, Some(3)));
    assert_eq!(submit.n, 3);
    assert_eq!(submit.cache_salt.len(), 16);
}

#[tokio::test]
async fn defaults_are_openais_and_the_rest_of_the_context() {
    let mut service = start().await;
    let _response = service.chat(json!({"temperature": null, "n": null, "stop": null}));
    let submit = service.worker.submitted().await.submit;

    let sampling = submit.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_p, sampling.typical_p), (1.0, 1.0, 1.0));
    assert_eq!((sampling.repetition_penalty, sampling.num_logprobs), (1.0, None));
    assert_eq!(sampling.max_tokens as usize, 256 - submit.prompt.len());
    assert_eq!(submit.n, 1);
}

#[tokio::test]
async fn messages_have_roles_and_parts() {
    let mut service = start().await;
    let _response = service.chat(json!({"messages": [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "d"}], "tool_calls": []},
        {"role": "user", "content": "<|im_end|>", "name": "n", "unknown": 1},
    ]}));
    let request = service.worker.submitted().await;

    assert_eq!(
        request.prompt(),
        "<|im_start|>system\na<|im_end|>\n<|im_start|>user\nb\nc<|im_end|>\n<|im_start|>assistant\nd\
         <|im_end|>\n<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    );
    let end = request.id_of("<|im_end|>");
    assert_eq!(request.submit.prompt.iter().filter(|token| **token == end).count(), 4);
}

#[tokio::test]
async fn a_stop_text_ends_the_answer_and_the_generation() {
    let mut service = start().await;
    let response = service.chat(json!({"stop": ["END", "never"]}));
    let request = service.worker.submitted().await;
    request.say(0, "one ENough EN");
    request.say(0, "D two");

    let body = answer(wait(response).await).await.body;

    assert_eq!(body["choices"][0]["message"]["content"], "one ENough ");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
}

#[tokio::test]
async fn text_held_back_for_a_stop_text_is_sent_at_the_end() {
    let mut service = start().await;
    let response = service.chat(json!({"stop": "END"}));
    let request = service.worker.submitted().await;
    request.say(0, "one EN");
    request.finish(0, Finish::Length);

    let body = answer(wait(response).await).await.body;

    assert_eq!(body["choices"][0]["message"]["content"], "one EN");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn several_completions_are_kept_apart() {
    let mut service = start().await;
    let response = service.chat(json!({"n": 2}));
    let request = service.worker.submitted().await;
    request.say(1, "b");
    request.say(0, "a");
    request.finish(1, Finish::Length);
    request.say(0, "a");
    request.finish(0, Finish::StopToken);

    let body = answer(wait(response).await).await.body;

    let choices = body["choices"].as_array().unwrap();
    let texts: Vec<_> = choices.iter().map(|choice| &choice["message"]["content"]).collect();
    assert_eq!(texts, ["aa", "b"]);
    assert_eq!(body["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn logprobs_name_tokens_and_leave_out_what_was_stopped() {
    let mut service = start().await;
    let response = service.chat(json!({"logprobs": true, "top_logprobs": 1, "stop": "lo"}));
    let request = service.worker.submitted().await;
    let tops = [(request.id_of("h"), -0.25)];
    for (token, logprob) in [("h", -0.25), ("e", -1.0), ("l", -2.0), ("o", -3.0)] {
        let token = request.token(0, request.id_of(token));
        request.step(vec![TokenOutput { logprobs: logprobs(logprob, &tops), ..token }]);
    }

    let body = answer(wait(response).await).await.body;

    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "he");
    let entry = |token: &str, logprob: f32| {
        json!({
            "token": token, "bytes": token.as_bytes(), "logprob": logprob,
            "top_logprobs": [{"token": "h", "bytes": [104], "logprob": -0.25}],
        })
    };
    assert_eq!(choice["logprobs"]["content"], json!([entry("h", -0.25), entry("e", -1.0)]));
}

#[tokio::test]
async fn refusals_of_the_worker_are_real_statuses() {
    for (reason, status, code) in [
        (Reason::QueueFull, 429, "queue_full"),
        (Reason::TooLarge, 400, "request_refused"),
        (Reason::Draining, 503, "model_unavailable"),
    ] {
        for stream in [false, true] {
            let mut service = start().await;
            let response = service.chat(json!({"stream": stream}));
            service.worker.submitted().await.reject(reason, "no room");

            let answer = answer(wait(response).await).await;

            assert_eq!((answer.status, &answer.body["error"]["code"]), (status, &json!(code)));
            assert_eq!(answer.headers.contains_key("retry-after"), status != 400);
        }
    }
}

#[tokio::test]
async fn a_worker_lost_before_the_first_token_is_a_bad_gateway() {
    let mut service = start().await;
    let response = service.chat(json!({"stream": true}));
    service.worker.submitted().await;
    service.worker.die().await;

    let lost = answer(wait(response).await).await;
    assert_eq!((lost.status, &lost.body["error"]["code"]), (502, &json!("worker_lost")));

    let unavailable = answer(wait(service.chat(json!({}))).await).await;
    assert_eq!(unavailable.status, 503);
    assert!(unavailable.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn hanging_up_cancels_an_answer_that_is_not_streamed() {
    let mut service = start().await;
    let response = service.chat(json!({}));
    let request = service.worker.submitted().await;
    response.abort();
    assert_eq!(service.worker.cancelled().await, request.submit.request_id);
}

#[tokio::test]
async fn models_are_listed_and_described() {
    let service = start().await;
    let model = json!({
        "id": "org/tiny", "object": "model", "created": 1_700_000_000, "owned_by": "sconce",
        "max_model_len": 256,
    });
    let list = service.get("/v1/models").await;
    assert_eq!((list.status, &list.body), (200, &json!({"object": "list", "data": [model]})));
    for path in ["/v1/models/org/tiny", "/v1/models/org%2Ftiny"] {
        let one = service.get(path).await;
        assert_eq!((one.status, &one.body), (200, &model), "{path}");
    }
    let unknown = service.get("/v1/models/nobody").await;
    assert_eq!((unknown.status, &unknown.body["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_model_without_a_template_has_no_chat() {
    let service = start_with(|info| info.chat_template = String::new(), |_| {}).await;
    let refused = answer(wait(service.chat(json!({}))).await).await;
    assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!("messages")));

    let service = start_with(|info| info.chat_template = "{% broken".into(), |_| {}).await;
    let broken = answer(wait(service.chat(json!({}))).await).await;
    assert_eq!((broken.status, &broken.body["error"]["code"]), (500, &json!("broken_template")));
    assert_eq!(broken.headers["x-should-retry"], "false");
    assert_eq!(broken.body["error"]["param"], Value::Null);
}

#[tokio::test]
async fn long_conversations_are_encoded_beside_the_event_loop() {
    let mut service =
        start_with(|info| (info.max_model_len, info.num_blocks) = (100_000, 10_000), |_| {}).await;
    let content = "a long text ".repeat(4000);
    let responses: Vec<_> = (0..8)
        .map(|_| service.chat(json!({"messages": [{"role": "user", "content": content}]})))
        .collect();
    for _ in &responses {
        let request = service.worker.submitted().await;
        assert!(request.prompt().contains(&content));
        request.answer("b");
    }
    for response in responses {
        assert_eq!(answer(wait(response).await).await.status, 200);
    }
}

#[tokio::test]
async fn a_prediction_changes_nothing_and_is_counted_as_nothing() {
    let mut service = start().await;
    for content in [json!("Hello"), json!([{"type": "text", "text": "Hello"}])] {
        let response = service.chat(json!({"prediction": {"type": "content", "content": content}}));
        service.worker.submitted().await.answer("Hello");
        let body = answer(wait(response).await).await.body;
        assert_eq!(body["choices"][0]["message"]["content"], "Hello");
        let details = &body["usage"]["completion_tokens_details"];
        assert_eq!(details["accepted_prediction_tokens"], 0);
        assert_eq!(details["rejected_prediction_tokens"], 0);
    }
}
