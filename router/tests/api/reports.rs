//! What is said of a request itself: how far its prompt is computed, and how long it took.

use sconce_proto::worker::{Finish, TokenOutput};
use serde_json::{Value, json};

use crate::service::{answer, start, wait};
use crate::streaming::{chunks, text_of};
use crate::worker::Received;

/// Tells that so many tokens of the prompt are computed.
fn progress(request: &Received, num_computed: u32, first: Option<(u32, u32)>) {
    request.step(vec![TokenOutput {
        request_id: request.submit.request_id,
        num_computed: Some(num_computed),
        num_cached: first.map(|(num_cached, _)| num_cached),
        queue_us: first.map(|(_, queue_us)| queue_us),
        ..TokenOutput::default()
    }]);
}

fn reports(chunks: &[Value], name: &str) -> Vec<Value> {
    let with = chunks.iter().filter(|chunk| chunk.get(name).is_some());
    with.inspect(|chunk| assert_eq!(chunk["choices"], json!([])))
        .map(|chunk| chunk[name].clone())
        .collect()
}

#[tokio::test]
async fn progress_comes_in_chunks_without_choices_where_it_was_asked_for() {
    let mut service = start().await;
    for chat in [true, false] {
        let options = json!({"include_progress": true, "include_usage": true});
        let change = json!({"stream": true, "stream_options": options});
        let response = if chat { service.chat(change) } else { service.complete(change) };
        let request = service.worker.submitted().await;
        assert!(request.submit.report_progress);
        let total = request.submit.prompt.len() as u32;
        progress(&request, 1, Some((1, 500)));
        // The headers are sent with it.
        let response = wait(response).await;
        // After a preemption it begins again, which nobody needs to know.
        progress(&request, 1, None);
        progress(&request, total, None);
        request.answer("ab");

        let chunks = chunks(response).await;

        let mut told = reports(&chunks, "prompt_progress");
        for progress in &mut told {
            let time = progress.as_object_mut().unwrap().remove("time_ms");
            assert!(time.unwrap().as_f64().unwrap() >= 0.0);
        }
        let at = |processed: u32| json!({"total": total, "cache": 1, "processed": processed});
        let expected = if total > 1 { vec![at(1), at(total)] } else { vec![at(1)] };
        assert_eq!(told, expected);
        assert_eq!(text_of(&chunks, 0), "ab");
        assert!(chunks.iter().all(|chunk| chunk.get("timings").is_none()));
        assert_eq!(chunks.last().unwrap()["usage"]["prompt_tokens"], total);
    }
}

#[tokio::test]
async fn timings_come_before_the_usage_or_with_a_whole_answer() {
    let mut service = start().await;
    let check = |timings: &Value| {
        assert_eq!(timings["queue_ms"], 1.5);
        let [ttft, tpot, e2e] =
            ["ttft_ms", "tpot_ms", "e2e_ms"].map(|name| timings[name].as_f64().unwrap());
        assert!(ttft > 0.0 && tpot >= 0.0 && e2e >= ttft, "{timings}");
    };
    for chat in [true, false] {
        for stream in [true, false] {
            let mut change = json!({"stream": stream, "include_timings": true});
            if stream {
                change["stream_options"] = json!({"include_usage": true});
            }
            let response = if chat { service.chat(change) } else { service.complete(change) };
            let request = service.worker.submitted().await;
            assert!(!request.submit.report_progress);
            let first =
                TokenOutput { queue_us: Some(1500), ..request.token(0, request.id_of("h")) };
            request.step(vec![first]);
            request.answer("ab");
            let response = wait(response).await;
            if !stream {
                check(&answer(response).await.body["timings"]);
                continue;
            }
            let chunks = chunks(response).await;
            let [.., timings, usage] = &chunks[..] else { panic!("{chunks:?}") };
            assert_eq!(reports(&chunks, "timings"), [timings["timings"].clone()]);
            check(&timings["timings"]);
            assert!(timings["usage"].is_null() && usage["usage"].is_object());
        }
    }
}

#[tokio::test]
async fn one_token_has_no_time_per_token_and_nothing_is_told_unasked() {
    let mut service = start().await;
    let response = service.chat(json!({"include_timings": true}));
    service.worker.submitted().await.finish(0, Finish::StopToken);
    let timings = answer(wait(response).await).await.body["timings"].clone();
    assert!(timings["tpot_ms"].is_null() && timings["queue_ms"].is_null());
    assert!(timings["ttft_ms"].is_number());

    let response = service.chat(json!({}));
    service.worker.submitted().await.answer("a");
    assert!(answer(wait(response).await).await.body.get("timings").is_none());

    let refused = service.chat(json!({"stream_options": {"include_progress": true}}));
    let refused = answer(wait(refused).await).await;
    assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!("stream_options")));
    let refused = answer(wait(service.chat(json!({"include_timings": 1}))).await).await;
    assert_eq!(refused.body["error"]["param"], "include_timings");
}
