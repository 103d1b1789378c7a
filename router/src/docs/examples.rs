//! Requests as the document shows them. Tests send each of them to the code that reads requests.

use serde_json::{Value, json};
use utoipa::Modify;
use utoipa::openapi::example::ExampleBuilder;
use utoipa::openapi::{OpenApi, RefOr};

use super::operation;
use crate::server::route;

/// Adds to every route with a body the examples of it.
pub(super) struct Examples;

impl Modify for Examples {
    fn modify(&self, document: &mut OpenApi) {
        for route in route::routes() {
            let Some(operation) = operation(document, &route) else { continue };
            let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
            let Some(RefOr::T(content)) = body.content.get_mut("application/json") else {
                continue;
            };
            let examples = of(route.path).into_iter().map(|(name, value)| {
                let example = ExampleBuilder::new().summary(name).value(Some(value)).build();
                (name.replace(' ', "_"), example.into())
            });
            content.examples.extend(examples);
        }
    }
}

/// The examples of a path, each with what it shows.
fn of(path: &str) -> Vec<(&'static str, Value)> {
    match path {
        "/v1/chat/completions" => vec![
            ("a question", question(json!({"max_completion_tokens": 64}))),
            (
                "a stream",
                question(json!({
                    "max_completion_tokens": 64, "stream": true,
                    "stream_options": {"include_usage": true},
                })),
            ),
            (
                "a tool",
                question(json!({
                    "max_completion_tokens": 64, "tools": [tool()], "tool_choice": "required",
                })),
            ),
            (
                "an answer of a schema",
                question(json!({
                    "max_completion_tokens": 64,
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "city", "strict": true, "schema": city()},
                    },
                })),
            ),
        ],
        "/v1/chat/completions/render" => {
            vec![
                ("a question", question(json!({}))),
                ("a tool", question(json!({"tools": [tool()]}))),
            ]
        }
        "/v1/responses" => vec![
            ("a text", input(json!({"max_output_tokens": 64}))),
            ("a stream", input(json!({"max_output_tokens": 64, "stream": true, "store": false}))),
            (
                "a tool",
                input(json!({
                    "max_output_tokens": 64, "tool_choice": "required",
                    "tools": [{
                        "type": "function", "name": "find_city", "description": "Finds a city.",
                        "parameters": city(),
                    }],
                })),
            ),
        ],
        "/v1/responses/input_tokens" => vec![("a text", input(json!({})))],
        "/v1/completions" => vec![
            (
                "a text",
                json!({
                    "model": GENERATES, "prompt": "Once upon a time", "max_tokens": 16,
                }),
            ),
            (
                "several texts",
                json!({
                    "model": GENERATES, "prompt": ["Red, green and", "One, two and"],
                    "max_tokens": 4, "temperature": 0, "logprobs": 2,
                }),
            ),
        ],
        "/tokenize" => vec![
            ("a text", json!({"model": GENERATES, "prompt": "Hello!", "return_token_strs": true})),
            ("a question", question(json!({}))),
        ],
        "/detokenize" => vec![("tokens", json!({"model": GENERATES, "tokens": [72, 101]}))],
        "/v1/embeddings" => vec![
            ("a text", json!({"model": EMBEDS, "input": "Hello!"})),
            (
                "several texts",
                json!({
                    "model": EMBEDS, "input": ["Hello!", "Goodbye!"], "encoding_format": "base64",
                }),
            ),
        ],
        "/v1/rerank" | "/rerank" => vec![(
            "documents",
            json!({
                "model": EMBEDS, "query": "What is the capital of France?",
                "documents": ["Paris is a city.", "Bern is the capital of Switzerland."],
                "top_n": 1, "return_documents": true,
            }),
        )],
        "/v1/score" | "/score" => vec![(
            "texts",
            json!({
                "model": EMBEDS, "text_1": "What is a cat?", "text_2": ["An animal.", "A color."],
            }),
        )],
        "/v1/messages" => vec![
            ("a question", question(json!({"max_tokens": 64, "system": "You are brief."}))),
            ("a stream", question(json!({"max_tokens": 64, "stream": true}))),
            (
                "a tool",
                question(json!({
                    "max_tokens": 64, "tool_choice": {"type": "any"},
                    "tools": [{
                        "name": "find_city", "description": "Finds a city.", "input_schema": city(),
                    }],
                })),
            ),
        ],
        "/v1/messages/count_tokens" => vec![("a question", question(json!({})))],
        "/v1/batches" => vec![(
            "a file of chats",
            json!({
                "input_file_id": "file-0f1e2d3c4b5a69788796a5b4c3d2e1f0",
                "endpoint": "/v1/chat/completions", "completion_window": "24h",
            }),
        )],
        "/models" => vec![("a model of the hub", json!({"model": GENERATES}))],
        "/models/load" | "/models/unload" => vec![
            ("a name", json!({"model": GENERATES})),
            ("a version", json!({"model": "smollm2:135m@2"})),
        ],
        _ => Vec::new(),
    }
}

const GENERATES: &str = "smollm2:135m";
const EMBEDS: &str = "all-minilm-l6-v2";

/// A conversation as both APIs write it, and more.
fn question(more: Value) -> Value {
    let turn = json!({"role": "user", "content": "What is the capital of France?"});
    with(json!({"model": GENERATES, "messages": [turn]}), more)
}

fn input(more: Value) -> Value {
    with(json!({"model": GENERATES, "input": "What is the capital of France?"}), more)
}

fn with(mut body: Value, more: Value) -> Value {
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn tool() -> Value {
    let function = json!({
        "name": "find_city", "description": "Finds a city.", "parameters": city(),
    });
    json!({"type": "function", "function": function})
}

fn city() -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}},
        "required": ["name"],
        "additionalProperties": false,
    })
}
