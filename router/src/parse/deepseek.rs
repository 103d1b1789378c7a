//! DeepSeek's calls: `<｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜>` since V3.1, and
//! before that `…begin｜>function<｜tool▁sep｜>name`, with the arguments in a fenced block.

use super::marker::Token;
use super::out::Out;
use super::span::Span;
use super::{Flow, Format};

pub(super) const CALLS_BEGIN: &str = "<｜tool▁calls▁begin｜>";
pub(super) const CALLS_END: &str = "<｜tool▁calls▁end｜>";
pub(super) const CALL_BEGIN: &str = "<｜tool▁call▁begin｜>";
pub(super) const CALL_END: &str = "<｜tool▁call▁end｜>";
pub(super) const SEPARATOR: &str = "<｜tool▁sep｜>";

/// Longest text between two markers before the arguments, in bytes.
const MAX_HEADER: usize = 256;

/// Reads DeepSeek's calls.
pub(super) struct DeepSeekCalls {
    at: At,
    /// What is held back since a call may have begun.
    raw: String,
    /// Before the separator: the name, or the kind of call.
    header: String,
    /// After it: the name, if it was the kind.
    name: String,
    span: Span,
    /// The marker that ends all calls has not come yet.
    is_unclosed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    Calls,
    Header,
    Name,
    Fence,
    Arguments,
    Between,
}

impl DeepSeekCalls {
    pub(super) fn new() -> Self {
        Self {
            at: At::Text,
            raw: String::new(),
            header: String::new(),
            name: String::new(),
            span: Span::default(),
            is_unclosed: false,
        }
    }

    fn text(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(CALLS_BEGIN) => return self.hold(token, At::Calls),
            Token::Marker(CALL_BEGIN) => return self.begin_call(token),
            Token::Marker(CALLS_END) if self.is_unclosed => self.is_unclosed = false,
            Token::Marker(CALL_END) if self.is_unclosed => {}
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

    fn begin_call(&mut self, token: Token) -> Flow {
        self.header.clear();
        self.name.clear();
        self.hold(token, At::Header)
    }

    fn fail(&mut self, out: &mut Out) -> Flow {
        out.content(&std::mem::take(&mut self.raw));
        self.at = At::Text;
        Flow::Again
    }

    fn header(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(SEPARATOR) => self.hold(token, At::Name),
            Token::Char(c) if self.header.len() < MAX_HEADER => {
                self.header.push(c);
                self.hold(token, At::Header)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn name(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('{') => self.begin_arguments(out),
            Token::Char('\n' | '`') if !self.name.trim().is_empty() => self.hold(token, At::Fence),
            Token::Char(c) if self.name.len() < MAX_HEADER => {
                self.name.push(c);
                self.hold(token, At::Name)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn fence(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('{') => self.begin_arguments(out),
            Token::Char('`' | 'j' | 's' | 'o' | 'n' | '\n' | '\r' | ' ') => {
                self.hold(token, At::Fence)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn begin_arguments(&mut self, out: &mut Out) -> Flow {
        let names = [self.name.trim(), self.header.trim()];
        let Some(name) = names.into_iter().find(|name| !name.is_empty()) else {
            return self.fail(out);
        };
        out.call(name);
        self.raw.clear();
        self.span = Span::default();
        self.at = At::Arguments;
        Flow::Again
    }

    fn arguments(&mut self, token: Token, out: &mut Out) -> Flow {
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

    fn called(&mut self, out: &mut Out) {
        out.begin_part();
        self.is_unclosed = true;
        self.at = At::Between;
    }

    fn between(&mut self, token: Token) -> Flow {
        match token {
            Token::Marker(CALL_END) => {}
            Token::Marker(CALL_BEGIN) => return self.begin_call(token),
            Token::Marker(CALLS_END) => {
                self.is_unclosed = false;
                self.at = At::Text;
            }
            // The end of the fence, or one brace too many.
            Token::Char('`' | '}') => {}
            Token::Char(c) if c.is_ascii_whitespace() => {}
            Token::Char(_) | Token::Marker(_) => {
                self.at = At::Text;
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn calls(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(CALL_BEGIN) => self.begin_call(token),
            Token::Char(c) if c.is_ascii_whitespace() && self.raw.len() < MAX_HEADER => {
                self.hold(token, At::Calls)
            }
            Token::Char(_) | Token::Marker(_) => self.fail(out),
        }
    }

    fn advance(&mut self, token: Token, out: &mut Out) -> Flow {
        match self.at {
            At::Text => self.text(token, out),
            At::Calls => self.calls(token, out),
            At::Header => self.header(token, out),
            At::Name => self.name(token, out),
            At::Fence if self.raw.len() < 4 * MAX_HEADER => self.fence(token, out),
            At::Fence => self.fail(out),
            At::Arguments => self.arguments(token, out),
            At::Between => self.between(token),
        }
    }
}

impl Format for DeepSeekCalls {
    fn step(&mut self, token: Token, out: &mut Out) {
        while self.advance(token, out) == Flow::Again {}
    }

    fn finish(&mut self, out: &mut Out) {
        out.content(&std::mem::take(&mut self.raw));
    }
}
