use serde_json::json;

use sconce_proto::worker::{Finish, PromptLogprob, TokenOutput, TopLogprob};

use crate::service::{Service, answer, start, start_with, wait};
use crate::worker::{Received, logprobs};

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

/// What a worker says of the prompt "hey" of three tokens: the second is the third likeliest.
fn score(request: &Received) {
    let [e, y] = ["e", "y"].map(|token| request.id_of(token));
    let top = vec![TopLogprob { token: y, logprob: -0.25 }, TopLogprob { token: e, logprob: -2.0 }];
    let scores = [(e, -3.0, 3, top.clone()), (y, -0.25, 1, top)]
        .map(|(token, logprob, rank, top)| PromptLogprob { token, logprob, rank, top });
    // In two steps.
    for score in scores {
        let request_id = request.submit.request_id;
        request.step(vec![TokenOutput {
            request_id,
            prompt_logprobs: vec![score],
            ..TokenOutput::default()
        }]);
    }
}

fn hey(request: &Received) -> [u32; 3] {
    ["h", "e", "y"].map(|token| request.id_of(token))
}

#[tokio::test]
async fn a_prompts_tokens_have_logprobs_by_id() {
    let mut service = start().await;
    let tokens = {
        let _response = service.complete(json!({}));
        hey(&service.worker.submitted().await)
    };
    let expected = |[_, e, y]: [u32; 3]| {
        let entry = |logprob: f32, rank: u32, text: &str| json!({"logprob": logprob, "rank": rank, "decoded_token": text});
        json!([
            null,
            {e.to_string(): entry(-3.0, 3, "e"), y.to_string(): entry(-0.25, 1, "y")},
            {y.to_string(): entry(-0.25, 1, "y")},
        ])
    };
    let change = json!({"prompt": tokens, "prompt_logprobs": 1, "n": 2});
    let response = service.complete(change);
    let request = service.worker.submitted().await;
    assert_eq!(request.submit.sampling.as_ref().unwrap().num_prompt_logprobs, Some(1));
    score(&request);
    request.answer("!");
    let body = answer(wait(response).await).await.body;
    for index in 0..2 {
        let choice = &body["choices"][index];
        assert_eq!((&choice["text"], &choice["logprobs"]), (&json!("!"), &json!(null)));
        assert_eq!(choice["prompt_logprobs"], expected(tokens));
    }

    let response = service.chat(json!({"prompt_logprobs": 1}));
    let request = service.worker.submitted().await;
    score(&request);
    request.answer("!");
    let body = answer(wait(response).await).await.body;
    assert_eq!(body["prompt_logprobs"], expected(tokens));
    assert_eq!(body["choices"][0]["message"]["content"], "!");
}

#[tokio::test]
async fn an_echo_has_the_prompts_logprobs() {
    let mut service = start().await;
    for (stream, max_tokens) in [(false, 5), (true, 5), (false, 0), (true, 0)] {
        let tokens = {
            let _response = service.complete(json!({}));
            hey(&service.worker.submitted().await)
        };
        let response = service.complete(json!({
            "prompt": tokens, "echo": true, "logprobs": 1, "max_tokens": max_tokens,
            "stream": stream,
        }));
        let request = service.worker.submitted().await;
        let sampling = request.submit.sampling.as_ref().unwrap();
        assert_eq!(sampling.max_tokens, max_tokens.max(1));
        assert_eq!(sampling.num_prompt_logprobs, Some(1));
        score(&request);
        let last = TokenOutput {
            logprobs: logprobs(-0.5, &[(request.id_of("!"), -0.5)]),
            finish: Finish::Length.into(),
            ..request.token(0, request.id_of("!"))
        };
        request.step(vec![last]);

        let response = wait(response).await;
        let (choice, usage) = if stream {
            let chunks = crate::streaming::chunks(response).await;
            assert_eq!(chunks[1]["choices"][0]["finish_reason"], "length");
            (chunks[0]["choices"][0].clone(), None)
        } else {
            let body = answer(response).await.body;
            assert_eq!(body["choices"][0]["finish_reason"], "length");
            (body["choices"][0].clone(), Some(body["usage"].clone()))
        };

        let mut text = "hey".to_owned();
        let mut expected = json!({
            "tokens": ["h", "e", "y"],
            "token_logprobs": [null, -3.0, -0.25],
            "top_logprobs": [null, {"y": -0.25}, {"y": -0.25}],
            "text_offset": [0, 1, 2],
        });
        if max_tokens > 0 {
            text.push('!');
            for (name, value) in [
                ("tokens", json!("!")),
                ("token_logprobs", json!(-0.5)),
                ("top_logprobs", json!({"!": -0.5})),
                ("text_offset", json!(3)),
            ] {
                expected[name].as_array_mut().unwrap().push(value);
            }
        }
        assert_eq!((&choice["text"], &choice["logprobs"]), (&json!(text), &expected));
        let num_completion = usage.map(|usage| usage["completion_tokens"].clone());
        assert!(num_completion.is_none_or(|num| num == max_tokens.min(1)));
    }
}

#[tokio::test]
async fn what_can_not_be_said_of_a_prompt_is_refused() {
    let mut service = start_with(|info| info.max_model_len = 100_000, |_| {}).await;
    let long = vec![65; 60_000];
    for (change, param, code) in [
        (json!({"max_tokens": 0}), "max_tokens", "integer_below_min_value"),
        (json!({"max_tokens": -1, "echo": true}), "max_tokens", "integer_below_min_value"),
        (json!({"prompt_logprobs": 6}), "prompt_logprobs", "integer_above_max_value"),
        (json!({"prompt_logprobs": -1}), "prompt_logprobs", "integer_below_min_value"),
        (json!({"prompt_logprobs": 0, "stream": true}), "prompt_logprobs", "invalid_value"),
        (
            json!({"prompt": long, "prompt_logprobs": 5}),
            "prompt_logprobs",
            "integer_above_max_value",
        ),
        (
            json!({"prompt": long, "logprobs": 5, "echo": true}),
            "logprobs",
            "integer_above_max_value",
        ),
        (json!({"priority": 1001}), "priority", "integer_above_max_value"),
        (json!({"best_of": 1, "n": 2}), "best_of", "integer_below_min_value"),
        (json!({"best_of": 9}), "best_of", "integer_above_max_value"),
        (json!({"best_of": 2, "stream": true}), "best_of", "invalid_value"),
        (json!({"suffix": "x"}), "suffix", "unsupported_value"),
        (json!({"suffix": "x", "echo": true}), "suffix", "invalid_value"),
    ] {
        let answer = answer(wait(service.complete(change.clone())).await).await;
        let error = &answer.body["error"];
        let given = (answer.status, error["param"].as_str(), error["code"].as_str());
        assert_eq!(given, (400, Some(param), Some(code)), "{error}");
        assert!(service.worker.is_idle(), "{error}");
    }
}

#[tokio::test]
async fn a_priority_reaches_the_worker() {
    let mut service = start().await;
    let _chat = service.chat(json!({"priority": -1000}));
    assert_eq!(service.worker.submitted().await.submit.priority, -1000);
    let _completion = service.complete(json!({}));
    assert_eq!(service.worker.submitted().await.submit.priority, 0);
}

#[tokio::test]
async fn of_several_completions_the_likeliest_are_answered() {
    let mut service = start().await;
    let response = service.complete(json!({"best_of": 3, "n": 2, "logprobs": null}));
    let request = service.worker.submitted().await;
    assert_eq!(request.submit.n, 3);
    assert_eq!(request.submit.sampling.as_ref().unwrap().num_logprobs, Some(0));
    for (index, each) in [(0, -2.0), (1, -0.5), (2, -1.0)] {
        // The likelier one is longer, so its sum is lower.
        for _ in 0..=2 * index {
            let token = request.token(index, request.id_of(["a", "b", "c"][index as usize]));
            request.step(vec![TokenOutput { logprobs: logprobs(each, &[]), ..token }]);
        }
        request.finish(index, Finish::Length);
    }

    let body = answer(wait(response).await).await.body;

    assert_eq!(
        body["choices"],
        json!([
            {"index": 0, "text": "bbb", "logprobs": null, "finish_reason": "length"},
            {"index": 1, "text": "ccccc", "logprobs": null, "finish_reason": "length"},
        ])
    );
    assert_eq!(body["usage"]["completion_tokens"], 9);
}
