use std::sync::Arc;

use serde_json::{Value, json};

use super::{Dialect, Events, Frames, Head, Merge, MessageEvents, ReportUsage};
use crate::api::chat::reply::ChatCompletionChunk;
use crate::api::completions::reply::Completion;
use crate::api::messages::reply::MessageEvent;
use crate::error::ApiError;
use crate::generation::{Delta, FinishReason, TokenLogprob, TokenUsage};
use crate::prompt::fixtures;

const USAGE: TokenUsage =
    TokenUsage { num_prompt: 5, num_cached: 3, num_completion: 2, num_reasoning: 0 };

fn frames(dialect: Dialect, usage: ReportUsage) -> Frames {
    let head = Head {
        id: "id-1",
        object: "chunk",
        created: 7,
        model: "a \"model\"",
        system_fingerprint: None,
    };
    Frames::new(dialect, &head, (usage, None))
}

fn text(choice: u32, text: &str) -> Delta {
    Delta { choice, text: text.into(), ..Delta::default() }
}

/// The events in `out`; every one must be a `data:` line and an empty one.
fn events(out: &[u8]) -> Vec<Value> {
    let out = std::str::from_utf8(out).unwrap();
    let events = out.split_terminator("\n\n");
    let data = events.map(|event| event.strip_prefix("data: ").unwrap());
    assert!(out.ends_with("\n\n"));
    data.map(|data| serde_json::from_str(data).unwrap_or(Value::from(data))).collect()
}

#[test]
fn a_chat_is_opened_written_finished_and_done() {
    let mut out = Vec::new();
    let mut frames = frames(Dialect::Chat, ReportUsage::AtEnd);
    frames.opening(&mut out, 2, USAGE);
    frames.delta(&mut out, &text(1, "h\"i\n"), (USAGE, Merge::Never));
    let finish = Delta { finish: Some(FinishReason::Stop), ..text(1, "é") };
    frames.delta(&mut out, &finish, (USAGE, Merge::Never));
    frames.close(&mut out, USAGE);
    frames.done(&mut out, USAGE);

    let chunk = |choices: Value, usage: Value| {
        json!({
            "id": "id-1", "object": "chunk", "created": 7, "model": "a \"model\"",
            "choices": choices, "usage": usage,
        })
    };
    let choice = |index: u32, delta: Value, finish: Value| {
        let choice = json!([
            {"index": index, "delta": delta, "logprobs": null, "finish_reason": finish},
        ]);
        chunk(choice, Value::Null)
    };
    let opening = json!({"role": "assistant", "content": ""});
    let usage = json!({
        "prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    });
    assert_eq!(
        events(&out),
        [
            choice(0, opening.clone(), Value::Null),
            choice(1, opening, Value::Null),
            choice(1, json!({"content": "h\"i\n"}), Value::Null),
            choice(1, json!({"content": "é"}), Value::Null),
            choice(1, json!({}), json!("stop")),
            chunk(json!([]), usage),
            json!("[DONE]"),
        ]
    );
}

#[test]
fn every_frame_is_a_chunk_of_its_type() {
    for usage in [ReportUsage::Never, ReportUsage::AtEnd, ReportUsage::Always] {
        for dialect in [Dialect::Chat, Dialect::Completions] {
            let mut out = Vec::new();
            let mut frames = frames(dialect, usage);
            frames.opening(&mut out, 1, USAGE);
            let delta = Delta { finish: Some(FinishReason::Length), ..text(0, "a") };
            frames.delta(&mut out, &delta, (USAGE, Merge::Never));
            frames.done(&mut out, USAGE);

            let mut events = events(&out);
            assert_eq!(events.pop().unwrap(), "[DONE]");
            for event in events {
                let has_usage = event.get("usage").is_some();
                assert_eq!(has_usage, usage != ReportUsage::Never);
                match dialect {
                    Dialect::Chat => {
                        serde_json::from_value::<ChatCompletionChunk>(event).unwrap();
                    }
                    Dialect::Completions => {
                        serde_json::from_value::<Completion>(event).unwrap();
                    }
                }
            }
        }
    }
}

#[test]
fn text_joins_the_open_event_of_its_choice_only() {
    let mut out = Vec::new();
    let mut frames = frames(Dialect::Completions, ReportUsage::Never);
    for (choice, part) in [(0, "a"), (0, "b"), (1, "c"), (0, "d")] {
        frames.delta(&mut out, &text(choice, part), (USAGE, Merge::IfOpen));
    }
    frames.close(&mut out, USAGE);

    let texts: Vec<_> = events(&out)
        .iter()
        .map(|event| event["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, ["ab", "c", "d"]);
}

#[test]
fn usage_in_every_chunk_keeps_events_apart() {
    let mut out = Vec::new();
    let mut frames = frames(Dialect::Chat, ReportUsage::Always);
    frames.delta(&mut out, &text(0, "a"), (USAGE, Merge::IfOpen));
    frames.delta(&mut out, &text(0, "b"), (USAGE, Merge::IfOpen));
    frames.close(&mut out, USAGE);
    assert_eq!(events(&out).len(), 2);
    assert_eq!(events(&out)[0]["usage"]["total_tokens"], 7);
}

#[test]
fn logprobs_come_with_their_tokens_text_and_bytes() {
    let model = Arc::new(fixtures::model(""));
    let head = Head { id: "id", object: "o", created: 1, model: "m", system_fingerprint: None };
    let logprob = TokenLogprob {
        token: model.tokenizer.token_to_id("Ġ").unwrap(),
        logprob: Some(-0.5),
        top: vec![(model.tokenizer.token_to_id("Ã").unwrap(), f32::NEG_INFINITY)],
        offset: 4,
    };
    let delta = Delta { logprobs: vec![logprob], ..text(0, " ") };
    let event = |dialect| {
        let mut out = Vec::new();
        let logprobs_of = Some(Arc::clone(&model));
        let mut frames = Frames::new(dialect, &head, (ReportUsage::Never, logprobs_of));
        frames.delta(&mut out, &delta, (USAGE, Merge::IfOpen));
        events(&out).remove(0)["choices"][0]["logprobs"].take()
    };

    assert_eq!(
        event(Dialect::Chat),
        json!({
            "content": [{
                "token": " ", "bytes": [32], "logprob": -0.5,
                "top_logprobs": [{"token": "\u{fffd}", "bytes": [195], "logprob": -9999.0}],
            }],
            "refusal": null,
        })
    );
    assert_eq!(
        event(Dialect::Completions),
        json!({
            "tokens": [" "], "token_logprobs": [-0.5],
            "top_logprobs": [{"bytes:\\xc3": -9999.0}], "text_offset": [4],
        })
    );
}

#[test]
fn an_error_closes_the_open_event_first() {
    let mut out = Vec::new();
    let mut frames = frames(Dialect::Chat, ReportUsage::Never);
    frames.delta(&mut out, &text(0, "a"), (USAGE, Merge::Never));
    frames.error(&mut out, &ApiError::from(crate::dispatch::Error::WorkerLost), USAGE);

    let events = events(&out);
    assert_eq!(events.len(), 2);
    assert_eq!(events[1]["error"]["type"], "server_error");
    assert_eq!(events[1]["error"]["code"], "worker_lost");
}

#[test]
fn texts_of_a_message_join_and_its_other_events_do_not() {
    let mut out = Vec::new();
    let mut events = MessageEvents::new("msg_1".into(), "m".into(), vec!["x".into()]);
    events.opening(&mut out, 1, USAGE);
    let thought = Delta { reasoning: "r".into(), ..Delta::default() };
    events.delta(&mut out, &thought, (USAGE, Merge::IfOpen));
    for part in ["a", "b\n"] {
        events.delta(&mut out, &text(0, part), (USAGE, Merge::IfOpen));
    }
    events.close(&mut out, USAGE);
    events.keep_alive(&mut out);
    let end = Delta { finish: Some(FinishReason::StopText(0)), ..text(0, "c") };
    events.delta(&mut out, &end, (USAGE, Merge::IfOpen));
    events.done(&mut out, USAGE);

    let out = String::from_utf8(out).unwrap();
    let data = out.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<MessageEvent> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
    let names: Vec<_> = events.iter().map(MessageEvent::name).collect();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "ping",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    for line in [
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":""}}"#,
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"ab\n"}}"#,
    ] {
        assert!(out.contains(&format!("event: content_block_delta\ndata: {line}\n\n")), "{out}");
    }
    assert!(out.contains(r#""stop_reason":"stop_sequence","stop_sequence":"x""#));
}
