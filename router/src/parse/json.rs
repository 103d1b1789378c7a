//! Calls that are JSON objects: behind a marker, or as the whole of what the model writes.

pub(super) mod named;

use std::sync::Arc;

use super::envelope::{Accept, Envelope, Step};
use super::marker::Token;
use super::out::Out;
use super::span::Span;
use super::{Flow, Format, Tool};

/// What tells one of these formats from another.
pub(super) struct Syntax {
    /// Each begins a call.
    open: &'static [&'static str],
    /// Ends a call.
    close: Option<&'static str>,
    /// Whether an object or list at the beginning of a line may be a call.
    is_bare: bool,
    /// Whether a name may come outside of the object, which then is the arguments.
    is_named: bool,
}

/// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`
pub(super) const HERMES: Syntax =
    Syntax { open: &["<tool_call>"], close: Some("</tool_call>"), is_bare: false, is_named: false };

/// `<|python_tag|>{"name": …, "parameters": {…}}; {…}`, and without the marker.
pub(super) const LLAMA: Syntax = Syntax {
    open: &["<|python_tag|>", "<|python_start|>"],
    close: Some("<|python_end|>"),
    is_bare: true,
    is_named: false,
};

/// `[TOOL_CALLS][{"name": …, "arguments": {…}}]` and `[TOOL_CALLS]name[ARGS]{…}`
pub(super) const MISTRAL: Syntax =
    Syntax { open: &["[TOOL_CALLS]"], close: None, is_bare: false, is_named: true };

/// `{"name": …, "arguments": {…}}`, or a list of them.
pub(super) const JSON: Syntax = Syntax { open: &[], close: None, is_bare: true, is_named: false };

/// Reads calls of such a format.
pub(super) struct JsonCalls {
    syntax: &'static Syntax,
    tools: Arc<[Tool]>,
    at: At,
    /// What came since the last text or call and before the object that is read.
    raw: String,
    object: Envelope,
    name: String,
    span: Span,
    is_marked: bool,
    is_list: bool,
    /// The marker that ends the last call has not come yet.
    is_unclosed: bool,
    is_line_start: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Text,
    /// A call must begin.
    Open,
    Object,
    Name,
    CallId,
    ArgumentsOpen,
    Arguments,
    /// After a call.
    Between,
}

impl JsonCalls {
    pub(super) fn new(syntax: &'static Syntax, tools: Arc<[Tool]>) -> Self {
        Self {
            syntax,
            tools,
            at: At::Text,
            raw: String::new(),
            object: Envelope::default(),
            name: String::new(),
            span: Span::default(),
            is_marked: false,
            is_list: false,
            is_unclosed: false,
            is_line_start: true,
        }
    }

    fn text(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(marker) if self.syntax.open.contains(&marker) => {
                self.is_marked = true;
                self.open(marker);
                return Flow::Taken;
            }
            Token::Marker(marker) if self.is_unclosed && self.syntax.close == Some(marker) => {
                self.is_unclosed = false;
                return Flow::Taken;
            }
            Token::Char('{' | '[') if self.syntax.is_bare && self.is_line_start => {
                self.is_marked = false;
                self.open("");
                return Flow::Again;
            }
            Token::Char('\n') => self.is_line_start = true,
            Token::Char(' ' | '\t' | '\r') => {}
            Token::Char(_) | Token::Marker(_) => self.is_line_start = false,
        }
        out.content_token(token);
        Flow::Taken
    }

    fn open(&mut self, marker: &str) {
        self.raw.clear();
        self.raw.push_str(marker);
        self.is_list = false;
        self.at = At::Open;
    }

    fn opened(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('{') => {
                self.object = Envelope::default();
                self.at = At::Object;
                return Flow::Again;
            }
            Token::Char('[') if !self.is_list => self.is_list = true,
            Token::Char(c) if c.is_ascii_whitespace() => {}
            Token::Char(c) if self.syntax.is_named && !self.is_list && named::is_in_name(c) => {
                self.name.clear();
                self.at = At::Name;
                return Flow::Again;
            }
            Token::Char(_) | Token::Marker(_) => return self.fail(out),
        }
        self.keep(token, out)
    }

    /// Adds a token to what is held back.
    fn keep(&mut self, token: Token, out: &mut Out) -> Flow {
        if self.raw.len() > super::MAX_HELD {
            return self.fail(out);
        }
        match token {
            Token::Char(c) => self.raw.push(c),
            Token::Marker(marker) => self.raw.push_str(marker),
        }
        Flow::Taken
    }

    fn object(&mut self, token: Token, out: &mut Out) -> Flow {
        let accept = if self.is_marked { Accept::AnyName } else { Accept::Only(&self.tools) };
        let step = match token {
            Token::Char(c) => self.object.step(c, accept, out),
            Token::Marker(marker) if self.object.in_string() => {
                let mut steps = marker.chars().map(|c| self.object.step(c, accept, out));
                steps.find(|step| *step != Step::More).unwrap_or(Step::More)
            }
            Token::Marker(_) => Step::Broken,
        };
        match step {
            Step::More => Flow::Taken,
            Step::Done => {
                self.called(out);
                Flow::Taken
            }
            Step::Wrong => {
                self.fail(out);
                Flow::Taken
            }
            Step::Broken => self.fail(out),
        }
    }

    /// After the last character of a call.
    fn called(&mut self, out: &mut Out) {
        out.begin_part();
        self.raw.clear();
        self.object = Envelope::default();
        self.is_unclosed = self.is_marked && self.syntax.close.is_some();
        self.at = At::Between;
    }

    /// Gives back what was held: it is not a call. Of a call that was sent, it is what follows.
    fn fail(&mut self, out: &mut Out) -> Flow {
        let object = std::mem::take(&mut self.object);
        if object.is_started() {
            self.called(out);
        } else {
            out.content(&std::mem::take(&mut self.raw));
            self.at = At::Text;
        }
        out.content(&object.raw);
        self.is_line_start = false;
        Flow::Again
    }

    fn between(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(marker) if self.syntax.close == Some(marker) => {
                out.begin_part();
                self.is_unclosed = false;
                self.at = At::Text;
            }
            Token::Char(c) if c.is_ascii_whitespace() => out.content_token(token),
            Token::Char(']') if self.is_list => self.is_list = false,
            // One brace too many is a usual mistake.
            Token::Char('}') if self.is_marked => {}
            Token::Char(',') if self.is_list => return self.next(token, out),
            Token::Char(';' | ',') if self.syntax.is_bare => return self.next(token, out),
            Token::Char('{') if self.syntax.is_bare => {
                self.at = At::Open;
                return Flow::Again;
            }
            Token::Char(_) | Token::Marker(_) => {
                self.is_line_start = false;
                self.at = At::Text;
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn next(&mut self, separator: Token, out: &mut Out) -> Flow {
        self.at = At::Open;
        self.keep(separator, out)
    }

    fn advance(&mut self, token: Token, out: &mut Out) -> Flow {
        match self.at {
            At::Text => self.text(token, out),
            At::Open => self.opened(token, out),
            At::Object => self.object(token, out),
            At::Between => self.between(token, out),
            At::Name => self.name(token, out),
            At::CallId => self.call_id(token, out),
            At::ArgumentsOpen => self.arguments_open(token, out),
            At::Arguments => self.arguments(token, out),
        }
    }
}

impl Format for JsonCalls {
    fn step(&mut self, token: Token, out: &mut Out) {
        while self.advance(token, out) == Flow::Again {}
    }

    fn finish(&mut self, out: &mut Out) {
        if !self.object.is_started() {
            out.content(&std::mem::take(&mut self.raw));
            out.content(&std::mem::take(&mut self.object).raw);
        }
    }
}
