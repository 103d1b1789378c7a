//! The JSON object that most models write for a call: a name and its arguments.

use super::out::Out;
use super::span::Span;
use super::{MAX_HELD, Tool, is_known};

/// Reads one object, character by character, and sends its arguments on as they come.
///
/// Other members are skipped, whatever they are. Nothing is sent before it is known that the object
/// is a call, that is before its name and the beginning of its arguments; until then `raw` has all
/// of its text. After the arguments, `raw` has what follows them.
#[derive(Default)]
pub(super) struct Envelope {
    pub(super) raw: String,
    at: At,
    span: Span,
    /// The inside of the string that is read, escaped.
    text: String,
    name: Option<String>,
    /// Arguments that came before the name.
    held: Option<String>,
    is_started: bool,
}

/// Which objects are calls.
#[derive(Clone, Copy)]
pub(super) enum Accept<'a> {
    /// Every one with a name: a marker said so.
    AnyName,
    /// Those with the name of a tool, arguments and nothing unusual: the object may be an answer.
    Only(&'a [Tool]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The object goes on.
    More,
    /// It is over, and was a call.
    Done,
    /// It is no call, as the character that was taken shows.
    Wrong,
    /// The character can't follow; it was not taken.
    Broken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Open,
    Key,
    KeyText,
    Colon,
    Value,
    Name,
    Arguments,
    HeldArguments,
    /// Arguments as a string that has JSON in it.
    TextArguments,
    Skip,
    Scalar,
    Comma,
}

impl Envelope {
    /// Whether the call was begun.
    pub(super) fn is_started(&self) -> bool {
        self.is_started
    }

    /// Whether what comes next is inside a string.
    pub(super) fn in_string(&self) -> bool {
        match self.at {
            At::Open | At::Key | At::Colon | At::Value | At::Scalar | At::Comma => false,
            At::KeyText | At::Name | At::TextArguments => true,
            At::Arguments | At::HeldArguments | At::Skip => self.span.in_string(),
        }
    }

    /// Takes the next character, the first of which is the opening brace.
    pub(super) fn step(&mut self, c: char, accept: Accept, out: &mut Out) -> Step {
        if self.at == At::Arguments {
            out.argument(c);
            if self.span.push(c) {
                self.at = At::Comma;
            }
            return Step::More;
        }
        if self.raw.len() > MAX_HELD {
            return Step::Broken;
        }
        let was_started = self.is_started;
        let step = self.advance(c, accept, out);
        if self.is_started && !was_started {
            self.raw.clear();
        } else if step != Step::Broken {
            self.raw.push(c);
        }
        step
    }

    fn advance(&mut self, c: char, accept: Accept, out: &mut Out) -> Step {
        let is_space = c.is_ascii_whitespace();
        match (self.at, c) {
            (At::Open, '{') => self.at = At::Key,
            (At::Key, '"') => self.begin_string(At::KeyText),
            (At::Colon, ':') => self.at = At::Value,
            (At::Comma, ',') => self.at = At::Key,
            (At::Key | At::Comma, '}') => return self.close(accept, out),
            (At::Key | At::Colon | At::Value | At::Comma, _) if is_space => {}
            (At::Open | At::Key | At::Colon | At::Comma, _) => return Step::Broken,
            (At::Value, _) => return self.value(c, out),
            (At::Scalar, ',' | '}') => {
                self.at = At::Comma;
                return self.advance(c, accept, out);
            }
            (At::Scalar, _) if is_space => self.at = At::Comma,
            (At::Scalar, _) => {}
            // Arguments that are sent do not come here.
            (At::HeldArguments | At::Arguments, _) => {
                self.text.push(c);
                if self.span.push(c) {
                    let arguments = std::mem::take(&mut self.text);
                    self.offer(arguments, out);
                }
            }
            (At::Skip, _) => {
                if self.span.push(c) {
                    self.at = At::Comma;
                }
            }
            (At::KeyText | At::Name | At::TextArguments, _) => {
                if self.span.push(c) {
                    return self.string(accept, out);
                }
                self.text.push(c);
            }
        }
        Step::More
    }

    fn begin_string(&mut self, at: At) {
        self.at = at;
        self.text.clear();
        self.span = Span::default();
        self.span.push('"');
    }

    /// Takes the first character of a value.
    fn value(&mut self, c: char, out: &mut Out) -> Step {
        self.span = Span::default();
        match (self.text.as_str(), c) {
            ("name" | "function", '"') if self.name.is_none() => self.begin_string(At::Name),
            ("arguments" | "parameters", _) if self.is_started || self.held.is_some() => {
                return self.skip(c);
            }
            ("arguments" | "parameters", '{') => {
                self.text.clear();
                self.span.push(c);
                self.at = At::HeldArguments;
                if self.start(out) {
                    out.argument(c);
                    self.at = At::Arguments;
                } else {
                    self.text.push(c);
                }
            }
            ("arguments" | "parameters", '"') => self.begin_string(At::TextArguments),
            ("arguments" | "parameters", 'n') => {
                self.offer("{}".to_owned(), out);
                self.at = At::Scalar;
            }
            ("arguments" | "parameters", _) => return Step::Broken,
            _ => return self.skip(c),
        }
        Step::More
    }

    fn skip(&mut self, c: char) -> Step {
        match c {
            '"' | '{' | '[' => {
                self.span.push(c);
                self.at = At::Skip;
            }
            ',' | ':' | '}' | ']' => return Step::Broken,
            _ => self.at = At::Scalar,
        }
        Step::More
    }

    /// Takes a string that is complete.
    fn string(&mut self, accept: Accept, out: &mut Out) -> Step {
        match self.at {
            At::Name => self.named(accept, out),
            At::TextArguments => match self.decoded() {
                Some(text) if is_object(&text) => {
                    self.offer(text, out);
                    Step::More
                }
                _ => Step::Wrong,
            },
            _ => {
                self.at = At::Colon;
                let usual = ["name", "function", "arguments", "parameters", "type", "id"];
                match accept {
                    Accept::Only(_) if !self.is_started && !usual.contains(&&*self.text) => {
                        Step::Wrong
                    }
                    _ => Step::More,
                }
            }
        }
    }

    fn named(&mut self, accept: Accept, out: &mut Out) -> Step {
        let name = self.decoded().filter(|name| !name.is_empty());
        let Some(name) = name else { return Step::Wrong };
        if let Accept::Only(tools) = accept
            && !is_known(tools, &name)
        {
            return Step::Wrong;
        }
        self.name = Some(name);
        self.at = At::Comma;
        if let Some(arguments) = self.held.take() {
            self.offer(arguments, out);
        }
        Step::More
    }

    fn decoded(&self) -> Option<String> {
        serde_json::from_str(&format!("\"{}\"", self.text)).ok()
    }

    /// Takes arguments that are complete, to be sent once the name is known.
    fn offer(&mut self, arguments: String, out: &mut Out) {
        self.at = At::Comma;
        if self.start(out) {
            out.arguments(&arguments);
        } else {
            self.held = Some(arguments);
        }
    }

    fn start(&mut self, out: &mut Out) -> bool {
        if let Some(name) = &self.name {
            out.call(name);
            self.is_started = true;
        }
        self.is_started
    }

    fn close(&mut self, accept: Accept, out: &mut Out) -> Step {
        let has_arguments = self.is_started || matches!(accept, Accept::AnyName);
        match &self.name {
            Some(_) if has_arguments => {
                if !self.is_started {
                    self.offer("{}".to_owned(), out);
                }
                Step::Done
            }
            _ => Step::Wrong,
        }
    }
}

fn is_object(text: &str) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text).is_ok()
}
