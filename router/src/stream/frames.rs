//! The chunks of a streamed answer, as bytes.
//!
//! All of a chunk but its text is the same for every token, so it is serialised once per request: a
//! token costs two copies and the escaping of its text.

use std::sync::Arc;

use serde::Serialize;

use crate::api::chat::reply::{ChatLogprobs, FUNCTION_CALL, ToolCallChunk};
use crate::api::completions::reply::CompletionLogprobs;
use crate::api::reply::{ProgressReport, TimingsReport, UsageReport};
use crate::error::ApiError;
use crate::generation::{CallDelta, Delta, FinishReason, Report, TokenUsage};
use crate::model::Model;
use crate::validate::CallStyle;

use super::{Events, Merge};

/// Whose chunks are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What every chunk says.
#[derive(Debug, Serialize)]
pub struct Head<'a> {
    /// The answer's id.
    pub id: &'a str,
    /// Kind of chunk.
    pub object: &'a str,
    /// Unix seconds.
    pub created: u64,
    /// The model.
    pub model: &'a str,
    /// Names all that an answer depends on beside the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_fingerprint: Option<&'a str>,
}

/// When an answer reports its usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportUsage {
    /// Never.
    Never,
    /// In a chunk of its own at the end; it is `null` in all others.
    AtEnd,
    /// In every chunk, and at the end.
    Always,
}

/// Writes the chunks of one answer.
pub struct Frames {
    dialect: Dialect,
    usage: ReportUsage,
    /// Set where log-probabilities are sent, whose tokens' texts it has.
    logprobs_of: Option<Arc<Model>>,
    /// `data: {"id":…,"model":…,"choices":[`
    head: String,
    /// The choice whose text event is not closed yet.
    open: Option<u32>,
    calls: CallStyle,
}

impl Frames {
    /// Frames of an answer that begins like this.
    pub fn new(
        dialect: Dialect,
        head: &Head,
        (usage, logprobs_of): (ReportUsage, Option<Arc<Model>>),
    ) -> Self {
        // A struct of texts and a number can be written as JSON.
        let head = serde_json::to_string(head).unwrap_or_default();
        let head = format!("data: {},\"choices\":[", head.trim_end_matches('}'));
        Self { dialect, usage, logprobs_of, head, open: None, calls: CallStyle::Tools }
    }

    /// With calls in this style.
    #[must_use]
    pub fn calling(self, calls: CallStyle) -> Self {
        Self { calls, ..self }
    }

    fn text(&mut self, out: &mut Vec<u8>, delta: &Delta, (usage, merge): (TokenUsage, Merge)) {
        if merge == Merge::Never || self.open != Some(delta.choice) {
            self.close(out, usage);
            self.choice(out, delta.choice);
            out.extend_from_slice(match self.dialect {
                Dialect::Chat => &b",\"delta\":{\"content\":\""[..],
                Dialect::Completions => b",\"text\":\"",
            });
        }
        escape(out, &delta.text);
        match &self.logprobs_of {
            Some(model) => {
                self.logprobs(out, delta, model);
                self.end(out, usage);
            }
            None => {
                self.open = Some(delta.choice);
                // Later, the usage would be that of later tokens too.
                if self.usage == ReportUsage::Always {
                    self.close(out, usage);
                }
            }
        }
    }

    fn reasoning(&mut self, out: &mut Vec<u8>, delta: &Delta, usage: TokenUsage) {
        self.close(out, usage);
        self.choice(out, delta.choice);
        out.extend_from_slice(b",\"delta\":{\"reasoning_content\":\"");
        escape(out, &delta.reasoning);
        out.extend_from_slice(b"\"},\"logprobs\":null,\"finish_reason\":null}]");
        self.end(out, usage);
    }

    /// Of a call, its id and name come first, then its arguments.
    fn call(&mut self, out: &mut Vec<u8>, (choice, call): (u32, &CallDelta), usage: TokenUsage) {
        self.close(out, usage);
        self.choice(out, choice);
        let call = ToolCallChunk::new(call);
        match self.calls {
            CallStyle::Tools => {
                out.extend_from_slice(b",\"delta\":{\"tool_calls\":[");
                write(out, &call);
                out.extend_from_slice(b"]");
            }
            CallStyle::Function => {
                out.extend_from_slice(b",\"delta\":{\"function_call\":");
                write(out, &call.function);
            }
        }
        out.extend_from_slice(b"},\"logprobs\":null,\"finish_reason\":null}]");
        self.end(out, usage);
    }

    /// A chunk without choices.
    fn report(&mut self, out: &mut Vec<u8>, report: Report, usage: TokenUsage) {
        self.close(out, usage);
        out.extend_from_slice(self.head.as_bytes());
        match report {
            Report::Progress(progress) => {
                out.extend_from_slice(b"],\"prompt_progress\":");
                write(out, &ProgressReport::from(progress));
            }
            Report::Timings(timings) => {
                out.extend_from_slice(b"],\"timings\":");
                write(out, &TimingsReport::from(timings));
            }
        }
        self.end(out, usage);
    }

    fn logprobs(&self, out: &mut Vec<u8>, delta: &Delta, model: &Model) {
        let tokens = &model.tokens;
        out.extend_from_slice(match self.dialect {
            Dialect::Chat => &b"\"},\"logprobs\":"[..],
            Dialect::Completions => b"\",\"logprobs\":",
        });
        match self.dialect {
            Dialect::Chat => write(out, &ChatLogprobs::new(&delta.logprobs, tokens)),
            Dialect::Completions => write(out, &CompletionLogprobs::new(&delta.logprobs, tokens)),
        }
        out.extend_from_slice(b",\"finish_reason\":null}]");
    }

    fn finish(&self, out: &mut Vec<u8>, choice: u32, finish: FinishReason) {
        self.choice(out, choice);
        out.extend_from_slice(match self.dialect {
            Dialect::Chat => &b",\"delta\":{},\"logprobs\":null,\"finish_reason\":\""[..],
            Dialect::Completions => b",\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"",
        });
        let finish = match (finish, self.calls) {
            (FinishReason::ToolCalls, CallStyle::Function) => FUNCTION_CALL,
            (finish, _) => finish.as_str(),
        };
        out.extend_from_slice(finish.as_bytes());
        out.extend_from_slice(b"\"}]");
    }

    fn choice(&self, out: &mut Vec<u8>, choice: u32) {
        out.extend_from_slice(self.head.as_bytes());
        out.extend_from_slice(b"{\"index\":");
        write(out, &choice);
    }

    /// The end of a chunk, with its usage where chunks have one.
    fn end(&self, out: &mut Vec<u8>, usage: TokenUsage) {
        match self.usage {
            ReportUsage::Never => out.extend_from_slice(b"}\n\n"),
            ReportUsage::AtEnd => out.extend_from_slice(b",\"usage\":null}\n\n"),
            ReportUsage::Always => {
                out.extend_from_slice(b",\"usage\":");
                write(out, &UsageReport::from(usage));
                out.extend_from_slice(b"}\n\n");
            }
        }
    }
}

impl Events for Frames {
    /// Only chats have something to say before the first token.
    fn opening(&mut self, out: &mut Vec<u8>, num_choices: u32, usage: TokenUsage) {
        if self.dialect == Dialect::Completions {
            return;
        }
        for choice in 0..num_choices {
            self.choice(out, choice);
            out.extend_from_slice(
                b",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\
                  \"finish_reason\":null}]",
            );
            self.end(out, usage);
        }
    }

    fn delta(&mut self, out: &mut Vec<u8>, delta: &Delta, (usage, merge): (TokenUsage, Merge)) {
        if let Some(report) = delta.report {
            return self.report(out, report, usage);
        }
        if !delta.reasoning.is_empty() {
            self.reasoning(out, delta, usage);
        }
        if !delta.text.is_empty() || !delta.logprobs.is_empty() {
            self.text(out, delta, (usage, merge));
        }
        for call in &delta.calls {
            self.call(out, (delta.choice, call), usage);
        }
        if let Some(finish) = delta.finish {
            self.close(out, usage);
            self.finish(out, delta.choice, finish);
            self.end(out, usage);
        }
    }

    fn close(&mut self, out: &mut Vec<u8>, usage: TokenUsage) {
        if self.open.take().is_some() {
            out.extend_from_slice(match self.dialect {
                Dialect::Chat => &b"\"},\"logprobs\":null,\"finish_reason\":null}]"[..],
                Dialect::Completions => b"\",\"logprobs\":null,\"finish_reason\":null}]",
            });
            self.end(out, usage);
        }
    }

    fn done(&mut self, out: &mut Vec<u8>, usage: TokenUsage) {
        if self.usage != ReportUsage::Never {
            out.extend_from_slice(self.head.as_bytes());
            out.extend_from_slice(b"],\"usage\":");
            write(out, &UsageReport::from(usage));
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn error(&mut self, out: &mut Vec<u8>, error: &ApiError, usage: TokenUsage) {
        self.close(out, usage);
        out.extend_from_slice(b"data: ");
        write(out, &error.body());
        out.extend_from_slice(b"\n\n");
    }

    fn keep_alive(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b": \n\n");
    }
}

/// Appends a value's JSON.
pub(super) fn write(out: &mut Vec<u8>, value: &impl Serialize) {
    let start = out.len();
    // Writing to memory does not fail, and none of our values is a map with keys that are no texts.
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

/// Appends the inside of a JSON string.
pub(crate) fn escape(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (i, byte) in bytes.iter().enumerate() {
        let short = match byte {
            b'"' => b'"',
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..=0x1F => b'u',
            _ => continue,
        };
        out.extend_from_slice(bytes.get(copied..i).unwrap_or_default());
        out.extend_from_slice(&[b'\\', short]);
        if short == b'u' {
            let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' + value - 10 };
            out.extend_from_slice(&[b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
        }
        copied = i + 1;
    }
    out.extend_from_slice(bytes.get(copied..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn escaped_text_is_read_back(text in any::<String>()) {
            let mut out = vec![b'"'];
            escape(&mut out, &text);
            out.push(b'"');
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn every_control_character_is_escaped() {
        let text: String = (0..0x20_u8).map(char::from).chain(['"', '\\', '/', '\u{7f}']).collect();
        let mut out = Vec::new();
        escape(&mut out, &text);
        assert!(out.iter().all(|byte| *byte >= 0x20));
        let quoted = format!("\"{}\"", String::from_utf8(out).unwrap());
        assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
    }
}
