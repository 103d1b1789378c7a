use serde_json::json;

use sconce_proto::worker::{Finish, TokenOutput};

use crate::service::{Service, answer, start, start_with, wait};
use crate::worker::logprobs;

#[tokio::test]
async fn a_text_is_completed_with_openais_default_length() {
    let mut service = start().await;
    let response = service.complete(json!({"prompt": "hello<|im_end|>"}));
    let request = service.worker.submitted().await;
    assert_eq!(request.submit.sampling.as_ref().unwrap().max_tokens, 16);
    assert!(!request.submit.prompt.contains(&request.id_of("<|im_end|>")));
    assert_eq!(request.prompt(), "hello<|im_end|>");
    request.answer(" world");

    let body = answer(wait(response).await).await.body;

    assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(body["object"], "text_completion");
    assert_eq!(
        body["choices"],
        json!([
            {"index": 0, "text": " world", "logprobs": null, "finish_reason": "stop"},
        ])
    );
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn the_default_length_is_less_where_the_context_is() {
    let mut service = start_with(|info| info.max_model_len = 10, |_| {}).await;
    let _response = service.complete(json!({"prompt": [1, 2, 3, 4, 5, 6]}));
    let submit = service.worker.submitted().await.submit;
    assert_eq!(submit.sampling.unwrap().max_tokens, 4);
}

#[tokio::test]
async fn prompts_may_be_tokens_or_many() {
    let mut service = start().await;
    for (prompt, expected) in [
        (json!([1, 2, 279]), vec![vec![1, 2, 279]]),
        (json!([[1], [2, 3]]), vec![vec![1], vec![2, 3]]),
        (json!(["!", "\""]), vec![vec![33], vec![34]]),
    ] {
        let response = service.complete(json!({"prompt": prompt, "n": 2}));
        let mut requests = Vec::new();
        for prompt in expected {
            let request = service.worker.submitted().await;
            assert_eq!(request.submit.prompt, prompt);
            requests.push(request);
        }
        for (p, request) in requests.iter().enumerate().rev() {
            request.say(1, &format!("{p}b"));
            request.say(0, &format!("{p}a"));
            request.finish(1, Finish::Length);
            request.finish(0, Finish::Length);
        }

        let body = answer(wait(response).await).await.body;

        let choices = body["choices"].as_array().unwrap();
        let texts: Vec<_> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        let expected: Vec<_> =
            (0..requests.len()).flat_map(|p| [format!("{p}a"), format!("{p}b")]).collect();
        assert_eq!(texts, expected);
    }
}

#[tokio::test]
async fn one_prompt_that_fails_ends_the_others() {
    let mut service = start().await;
    let response = service.complete(json!({"prompt": ["a", "b"]}));
    let first = service.worker.submitted().await;
    let second = service.worker.submitted().await;
    second.reject(sconce_proto::worker::rejected::Reason::QueueFull, "full");

    assert_eq!(answer(wait(response).await).await.status, 429);
    assert_eq!(service.worker.cancelled().await, first.submit.request_id);
}

#[tokio::test]
async fn logprobs_are_lists_of_equal_length() {
    let mut service = start().await;
    let response = service.complete(json!({"logprobs": 2}));
    let request = service.worker.submitted().await;
    assert_eq!(request.submit.sampling.as_ref().unwrap().num_logprobs, Some(2));
    let [e, h] = ["e", "h"].map(|token| request.id_of(token));
    // The first two tokens are the halves of one character.
    for token in ["Ã", "©", "he"] {
        let token = request.token(0, request.id_of(token));
        let top = [(h, -0.5), (e, f32::NEG_INFINITY)];
        request.step(vec![TokenOutput { logprobs: logprobs(-0.5, &top), ..token }]);
    }
    request.finish(0, Finish::StopToken);

    let body = answer(wait(response).await).await.body;

    let choice = &body["choices"][0];
    assert_eq!(choice["text"], "éhe");
    let top = json!({"h": -0.5, "e": -9999.0});
    assert_eq!(
        choice["logprobs"],
        json!({
            "tokens": ["bytes:\\xc3", "bytes:\\xa9", "he"],
            "token_logprobs": [-0.5, -0.5, -0.5],
            "top_logprobs": [top, top, top],
            "text_offset": [0, 0, 1],
        })
    );
}

#[tokio::test]
async fn an_answer_may_begin_with_its_prompt() {
    let mut service = start().await;
    for stream in [false, true] {
        for prompt in [json!("hey"), json!([104, 101, 121])] {
            let prompt_text = if prompt.is_string() { "hey" } else { &detokenized(&service).await };
            let change = json!({"prompt": prompt, "echo": true, "n": 2, "stream": stream});
            let response = service.complete(change);
            service.worker.submitted().await.answer(" you");
            let response = wait(response).await;
            let texts = if stream {
                let chunks = crate::streaming::chunks(response).await;
                [0, 1].map(|index| crate::streaming::text_of(&chunks, index))
            } else {
                let body = answer(response).await.body;
                [0, 1].map(|i| body["choices"][i]["text"].as_str().unwrap().to_owned())
            };
            assert_eq!(texts, [format!("{prompt_text} you"), format!("{prompt_text} you")]);
        }
    }
    let refused = answer(wait(service.complete(json!({"echo": true, "logprobs": 1}))).await).await;
    assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!("echo")));
}

async fn detokenized(service: &Service) -> String {
    let body = json!({"model": "org/tiny", "tokens": [104, 101, 121]}).to_string();
    let reply = answer(wait(service.post("/detokenize", body)).await).await;
    reply.body["prompt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn stop_texts_and_special_tokens_are_shown_to_whoever_asks() {
    let mut service = start().await;
    for (change, expected) in [
        (json!({"stop": "you"}), "hey "),
        (json!({"stop": "you", "include_stop_str_in_output": true}), "hey you"),
        (json!({}), "hey you!"),
        (json!({"skip_special_tokens": false}), "hey <s>you!"),
    ] {
        let response = service.complete(change);
        let request = service.worker.submitted().await;
        request.say(0, "hey ");
        request.step(vec![request.token(0, request.id_of("<s>"))]);
        request.answer("you!");
        let body = answer(wait(response).await).await.body;
        assert_eq!(body["choices"][0]["text"], expected);
    }
}
