//! What a model thinks before it answers: `<think>…</think>`.

use super::format::{MISTRAL_THINK, ReasoningFormat, THINK};
use super::marker::{Lexer, Token};
use super::out::{Channel, Out};

/// Where a completion begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Outside of reasoning. The model may begin some itself.
    Answer,
    /// Inside of reasoning that the prompt has begun.
    Reasoning,
}

/// Takes the reasoning out of a text.
pub(super) struct Thoughts {
    lexer: Lexer,
    state: State,
}

struct State {
    open: &'static str,
    close: &'static str,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Nothing but white space and reasoning so far.
    Before,
    /// The first of a reasoning. What the prompt has written already, some models write again.
    Opened,
    Inside,
    /// The answer, which may well speak of the markers.
    After,
}

impl Thoughts {
    /// Reads reasoning of a format. Harmony's is read with its calls.
    pub(super) fn new(format: ReasoningFormat, start: Start) -> Option<Self> {
        let markers = match format {
            ReasoningFormat::Think | ReasoningFormat::DeepSeekR1 => THINK,
            ReasoningFormat::Mistral => MISTRAL_THINK,
            ReasoningFormat::Harmony => return None,
        };
        let at = match start {
            Start::Answer => At::Before,
            Start::Reasoning => At::Opened,
        };
        let [open, close] = *markers;
        Some(Self { lexer: Lexer::new(markers), state: State { open, close, at } })
    }

    /// Takes a character, and passes on what is not reasoning.
    pub(super) fn push(&mut self, c: char, out: &mut Out, mut rest: impl FnMut(char, &mut Out)) {
        self.lexer.push(c, |token| self.state.step(token, out, &mut rest));
    }

    /// Ends the text.
    pub(super) fn finish(&mut self, out: &mut Out, mut rest: impl FnMut(char, &mut Out)) {
        self.lexer.finish(|token| self.state.step(token, out, &mut rest));
    }
}

impl State {
    fn step(&mut self, token: Token, out: &mut Out, rest: &mut impl FnMut(char, &mut Out)) {
        match (self.at, token) {
            (At::Before | At::Opened, Token::Marker(marker)) if marker == self.open => {
                out.begin_part();
                self.at = At::Inside;
            }
            (At::Opened | At::Inside, Token::Marker(marker)) if marker == self.close => {
                out.begin_part();
                self.at = At::Before;
            }
            (At::Opened | At::Inside, _) => {
                self.at = match token {
                    Token::Char(c) if c.is_whitespace() => self.at,
                    _ => At::Inside,
                };
                each_char(token, |c| out.push(Channel::Reasoning, c));
            }
            (At::Before | At::After, _) => {
                self.at = match token {
                    Token::Char(c) if c.is_whitespace() => self.at,
                    _ => At::After,
                };
                each_char(token, |c| rest(c, out));
            }
        }
    }
}

fn each_char(token: Token, each: impl FnMut(char)) {
    match token {
        Token::Char(c) => std::iter::once(c).for_each(each),
        Token::Marker(marker) => marker.chars().for_each(each),
    }
}
