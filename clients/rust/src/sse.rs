//! Server-sent events, read as they arrive.
//!
//! Written here because what there is keeps an event of any size in memory, and turns each piece of
//! a body into text of its own: a stream of tokens is small events in pieces cut anywhere. This one
//! looks at each byte once, and refuses an event that is larger than it was told.
//!
//! Source: the HTML standard, "Server-sent events", section "Interpreting an event stream".

use std::collections::VecDeque;

use memchr::memchr2;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its type; empty when none was sent, which stands for `message`.
    pub event: String,
    /// Its data, lines joined by line feeds.
    pub data: String,
    /// The identifier that was sent last, with this event or before.
    pub id: String,
}

/// An event has more bytes than the reader takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream has more than {limit} bytes")]
pub struct TooLong {
    /// What the reader takes, in bytes.
    pub limit: usize,
}

/// Reads events out of a body's pieces.
#[derive(Debug)]
pub struct Parser {
    limit: usize,
    /// The start of a line whose end has not arrived.
    line: Vec<u8>,
    event: Event,
    has_data: bool,
    num_lines: usize,
    /// The last piece ended with a carriage return, whose line feed may follow.
    after_return: bool,
    complete: VecDeque<Event>,
}

impl Parser {
    /// A reader of events of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            event: Event::default(),
            has_data: false,
            num_lines: 0,
            after_return: false,
            complete: VecDeque::new(),
        }
    }

    /// Takes the next piece of the body.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), TooLong> {
        while !piece.is_empty() {
            if std::mem::take(&mut self.after_return) && piece[0] == b'\n' {
                piece = &piece[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', piece) else {
                self.check(self.line.len() + piece.len())?;
                self.line.extend_from_slice(piece);
                return Ok(());
            };
            self.check(self.line.len() + end)?;
            if self.line.is_empty() {
                self.take_line(&piece[..end]);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&piece[..end]);
                self.take_line(&line);
                line.clear();
                self.line = line;
            }
            self.after_return = piece[end] == b'\r';
            piece = &piece[end + 1..];
        }
        Ok(())
    }

    /// The next event that has arrived whole. One that the body's end cut off never comes.
    pub fn next_event(&mut self) -> Option<Event> {
        self.complete.pop_front()
    }

    fn check(&self, line: usize) -> Result<(), TooLong> {
        let held = self.event.data.len() + self.event.event.len() + self.event.id.len();
        if held + line > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) {
        let is_first = self.num_lines == 0;
        self.num_lines = self.num_lines.saturating_add(1);
        let line = match line.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if is_first => rest,
            Some(_) | None => line,
        };
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = match memchr::memchr(b':', line) {
            // A comment, which keeps the connection open.
            Some(0) => return,
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                self.event.data.push_str(&String::from_utf8_lossy(value));
            }
            b"event" => self.event.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if !value.contains(&0) => {
                self.event.id = String::from_utf8_lossy(value).into_owned();
            }
            // `retry` is for clients that connect again by themselves; others are ignored.
            _ => {}
        }
    }

    fn dispatch(&mut self) {
        if std::mem::take(&mut self.has_data) {
            let id = self.event.id.clone();
            let event = std::mem::take(&mut self.event);
            self.event.id = id;
            self.complete.push_back(event);
        } else {
            self.event.event.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::new(1 << 16);
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece).unwrap();
            events.extend(std::iter::from_fn(|| parser.next_event()));
        }
        events
    }

    fn data(text: &str) -> Vec<String> {
        read(&[text.as_bytes()]).into_iter().map(|event| event.data).collect()
    }

    #[test]
    fn lines_of_data_are_joined_and_comments_left_out() {
        assert_eq!(data("data: a\n: ping\ndata:b\ndata\n\n"), ["a\nb\n"]);
        assert_eq!(data(": only a comment\n\nevent: x\n\n"), Vec::<String>::new());
        assert_eq!(data("\u{feff}data:  two spaces\n\n"), [" two spaces"]);
        assert_eq!(data("data: cut off\n"), Vec::<String>::new());
        assert_eq!(data("datum: a\nretry: 5\ndata:{\"x\": 1}\r\n\r\n"), ["{\"x\": 1}"]);
    }

    #[test]
    fn type_and_identifier_are_told() {
        let events = read(&[b"event: error\nid: 7\ndata: x\n\ndata: y\n\n"]);

        assert_eq!((&*events[0].event, &*events[0].id), ("error", "7"));
        assert_eq!((&*events[1].event, &*events[1].id), ("", "7"));
    }

    #[test]
    fn an_event_is_bounded_by_all_of_its_lines() {
        let mut parser = Parser::new(10);
        assert_eq!(parser.push(b"data: 0123456789"), Err(TooLong { limit: 10 }));

        let mut parser = Parser::new(20);
        assert!(parser.push(b"data: 0123456789\n").is_ok());
        assert_eq!(parser.push(b"data: 0123456789\n"), Err(TooLong { limit: 20 }));

        let mut parser = Parser::new(20);
        for _ in 0..100 {
            parser.push(b"data: 0123456789\n\n: nothing\n").unwrap();
        }
        assert_eq!(std::iter::from_fn(|| parser.next_event()).count(), 100);
    }

    /// The standard's algorithm on a whole body, as plainly as it can be said.
    fn naive(body: &str) -> Vec<Event> {
        let body = body.strip_prefix('\u{feff}').unwrap_or(body);
        let body = body.replace("\r\n", "\n").replace('\r', "\n");
        let (mut events, mut event, mut lines) = (Vec::new(), Event::default(), Vec::new());
        // What follows the last line feed is no line yet.
        for line in body.split('\n').collect::<Vec<_>>().split_last().unwrap().1 {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" if line.is_empty() => {
                    if !lines.is_empty() {
                        events.push(Event { data: lines.join("\n"), ..event.clone() });
                    }
                    lines.clear();
                    event.event.clear();
                }
                "data" => lines.push(value.to_owned()),
                "event" => event.event = value.to_owned(),
                "id" => event.id = value.to_owned(),
                _ => {}
            }
        }
        events
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            lines in proptest::collection::vec(
                ("(data|event|id|retry|x|)", "(:|: |)", "[a-zé漢 :]{0,6}", "(\n|\r|\r\n|\n\n|\r\n\r\n|\r\r)"),
                0..20,
            ),
            has_mark in any::<bool>(),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut body = String::from(if has_mark { "\u{feff}" } else { "" });
            for (field, colon, value, end) in &lines {
                body.extend([&**field, colon, value, end]);
            }
            let bytes = body.as_bytes();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();

            prop_assert_eq!(read(&pieces), naive(&body));
        }
    }
}
