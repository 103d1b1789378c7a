//! What was parsed so far, as few events as possible.

use super::Event;
use super::marker::Token;

/// White space that may be held back, in bytes.
const MAX_SPACE: usize = 1024;

/// A text that is not a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Channel {
    /// What the user reads.
    #[default]
    Content,
    /// What the model thinks.
    Reasoning,
}

/// Collects events.
///
/// White space between the parts of an output belongs to the format: models write a line break
/// before a call and after their thoughts. So white space is held back until something of the same
/// channel follows, and dropped before a call and where the first text of a channel begins.
#[derive(Default)]
pub(super) struct Out {
    pub(super) events: Vec<Event>,
    space: String,
    channel: Channel,
    /// Nothing but white space came since a part ended.
    is_at_start: bool,
    has_content: bool,
    has_reasoning: bool,
    num_calls: usize,
}

impl Out {
    /// Adds a character to a channel.
    pub(super) fn push(&mut self, channel: Channel, c: char) {
        if self.channel != channel {
            self.channel = channel;
            self.begin_part();
        }
        if c.is_whitespace() {
            if !self.is_at_start || self.has_text() {
                self.space.push(c);
                if self.space.len() > MAX_SPACE {
                    self.flush();
                }
            }
            return;
        }
        self.is_at_start = false;
        self.flush();
        self.append(c.encode_utf8(&mut [0; 4]));
    }

    /// Adds a token to the content.
    pub(super) fn content_token(&mut self, token: Token) {
        match token {
            Token::Char(c) => self.push(Channel::Content, c),
            Token::Marker(marker) => self.content(marker),
        }
    }

    /// Adds text to the content.
    pub(super) fn content(&mut self, text: &str) {
        for c in text.chars() {
            self.push(Channel::Content, c);
        }
    }

    /// Drops the white space before this, and what comes next if there is no text yet.
    pub(super) fn begin_part(&mut self) {
        self.space.clear();
        self.is_at_start = true;
    }

    /// Begins a call.
    pub(super) fn call(&mut self, name: &str) {
        self.begin_part();
        let index = self.num_calls;
        self.num_calls += 1;
        self.events.push(Event::ToolCallStart { index, name: name.to_owned() });
    }

    /// Adds to the arguments of the call that was begun last.
    pub(super) fn arguments(&mut self, text: &str) {
        match self.events.last_mut() {
            Some(Event::ToolCallArguments { fragment, .. }) => fragment.push_str(text),
            _ if text.is_empty() => {}
            _ => {
                let index = self.num_calls.saturating_sub(1);
                self.events.push(Event::ToolCallArguments { index, fragment: text.to_owned() });
            }
        }
    }

    /// Adds to the arguments of the call that was begun last.
    pub(super) fn argument(&mut self, c: char) {
        self.arguments(c.encode_utf8(&mut [0; 4]));
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self) {
        if !self.is_at_start {
            self.flush();
        }
    }

    fn has_text(&self) -> bool {
        match self.channel {
            Channel::Content => self.has_content,
            Channel::Reasoning => self.has_reasoning,
        }
    }

    fn flush(&mut self) {
        if !self.space.is_empty() {
            let space = std::mem::take(&mut self.space);
            self.append(&space);
        }
    }

    fn append(&mut self, text: &str) {
        match self.channel {
            Channel::Content => self.has_content = true,
            Channel::Reasoning => self.has_reasoning = true,
        }
        match (self.channel, self.events.last_mut()) {
            (Channel::Content, Some(Event::Content(last)))
            | (Channel::Reasoning, Some(Event::Reasoning(last))) => last.push_str(text),
            (Channel::Content, _) => self.events.push(Event::Content(text.to_owned())),
            (Channel::Reasoning, _) => self.events.push(Event::Reasoning(text.to_owned())),
        }
    }
}
