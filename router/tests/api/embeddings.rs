use sconce_proto::worker::embedded::End;
use sconce_proto::worker::rejected::Reason;
use sconce_proto::worker::{ModelInfo, Task};
use serde_json::{Value, json};

use crate::service::{Answer, Service, answer, start, start_with, wait};

/// A model with vectors of two elements, which takes at most 8 tokens.
pub(crate) fn embedder(info: &mut ModelInfo) {
    info.tasks = vec![Task::Embed.into()];
    (info.num_outputs, info.max_model_len, info.num_blocks) = (2, 8, 0);
}

/// A cross-encoder with one label.
fn cross_encoder(info: &mut ModelInfo) {
    info.tasks = vec![Task::Classify.into()];
    (info.num_outputs, info.max_model_len, info.num_blocks) = (1, 8, 0);
}

async fn refused(service: &Service, path: &str, body: Value) -> Answer {
    answer(wait(service.post(path, body.to_string())).await).await
}

#[tokio::test]
async fn vectors_come_back_in_the_order_of_the_inputs() {
    let mut service = start_with(embedder, |_| {}).await;
    let body = json!({"model": "org/tiny", "input": ["ab", "<|im_end|>"[..3], "c"], "user": "u"});
    let response = service.post("/v1/embeddings", body.to_string());
    let request = service.worker.embed().await;
    assert_eq!(request.tokens()[0], [97, 98]);
    assert!(request.embed.queue_deadline_ms > 0);
    assert_eq!(request.embed.priority, 0);
    request.vectors(&[0.5, 1.0], End::NotEnded);
    request.vectors(&[2.0, 3.0, 4.0, 5.0], End::Complete);

    let body = answer(wait(response).await).await.body;

    assert_eq!(body["object"], "list");
    assert_eq!(body["model"], "org/tiny");
    assert_eq!(
        body["data"],
        json!([
            {"object": "embedding", "index": 0, "embedding": [0.5, 1.0]},
            {"object": "embedding", "index": 1, "embedding": [2.0, 3.0]},
            {"object": "embedding", "index": 2, "embedding": [4.0, 5.0]},
        ])
    );
    assert_eq!(body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]);
}

#[tokio::test]
async fn what_a_client_spells_out_is_no_special_token() {
    let mut service = start_with(embedder, |info| info.max_inputs = 3).await;
    let _response =
        service.post("/v1/embeddings", json!({"model": "org/tiny", "input": "</s>"}).to_string());

    let tokens = service.worker.embed().await.tokens();

    assert_eq!(tokens[0].len(), 4, "{tokens:?}");
}

#[tokio::test]
async fn hanging_up_cancels_the_request() {
    let mut service = start_with(embedder, |_| {}).await;
    let response =
        service.post("/v1/embeddings", json!({"model": "org/tiny", "input": "a"}).to_string());
    let id = service.worker.embed().await.embed.request_id;

    response.abort();

    assert_eq!(service.worker.cancelled().await, id);
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_named() {
    let service = start_with(embedder, |limits| limits.max_inputs = 3).await;
    for (change, param) in [
        (json!({"input": []}), "input"),
        (json!({"input": null}), "input"),
        (json!({"input": ["a", ""]}), "input[1]"),
        (json!({"input": ["a", [1]]}), "input[1]"),
        (json!({"input": [[1], [280]]}), "input[1][0]"),
        (json!({"input": ["a", "b", "c", "d"]}), "input"),
        (json!({"input": ["a", "bcdfghijk"]}), "input[1]"),
        (json!({"input": "a", "dimensions": 3}), "dimensions"),
        (json!({"input": "a", "dimensions": 0}), "dimensions"),
        (json!({"input": "a", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": "a", "truncate_prompt_tokens": 1}), "truncate_prompt_tokens"),
    ] {
        let mut body = json!({"model": "org/tiny"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());

        let answer = refused(&service, "/v1/embeddings", body).await;

        assert_eq!(answer.status, 400, "{change}");
        assert_eq!(answer.body["error"]["param"], param, "{change} {}", answer.body);
    }
}

#[tokio::test]
async fn a_model_is_asked_only_for_what_it_does() {
    let text = start().await;
    let vectors = start_with(embedder, |_| {}).await;
    let pairs = start_with(cross_encoder, |_| {}).await;
    let chat = json!({"model": "org/tiny", "messages": [{"role": "user", "content": "a"}]});
    let embed = json!({"model": "org/tiny", "input": "a"});
    let rerank = json!({"model": "org/tiny", "query": "a", "documents": ["b"]});
    for (service, path, body) in [
        (&text, "/v1/embeddings", &embed),
        (&text, "/v1/rerank", &rerank),
        (&vectors, "/v1/chat/completions", &chat),
        (&pairs, "/v1/chat/completions", &chat),
        (&pairs, "/v1/embeddings", &embed),
    ] {
        let answer = refused(service, path, body.clone()).await;

        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.body["error"]["code"], "unsupported_model");
        assert_eq!(answer.body["error"]["param"], "model");
    }
}

#[tokio::test]
async fn a_full_queue_and_a_dead_worker_are_told_apart() {
    let mut service = start_with(embedder, |_| {}).await;
    let body = json!({"model": "org/tiny", "input": "a"}).to_string();
    let response = service.post("/v1/embeddings", body.clone());
    service.worker.embed().await.reject(Reason::QueueFull, "full");
    assert_eq!(wait(response).await.status(), 429);

    let response = service.post("/v1/embeddings", body.clone());
    service.worker.embed().await.vectors(&[], End::Deadline);
    assert_eq!(wait(response).await.status(), 504);

    let response = service.post("/v1/embeddings", body);
    service.worker.embed().await;
    service.worker.die().await;
    assert_eq!(wait(response).await.status(), 502);
}

#[tokio::test]
async fn a_worker_that_sends_other_vectors_is_given_up() {
    for (values, end) in
        [(&[1.0][..], End::NotEnded), (&[1.0; 6], End::NotEnded), (&[1.0; 2], End::Complete)]
    {
        let mut service = start_with(embedder, |_| {}).await;
        let body = json!({"model": "org/tiny", "input": ["a", "b"]}).to_string();
        let response = service.post("/v1/embeddings", body);
        service.worker.embed().await.vectors(values, end);
        assert_eq!(wait(response).await.status(), 502, "{values:?}");
    }
}

#[tokio::test]
async fn documents_are_sorted_by_the_cosine() {
    let mut service = start_with(embedder, |_| {}).await;
    let body = json!({
        "model": "org/tiny", "query": "q", "documents": ["a", {"text": "b"}, "c"],
        "return_documents": true,
    });
    let response = service.post("/v1/rerank", body.to_string());
    let request = service.worker.embed().await;
    assert_eq!(request.tokens().len(), 4);
    request.vectors(&[1.0, 0.0, 0.0, 3.0, 2.0, 0.0, -1.0, 0.0], End::Complete);

    let body = answer(wait(response).await).await.body;

    assert!(body["id"].as_str().unwrap().starts_with("rerank-"));
    assert_eq!(
        body["results"],
        json!([
            {"index": 1, "relevance_score": 1.0, "document": {"text": "b"}},
            {"index": 0, "relevance_score": 0.0, "document": {"text": "a"}},
            {"index": 2, "relevance_score": -1.0, "document": {"text": "c"}},
        ])
    );
    assert_eq!(body["usage"]["total_tokens"], 4);
}

#[tokio::test]
async fn a_cross_encoder_reads_query_and_document_together() {
    let mut service = start_with(cross_encoder, |_| {}).await;
    for (path, body, texts) in [
        ("/rerank", json!({"query": "q", "documents": ["a", "b"], "top_n": 1}), 2),
        ("/score", json!({"text_1": ["q", "r"], "text_2": ["a", "b"]}), 2),
        ("/v1/score", json!({"text_1": "q", "text_2": "a"}), 1),
    ] {
        let mut whole = json!({"model": "org/tiny"});
        whole.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let response = service.post(path, whole.to_string());
        let request = service.worker.embed().await;
        assert_eq!(request.tokens().len(), texts);
        assert_eq!(request.tokens()[0].len(), 2);
        request.vectors(&[0.0, 40.0][..texts], End::Complete);

        let body = answer(wait(response).await).await.body;

        if path == "/rerank" {
            assert_eq!(body["results"], json!([{"index": 1, "relevance_score": 1.0}]));
        } else {
            assert_eq!(body["data"].as_array().unwrap().len(), texts);
            assert_eq!(body["data"][0], json!({"index": 0, "object": "score", "score": 0.5}));
        }
    }
}
