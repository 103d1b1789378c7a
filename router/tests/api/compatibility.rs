//! The OpenAPI document and the page about compatibility say what the code does.

use crate::service::start;

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
    // Every reference has a target.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is not described");
    }
}
