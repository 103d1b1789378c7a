//! Qwen3-Coder's calls: `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.
//!
//! Values are written bare, so what JSON each becomes depends on the parameter's schema. Text is
//! sent as it comes; any other value when it is complete.

mod value;

use std::sync::Arc;

use super::marker::Token;
use super::out::Out;
use super::span::Span;
use super::{Flow, Format, MAX_HELD, Tool, is_known};
use value::{Kind, escape};

pub(super) const OPEN: &str = "<tool_call>";
pub(super) const CLOSE: &str = "</tool_call>";
pub(super) const FUNCTION: &str = "<function=";
pub(super) const FUNCTION_END: &str = "</function>";
pub(super) const PARAMETER: &str = "<parameter=";
pub(super) const PARAMETER_END: &str = "</parameter>";

/// Longest name, in bytes.
const MAX_NAME: usize = 256;

/// Whether the parameter of a function with this schema is text and nothing else.
pub(super) fn is_text(schema: &serde_json::Value, parameter: &str) -> bool {
    value::of_parameter(schema, parameter) == Kind::Text
}

/// Reads Qwen3-Coder's calls.
pub(super) struct XmlCalls {
    tools: Arc<[Tool]>,
    at: At,
    /// What is held back since a call may have begun.
    raw: String,
    function: String,
    parameter: String,
    kind: Kind,
    /// The value so far, of a kind that is sent when it is complete.
    value: String,
    /// Where in the JSON of such a value we are.
    span: Span,
    /// A line break that may be the one before the end of the value.
    holds_line_break: bool,
    is_first: bool,
    /// The markers that end the last call have not come yet.
    is_unclosed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    Open,
    Function,
    Parameters,
    Parameter,
    /// Before the first character of a value, which may be a line break.
    ValueStart,
    Value,
    Between,
}

impl XmlCalls {
    pub(super) fn new(tools: Arc<[Tool]>) -> Self {
        Self {
            tools,
            at: At::Text,
            raw: String::new(),
            function: String::new(),
            parameter: String::new(),
            kind: Kind::Text,
            value: String::new(),
            span: Span::default(),
            holds_line_break: false,
            is_first: true,
            is_unclosed: false,
        }
    }

    fn text(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(OPEN) => return self.hold(token, At::Open),
            Token::Marker(FUNCTION) => return self.begin_function(token),
            Token::Marker(CLOSE) if self.is_unclosed => self.is_unclosed = false,
            Token::Marker(FUNCTION_END | PARAMETER_END) if self.is_unclosed => {}
            _ => out.content_token(token),
        }
        Flow::Taken
    }

    fn hold(&mut self, token: Token, at: At) -> Flow {
        match token {
            Token::Char(c) => self.raw.push(c),
            Token::Marker(marker) => self.raw.push_str(marker),
        }
        self.at = at;
        Flow::Taken
    }

    fn fail(&mut self, out: &mut Out) -> Flow {
        out.content(&std::mem::take(&mut self.raw));
        self.at = At::Text;
        Flow::Again
    }

    fn begin_function(&mut self, token: Token) -> Flow {
        self.function.clear();
        self.hold(token, At::Function)
    }

    fn open(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(FUNCTION) => self.begin_function(token),
            Token::Char(c) if c.is_ascii_whitespace() && self.raw.len() < MAX_NAME => {
                self.hold(token, At::Open)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn function(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('>') => {
                let is_marked = self.raw.starts_with(OPEN);
                let name = self.function.trim();
                if name.is_empty() || !(is_marked || is_known(&self.tools, name)) {
                    return self.fail(out);
                }
                self.function = name.to_owned();
                self.raw.clear();
                self.is_first = true;
                self.at = At::Parameters;
                out.call(&self.function);
                Flow::Taken
            }
            Token::Char(c) if c != '<' && c != '\n' && self.function.len() < MAX_NAME => {
                self.function.push(c);
                self.hold(token, At::Function)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn parameters(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(PARAMETER) => {
                self.parameter.clear();
                return self.hold(token, At::Parameter);
            }
            Token::Marker(FUNCTION_END) => self.end_call(At::Between, out),
            Token::Char(c) if c.is_whitespace() => {}
            Token::Marker(CLOSE) => {
                self.end_call(At::Between, out);
                return Flow::Again;
            }
            Token::Char(_) | Token::Marker(_) => {
                self.end_call(At::Text, out);
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn end_call(&mut self, at: At, out: &mut Out) {
        out.arguments(if self.is_first { "{}" } else { "}" });
        out.begin_part();
        self.is_unclosed = true;
        self.at = at;
    }

    fn parameter(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('>') => {
                self.raw.clear();
                self.kind = value::kind(&self.tools, &self.function, self.parameter.trim());
                self.value.clear();
                self.span = Span::default();
                self.holds_line_break = false;
                self.at = At::ValueStart;
                if self.kind == Kind::Text {
                    self.begin_text(out);
                }
                Flow::Taken
            }
            Token::Char(c) if c != '\n' && self.parameter.len() < MAX_NAME => {
                self.parameter.push(c);
                self.hold(token, At::Parameter)
            }
            Token::Char(_) | Token::Marker(_) => {
                self.end_call(At::Text, out);
                self.fail(out)
            }
        }
    }

    /// Sends the parameter's name and what is before its value.
    fn begin_value(&mut self, out: &mut Out) {
        out.arguments(if self.is_first { "{\"" } else { ",\"" });
        self.is_first = false;
        self.parameter.trim().chars().for_each(|c| escape(c, out));
        out.arguments("\":");
    }

    fn begin_text(&mut self, out: &mut Out) {
        self.begin_value(out);
        out.argument('"');
    }

    fn value(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(PARAMETER_END) if !self.span.in_string() => {
                if self.kind == Kind::Text {
                    out.argument('"');
                } else {
                    let json = self.kind.convert(&self.value);
                    self.begin_value(out);
                    out.arguments(&json);
                }
                self.at = At::Parameters;
                return Flow::Taken;
            }
            // Line breaks around a value belong to the format.
            Token::Char('\n') if self.at == At::ValueStart => {}
            Token::Char('\n') if !self.holds_line_break => self.holds_line_break = true,
            Token::Char(c) => {
                self.release_line_break(out);
                self.holds_line_break = c == '\n';
                if c != '\n' {
                    self.value_char(c, out);
                }
            }
            Token::Marker(marker) => {
                self.release_line_break(out);
                marker.chars().for_each(|c| self.value_char(c, out));
            }
        }
        self.at = At::Value;
        Flow::Taken
    }

    fn release_line_break(&mut self, out: &mut Out) {
        if std::mem::take(&mut self.holds_line_break) {
            self.value_char('\n', out);
        }
    }

    fn value_char(&mut self, c: char, out: &mut Out) {
        if self.kind == Kind::Text {
            escape(c, out);
            return;
        }
        self.value.push(c);
        if self.kind.is_json() && self.value.starts_with(['{', '[']) {
            self.span.push(c);
        }
        if self.value.len() > MAX_HELD {
            self.kind = Kind::Text;
            self.span = Span::default();
            self.begin_text(out);
            std::mem::take(&mut self.value).chars().for_each(|c| escape(c, out));
        }
    }

    fn between(&mut self, token: Token) -> Flow {
        match token {
            Token::Marker(CLOSE) => {
                self.is_unclosed = false;
                self.at = At::Text;
            }
            Token::Marker(FUNCTION_END | PARAMETER_END) => {}
            Token::Char(c) if c.is_ascii_whitespace() => {}
            Token::Char(_) | Token::Marker(_) => {
                self.at = At::Text;
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn advance(&mut self, token: Token, out: &mut Out) -> Flow {
        match self.at {
            At::Text => self.text(token, out),
            At::Open => self.open(token, out),
            At::Function => self.function(token, out),
            At::Parameters => self.parameters(token, out),
            At::Parameter => self.parameter(token, out),
            At::ValueStart | At::Value => self.value(token, out),
            At::Between => self.between(token),
        }
    }
}

impl Format for XmlCalls {
    fn step(&mut self, token: Token, out: &mut Out) {
        while self.advance(token, out) == Flow::Again {}
    }

    fn finish(&mut self, out: &mut Out) {
        let is_in_value = matches!(self.at, At::ValueStart | At::Value);
        if is_in_value && self.kind != Kind::Text {
            // Cut off like the completion.
            self.begin_value(out);
            out.arguments(self.value.trim());
        }
        if self.at != At::Parameter {
            out.content(&std::mem::take(&mut self.raw));
        }
    }
}
