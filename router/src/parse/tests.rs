mod deepseek;
mod formats;
mod grammar;
mod harmony;
mod json;
mod pythonic;
mod reasoning;
mod splits;
mod xml;

use std::sync::Arc;

use serde_json::json;

use super::{Event, Formats, Parser, ReasoningFormat, Start, Tool, ToolFormat};

/// An output and what is in it.
struct Case {
    formats: Formats,
    start: Start,
    text: &'static str,
    content: &'static str,
    reasoning: &'static str,
    calls: &'static [(&'static str, &'static str)],
}

impl Case {
    const fn new(tools: ToolFormat, text: &'static str) -> Self {
        let formats = Formats { tools: Some(tools), reasoning: None };
        Self { formats, start: Start::Answer, text, content: "", reasoning: "", calls: &[] }
    }

    const fn thinking(mut self, format: ReasoningFormat, start: Start) -> Self {
        self.formats.reasoning = Some(format);
        self.start = start;
        self
    }

    const fn content(mut self, content: &'static str) -> Self {
        self.content = content;
        self
    }

    const fn reasoning(mut self, reasoning: &'static str) -> Self {
        self.reasoning = reasoning;
        self
    }

    const fn calls(mut self, calls: &'static [(&'static str, &'static str)]) -> Self {
        self.calls = calls;
        self
    }

    /// It is what it is, not a call.
    const fn verbatim(self) -> Self {
        let text = self.text;
        self.content(text)
    }

    fn parser(&self) -> Parser {
        Parser::new(self.formats, self.start, &tools())
    }

    fn check(&self) {
        let parsed = Parsed::of(self.parser(), [self.text]);
        let calls =
            self.calls.iter().map(|(name, arguments)| ((*name).into(), (*arguments).into()));
        let expected = Parsed {
            content: self.content.into(),
            reasoning: self.reasoning.into(),
            calls: calls.collect(),
        };
        assert_eq!(parsed, expected, "{:?}: {}", self.formats, self.text);
    }
}

/// What the events of an output amount to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parsed {
    content: String,
    reasoning: String,
    calls: Vec<(String, String)>,
}

impl Parsed {
    fn of<'a>(mut parser: Parser, pieces: impl IntoIterator<Item = &'a str>) -> Self {
        let mut parsed = Self::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, &mut events);
            events.drain(..).for_each(|event| parsed.add(event));
        }
        parser.finish(&mut events);
        events.drain(..).for_each(|event| parsed.add(event));
        parsed
    }

    fn add(&mut self, event: Event) {
        match event {
            Event::Content(text) => {
                assert!(!text.is_empty());
                self.content += &text;
            }
            Event::Reasoning(text) => {
                assert!(!text.is_empty());
                self.reasoning += &text;
            }
            Event::ToolCallStart { index, name } => {
                assert_eq!(index, self.calls.len());
                self.calls.push((name, String::new()));
            }
            Event::ToolCallArguments { index, fragment } => {
                assert_eq!(index + 1, self.calls.len());
                assert!(!fragment.is_empty());
                self.calls[index].1 += &fragment;
            }
        }
    }
}

fn tools() -> Arc<[Tool]> {
    let tool = |name: &str, properties: serde_json::Value, required: &[&str]| Tool {
        name: name.into(),
        parameters: json!({
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": false,
        }),
    };
    Arc::new([
        tool(
            "get_weather",
            json!({
                "city": { "type": "string" },
                "unit": { "type": "string", "enum": ["celsius", "fahrenheit"] },
                "days": { "type": "integer" },
            }),
            &["city"],
        ),
        tool(
            "search",
            json!({
                "query": { "type": "string" },
                "filters": {
                    "type": "object",
                    "properties": { "tags": { "type": "array", "items": { "type": "string" } } },
                    "additionalProperties": false,
                },
                "limit": { "anyOf": [{ "type": "integer" }, { "type": "null" }] },
                "exact": { "type": "boolean" },
            }),
            &["query"],
        ),
        tool("ping", json!({}), &[]),
    ])
}

/// Every table.
fn all() -> impl Iterator<Item = &'static Case> {
    let tables = [
        json::HERMES,
        json::LLAMA,
        json::MISTRAL,
        json::JSON,
        reasoning::CASES,
        xml::CASES,
        deepseek::CASES,
        harmony::CASES,
        pythonic::CASES,
    ];
    tables.into_iter().flatten()
}

#[test]
fn outputs_are_read() {
    all().for_each(Case::check);
}
