//! One line: what it asks, and what is written of it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Endpoint;
use crate::api::batches::reply::BatchError;
use crate::store::BatchUsage;

/// Longest `custom_id`.
const MAX_ID_CHARS: usize = 512;
/// Longest name of a model.
const MAX_MODEL_CHARS: usize = 256;

/// What a line asks.
pub(super) struct Line<'a> {
    pub(super) custom_id: Cow<'a, str>,
    pub(super) model: Cow<'a, str>,
    /// The request's body.
    pub(super) body: &'a str,
    /// Whether the body asks for what only a connection can be answered with.
    pub(super) wants: Wants,
}

/// What of a body no line is answered with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) stream: bool,
    pub(super) background: bool,
}

#[derive(Deserialize)]
struct Typed<'a> {
    #[serde(borrow)]
    custom_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    url: Option<Cow<'a, str>>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    background: Option<bool>,
}

/// What is wrong with a line that no request is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    code: &'static str,
    param: Option<&'static str>,
    message: String,
}

impl BadLine {
    pub(super) fn new(
        code: &'static str,
        param: Option<&'static str>,
        message: impl Into<String>,
    ) -> Self {
        Self { code, param, message: message.into() }
    }

    pub(super) fn at(self, line: i64) -> BatchError {
        BatchError {
            code: self.code.into(),
            message: self.message,
            param: self.param.map(Into::into),
            line: Some(line),
        }
    }
}

impl<'a> Line<'a> {
    /// Reads a line of a batch of this endpoint. What is wrong is told without what is in it.
    pub(super) fn read(line: &'a [u8], endpoint: Endpoint) -> Result<Self, BadLine> {
        let line = std::str::from_utf8(line)
            .map_err(|_| BadLine::new("invalid_json_line", None, "this line is not UTF-8"))?;
        let typed: Typed<'_> = serde_json::from_str(line).map_err(|error| {
            let message = format!(
                "this line is not a JSON object with `custom_id`, `method`, `url` and `body` \
                 (column {})",
                error.column()
            );
            BadLine::new("invalid_json_line", None, message)
        })?;
        let custom_id = typed.custom_id.ok_or_else(|| missing("custom_id"))?;
        let num_chars = custom_id.chars().count();
        if !(1..=MAX_ID_CHARS).contains(&num_chars) {
            let message =
                format!("`custom_id` has {num_chars} characters and must have 1 to {MAX_ID_CHARS}");
            return Err(BadLine::new("invalid_custom_id", Some("custom_id"), message));
        }
        match typed.method.ok_or_else(|| missing("method"))? {
            method if method == "POST" => {}
            _ => {
                let message = "`method` must be POST";
                return Err(BadLine::new("invalid_method", Some("method"), message));
            }
        }
        let url = typed.url.ok_or_else(|| missing("url"))?;
        if url != endpoint.path() {
            let message = format!("`url` must be the batch's endpoint, {}", endpoint.path());
            return Err(BadLine::new("invalid_url", Some("url"), message));
        }
        let body = typed.body.ok_or_else(|| missing("body"))?.get();
        let parsed: Body<'_> = serde_json::from_str(body).map_err(|_| {
            let message = "`body` must be an object, with the name of a model";
            BadLine::new("invalid_request", Some("body"), message)
        })?;
        let model = parsed.model.ok_or_else(|| missing("body.model"))?;
        if model.chars().count() > MAX_MODEL_CHARS {
            let message = format!("`body.model` may have {MAX_MODEL_CHARS} characters");
            return Err(BadLine::new("model_not_found", Some("body.model"), message));
        }
        let wants = Wants {
            stream: parsed.stream == Some(true),
            background: parsed.background == Some(true),
        };
        Ok(Self { custom_id, model, body, wants })
    }
}

fn missing(name: &'static str) -> BadLine {
    BadLine::new("missing_required_parameter", Some(name), format!("`{name}` is missing"))
}

/// A line of the results.
#[derive(Serialize)]
pub(super) struct Written<'a> {
    id: String,
    custom_id: &'a str,
    response: Option<WrittenResponse<'a>>,
    error: Option<WrittenError<'a>>,
}

/// What a request was answered with.
#[derive(Serialize)]
pub(super) struct WrittenResponse<'a> {
    pub(super) status_code: u16,
    pub(super) request_id: String,
    pub(super) body: &'a RawValue,
}

/// Why a line was not answered.
#[derive(Serialize)]
struct WrittenError<'a> {
    code: &'a str,
    message: &'a str,
}

impl<'a> Written<'a> {
    pub(super) fn response(custom_id: &'a str, response: WrittenResponse<'a>) -> Self {
        Self { id: new_id(), custom_id, response: Some(response), error: None }
    }

    /// A line that was not answered. Its id is made of its place, so that it is the same each time.
    pub(super) fn error(custom_id: &'a str, (code, message): (&'a str, &'a str)) -> Self {
        Self {
            id: new_id(),
            custom_id,
            response: None,
            error: Some(WrittenError { code, message }),
        }
    }

    /// As JSON, without an end of line.
    pub(super) fn to_text(&self) -> String {
        // Texts and checked JSON can be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn new_id() -> String {
    format!("batch_req_{}", uuid::Uuid::now_v7().simple())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Answer {
    usage: Option<Usage>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Usage {
    #[serde(alias = "prompt_tokens")]
    input_tokens: i64,
    #[serde(alias = "completion_tokens")]
    output_tokens: i64,
    #[serde(alias = "prompt_tokens_details")]
    input_tokens_details: Details,
    #[serde(alias = "completion_tokens_details")]
    output_tokens_details: Details,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: i64,
    reasoning_tokens: i64,
}

/// What an answer says that it has cost.
pub(super) fn usage(answer: &str) -> BatchUsage {
    let usage = serde_json::from_str::<Answer>(answer).unwrap_or_default().usage;
    let usage = usage.unwrap_or_default();
    BatchUsage {
        input_tokens: usage.input_tokens,
        cached_tokens: usage.input_tokens_details.cached_tokens,
        output_tokens: usage.output_tokens,
        reasoning_tokens: usage.output_tokens_details.reasoning_tokens,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Line<'_>, BadLine> {
        Line::read(line.as_bytes(), Endpoint::Chat)
    }

    fn param(line: &str) -> Option<&'static str> {
        read(line).err().unwrap().param
    }

    #[test]
    fn a_line_names_itself_its_endpoint_and_a_model() {
        let line = r#"{"custom_id": "a\"b", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "stream": true, "messages": []}, "more": 1}"#;
        let line = read(line).ok().unwrap();

        assert_eq!((&*line.custom_id, &*line.model), ("a\"b", "m"));
        assert_eq!(line.wants, Wants { stream: true, background: false });
        assert!(line.body.starts_with(r#"{"model""#));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let whole = r#"{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"m"}}"#;
        assert!(read(whole).is_ok());
        for (from, to, wrong) in [
            (r#""custom_id":"1","#, "", "custom_id"),
            (r#""1""#, r#""""#, "custom_id"),
            ("POST", "GET", "method"),
            (r#""method":"POST","#, "", "method"),
            ("chat/completions", "completions", "url"),
            (r#","body":{"model":"m"}"#, "", "body"),
            (r#"{"model":"m"}"#, "[]", "body"),
            (r#"{"model":"m"}"#, "{}", "body.model"),
        ] {
            assert_eq!(param(&whole.replace(from, to)), Some(wrong), "{from}");
        }
        assert_eq!(param("[]"), None);
        assert_eq!(read("nonsense").err().unwrap().code, "invalid_json_line");
    }

    #[test]
    fn usage_is_read_from_every_endpoints_answers() {
        let chat = r#"{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7,
            "prompt_tokens_details":{"cached_tokens":2},
            "completion_tokens_details":{"reasoning_tokens":1}}}"#;
        let responses = r#"{"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7,
            "input_tokens_details":{"cached_tokens":2},
            "output_tokens_details":{"reasoning_tokens":1}}}"#;
        let whole =
            BatchUsage { input_tokens: 3, cached_tokens: 2, output_tokens: 4, reasoning_tokens: 1 };

        assert_eq!(usage(chat), whole);
        assert_eq!(usage(responses), whole);
        assert_eq!(usage(r#"{"usage":{"prompt_tokens":3}}"#).input_tokens, 3);
        assert_eq!(usage("{}"), BatchUsage::default());
    }
}
