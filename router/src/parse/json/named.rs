//! Calls whose name stands outside of the JSON: `[TOOL_CALLS]name[ARGS]{…}`.

use super::{At, Flow, JsonCalls, Out, Span, Token};

pub(in crate::parse) const ARGS: &str = "[ARGS]";
pub(in crate::parse) const CALL_ID: &str = "[CALL_ID]";

/// Longest name, in bytes.
const MAX_NAME: usize = 256;

pub(super) fn is_in_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

impl JsonCalls {
    pub(super) fn name(&mut self, token: Token, out: &mut Out) -> Flow {
        let is_over =
            self.raw.ends_with(|c: char| c.is_ascii_whitespace()) && !self.name.is_empty();
        match token {
            Token::Char('{') => return self.begin_arguments(out),
            Token::Marker(ARGS) => self.at = At::ArgumentsOpen,
            Token::Marker(CALL_ID) => self.at = At::CallId,
            Token::Char(c) if is_in_name(c) && !is_over && self.name.len() < MAX_NAME => {
                self.name.push(c);
            }
            Token::Char(c) if c.is_ascii_whitespace() => {}
            Token::Char(_) | Token::Marker(_) => return self.fail(out),
        }
        self.keep(token, out)
    }

    pub(super) fn call_id(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(ARGS) => self.at = At::ArgumentsOpen,
            Token::Char(c) if is_in_name(c) => {}
            Token::Char(_) | Token::Marker(_) => return self.fail(out),
        }
        self.keep(token, out)
    }

    pub(super) fn arguments_open(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('{') => self.begin_arguments(out),
            Token::Char(c) if c.is_ascii_whitespace() => self.keep(token, out),
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn begin_arguments(&mut self, out: &mut Out) -> Flow {
        self.raw.clear();
        self.span = Span::default();
        self.at = At::Arguments;
        out.call(&self.name);
        Flow::Again
    }

    pub(super) fn arguments(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(c) => {
                out.argument(c);
                if self.span.push(c) {
                    self.called(out);
                }
            }
            Token::Marker(marker) if self.span.in_string() => out.arguments(marker),
            Token::Marker(_) => {
                self.called(out);
                return Flow::Again;
            }
        }
        Flow::Taken
    }
}
