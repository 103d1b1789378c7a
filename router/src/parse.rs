//! What a model writes, taken apart: text for the user, reasoning, and calls of tools.
//!
//! Every family of models writes calls and reasoning in a format of its own. A [`Parser`] reads one
//! completion as it arrives and says what each part of it is. How the text is cut into pieces
//! changes nothing: the parser is a machine that reads characters, takes a bounded time for each,
//! and holds back only what may still turn out to be something else.
//!
//! What turns out not to be a call is content, exactly as it was written; nothing is dropped but the
//! markers themselves and the white space around them. A call is one as soon as its name is known
//! and its arguments have begun: what is wrong after that stays in its arguments, or follows as
//! content, because a client has the beginning already.
//!
//! [`grammar()`] is the other direction: what a model may write if it has to call a tool.

mod deepseek;
mod envelope;
mod format;
mod grammar;
mod harmony;
mod json;
mod marker;
mod out;
mod python;
mod pythonic;
mod span;
mod thoughts;
mod xml;

use std::sync::Arc;

pub use format::{Formats, ReasoningFormat, ToolFormat, UnknownFormat};
pub use grammar::{Forced, NumCalls, answer, grammar, json};
use marker::{Lexer, Token};
use out::{Channel, Out};
pub use thoughts::Start;
use thoughts::Thoughts;

/// Text of one call that may be held back, in bytes. What is longer is content.
const MAX_HELD: usize = 1 << 20;

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments.
    pub parameters: serde_json::Value,
}

/// A part of a completion. The parts of one kind that follow each other are one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Text for the user.
    Content(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// The beginning of a call.
    ToolCallStart {
        /// Calls are counted from 0.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of the JSON text of a call's arguments.
    ToolCallArguments {
        /// Of which call.
        index: usize,
        /// What follows the fragments before.
        fragment: String,
    },
}

/// Reads one completion.
pub struct Parser {
    thoughts: Option<Thoughts>,
    calls: Option<Calls>,
    out: Out,
}

/// The calls in a text.
struct Calls {
    lexer: Lexer,
    format: Box<dyn Format + Send>,
}

/// Whether a token is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// It is.
    Taken,
    /// It belongs to what comes next.
    Again,
}

/// Reads the calls of one format.
trait Format {
    /// Takes the next token.
    fn step(&mut self, token: Token, out: &mut Out);

    /// Gives back what is held: nothing follows.
    fn finish(&mut self, out: &mut Out);
}

impl Parser {
    /// A parser of a completion that begins there. The tools are those of the request.
    pub fn new(formats: Formats, start: Start, tools: &Arc<[Tool]>) -> Self {
        let is_harmony = formats.reasoning == Some(ReasoningFormat::Harmony);
        let tool_format = if is_harmony { Some(ToolFormat::Harmony) } else { formats.tools };
        Self {
            thoughts: formats.reasoning.and_then(|format| Thoughts::new(format, start)),
            calls: tool_format.map(|format| Calls::new(format, tools)),
            out: Out::default(),
        }
    }

    /// Takes more text, and adds what is known now to `events`, whose last it may lengthen.
    pub fn push(&mut self, text: &str, events: &mut Vec<Event>) {
        std::mem::swap(&mut self.out.events, events);
        let Self { thoughts, calls, out } = self;
        for c in text.chars() {
            match thoughts {
                Some(thoughts) => thoughts.push(c, out, |c, out| push(calls.as_mut(), c, out)),
                None => push(calls.as_mut(), c, out),
            }
        }
        std::mem::swap(&mut self.out.events, events);
    }

    /// Ends the text, and adds what was held back.
    pub fn finish(mut self, events: &mut Vec<Event>) {
        std::mem::swap(&mut self.out.events, events);
        let Self { thoughts, calls, out } = &mut self;
        if let Some(thoughts) = thoughts {
            thoughts.finish(out, |c, out| push(calls.as_mut(), c, out));
        }
        if let Some(calls) = calls {
            calls.lexer.finish(|token| calls.format.step(token, out));
            calls.format.finish(out);
        }
        out.finish();
        std::mem::swap(&mut self.out.events, events);
    }
}

fn push(calls: Option<&mut Calls>, c: char, out: &mut Out) {
    match calls {
        Some(calls) => calls.lexer.push(c, |token| calls.format.step(token, out)),
        None => out.push(Channel::Content, c),
    }
}

impl Calls {
    fn new(format: ToolFormat, tools: &Arc<[Tool]>) -> Self {
        let tools = tools.clone();
        let lexer = Lexer::new(format.markers());
        let format: Box<dyn Format + Send> = match format {
            ToolFormat::Hermes => Box::new(json::JsonCalls::new(&json::HERMES, tools)),
            ToolFormat::Llama => Box::new(json::JsonCalls::new(&json::LLAMA, tools)),
            ToolFormat::Mistral | ToolFormat::MistralArgs => {
                Box::new(json::JsonCalls::new(&json::MISTRAL, tools))
            }
            ToolFormat::Json => Box::new(json::JsonCalls::new(&json::JSON, tools)),
            ToolFormat::Pythonic => Box::new(pythonic::PythonicCalls::new(tools)),
            ToolFormat::QwenXml => Box::new(xml::XmlCalls::new(tools)),
            ToolFormat::DeepSeekV3 | ToolFormat::DeepSeekV31 => {
                Box::new(deepseek::DeepSeekCalls::new())
            }
            ToolFormat::Harmony => Box::new(harmony::Messages::new(tools)),
        };
        Self { lexer, format }
    }
}

/// Whether there is a tool with this name.
fn is_known(tools: &[Tool], name: &str) -> bool {
    tools.iter().any(|tool| tool.name == name)
}

#[cfg(test)]
mod tests;
