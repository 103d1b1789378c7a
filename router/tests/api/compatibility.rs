//! The OpenAPI document and the page about compatibility say what the code does.

use sconce_proto::worker::{ModelInfo, Task};

use crate::service::{start, start_with};

#[tokio::test]
async fn the_openapi_document_describes_the_endpoints() {
    let service = start().await;
    let document = service.get("/openapi.json").await.body;

    for path in [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/models",
        "/v1/models/{id}",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let chat = &schemas["ChatCompletionRequest"];
    assert_eq!(chat["properties"]["temperature"]["maximum"], 2.0);
    assert_eq!(chat["required"], serde_json::json!(["model", "messages"]));
    let messages = &schemas["MessagesRequest"];
    assert_eq!(messages["properties"]["temperature"]["maximum"], 1.0);
    assert_eq!(messages["required"], serde_json::json!(["model", "messages", "max_tokens"]));
}

/// A model that does everything, so that an example may ask for anything.
fn able(info: &mut ModelInfo) {
    info.tasks = [Task::Generate, Task::Embed, Task::Classify].map(Into::into).into();
    (info.max_model_len, info.num_blocks, info.num_outputs) = (2048, 256, 1);
}

#[tokio::test]
async fn every_example_of_the_document_is_a_request_that_is_served() {
    let mut service = start_with(able, |_| {}).await;
    let document = service.get("/openapi.json").await.body;
    let mut num_examples = 0;
    // Models are managed by a launcher, and batches are of files, and here are none.
    let is_served =
        |(path, _): &(&String, _)| !path.starts_with("/models") && *path != "/v1/batches";
    for (path, methods) in document["paths"].as_object().unwrap().iter().filter(is_served) {
        let content = &methods["post"]["requestBody"]["content"]["application/json"];
        for (name, example) in content["examples"].as_object().into_iter().flatten() {
            let mut body = example["value"].clone();
            body["model"] = "org/tiny".into();
            let mut response = service.post(path, body.to_string());

            // A request that computes reaches the worker; the others are answered.
            let is_served = tokio::select! {
                answer = &mut response => answer.unwrap().status() == 200,
                () = service.worker.received() => true,
            };

            assert!(is_served, "{path}: {name}");
            num_examples += 1;
        }
    }
    assert!(num_examples > 10);
}
