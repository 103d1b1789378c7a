//! Calls in Python: `[name(key="value"), …]`, as the whole of a line.

use std::sync::Arc;

use super::marker::Token;
use super::out::Out;
use super::{Flow, Format, MAX_HELD, Tool, is_known, python};

pub(super) const START: &str = "<|python_start|>";
pub(super) const END: &str = "<|python_end|>";

/// Longest name, in bytes.
const MAX_NAME: usize = 256;

/// Reads calls in Python, each when it is complete: its values have to be rewritten.
pub(super) struct PythonicCalls {
    tools: Arc<[Tool]>,
    at: At,
    /// What came since the last text or call.
    raw: String,
    name: String,
    /// Where in `raw` the arguments begin.
    arguments_start: usize,
    span: python::Span,
    is_unclosed: bool,
    is_line_start: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    /// After a marker.
    Open,
    /// A call must begin.
    List,
    Name,
    Arguments,
    /// After a call, in the list.
    Between,
}

impl PythonicCalls {
    pub(super) fn new(tools: Arc<[Tool]>) -> Self {
        Self {
            tools,
            at: At::Text,
            raw: String::new(),
            name: String::new(),
            arguments_start: 0,
            span: python::Span::default(),
            is_unclosed: false,
            is_line_start: true,
        }
    }

    fn text(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(START) => return self.hold(token, At::Open),
            Token::Marker(END) if self.is_unclosed => {
                self.is_unclosed = false;
                return Flow::Taken;
            }
            Token::Char('[') if self.is_line_start => return self.hold(token, At::List),
            Token::Char('\n') => self.is_line_start = true,
            Token::Char(' ' | '\t' | '\r') => {}
            Token::Char(_) | Token::Marker(_) => self.is_line_start = false,
        }
        out.content_token(token);
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
        self.is_line_start = false;
        self.at = At::Text;
        Flow::Again
    }

    fn list(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(c) if c.is_ascii_alphabetic() || c == '_' => {
                self.name.clear();
                self.name.push(c);
                self.hold(token, At::Name)
            }
            Token::Char('[') if self.at == At::Open => self.hold(token, At::List),
            Token::Char(c) if c.is_ascii_whitespace() => self.hold(token, self.at),
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn name(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            // Lists that are no calls are too usual to trust an unknown name.
            Token::Char('(') if is_known(&self.tools, &self.name) => {
                self.arguments_start = self.raw.len();
                self.span = python::Span::default();
                self.span.push('(');
                self.hold(token, At::Arguments)
            }
            Token::Char(c)
                if self.name.len() < MAX_NAME
                    && (c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')) =>
            {
                self.name.push(c);
                self.hold(token, At::Name)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn arguments(&mut self, token: Token, out: &mut Out) -> Flow {
        self.hold(token, At::Arguments);
        let is_over = match token {
            Token::Char(c) => self.span.push(c),
            Token::Marker(marker) => marker.chars().any(|c| self.span.push(c)),
        };
        if is_over {
            let arguments = self.raw.get(self.arguments_start..).unwrap_or_default();
            let Some(json) = python::keyword_arguments(arguments) else {
                self.fail(out);
                return Flow::Taken;
            };
            out.call(&self.name);
            out.arguments(&json);
            out.begin_part();
            self.is_unclosed |= self.raw.starts_with(START);
            self.raw.clear();
            self.at = At::Between;
        }
        Flow::Taken
    }

    fn between(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(',') => self.hold(token, At::List),
            Token::Char(']') => {
                self.raw.clear();
                self.is_line_start = false;
                self.at = At::Text;
                Flow::Taken
            }
            Token::Char(c) if c.is_ascii_whitespace() => self.hold(token, At::Between),
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn advance(&mut self, token: Token, out: &mut Out) -> Flow {
        if self.raw.len() > MAX_HELD {
            return self.fail(out);
        }
        match self.at {
            At::Text => self.text(token, out),
            At::Open | At::List => self.list(token, out),
            At::Name => self.name(token, out),
            At::Arguments => self.arguments(token, out),
            At::Between => self.between(token, out),
        }
    }
}

impl Format for PythonicCalls {
    fn step(&mut self, token: Token, out: &mut Out) {
        while self.advance(token, out) == Flow::Again {}
    }

    fn finish(&mut self, out: &mut Out) {
        out.content(&std::mem::take(&mut self.raw));
    }
}
