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
/// channel follows, and dropped where a part begins.
#[derive(Default)]
pub(super) struct Out {
    pub(super) events: Vec<Event>,
    space: String,
    channel: Channel,
    /// Nothing but white space came since a part ended.
    is_at_start: bool,
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
            if !self.is_at_start {
                self.space.push(c);
                if self.space.len() > MAX_SPACE {
                    self.flush();
                }
            }
            return;
        }
        self.is_at_start = false;
        self.flush();
        self.text(channel).push(c);
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

    /// Drops the white space around here.
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
        self.fragment().push_str(text);
    }

    /// Adds to the arguments of the call that was begun last.
    pub(super) fn argument(&mut self, c: char) {
        self.fragment().push(c);
    }

    /// Nothing follows.
    pub(super) fn finish(&mut self) {
        self.flush();
    }

    fn flush(&mut self) {
        if !self.space.is_empty() {
            let space = std::mem::take(&mut self.space);
            self.text(self.channel).push_str(&space);
        }
    }

    /// The text of the last event if it is of this channel, and of a new one otherwise.
    fn text(&mut self, channel: Channel) -> &mut String {
        let is_open = match self.events.last() {
            Some(Event::Content(_)) => channel == Channel::Content,
            Some(Event::Reasoning(_)) => channel == Channel::Reasoning,
            _ => false,
        };
        let new = (!is_open).then(|| match channel {
            Channel::Content => Event::Content(String::new()),
            Channel::Reasoning => Event::Reasoning(String::new()),
        });
        self.last_text(new)
    }

    fn fragment(&mut self) -> &mut String {
        let is_open = matches!(self.events.last(), Some(Event::ToolCallArguments { .. }));
        let index = self.num_calls.saturating_sub(1);
        let new = Event::ToolCallArguments { index, fragment: String::new() };
        self.last_text((!is_open).then_some(new))
    }

    fn last_text(&mut self, new: Option<Event>) -> &mut String {
        self.events.extend(new);
        match self.events.last_mut() {
            Some(Event::Content(text) | Event::Reasoning(text)) => text,
            Some(Event::ToolCallArguments { fragment, .. }) => fragment,
            // Only the three above are asked for.
            Some(Event::ToolCallStart { name, .. }) => name,
            None => &mut self.space,
        }
    }
}
