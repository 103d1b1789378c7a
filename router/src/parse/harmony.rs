//! The messages of gpt-oss: `<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>…`.
//!
//! What is for the user, what is reasoning and what is a call is said by each message's header, so
//! this format needs no other parser for its reasoning.

use std::sync::Arc;

use super::marker::Token;
use super::out::{Channel, Out};
use super::span::Span;
use super::{Flow, Format, Tool, is_known};

pub(super) const START: &str = "<|start|>";
pub(super) const CHANNEL: &str = "<|channel|>";
pub(super) const CONSTRAIN: &str = "<|constrain|>";
pub(super) const MESSAGE: &str = "<|message|>";
pub(super) const END: &str = "<|end|>";
pub(super) const CALL: &str = "<|call|>";
pub(super) const RETURN: &str = "<|return|>";

/// Longest header, in bytes.
const MAX_HEADER: usize = 512;

/// Reads messages.
pub(super) struct Messages {
    tools: Arc<[Tool]>,
    at: At,
    /// The header, and of a call what comes before its arguments.
    raw: String,
    header: Header,
    span: Span,
}

#[derive(Default)]
struct Header {
    /// Before the channel: the role, and sometimes the recipient.
    role: String,
    /// The channel, and what follows it.
    channel: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    /// Between messages.
    Outside,
    /// The prompt has begun a header: either it goes on, or the model writes no messages.
    First,
    Header,
    Body(Channel),
    /// Before the arguments of this call.
    Call(String),
    Arguments,
    /// After them.
    Called,
}

impl Messages {
    pub(super) fn new(tools: Arc<[Tool]>) -> Self {
        Self {
            tools,
            at: At::First,
            raw: String::new(),
            header: Header::default(),
            span: Span::default(),
        }
    }

    fn outside(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Marker(START | CHANNEL) => {
                self.raw.clear();
                self.header = Header::default();
                self.at = At::Header;
                return Flow::Again;
            }
            Token::Marker(MESSAGE) => self.at = At::Body(Channel::Content),
            Token::Marker(END | CALL | RETURN) => {}
            Token::Char(_) | Token::Marker(_) => out.content_token(token),
        }
        Flow::Taken
    }

    fn first(&mut self, token: Token, out: &mut Out) -> Flow {
        let is_header = match token {
            Token::Char(c) => {
                let begun = format!("{}{c}", self.raw);
                let begun = begun.trim_start();
                "to=".starts_with(begun) || begun.starts_with("to=")
            }
            Token::Marker(CHANNEL | MESSAGE | CONSTRAIN) => true,
            Token::Marker(_) => false,
        };
        if !is_header {
            return self.fail(out);
        }
        if let Token::Marker(MESSAGE) = token
            && self.raw.is_empty()
        {
            self.at = At::Outside;
            return Flow::Again;
        }
        if self.raw.trim_start().starts_with("to=") || matches!(token, Token::Marker(_)) {
            self.at = At::Header;
        }
        self.header(token, out)
    }

    fn fail(&mut self, out: &mut Out) -> Flow {
        out.content(&std::mem::take(&mut self.raw));
        self.at = At::Outside;
        Flow::Again
    }

    fn header(&mut self, token: Token, out: &mut Out) -> Flow {
        if self.raw.len() > MAX_HEADER {
            return self.fail(out);
        }
        match token {
            Token::Char(c) => self.header.channel.as_mut().unwrap_or(&mut self.header.role).push(c),
            Token::Marker(START) if self.raw.is_empty() => {}
            Token::Marker(CHANNEL) if self.header.channel.is_none() => {
                self.header.channel = Some(String::new());
            }
            Token::Marker(CONSTRAIN) => {
                self.header.channel.as_mut().unwrap_or(&mut self.header.role).push(' ');
            }
            Token::Marker(MESSAGE) => {
                self.begin_message(token, out);
                return Flow::Taken;
            }
            Token::Marker(_) => return self.fail(out),
        }
        hold(&mut self.raw, token);
        Flow::Taken
    }

    fn begin_message(&mut self, token: Token, out: &mut Out) {
        let channel = self.header.channel();
        self.at = match self.header.recipient() {
            Some(to) => match to.strip_prefix("functions.").filter(|name| !name.is_empty()) {
                Some(name) => At::Call(name.to_owned()),
                None if is_known(&self.tools, to) => At::Call(to.to_owned()),
                // A tool of OpenAI's own, which nobody has offered.
                None => At::Body(channel),
            },
            None => At::Body(channel),
        };
        match self.at {
            At::Call(_) => hold(&mut self.raw, token),
            _ => self.raw.clear(),
        }
        if channel == Channel::Reasoning {
            out.begin_part();
        }
    }

    fn body(&mut self, channel: Channel, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(c) => out.push(channel, c),
            Token::Marker(START | CHANNEL) => {
                self.at = At::Outside;
                return Flow::Again;
            }
            Token::Marker(END | CALL | RETURN) => self.at = At::Outside,
            Token::Marker(marker) => marker.chars().for_each(|c| out.push(channel, c)),
        }
        Flow::Taken
    }

    fn call(&mut self, name: &str, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char('{') => {
                out.call(name);
                self.raw.clear();
                self.span = Span::default();
                self.at = At::Arguments;
                return Flow::Again;
            }
            Token::Char(c) if c.is_ascii_whitespace() && self.raw.len() < 2 * MAX_HEADER => {
                hold(&mut self.raw, token);
            }
            Token::Marker(END | CALL | RETURN) => {
                out.call(name);
                out.arguments("{}");
                self.raw.clear();
                self.at = At::Called;
                return Flow::Again;
            }
            Token::Char(_) | Token::Marker(_) => {
                out.content(&std::mem::take(&mut self.raw));
                self.at = At::Body(Channel::Content);
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn arguments(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(c) => {
                out.argument(c);
                if self.span.push(c) {
                    self.at = At::Called;
                }
            }
            Token::Marker(marker) if self.span.in_string() => out.arguments(marker),
            Token::Marker(_) => {
                self.at = At::Called;
                return Flow::Again;
            }
        }
        Flow::Taken
    }

    fn called(&mut self, token: Token, out: &mut Out) -> Flow {
        match token {
            Token::Char(c) if c.is_ascii_whitespace() || c == '}' => Flow::Taken,
            Token::Char(_) | Token::Marker(_) => {
                out.begin_part();
                self.at = At::Body(Channel::Content);
                Flow::Again
            }
        }
    }

    fn advance(&mut self, token: Token, out: &mut Out) -> Flow {
        match &self.at {
            At::Outside => self.outside(token, out),
            At::First => self.first(token, out),
            At::Header => self.header(token, out),
            At::Body(channel) => self.body(*channel, token, out),
            At::Call(name) => self.call(&name.clone(), token, out),
            At::Arguments => self.arguments(token, out),
            At::Called => self.called(token, out),
        }
    }
}

fn hold(raw: &mut String, token: Token) {
    match token {
        Token::Char(c) => raw.push(c),
        Token::Marker(marker) => raw.push_str(marker),
    }
}

impl Header {
    fn channel(&self) -> Channel {
        let text = self.channel.as_deref().unwrap_or_default();
        match text.split_ascii_whitespace().next() {
            Some("analysis") => Channel::Reasoning,
            _ => Channel::Content,
        }
    }

    fn recipient(&self) -> Option<&str> {
        let parts = [Some(&self.role), self.channel.as_ref()].into_iter().flatten();
        let mut words = parts.flat_map(|part| part.split_ascii_whitespace());
        words.find_map(|word| word.strip_prefix("to="))
    }
}

impl Format for Messages {
    fn step(&mut self, token: Token, out: &mut Out) {
        while self.advance(token, out) == Flow::Again {}
    }

    fn finish(&mut self, out: &mut Out) {
        // A header that was cut off says nothing, unless it is a call's.
        let is_call = matches!(self.at, At::Call(_)) || self.header.recipient().is_some();
        if is_call || self.at == At::First {
            out.content(&std::mem::take(&mut self.raw));
        }
    }
}
