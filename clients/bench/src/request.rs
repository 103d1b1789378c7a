//! The body of one request.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::workload::Turn;

/// What is called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Endpoint {
    /// /v1/chat/completions
    #[default]
    Chat,
    /// /v1/completions
    Completions,
    /// /v1/embeddings
    Embeddings,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Text
    #[default]
    Text,
    /// Text, or a call of one of some tools
    Tools,
    /// JSON that follows a schema
    Schema,
}

impl Endpoint {
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Chat => "chat/completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
        }
    }

    /// As `vllm bench serve` calls what speaks it.
    pub(crate) fn backend(self) -> &'static str {
        match self {
            Self::Chat => "openai-chat",
            Self::Completions => "openai",
            Self::Embeddings => "openai-embeddings",
        }
    }
}

/// What all requests have in common.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) is_streamed: bool,
    pub(crate) ignore_eos: bool,
    pub(crate) continuous_usage: bool,
    /// Fields that are added to every body.
    pub(crate) extra: Map<String, Value>,
}

impl Shape {
    /// The body that asks for an answer to `turn`, after the messages of before.
    pub(crate) fn body(&self, before: &[Value], turn: &Turn) -> Value {
        let mut body = match self.endpoint {
            Endpoint::Chat => self.chat(before, turn),
            Endpoint::Completions => {
                let texts = before.iter().filter_map(|message| message["content"].as_str());
                let texts: Vec<_> = texts.chain([turn.text.as_str()]).collect();
                let mut body = json!({"model": self.model, "prompt": texts.join("\n")});
                set_limit(&mut body, "max_tokens", turn.max_tokens);
                body
            }
            Endpoint::Embeddings => json!({"model": self.model, "input": turn.texts()}),
        };
        if self.endpoint != Endpoint::Embeddings {
            if self.is_streamed {
                body["stream"] = true.into();
                body["stream_options"] = json!({"include_usage": true});
                if self.continuous_usage {
                    body["stream_options"]["continuous_usage_stats"] = true.into();
                }
            }
            if self.ignore_eos {
                body["ignore_eos"] = true.into();
            }
        }
        for (name, value) in turn.fields.iter().chain(&self.extra) {
            body[name] = value.clone();
        }
        body
    }

    fn chat(&self, before: &[Value], turn: &Turn) -> Value {
        let mut messages = before.to_vec();
        if !turn.text.is_empty() {
            messages.push(json!({"role": "user", "content": turn.text}));
        }
        let mut body = json!({"model": self.model, "messages": messages});
        set_limit(&mut body, "max_completion_tokens", turn.max_tokens);
        match turn.kind {
            Kind::Text => {}
            Kind::Tools => body["tools"] = tools(),
            Kind::Schema => body["response_format"] = schema(),
        }
        body
    }
}

fn set_limit(body: &mut Value, name: &str, limit: Option<u32>) {
    if let Some(limit) = limit {
        body[name] = limit.into();
    }
}

fn tools() -> Value {
    let tool = |name: &str, description: &str, parameter: &str| {
        json!({"type": "function", "function": {
            "name": name, "description": description,
            "parameters": {
                "type": "object", "properties": {parameter: {"type": "string"}},
                "required": [parameter], "additionalProperties": false,
            },
        }})
    };
    json!([
        tool("get_weather", "The weather of a city, now", "city"),
        tool("search", "Pages that answer a question", "query"),
        tool("get_time", "The time in a zone", "zone"),
    ])
}

fn schema() -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "summary", "strict": true, "schema": {
        "type": "object",
        "properties": {
            "title": {"type": "string"},
            "topics": {"type": "array", "items": {"type": "string"}},
            "mood": {"enum": ["good", "bad", "neither"]},
        },
        "required": ["title", "topics", "mood"],
        "additionalProperties": false,
    }}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(endpoint: Endpoint) -> Shape {
        Shape {
            endpoint,
            model: "m".to_owned(),
            is_streamed: true,
            ignore_eos: true,
            continuous_usage: false,
            extra: Map::from_iter([("temperature".to_owned(), json!(0))]),
        }
    }

    #[test]
    fn bodies_are_in_openais_shape() {
        let turn = Turn { text: "b".to_owned(), max_tokens: Some(3), ..Turn::default() };
        let before = [json!({"role": "system", "content": "a"})];

        let chat = shape(Endpoint::Chat).body(&before, &turn);
        let text = shape(Endpoint::Completions).body(&before, &turn);
        let vectors = shape(Endpoint::Embeddings).body(&[], &turn);

        let streamed = |mut body: Value| {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
            body["ignore_eos"] = true.into();
            body["temperature"] = 0.into();
            body
        };
        let messages =
            json!([{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]);
        let expected = json!({"model": "m", "messages": messages, "max_completion_tokens": 3});
        assert_eq!(chat, streamed(expected));
        assert_eq!(text, streamed(json!({"model": "m", "prompt": "a\nb", "max_tokens": 3})));
        assert_eq!(vectors, json!({"model": "m", "input": ["b"], "temperature": 0}));
    }

    #[test]
    fn kinds_ask_for_what_they_are() {
        let body = |kind| {
            let turn = Turn { text: "b".to_owned(), kind, ..Turn::default() };
            shape(Endpoint::Chat).body(&[], &turn)
        };
        assert_eq!(body(Kind::Tools)["tools"].as_array().unwrap().len(), 3);
        assert_eq!(body(Kind::Schema)["response_format"]["type"], "json_schema");
        assert!(body(Kind::Text).get("tools").is_none());
    }
}
